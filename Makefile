# stillframe: the commands of a fresh clone. On Debian 12, as root, with the Rust toolchain.
.PHONY: build test demo bench setup clean

build:
	cargo build --release

# Everything: format, lints, unit and property tests, and the end-to-end tests on real Nix.
test:
	python3 tests/run.py

# The main job on real input, from nothing: example environment, snapshot, run, a picture, a change, a diff.
demo:
	tests/demo.sh

# Each row beside its peer, in one run. FULL=1: ComfyUI's real requirements (downloads about 3 GB).
bench:
	python3 tests/bench.py

setup:
	tests/lib/setup.sh

clean:
	cargo clean
