# stillframe: the commands of a fresh clone. On Debian 12, as root, with the Rust toolchain.
AGENT_TARGET := $(shell uname -m)-unknown-linux-musl
.PHONY: build agent fault-agent test demo bench hosts hosts-down setup clean

build: agent
	cargo build --release --bin stillframe

# The host's program, static. Its C parts (zstd) need a musl compiler: Debian's musl-tools.
agent:
	rustup target add $(AGENT_TARGET)
	cargo build --release --no-default-features --locked --bin stillframe-agent --target $(AGENT_TARGET)

# The agent without the lock that a request claims its instance under: the rotation test must fail with it.
fault-agent:
	cargo build --release --no-default-features --features fault-late-claim --locked --bin stillframe-agent --target $(AGENT_TARGET)
	install -D $${CARGO_TARGET_DIR:-target}/$(AGENT_TARGET)/release/stillframe-agent $${CARGO_TARGET_DIR:-target}/fault/stillframe-agent
	$(MAKE) agent

# Everything: format, lints, unit and property tests, and the end-to-end tests on real Nix.
test:
	python3 tests/run.py

# The main job on real input, from nothing: example environment, snapshot, run, a picture, a change, a diff.
demo:
	tests/demo.sh

# Each row beside its peer, in one run. FULL=1: ComfyUI's real requirements (downloads about 3 GB).
bench:
	python3 tests/bench.py
	python3 tests/bench_ship.py
	python3 tests/bench_run.py
	python3 tests/bench_gateway.py

# Two real Debian 13 hosts to try things on: tests/hosts/hosts.py says what can be done to them.
hosts: setup
	python3 tests/hosts/hosts.py up

hosts-down:
	python3 tests/hosts/hosts.py down

setup:
	tests/lib/setup.sh

clean:
	cargo clean
