# Unpacks a wheel into its canonical tree: without bytecode and the files an installer writes, both library
# folders of .data in their place, scripts executable, RECORD sorted and about these files. So the files as
# installed are the same tree. Run by a captured interpreter with nothing but its standard library, so any
# Nix can repeat it. A name that leaves the tree fails the build.
import base64, hashlib, os, stat, zipfile
out = os.environ["out"]
os.mkdir(out)
record, info_folder = {}, None
with zipfile.ZipFile(os.environ["src"]) as wheel:
    for info in wheel.infolist():
        name = info.filename
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "" in parts[:-1] or "." in parts or "\\" in name:
            raise SystemExit("unsafe name in wheel: %r" % name)
        if name.endswith("/"):
            continue
        data = parts[0].endswith(".data") and len(parts) > 2
        if data and parts[1] in ("purelib", "platlib"):
            parts = parts[2:]
        if "__pycache__" in parts:
            continue
        if len(parts) == 2 and parts[0].endswith(".dist-info"):
            if parts[1] == "RECORD":
                info_folder = parts[0]
            if parts[1] in ("INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json",
                            "RECORD", "RECORD.jws", "RECORD.p7s"):
                continue
        target = os.path.join(out, *parts)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with wheel.open(info) as source, open(target, "xb") as sink:
            while chunk := source.read(1 << 20):
                sink.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        mode = info.external_attr >> 16
        executable = (data and parts[1] == "scripts") or (stat.S_ISREG(mode) and mode & 0o111)
        os.chmod(target, 0o555 if executable else 0o444)
        encoded = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
        record["/".join(parts)] = "sha256=%s,%d" % (encoded, size)
if info_folder is None:
    raise SystemExit("the wheel has no RECORD")
def quoted(name):
    return '"%s"' % name.replace('"', '""') if set(name) & set('",\n\r') else name
with open(os.path.join(out, info_folder, "RECORD"), "x", encoding="utf-8", newline="") as f:
    for name in sorted(record, key=lambda name: name.encode()):
        f.write("%s,%s\n" % (quoted(name), record[name]))
    f.write("%s/RECORD,,\n" % quoted(info_folder))
os.chmod(os.path.join(out, info_folder, "RECORD"), 0o444)
