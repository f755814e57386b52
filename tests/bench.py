#!/usr/bin/env python3
"""`make bench`: each step beside its peer, in one run, on the same work and the same machine.

    tests/bench.py [--json FILE]        FULL=1: ComfyUI's real requirements instead of the example (5.8 GB installed)

Nothing here asserts a time: it reports. Files are in the page cache for both sides; what a figure holds is in its note.
"""
import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "e2e"))
from harness import BINARY, CACHE, FIXTURE, ROOT, Peak, Server, Workstation, example, remove_tree, resident  # noqa: E402

UV = CACHE / "tools" / "bin" / "uv"
FULL = os.environ.get("FULL") == "1"
MIB = 1 << 20
rows = []
peak = {}


def row(name, ours, peer=None, unit="s", peer_name="", target="", note=""):
    rows.append({"name": name, "ours": ours, "peer": peer, "unit": unit, "peer_name": peer_name, "target": target, "note": note})
    print_row(rows[-1])


def print_row(r):
    def figure(value):
        return "-" if value is None else f"{value:,.3f}" if r["unit"] == "s" and value < 1 else f"{value:,.1f}"
    ratio = f"{r['ours'] / r['peer']:.2f}x" if r["peer"] else "-"
    print(f"{r['name']:44} {figure(r['ours']):>10} {figure(r['peer']):>10} {r['unit']:4} {ratio:>7}  {r['target']:22} "
          f"{r['peer_name']}{': ' if r['peer_name'] and r['note'] else ''}{r['note']}", flush=True)


def measured(ws, what, *arguments, **environment):
    """Runs the program and returns (seconds, its JSON); keeps the peak of its own resident memory."""
    started = time.monotonic()
    process = ws.start(*arguments, "--json", **environment)
    memory = Peak(process)
    out, err = process.communicate()
    seconds = time.monotonic() - started
    if process.returncode:
        sys.exit(f"{what} failed: {out}{err}")
    peak[what] = max(peak.get(what, 0), memory.kib() / 1024)
    return seconds, json.loads(out)


def timed(command, **options):
    started = time.monotonic()
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL, **options)
    return time.monotonic() - started


def full_environment():
    """The stand-in with ComfyUI's real requirements, installed by uv from the pinned list."""
    where = CACHE / "full"
    comfy = where / "ComfyUI"
    pins = ROOT / "tests" / "fixtures" / "full" / "requirements.pins"
    stamp, project = where / ".stamp", where / "projects" / "palette-tools"
    wanted = f"{pins.read_text()}--editable {project}\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return comfy
    remove_tree(where)
    subprocess.run([sys.executable, FIXTURE / "build.py", where], check=True, stdout=subprocess.DEVNULL)
    python = (comfy / ".venv/bin/python").resolve()
    remove_tree(comfy / ".venv")
    subprocess.run([python, "-m", "venv", "--without-pip", comfy / ".venv"], check=True)
    print("installing ComfyUI's requirements (downloads about 3 GB, once)", file=sys.stderr)
    subprocess.run([UV, "pip", "install", "--quiet", "--no-deps", "--link-mode", "copy", "--python", comfy / ".venv/bin/python",
                    "--requirements", pins, "--editable", project], check=True)
    stamp.write_text(wanted)
    return comfy


def settle():
    """Metadata younger than two seconds is not trusted by the index, as with git: not what is measured here."""
    time.sleep(2.2)


@contextlib.contextmanager
def mounted(*what):
    """A file system of its own for what comes and goes in scratch directories meanwhile."""
    place = Path(tempfile.mkdtemp(prefix="sf-mount-"))
    subprocess.run(["mount", *what, place], check=True)
    before, tempfile.tempdir = tempfile.tempdir, str(place)
    try:
        yield place
    finally:
        tempfile.tempdir = before
        subprocess.run(["umount", place], check=True)
        place.rmdir()


@contextlib.contextmanager
def in_memory():
    """One that waits for no disk and remembers nothing of earlier runs."""
    with mounted("-t", "tmpfs", "-o", "size=80%", "none") as place:
        yield place


