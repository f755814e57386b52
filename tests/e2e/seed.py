"""A Nix store with what every small environment has: the interpreter of the tests as it is captured, and its standard library compiled.
That takes most of the time of a first snapshot, and is the same in each of some hundred tests. It is made by the program under test,
once for each build of that, and copied: a test may do to its copy what it wants.
"""
import fcntl
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import harness

KEPT = "standard library bytecode"


def plant(station, environment):
    """Puts it into the store of a workstation. `environment`: makes an environment in a folder, where the seed is to be made first."""
    about = harness.BINARY.stat()
    key = sha256(repr((str(harness.BINARY), about.st_mtime_ns, about.st_size, sys.executable)).encode()).hexdigest()[:16]
    folder = harness.CACHE / "seeds" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not folder.exists():
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                make(folder, environment)
        subprocess.run(["cp", "-a", f"{folder}/.", station.store], check=True)


def make(folder, environment):
    for old in folder.parent.iterdir():
        if old.is_dir():
            harness.remove_tree(old)
    with harness.Workstation("sf-seed-") as station:
        grow(station, environment)
        # First to the cache's own file system: what is there under its name is whole.
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            subprocess.run(["cp", "-a", station.store, f"{beside}/store"], check=True)
            Path(beside, "store").rename(folder)


def grow(station, environment):
    """A snapshot's store, and in it only what does not come from the environment."""
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
    taken = station.stillframe("snapshot", "--json", environment(station.root / "ComfyUI").root, **nowhere).json["snapshot"]
    record = station.stillframe("snapshots", "show", taken.rsplit("/", 1)[1][:10], "--json").json["record"]
    kept = next(output["path"] for output in record["outputs"] if output["label"] == KEPT)
    roots = station.store / "nix/var/nix/gcroots"
    harness.remove_tree(roots)
    roots.mkdir()
    (roots / "seed").symlink_to(kept)
    station.nix("nix-store", "--gc")
    (roots / "seed").unlink()
