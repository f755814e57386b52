# Imports every module that the distributions of this interpreter bring, each distribution in a process of its
# own, and tells which fail. One line of JSON a distribution on standard output. The first line of standard
# input says what is asked; when it ends, whoever asked is gone, and so are we.
import importlib, importlib.machinery, importlib.metadata, json, os, re, select, signal, sys, time, traceback
answers = os.fdopen(os.dup(1), "w")
nothing = os.open(os.devnull, os.O_RDWR)
# What modules print is not for anybody, and a question of theirs finds no answer.
for stream in (1, 2):
    os.dup2(nothing, stream)
config = json.loads(os.fdopen(os.dup(0), "r", 1).readline())
asker = os.dup(0)
os.dup2(nothing, 0)
# A module may have the alarm for itself, or leave a process behind that keeps the pipe: somebody else looks at the clock.
GRACE = 10
# A namespace may hold any number of modules of one distribution; a sample tells.
MOST = 40


def end_with(parent):
    """In a child: the kernel ends it when the parent is gone, however that ends (prctl(2), PR_SET_PDEATHSIG)."""
    try:
        import ctypes
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        pass
    if os.getppid() != parent:
        os._exit(1)


def kill(pid):
    for end in (os.killpg, os.kill):
        try:
            end(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def modules(files):
    """The topmost package of each file, below folders that are namespaces (PEP 420), or the module itself."""
    packages = {f.rpartition("/")[0] for f in files if f.endswith("/__init__.py")}
    suffixes = importlib.machinery.EXTENSION_SUFFIXES + importlib.machinery.SOURCE_SUFFIXES
    found = set()
    for file in files:
        folders, name = file.split("/")[:-1], file.rpartition("/")[2]
        suffix = next((s for s in suffixes if name.endswith(s)), None)
        # What SOURCES.txt names of a project: to import it would be to run its build.
        if file == "setup.py" or suffix is None or not all(f.isidentifier() for f in folders):
            continue
        tops = ("/".join(folders[:n]) for n in range(1, len(folders) + 1))
        top = next((t for t in tops if t in packages), None)
        stem = name[:-len(suffix)]
        if top is not None:
            found.add(top.replace("/", "."))
        elif stem.isidentifier() and not stem.startswith("__"):
            found.add(".".join([*folders, stem]))
    return sorted(found)[:MOST]


def text_of(path):
    """Of a file that a RECORD names: it need not be there."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def tops(d, files):
    """What an editable install brings that no RECORD names. It has a .pth file that names a folder: by its top_level.txt, or the
    packages of those folders."""
    folders = [line.strip() for file in files if "/" not in file and file.endswith(".pth")
               for line in text_of(d.locate_file(file)).splitlines() if line.startswith("/")]
    if not folders:
        return set()
    listed = {top.strip() for top in (d.read_text("top_level.txt") or "").splitlines()}
    if not listed:
        inside = [(folder, top) for folder in folders if os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK) for top in os.listdir(folder)]
        listed = {top for folder, top in inside if os.path.isfile(os.path.join(folder, top, "__init__.py"))}
        listed -= {"tests", "test", "docs", "examples", "build", "dist"}
    return {top for top in listed if top.isidentifier()}


def hooked():
    """Distribution -> the topmost modules that its import hook brings: setuptools, meson-python and scikit-build-core have such hooks."""
    found = {}
    for finder in sys.meta_path:
        module = sys.modules.get((finder if isinstance(finder, type) else type(finder)).__module__)
        path = getattr(module, "__file__", None)
        name = path and owner.get(os.path.realpath(os.path.dirname(path)) + "/" + os.path.basename(path))
        if not name:
            continue
        for known in (getattr(module, "MAPPING", None), *(getattr(finder, a, None) for a in (
                "_top_level_modules", "known_source_files", "known_wheel_files"))):
            found.setdefault(name, set()).update(str(n).partition(".")[0] for n in known or ())
    return found


owner, asked = {}, []
for d in importlib.metadata.distributions():
    name = normal(d.metadata["Name"] or "")
    files = [str(f) for f in d.files or () if not str(f).startswith(("..", "/"))]
    for file in files:
        owner.setdefault(os.path.realpath(str(d.locate_file(""))) + "/" + file, name)
    if config["names"] is None or name in config["names"]:
        asked.append((name, {*modules(files), *tops(d, files)}))
hooks = hooked()
asked = [(name, sorted(wanted | hooks.get(name, set()))) for name, wanted in asked]


def owners(error):
    """Whose code the error passed through, the innermost last."""
    paths = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    names = [owner.get(os.path.realpath(os.path.dirname(p)) + "/" + os.path.basename(p)) for p in paths]
    return [n for n in names if n]


def look(name, wanted, out):
    """In a child: what fails, module by module, so that one that ends the process hides no other."""
    signal.alarm(config["limit"])
    for module in wanted:
        os.write(out, json.dumps({"begun": module}).encode() + b"\n")
        try:
            importlib.import_module(module)
            failed = None
        except BaseException as e:
            text = str(e).strip().splitlines()
            failed = {"error": type(e).__name__ + (": " + text[0] if text else ""), "owners": owners(e)}
        os.write(out, json.dumps({"done": module, "failed": failed}).encode() + b"\n")


def verdict(name, said, status):
    failed, begun = [], None
    for line in said.decode("utf-8", "replace").splitlines():
        told = json.loads(line)
        if "begun" in told:
            begun = told["begun"]
        else:
            begun = None
            if told["failed"]:
                failed.append({"module": told["done"], **told["failed"]})
    if begun is not None:
        sig = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        how = "no end within %d s" % config["limit"] if sig == signal.SIGALRM else \
            "the process ended with signal %d" % sig if sig else "the process ended with status %d" % os.WEXITSTATUS(status)
        failed.append({"module": begun, "error": how, "owners": [name]})
    return {"name": name, "failed": failed}


running = {}
queue = [(name, wanted) for name, wanted in asked if wanted]
answers.write(json.dumps({"total": len(queue)}) + "\n")
answers.flush()
own = os.getpid()


def finish(fd, status):
    pid, name, said, _ = running.pop(fd)
    # It may have said more between the look at its pipe and its end.
    os.set_blocking(fd, False)
    try:
        while more := os.read(fd, 65536):
            said.extend(more)
    except BlockingIOError:
        pass
    # What it left behind has nothing to say. Its own number may be another's already, its group's is not.
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    os.close(fd)
    answers.write(json.dumps(verdict(name, bytes(said), status)) + "\n")
    answers.flush()


while queue or running:
    while queue and len(running) < config["workers"]:
        name, wanted = queue.pop(0)
        inner, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            end_with(own)
            os.close(inner)
            look(name, wanted, out)
            os._exit(0)
        os.close(out)
        running[inner] = (pid, name, bytearray(), time.monotonic() + config["limit"] + GRACE)
    ready, _, _ = select.select([*running, asker], [], [], 1)
    if asker in ready and not os.read(asker, 1):
        for pid, *_ in running.values():
            kill(pid)
        sys.exit(1)
    for fd in list(running):
        pid, name, said, deadline = running[fd]
        data = os.read(fd, 65536) if fd in ready else None
        if data:
            said.extend(data)
            continue
        if time.monotonic() > deadline:
            kill(pid)
        # A pipe that is still open may be another's by now, and one that is closed still its own.
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            finish(fd, status)
        elif data == b"":
            time.sleep(0.01)
