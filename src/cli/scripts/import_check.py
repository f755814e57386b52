# Imports every module that the distributions of this interpreter bring, each distribution in a process of its
# own, and tells which fail. One line of JSON a distribution on standard output. The first line of standard
# input says what is asked; when it ends, whoever asked is gone, and so are we.
import importlib, importlib.machinery, importlib.metadata, json, os, re, select, signal, sys, traceback
answers = os.fdopen(os.dup(1), "w")
nothing = os.open(os.devnull, os.O_RDWR)
# What modules print is not for anybody, and a question of theirs finds no answer.
for stream in (1, 2):
    os.dup2(nothing, stream)
config = json.loads(os.fdopen(os.dup(0), "r", 1).readline())
asker = os.dup(0)
os.dup2(nothing, 0)
# A namespace may hold any number of modules of one distribution; a sample tells.
MOST = 40


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
        if suffix is None or not all(f.isidentifier() for f in folders):
            continue
        tops = ("/".join(folders[:n]) for n in range(1, len(folders) + 1))
        top = next((t for t in tops if t in packages), None)
        stem = name[:-len(suffix)]
        if top is not None:
            found.add(top.replace("/", "."))
        elif stem.isidentifier() and not stem.startswith("__"):
            found.add(".".join([*folders, stem]))
    return sorted(found)[:MOST]


owner, asked = {}, []
for d in importlib.metadata.distributions():
    name = normal(d.metadata["Name"] or "")
    files = [str(f) for f in d.files or () if not str(f).startswith(("..", "/"))]
    for file in files:
        owner.setdefault(os.path.realpath(str(d.locate_file(""))) + "/" + file, name)
    if config["names"] is None or name in config["names"]:
        asked.append((name, modules(files)))


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
while queue or running:
    while queue and len(running) < config["workers"]:
        name, wanted = queue.pop(0)
        inner, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.close(inner)
            look(name, wanted, out)
            os._exit(0)
        os.close(out)
        running[inner] = (pid, name, bytearray())
    ready, _, _ = select.select([*running, asker], [], [])
    for fd in ready:
        data = os.read(fd, 65536)
        if fd == asker:
            if not data:
                for pid, _, _ in running.values():
                    for kill in (os.kill, os.killpg):
                        try:
                            kill(pid, signal.SIGKILL)
                        except ProcessLookupError:
                            pass
                sys.exit(1)
        elif data:
            running[fd][2].extend(data)
        else:
            pid, name, said = running.pop(fd)
            os.close(fd)
            _, status = os.waitpid(pid, 0)
            answers.write(json.dumps(verdict(name, bytes(said), status)) + "\n")
            answers.flush()
