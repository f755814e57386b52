# The Python environment. A folder that holds a module or a shared object is a real folder with one
# symbolic link a file: a directory link would break libraries that look for each other through
# $ORIGIN/../.. (the kernel resolves `..` physically, the loader's $ORIGIN is lexical), and bytecode lies
# beside the modules. A folder of data alone, from one tree, is one link: what serves it (aiohttp's static
# files, say) checks that a resolved file lies below the resolved folder. Places each scheme of a wheel's
# .data folder where an installer does.
import filecmp, json, os, shutil, sys
out = os.environ["out"]
config = json.load(open(os.environ["configPath"]))
version = "python%d.%d" % sys.version_info[:2]
site = "lib/" + version + "/site-packages"
interpreter = os.path.join(out, "bin", "python")
os.makedirs(os.path.join(out, "bin"))
os.makedirs(os.path.join(out, site))
os.symlink("lib", os.path.join(out, "lib64"))
home = config["home"]
if "interpreter" in config:
    # A copy, as `venv --copies` makes: before Python 3.11 the standard library is looked for from where the real file is.
    shutil.copy(config["interpreter"], interpreter)
else:
    os.symlink(os.path.join(home, "python3"), interpreter)
for name in ("python3", version):
    os.symlink("python", os.path.join(out, "bin", name))
with open(os.path.join(out, "pyvenv.cfg"), "w") as f:
    f.write("home = %s\ninclude-system-site-packages = false\nversion = %d.%d.%d\n"
            % ((home,) + sys.version_info[:3]))
made = {""}
def folder(path):
    if path not in made:
        folder(os.path.dirname(path))
        try:
            os.mkdir(os.path.join(out, path))
        except FileExistsError:
            pass
        made.add(path)
def place(relative, distribution):
    parts = relative.split("/")
    if parts[0].endswith(".data") and len(parts) > 2:
        scheme, rest = parts[1], "/".join(parts[2:])
        return scheme, {"purelib": site + "/" + rest, "platlib": site + "/" + rest,
                "scripts": "bin/" + rest, "data": rest,
                "headers": "include/site/%s/%s/%s" % (version, distribution, rest)}.get(scheme)
    return "purelib", site + "/" + relative
def script(path, text):
    folder(os.path.dirname(path))
    target = os.path.join(out, path)
    if os.path.lexists(target):
        if open(target, "rb").read() == text:
            return
        # A script in a wheel's .data and one of an entry point: of two of a kind the lock has the environment's.
        os.unlink(target)
    with open(target, "wb") as f:
        f.write(text)
    os.chmod(target, 0o555)
# Target -> (kind, source). `folder` stands for an empty one.
plan = {}
# Target -> which of the environment's site directories it is from: of two that differ, the first on sys.path is imported.
sites = {}
def install(top, distribution, real, at):
    for current, folders, files in os.walk(top):
        folders.sort()
        relative = os.path.relpath(current, top)
        links = [d for d in folders if os.path.islink(os.path.join(current, d))]
        folders[:] = [d for d in folders if d not in links]
        if not files and not folders and not links and relative != ".":
            _, target = place(relative, distribution)
            if target:
                plan.setdefault(target, ("folder", current))
        for name in sorted(files + links):
            source = os.path.join(current, name)
            path = name if relative == "." else relative + "/" + name
            scheme, target = place(path, distribution)
            if target is None:
                raise SystemExit("unknown scheme in %s: %s" % (top, path))
            if scheme == "scripts":
                data = open(source, "rb").read()
                if data.startswith(b"#!python"):
                    end = data.find(b"\n")
                    data = b"#!" + os.fsencode(interpreter) + data[end if end >= 0 else len(data):]
                script(target, data)
                continue
            kind = "same" if os.path.islink(source) else "copy" if real else "link"
            if target not in plan or plan[target][0] == "folder" or at < sites[target]:
                plan[target], sites[target] = (kind, source), at
            elif at == sites[target] and not filecmp.cmp(source, plan[target][1], shallow=False):
                raise SystemExit("%s and %s both have %s, and they differ" % (source, plan[target][1], target))
def data_folders():
    """Folder -> the one folder of a store path that it equals."""
    whole = {}
    for target, (kind, source) in plan.items():
        name = os.path.basename(target)
        data = kind in ("link", "folder") and not name.endswith((".py", ".so")) and ".so." not in name
        inner = ""
        while True:
            target, _, part = target.rpartition("/")
            if not target.startswith(site + "/"):
                break
            inner = part + "/" + inner if inner else part
            origin = source[:-len(inner) - 1] if data and source.endswith("/" + inner) else None
            if whole.setdefault(target, origin) != origin:
                whole[target] = None
    return {target: origin for target, origin in whole.items() if origin}
def build():
    whole = data_folders()
    for target in sorted(plan):
        kind, source = plan[target]
        parts = target.split("/")
        tops = ("/".join(parts[:n]) for n in range(1, len(parts)))
        top = next((t for t in tops if t in whole), None)
        if top:
            if top not in made:
                folder(os.path.dirname(top))
                os.symlink(whole[top], os.path.join(out, top))
                made.add(top)
            continue
        if kind == "folder":
            folder(target)
            continue
        folder(os.path.dirname(target))
        full = os.path.join(out, target)
        if kind == "same":
            os.symlink(os.readlink(source), full)
        elif kind == "copy":
            shutil.copyfile(source, full)
            shutil.copymode(source, full)
        else:
            os.symlink(source, full)
def entry_point(point):
    script("bin/" + point["name"], (
        "#!%s\n# -*- coding: utf-8 -*-\nimport sys\nfrom %s import %s\n"
        'if __name__ == "__main__":\n'
        '    if sys.argv[0].endswith("-script.pyw"):\n'
        "        sys.argv[0] = sys.argv[0][:-11]\n"
        '    elif sys.argv[0].endswith(".exe"):\n'
        "        sys.argv[0] = sys.argv[0][:-4]\n"
        "    sys.exit(%s())\n" % (interpreter, point["module"], point["function"].split(".")[0], point["function"])
    ).encode())
for d in config["distributions"]:
    install(d["path"], d["name"], d["real"], d.get("site", 0))
    if d.get("bytecode"):
        install(d["bytecode"], d["name"], False, d.get("site", 0))
    for point in d.get("scripts", ()):
        entry_point(point)
build()
shutil.copyfile(config["start"], os.path.join(out, site, "_stillframe_start.py"))
with open(os.path.join(out, site, "_stillframe_start.pth"), "w") as f:
    f.write('import os; "STILLFRAME_DEFER_GC" in os.environ and __import__("_stillframe_start")\n')
