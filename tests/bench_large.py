#!/usr/bin/env python3
"""Part of `make bench`: time and peak memory of a large environment, which is made from nothing.

    tests/bench_large.py [--gib N] [--distributions N] [--place DIR] [--json FILE]        FULL=1: 10 GiB, else half a GiB

The environment has N distributions with a RECORD each, some hundred modules and some data, and in a quarter of them files that do not
compress, N GiB together. It and the store are made in a new folder of DIR, which needs three times that room, and both go at the end.
Nothing here asserts a time: it reports. The daemon's memory is that of all its processes at one time.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "e2e"))
from harness import BINARY, ROOT, Workstation, remove_tree  # noqa: E402
from small import record_hash  # noqa: E402

MIB = 1 << 20
#: Of each distribution: a wheel with native code has more, most have less.
MODULES = 100


class Memory(threading.Thread):
    """The most that a program has resident, and the most that its daemons have together."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.own, self.daemons = process, 0, 0
        self.start()

    def run(self):
        while self.process.poll() is None:
            try:
                self.own = max(self.own, self.kib(self.process.pid, "VmHWM"))
                self.daemons = max(self.daemons, sum(self.kib(pid, "VmRSS") for pid in self.below(self.process.pid)))
            except OSError:
                pass
            time.sleep(0.02)

    @staticmethod
    def kib(pid, key):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith(key + ":")), 0)

    def below(self, pid):
        """The daemon's processes: each connection has one, and a build its own."""
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                if b"nix" in Path(f"/proc/{child}/cmdline").read_bytes().partition(b"\0")[0]:
                    yield int(child)
                yield from self.below(int(child))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"{record_hash(content)},{len(content)}"


def distribution(site, name, bulk, generator):
    """As an installer leaves it."""
    package, info = name.replace("-", "_"), f"{name.replace('-', '_')}-1.0.dist-info"
    rows = []

    def add(at, content):
        rows.append(f"{at},{write(site / at, content)}")
    for number in range(MODULES):
        at = f"{package}/__init__.py" if number == 0 else f"{package}/part{number % 10}/module{number}.py"
        add(at, f'"""Module {number} of {name}."""\nVALUE = {generator.random()!r}\n\n\ndef value():\n    return VALUE\n'.encode() * (number + 1))
    for number in range(-(-bulk // (64 * MIB))):
        add(f"{package}/lib/bulk{number}.bin", generator.randbytes(min(64 * MIB, bulk - number * 64 * MIB)))
    add(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode())
    add(f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    add(f"{info}/INSTALLER", b"pip\n")
    write(site / info / "RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]).encode())


def environment(place, count, size):
    root = place / "ComfyUI"
    shutil.copytree(ROOT / "tests" / "fixtures" / "service", root)
    (root / "behaviour.json").write_text('{"mark": "large"}')
    (root / "models").mkdir()
    write(root / "custom_nodes" / "painter" / "__init__.py", b"NODE_CLASS_MAPPINGS = {}\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    site = next((root / ".venv" / "lib").glob("python3*/site-packages"))
    generator = random.Random(1)
    heavy = max(count // 4, 1)
    for number in range(count):
        distribution(site, f"large-{number}", size // heavy if number < heavy else 0, generator)
    return root


def measured(ws, what, *arguments):
    started = time.monotonic()
    process = ws.start("snapshot", "--offline", "--json", *arguments)
    memory = Memory(process)
    out, err = process.communicate()
    seconds = time.monotonic() - started
    memory.join()
    if process.returncode:
        sys.exit(f"{what} failed: {out}{err}")
    value = json.loads(out)
    row = {"name": what, "seconds": seconds, "own_mib": memory.own / 1024, "daemons_mib": memory.daemons / 1024,
           "sent_mib": value["realise"]["sent_bytes"] / MIB, "built": value["realise"]["built"]}
    print(f"{what:28} {seconds:9.1f} s  {row['own_mib']:8.1f} MiB  daemon {row['daemons_mib']:8.1f} MiB  "
          f"sent {row['sent_mib']:10,.1f} MiB in {value['realise']['sent_paths']} paths, {row['built']} built", flush=True)
    return row, value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=10 if os.environ.get("FULL") == "1" else 0.5)
    parser.add_argument("--distributions", type=int, default=240)
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    assert BINARY.exists(), f"{BINARY}: build it first, optimised"
    tempfile.tempdir = str(arguments.place)
    place = Path(tempfile.mkdtemp(prefix="sf-large-"))
    rows = []
    try:
        comfy = environment(place, arguments.distributions, int(arguments.gib * (1 << 30)))
        subprocess.run(["sync"], check=True)
        print(f"{arguments.distributions} distributions, {arguments.gib} GiB of data that does not compress")
        with Workstation() as ws:
            # As with any memo: what is younger than two seconds is not trusted the next time.
            time.sleep(2.2)
            for what in ("large: first", "large: the same again"):
                row, value = measured(ws, what, comfy)
                rows.append(row)
            assert value["unchanged"], value
            pack = comfy / "custom_nodes" / "painter" / "__init__.py"
            pack.write_bytes(pack.read_bytes() + b"CHANGED = True\n")
            rows.append(measured(ws, "large: one pack changed", comfy)[0])
    finally:
        remove_tree(place)
    if arguments.json:
        text = json.dumps({"gib": arguments.gib, "distributions": arguments.distributions, "rows": rows}, indent=2)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
