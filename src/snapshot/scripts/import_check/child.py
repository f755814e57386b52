

# --- in a child

def tell(order, **said):
    """A line that is shorter than PIPE_BUF: the kernel mixes no two such lines (pipe(7))."""
    os.write(results, json.dumps({"try": order["try"], **said}, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def cut(text, most=1500):
    # Escaped, a control character takes six bytes of a line.
    text = "".join(c if c.isprintable() else " " for c in text)
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def owners(error):
    """Whose code the error passed through, the innermost last."""
    paths = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    names = [owner.get(os.path.realpath(os.path.dirname(p)) + "/" + os.path.basename(p)) for p in paths]
    names = [n for n in names if n]
    return [n for at, n in enumerate(names) if n not in names[at + 1:]][-20:]


asked_for = set()
import_module = importlib.import_module


def watch():
    """From here on what is imported is noted, also where it is there already."""
    asked_for.clear()
    if importlib.import_module is not import_module:
        return
    plain = builtins.__import__

    def __import__(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0:
            asked_for.add(name)
            asked_for.update(f"{name}.{part}" for part in fromlist or ())
        return plain(name, globals, locals, fromlist, level)

    def by_name(name, package=None):
        asked_for.add(name)
        return import_module(name, package)

    builtins.__import__, importlib.import_module = __import__, by_name


def separate():
    """A fork that is nobody's child but the first process': who made it may have threads and handlers of its own. True in
    the fork, False in who made it, None where there is none."""
    try:
        pid = os.fork()
    except OSError:
        return None
    if pid == 0:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            os._exit(1)
        until = time.monotonic() + GRACE
        while os.getppid() != own and time.monotonic() < until:
            time.sleep(0.001)
        return True
    try:
        return None if os.waitpid(pid, 0)[1] else False
    except ChildProcessError:
        # A module has had the kernel forget its children.
        return False


def begin(order, rest=False):
    signal.set_wakeup_fd(-1)
    for each in (signal.SIGCHLD, signal.SIGALRM):
        signal.signal(each, signal.SIG_DFL)
    os.setpgid(0, 0)
    # The kernel ends it when the first process is gone, however that ends (PR_SET_PDEATHSIG).
    control(1, signal.SIGKILL)
    if os.getppid() != own:
        os._exit(1)
    tell(order, pid=os.getpid(), rest=rest)
    signal.alarm(order["limit"])


def look(order):
    """What fails, module by module. Whether the process is a base now."""
    stays = False
    for at, module in enumerate(order["modules"]):
        tell(order, begun=module)
        started = time.monotonic()
        try:
            import_module(module)
            failed = None
        except BaseException as e:
            text = str(e).strip().splitlines()
            failed = {"error": cut(type(e).__name__ + (": " + text[0] if text else "")), "owners": owners(e)}
        took = time.monotonic() - started
        tell(order, done=module, failed=failed)
        if at == 0 and failed is None and order["slot"] is not None and took >= KEEP:
            tell(order, took=took)
            if len(order["modules"]) == 1:
                stays = True
                continue
            # The others are no part of what is imported with the first one.
            forked = separate()
            if forked is False:
                signal.alarm(0)
                return True
            if forked:
                begin(order, rest=True)
            else:
                tell(order, took=None)
    signal.alarm(0)
    loaded = {n for name in list(sys.modules) for n in bringers.get(str(name).partition(".")[0], ())}
    loaded = sorted(loaded)
    for at in range(0, len(loaded), 40):
        tell(order, loaded=loaded[at:at + 40])
    base = order["base"]
    tell(order, over=True, used=base is None or any(name == base or name.startswith(base + ".") for name in asked_for))
    return stays


def work(order):
    """A child from here on."""
    while True:
        begin(order)
        if order["base"] is not None:
            watch()
        if not look(order):
            os._exit(0)
        # A base: who is imported on top of it, is a fork of it.
        inbox, forked = orders[order["slot"]][0], False
        while not forked:
            text = b""
            while not text.endswith(b"\n"):
                text += os.read(inbox, 65536)
            forked = separate()
        order = json.loads(text)
