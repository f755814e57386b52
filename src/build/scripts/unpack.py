# Unpacks a wheel into its canonical tree: the wheel's own layout, without bytecode and without the
# files an installer writes. Run by a captured interpreter with nothing but its standard library, so
# any Nix can repeat it. A name that leaves the tree fails the build.
import os, shutil, stat, zipfile
out = os.environ["out"]
os.mkdir(out)
with zipfile.ZipFile(os.environ["src"]) as wheel:
    for info in wheel.infolist():
        name = info.filename
        parts = name.split("/")
        if name.endswith("/"):
            continue
        if name.startswith("/") or ".." in parts or "" in parts or "." in parts:
            raise SystemExit("unsafe name in wheel: %r" % name)
        if "__pycache__" in parts:
            continue
        if len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] in (
            "INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws", "RECORD.p7s"):
            continue
        target = os.path.join(out, *parts)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with wheel.open(info) as source, open(target, "xb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        mode = info.external_attr >> 16
        executable = stat.S_ISREG(mode) and mode & 0o111
        os.chmod(target, 0o555 if executable else 0o444)