@contextlib.contextmanager
def on_ext4():
    """An ext4 as distributions format disks. One without a journal, as virtual machines may have it, does not take again
    an inode that was freed within the minute (within six, where its block waits to be written), and searches past all of
    them: each text that a daemon adds frees one, and each earlier run of anything that cleaned up after itself many."""
    with tempfile.NamedTemporaryFile(prefix="sf-ext4-") as image:
        image.truncate(16 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image.name], check=True)
        with mounted("-o", "loop", image.name) as place:
            yield place


def fresh_memory(warm):
    """The same start for both sides: nothing waits to be written, the page cache has the source alone, and the memory
    to be written into is as new as after a boot: a hypervisor takes freed pages back within seconds, and an ext4 without
    a journal searches for a minute longer in groups where files were just deleted."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        print("cannot empty the page cache: not root", file=sys.stderr)
    warm()
    time.sleep(65)


def first_snapshot(comfy, ws):
    # Warm: the index's answers and the page cache, the interpreter and its libraries in it. Cold: store, metadata index.
    def read_all():
        measured(ws, "inspect, fill", "inspect", comfy)
        for path in (ws.root / "cache" / "stillframe").glob("memo-*.json"):
            path.unlink()
    fresh_memory(read_all)
    return measured(ws, "snapshot, first", "snapshot", comfy, "--label", "first")


def shown(ws):
    return ws.stillframe("snapshots", "show", "first", "--json").json


def add_trees(sources, store, env):
    """What the peer does with the same trees."""
    read_all = ["find", *sources, "-type", "f", "-exec", "cat", "{}", "+"]
    fresh_memory(lambda: subprocess.run(read_all, check=True, stdout=subprocess.DEVNULL))
    return timed(["nix-store", "--add", *sources], env={**env, "NIX_REMOTE": f"local?root={store}"})


def fresh_rows(comfy, sources, place_of, where, turns):
    """The work itself, twice on each side in turn, each time in a file system that nothing was deleted from: what a disk
    adds, it adds to both."""
    ours, theirs = [], []
    for turn in range(2):
        with place_of(), Workstation() as ws:
            seconds, first = first_snapshot(comfy, ws)
            ours.append(seconds - first["realise"]["build_seconds"])
            if turn:
                derivation_rows(comfy, ws, first | shown(ws), where, turns, 0)
        with place_of() as place, Workstation() as ws:
            theirs.append(add_trees(sources, place / "peer", ws.environment()))
    row(f"first snapshot, to the store,{where}", statistics.mean(ours), statistics.mean(theirs), peer_name="nix-store --add",
        target="<= 1x, aim 0.5x", note=f"mean of 2; {len(sources)} paths; read, checked against RECORD, hashed, sent")


def store_rows(comfy, ws):
    seconds, first = first_snapshot(comfy, ws)
    record = shown(ws)["record"]
    sent = first["realise"]["sent_paths"]
    gib = first["realise"]["sent_bytes"] / MIB
    trees = ws.root / "trees"
    trees.mkdir()
    for output in record["outputs"][:sent]:
        # Outside of a store, under the same names: what `nix-store --add` is given.
        name = Path(output["path"]).name.split("-", 1)[1]
        target = trees / f"{len(list(trees.iterdir()))}"
        target.mkdir()
        subprocess.run(["cp", "-a", ws.real(output["path"]), target / name], check=True)
    sources = [next(p.iterdir()) for p in sorted(trees.iterdir(), key=lambda p: int(p.name))]
    peer_env = {**ws.environment(), "NIX_REMOTE": f"local?root={ws.root / 'peer'}"}
    peer = add_trees(sources, ws.root / "peer", ws.environment())
    what = f"{sent} paths, {gib:,.0f} MiB"
    row("first snapshot, to the store, on this disk", seconds - first["realise"]["build_seconds"], peer, peer_name="nix-store --add",
        target="<= 1x, aim 0.5x", note=f"{what}; read, checked against RECORD, hashed, sent")
    row("first snapshot, whole", seconds, peer, peer_name="nix-store --add",
        note=f"with {first['realise']['built']} builds (bytecode, environment) that the peer has not")
    settle()
    measured(ws, "snapshot, settle", "snapshot", comfy)
    seconds, value = measured(ws, "snapshot, unchanged", "snapshot", comfy)
    assert value["unchanged"], value
    peer = timed(["nix-store", "--add", *sources], env=peer_env)
    row("unchanged", seconds, peer, peer_name="nix-store --add again", target="< 1 s")
    derivation_rows(comfy, ws, first | shown(ws), " on this disk", 3, 65)
    seconds, value = one_pack(comfy, ws, "snapshot, one pack")
    row("one pack changed", seconds, peer, peer_name="nix-store --add again", target="< 1 s",
        note=f"median of 3; {value['realise']['sent_bytes']} bytes sent, {value['realise']['built']} built")
    larger(comfy, ws)
    remove_tree(ws.root / "peer")
    other_commands(comfy, ws)
    fresh_rows(comfy, sources, on_ext4, " on ext4", 5)
    fresh_rows(comfy, sources, in_memory, " in memory", 7)
    remove_tree(trees)


def one_pack(comfy, ws, what):
    """A pack of one small file, changed three times and put back: the median, and the last answer."""
    pack = comfy / "custom_nodes" / "plain-folder" / "__init__.py"
    original, stat = pack.read_bytes(), pack.stat()
    try:
        times = []
        for turn in range(3):
            pack.write_bytes(original + f"\nBENCH = {what!r}, {turn}\n".encode())
            seconds, value = measured(ws, what, "snapshot", comfy)
            assert value["realise"]["sent_paths"] == 1, value["realise"]
            times.append(seconds)
        return statistics.median(times), value
    finally:
        pack.write_bytes(original)
        os.utime(pack, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def other_commands(comfy, ws):
    """What has no peer here, for the memory it takes."""
    config = ws.root / "bench.toml"
    config.write_text(f'environment = "{comfy}"\n')
    measured(ws, "lock", "--config", config, "lock")
    measured(ws, "snapshot --probe", "snapshot", comfy, "--probe")
    snapshots = json.loads(ws.stillframe("snapshots", "list", "--json").out)["snapshots"]
    measured(ws, "snapshots diff", "snapshots", "diff", snapshots[0]["id"], snapshots[-1]["id"])
    seconds, value = measured(ws, "snapshots verify", "snapshots", "verify", snapshots[0]["id"])
    assert value["verified"], value
    report = value["report"]
    row("verify", seconds, note=f"{report['rebuilt']} rebuilt, {report['wheels']} wheels fetched, {report['sources']} sources hashed")


def larger(comfy, ws):
    """Unchanged with 2 GB more, wherever they lie: nothing of them may be read again."""
    site = next((comfy / ".venv/lib").glob("python3*/site-packages"))
    places = {"a pack": comfy / "custom_nodes" / "bench-big", "site-packages, unowned": site / "bench-big",
              "an editable project": comfy.parent / "projects" / "palette-tools" / "bench-big"}
    for name, folder in places.items():
        folder.mkdir()
        try:
            generator = random.Random(1)
            for index in range(20):
                (folder / f"{index}.dat").write_bytes(generator.randbytes(100 * MIB))
            settle()
            _, larger = measured(ws, f"snapshot, larger by {name}", "snapshot", comfy)
            assert larger["realise"]["sent_bytes"] > 2000 * MIB, (name, larger["realise"])
            seconds, value = measured(ws, f"snapshot, unchanged, larger by {name}", "snapshot", comfy)
            assert value["unchanged"], value
            row(f"unchanged, 2 GB more in {name}", seconds, target="independent of size")
            seconds, _ = one_pack(comfy, ws, f"snapshot, one pack, larger by {name}")
            row(f"one pack changed, 2 GB more in {name}", seconds, target="independent of size", note="median of 3")
        finally:
            shutil.rmtree(folder)


def derivation_rows(comfy, ws, first, where, turns, pause):
    """Every .drv file anew, and as many by the peer, in turn. `pause`: where an ext4 without a journal would search past
    what was just deleted, which is what nobody's first time begins with."""
    count, names = first["derivations"], len(first["lock"]["distributions"])
    expression = ws.root / "chain.nix"
    # As long as ours are, in the mean.
    script = "x" * 900
    expression.write_text("let d = i: derivation { name = \"d${toString i}\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; "
                          f"script = \"{script}\"; inherit i; }}; in builtins.genList d {count}")
    inst = ws.root / "inst"
    env = {**ws.environment(), "NIX_REMOTE": f"local?root={inst}"}
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    timed(["nix-instantiate", "--eval", "--expr", "1"], env=env)

    def forget(root, environment):
        written = [f"/nix/store/{p.name}" for p in (root / "nix/store").iterdir() if p.name.endswith(".drv")]
        if written:
            subprocess.run(["nix-store", "--delete", "--ignore-liveness", *written], env=environment, **quiet)
    computed, ours, theirs = [], [], []
    for _ in range(turns):
        forget(Path(ws.real("/nix/store")).parents[1], ws.environment())
        forget(inst, env)
        time.sleep(pause)
        _, value = measured(ws, "snapshot, .drv files anew", "snapshot", comfy)
        assert value["realise"]["derivations_written"] == count, value["realise"]
        computed.append(value["graph_ms"])
        ours.append(value["graph_ms"] + value["realise"]["derivations_ms"])
        theirs.append(timed(["nix-instantiate", expression], env=env, stderr=subprocess.DEVNULL) * 1000)

    def each(times):
        return statistics.median(times) / names * 100
    note = f"{count} of {names} distributions, median of {turns}, in turn"
    row(f"lock to derivations{where}, per 100 dists", each(computed), unit="ms", note="computed")
    row(f"lock to all .drv files{where}, per 100 dists", each(ours), each(theirs), unit="ms", peer_name="nix-instantiate",
        target="< 100 ms", note=f"computed, and written into the store; {note}")


