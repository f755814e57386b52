# The first of three parts of one script: what is asked, what a child does (child.py), what the first process does (first.py).
#
# Imports every module that the distributions of this interpreter bring, and tells which fail. One line of JSON a
# distribution on standard output. The first line of standard input says what is asked; when it ends, whoever asked is
# gone, and so are we.
#
# No distribution sees what others leave in a process, and yet none is imported once for each that needs it. The first
# to need it has a process of its own. That process stays, as a base, and what depends on the distribution is imported in
# forks of it. Such an answer counts only where it would have been the same in a process of its own:
# - A failure, a hang or a crash in a fork is nobody's yet: the distribution is asked again in a process of its own.
# - A success in a fork counts if the distribution asked for the module that the base had imported. Then nothing was
#   there that it does not import itself, only earlier. (A base is one module and what that imports. What a base was
#   forked from is something that it asked for itself.) One that did not ask is asked again in a process of its own.
# What is left is a distribution that imports only if its dependency was imported before it begins. Whoever needs the
# environment to be so has that order in his own program.
import builtins, csv, importlib, importlib.machinery, importlib.metadata, json, os, re, select, signal, sys, time, traceback
answers = os.fdopen(os.dup(1), "w")
nothing = os.open(os.devnull, os.O_RDWR)
# What modules print is not for anybody, and a question of theirs finds no answer.
for stream in (1, 2):
    os.dup2(nothing, stream)
config = json.loads(os.fdopen(os.dup(0), "r", 1).readline())
asker = os.dup(0)
os.dup2(nothing, 0)
# A module may have the alarm for itself, or leave a process behind: somebody else looks at the clock.
GRACE = 10
# A namespace may hold any number of modules of one distribution; a sample tells.
MOST = 40
# What takes less to import is not worth a process that stays.
KEEP = 0.05
# How many may stay. Of more, those that took least to import go.
BASES = 16
# In a fork some things wait for threads that are not there: it has less time, and is asked again. One that works has all of it.
PART = 4
WORKS = 0.1
own = os.getpid()
inner, results = os.pipe()
os.set_blocking(inner, False)
# Which of those under way would be worth to stay, shows at their end.
orders = [os.pipe() for _ in range(BASES + config["workers"])]


def control(what, value):
    """prctl(2)."""
    try:
        import ctypes
        return ctypes.CDLL(None).prctl(what, value) == 0
    except (ImportError, OSError, AttributeError):
        return False


def kill(pid):
    # Its own number may be another's already, its group's is not while anybody is left in it.
    for end in (os.killpg, os.kill):
        try:
            end(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


# --- what is asked

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
    return set(sorted(found)[:MOST])


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


def head(d):
    """Name and requirements: of the headers alone, because a description may have any length."""
    text = d.read_text("METADATA")
    if text is None:
        return d.metadata["Name"] or "", d.requires or []
    text = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    name = re.search(r"(?m)^Name:\s*(.+?)\s*$", text)
    return name.group(1) if name else "", re.findall(r"(?m)^Requires-Dist:\s*(.+?)\s*$", text)


def listed(d):
    record = d.read_text("RECORD")
    files = [row[0] for row in csv.reader(record.splitlines()) if row] if record is not None else [str(f) for f in d.files or ()]
    return [f for f in files if not f.startswith(("..", "/"))]


def main_first(name, wanted):
    """The module that others are likely to import comes first: the base is this one."""
    of_that_name = [m for m in wanted if normal(m) == name]
    return sorted(wanted, key=lambda m: (m not in of_that_name, m.startswith("_"), m))


def everything():
    """Of each distribution: its modules; the distributions that it requires; the topmost names that may be its own."""
    wanted, requires, brings = {}, {}, {}
    for d in importlib.metadata.distributions():
        name, needed = head(d)
        name, files = normal(name), listed(d)
        place = os.path.realpath(str(d.locate_file("")))
        for file in files:
            owner.setdefault(place + "/" + file, name)
        wanted.setdefault(name, set()).update(modules(files), tops(d, files))
        brings.setdefault(name, set()).update(file.partition("/")[0].partition(".")[0] for file in files)
        # One for an extra may be there, and is nothing that it needs.
        needed = (re.match(r"\s*([\w.-]+)[^;]*(?:;(.*))?$", text, re.S) for text in needed)
        requires.setdefault(name, set()).update(normal(m.group(1)) for m in needed if m and "extra" not in (m.group(2) or ""))
    for name, more in hooked().items():
        wanted.setdefault(name, set()).update(more)
    for name, own_modules in wanted.items():
        for top in brings.setdefault(name, set()) | {m.partition(".")[0] for m in own_modules}:
            bringers.setdefault(top, set()).add(name)
    return {name: main_first(name, all_of) for name, all_of in wanted.items() if all_of}, requires


def reach(name, requires, known):
    """What a distribution depends on, through others too."""
    found, more = set(), [name]
    while more:
        for other in requires.get(more.pop(), ()):
            if other in known and other not in found:
                found.add(other)
                more.append(other)
    return found - {name}
