# stillframe: the commands of a fresh clone. On Debian 12, as root, with the Rust toolchain.
AGENT_TARGET := $(shell uname -m)-unknown-linux-musl
TARGET := $(or $(CARGO_TARGET_DIR),target)
PREFIX ?= /usr/local
.PHONY: build agent agent-target guarded-agent fault-agent fault-points-agent faults chaos install check test demo bench hosts hosts-down setup clean

build: agent
	cargo build --release --bin stillframe

# The release, and the host's program where it looks for it: in libexec. DESTDIR is put before PREFIX, for who makes packages.
install: build
	install -D -t $(DESTDIR)$(PREFIX)/bin $(TARGET)/release/stillframe
	install -D -t $(DESTDIR)$(PREFIX)/libexec/stillframe $(TARGET)/$(AGENT_TARGET)/release/stillframe-agent

agent-target:
	rustup target add $(AGENT_TARGET)

# The host's program, static. Its C parts (zstd) need a musl compiler: Debian's musl-tools.
agent: agent-target
	cargo build --release --no-default-features --locked --bin stillframe-agent --target $(AGENT_TARGET)

# The agent without the lock that a request claims its instance under: the rotation test must fail with it.
fault-agent: agent-target
	cargo build --release --no-default-features --features fault-late-claim --locked --bin stillframe-agent --target $(AGENT_TARGET)
	install -D $(TARGET)/$(AGENT_TARGET)/release/stillframe-agent $(TARGET)/fault/stillframe-agent
	$(MAKE) agent

# The agent with guards that can be taken out, optimised: tests/bench_durability.py measures it with them and without.
guarded-agent: agent-target
	cargo build --release --no-default-features --features fault-points --locked --bin stillframe-agent --target $(AGENT_TARGET)
	install -D $(TARGET)/$(AGENT_TARGET)/release/stillframe-agent $(TARGET)/guarded/stillframe-agent
	$(MAKE) agent

# For make faults: an agent that can be stopped, broken or killed at every place (src/sys/fault.rs). A development build, which is soon there.
fault-points-agent: agent-target
	cargo build --no-default-features --features fault-points --locked --bin stillframe-agent --target $(AGENT_TARGET)
	cargo build --locked --bin stillframe
	install -D -t $(TARGET)/faults/bin $(TARGET)/debug/stillframe
	install -D -t $(TARGET)/faults/libexec/stillframe $(TARGET)/$(AGENT_TARGET)/debug/stillframe-agent

# Every step of what the host's program does against everything that can go wrong there, on real hosts. All of it takes hours; the table in
# docs/faults.md is written after each cell, and what it has already is not run again unless ANEW=1. STEPS and FAULTS are patterns, SECONDS
# is after how long no further cell begins.
faults: fault-points-agent setup
	STILLFRAME_BINARY=$(abspath $(TARGET))/faults/bin/stillframe python3 tests/faults.py --table docs/faults.md \
		--steps '$(or $(STEPS),*)' --faults '$(or $(FAULTS),*)' $(if $(SECONDS),--limit $(SECONDS)) $(if $(ANEW),--anew)

# 1,000 jobs of 20 clients through 20 deployments, 5 rollbacks, 20 kills of instances, 10 of the gateway, 2 power losses and an upgrade of the
# gateway; 10,000 requests of 50 clients to 8 instances. Half an hour. PLAN='chaos --jobs 100 --seed mine': tests/chaos.py says what may stand there.
chaos: fault-points-agent setup
	STILLFRAME_BINARY=$(abspath $(TARGET))/faults/bin/stillframe python3 tests/chaos.py $(PLAN)

# For every commit: format, lints, unit tests and the guards, in a few minutes and without Nix.
check:
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --no-default-features --bin stillframe-agent --locked -- -D warnings
	cargo clippy --no-default-features --features fault-points --bin stillframe-agent --locked -- -D warnings
	cargo test --locked --lib --test layers --test state

# Everything: format, lints, unit and property tests, and the end-to-end tests on real Nix.
test:
	python3 tests/run.py

# The main job on real input, from nothing: example environment, snapshot, run, a picture, a change, a diff.
demo:
	tests/demo.sh

# Each row beside its peer, in one run. FULL=1: ComfyUI's real requirements (downloads about 3 GB).
bench:
	python3 tests/bench.py
	python3 tests/bench_large.py
	python3 tests/bench_ship.py
	python3 tests/bench_run.py
	python3 tests/bench_durability.py
	python3 tests/bench_gateway.py
	python3 tests/bench_jobs.py

# The two hosts of hosts/, real Debian 13 machines, and an environment to deploy to them: hosts/README.md says how, tests/hosts/hosts.py
# what else can be done to them.
HOSTS := python3 tests/hosts/hosts.py --state $(CURDIR)/.hosts
hosts: setup
	python3 tests/fixtures/environment/build.py $(TARGET)/example
	$(HOSTS) up
	for host in alpha beta; do $(HOSTS) exec $$host mkdir -p /srv/models/checkpoints || exit 1; done
	umask 077 && head -c 24 /dev/urandom | base64 >.hosts/api-key

hosts-down:
	$(HOSTS) down

setup:
	tests/lib/setup.sh

clean:
	cargo clean