def provenance_rows(comfy):
    with Workstation() as cold:
        settle()
        seconds, value = measured(cold, "inspect, cold", "inspect", comfy)
        again, _ = measured(cold, "inspect, again", "inspect", comfy)
        index = value["index"]
        pinned = [f"{d['name']}=={d['version']}" for d in value["distributions"] if d["provenance"] == "pinned"]
        peer = timed([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir", "--only-binary", ":all:",
                      "--dest", cold.root / "wheels", *pinned])
        size = sum(p.stat().st_size for p in (cold.root / "wheels").iterdir()) / MIB
        note = f"{len(value['distributions'])} distributions, {index['requests']} requests; reads and hashes every installed file too"
        row("provenance, cold caches", index["seconds"], peer, peer_name="pip download", target="< 10 s" if FULL else "",
            note="the index asked, RECORDs read")
        row("inspect, cold caches", seconds, peer, peer_name="pip download", note=note)
        row("provenance, range reads", index["range_bytes"] / MIB, size, unit="MiB", peer_name="pip download", target="< 10 MB",
            note=f"index answers apart: {index['index_bytes'] / MIB:.1f} MiB, cached")
        row("provenance, warm cache", again, target="< 1 s")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment_ready(comfy, ws):
    """The environment's own server, as its user starts it; its bytecode is cached from the first start on."""
    base = ws.root / "own"
    shutil.rmtree(base, ignore_errors=True)
    for name in ("input", "output", "user", "temp"):
        (base / name).mkdir(parents=True)
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    # In the same kind of namespace as ours, which takes its time to make.
    (ws.root / "nothing").mkdir(exist_ok=True)
    started = time.monotonic()
    command = ws.inside_command([comfy / ".venv/bin/python", "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port),
                                 "--output-directory", base / "output", "--user-directory", base / "user", "--temp-directory", base,
                                 "--database-url", f"sqlite:///{base}/c.db"], hide=[ws.root / "nothing"])
    process = subprocess.Popen(command, cwd=comfy, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/system_stats", timeout=10).read()
                return time.monotonic() - started
            except OSError:
                time.sleep(0.01)
        sys.exit("the environment's own server ended")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ready_row(comfy, ws):
    # A copy: the environment's own server writes bytecode and state into it.
    copy = ws.root / "copy"
    subprocess.run(["cp", "-a", comfy.parent, copy], check=True)
    own = copy / comfy.name
    settings = ws.root / "cpu.toml"
    settings.write_text(f'environment = "{comfy}"\n[service]\narguments = ["--cpu"]\n')
    ws.stillframe("--config", settings, "snapshot", "--label", "cpu")
    environment_ready(own, ws)
    ours, theirs = [], []
    for _ in range(15):
        theirs.append(environment_ready(own, ws))
        server = Server(ws, "cpu", hide=[comfy.parent])
        ours.append(server.ready_seconds)
        peak["run"] = max(peak.get("run", 0), resident(server.process) / 1024)
        server.stop()
    row("time to ready from the store", statistics.median(ours), statistics.median(theirs), peer_name="environment's own warm start", target="<= 1x",
        note="median of 15, in turn, in memory; both from the start of the command, in a mount namespace")
    remove_tree(copy)


def nix_hosts_row(ws):
    """Hosts written in Nix, each with a shared part and a function, beside the same in TOML."""
    def project(name, kind):
        place = ws.root / name / "hosts"
        (place / "shared").mkdir(parents=True)
        (place.parent / "stillframe.toml").write_text("")
        (place / "shared" / "gpu.nix").write_text('{ lib, ... }: { user = lib.mkDefault "deploy"; tags = [ "gpu" ]; service.gpus = [ 0 1 ]; }')
        for n in range(50):
            (place / f"gpu-{n}.{kind}").write_text(
                f'{{ name, ... }}: {{ imports = [ ./shared/gpu.nix ]; address = "${{name}}.example"; service.port = {8000 + n}; }}' if kind == "nix" else
                f'address = "gpu-{n}.example"\nuser = "deploy"\ntags = ["gpu"]\n[service]\ngpus = [0, 1]\nport = {8000 + n}\n')
        return place.parent

    def median(place):
        return statistics.median(timed([BINARY, "host", "list", "--json"], cwd=place, env=ws.environment()) for _ in range(7))
    row("50 hosts in Nix", median(project("in-nix", "nix")) * 1000, median(project("in-toml", "toml")) * 1000, unit="ms",
        peer_name="the same in TOML", target="< 300 ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    subprocess.run([ROOT / "tests/lib/setup.sh"], check=True, stdout=subprocess.DEVNULL)
    if "STILLFRAME_BINARY" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "stillframe"], cwd=ROOT, check=True)
    assert BINARY.exists(), BINARY
    comfy = full_environment() if FULL else example()
    print(f"{'':44} {'ours':>10} {'peer':>10} {'':4} {'ratio':>7}  {'target':22} peer: note")
    provenance_rows(comfy)
    with Workstation() as ws:
        store_rows(comfy, ws)
        nix_hosts_row(ws)
    # In memory: where a slot was just thrown away, ext4 takes seven times as long for the files of the next.
    with in_memory(), Workstation() as ws:
        ready_row(comfy, ws)
    of = {name: max(kib for what, kib in peak.items() if what.split(",")[0] == name) for name in {what.split(",")[0] for what in peak}}
    row("peak memory of stillframe", max(peak.values()), unit="MiB", target="< 200 MB",
        note=", ".join(f"{name} {most:.0f}" for name, most in sorted(of.items(), key=lambda item: -item[1])))
    if arguments.json:
        arguments.json.write_text(json.dumps({"full": FULL, "rows": rows, "peak_mib": peak}, indent=2) + "\n")


if __name__ == "__main__":
    main()
