

# --- the first process, which imports nothing

class Job:
    def __init__(self, name, wanted, needs=frozenset()):
        self.name, self.asked, self.needs, self.alone = name, wanted, needs, False
        self.left, self.failed, self.loaded = list(wanted), [], set()


class Base:
    def __init__(self, name, module, pid, slot, seconds):
        self.name, self.module, self.pid, self.slot, self.seconds = name, module, pid, slot, seconds


class Try:
    """One process that imports a distribution."""

    def __init__(self, job, base, slot, limit):
        self.job, self.base, self.slot, self.limit = job, base, slot, limit
        self.pid = self.kept = self.begun = self.took = None
        self.failed, self.loaded, self.late = [], set(), False
        self.worked, self.end = 0, None
        self.deadline = time.monotonic() + (limit + GRACE if base is None else GRACE)


owner, bringers = {}, {}
if config["names"] is None:
    wanted, requires = everything()
    jobs = {name: Job(name, all_of, reach(name, requires, wanted)) for name, all_of in wanted.items() if name not in config["known"]}
else:
    jobs = {name: Job(name, all_of) for name, all_of in config["names"].items()}
for job in jobs.values():
    # Two that need each other wait for none of them.
    job.waits = {n for n in job.needs if n in jobs and job.name not in jobs[n].needs}
needed_by = {name: sum(name in job.needs for job in jobs.values()) for name in jobs}
queue = sorted(jobs.values(), key=lambda job: -needed_by[job.name])
running, bases, ended, count = {}, [], {}, 0
# Its forks' forks are its children (PR_SET_CHILD_SUBREAPER); where that cannot be, there are no bases.
reaper = control(36, 1)
free = list(range(len(orders))) if config["names"] is None and reaper else []
answers.write(json.dumps({"total": len(queue)}) + "\n")
answers.flush()
waker, wake = os.pipe()
for end in (waker, wake):
    os.set_blocking(end, False)
signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
signal.signal(signal.SIGCHLD, lambda *_: None)


def release(slot):
    if slot is not None:
        # An order that nobody has read is for nobody.
        os.set_blocking(orders[slot][0], False)
        try:
            while os.read(orders[slot][0], 65536):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(orders[slot][0], True)
        free.append(slot)


def drop_bases(which):
    for base in [b for b in bases if which(b)]:
        bases.remove(base)
        kill(base.pid)
        release(base.slot)


def has_order(base):
    """One that it has not read: it reads one at a time."""
    return any(t.base is base and t.pid is None for t in running.values())


def keep(base):
    bases.append(base)
    if len(bases) > BASES:
        least = min((b for b in bases if not has_order(b)), key=lambda b: b.seconds)
        drop_bases(lambda b: b is least)


def start(job, base):
    global count
    slot = free.pop() if free and any(job.name in other.needs for other in queue) else None
    limit = config["limit"] if base is None else max(config["limit"] // PART, 1)
    count += 1
    running[count] = Try(job, base, slot, limit)
    order = {"try": count, "modules": job.left, "slot": slot, "base": base and base.module, "limit": config["limit"]}
    if base is not None:
        os.write(orders[base.slot][1], json.dumps(order).encode() + b"\n")
        return
    pid = os.fork()
    if pid == 0:
        try:
            # Whoever a module leaves behind must not have the answers' pipe: its end is awaited.
            answers.close()
            os.close(asker)
            work(order)
        finally:
            os._exit(1)
    running[count].pid = pid


def start_some():
    unfinished = {job.name for job in queue} | {t.job.name for t in running.values()}
    for job in list(queue):
        if len(running) >= config["workers"]:
            return
        if job.waits & unfinished and not job.alone:
            continue
        fitting = [] if job.alone else [base for base in bases if base.name in job.needs]
        base = max(fitting, key=lambda base: base.seconds, default=None)
        if base is None or not has_order(base):
            queue.remove(job)
            start(job, base)


def close(number):
    """A process that has no more to say, and whatever it left behind."""
    done = running.pop(number)
    for pid in {done.pid, done.kept} - {None}:
        kill(pid)
    release(done.slot)
    return done


def again(job):
    job.alone = True
    queue.insert(0, job)


def answer(job):
    jobs.pop(job.name)
    answers.write(json.dumps({"name": job.name, "asked": job.asked, "failed": job.failed, "loaded": sorted(job.loaded)}) + "\n")
    answers.flush()
    left = {name for other in queue for name in other.needs} | {name for t in running.values() for name in t.job.needs}
    drop_bases(lambda base: base.name not in left)


def over(number, used):
    now = running[number]
    job = now.job
    if now.base is not None and (now.failed or not used):
        close(number)
        return again(job)
    job.failed += now.failed
    job.loaded |= now.loaded
    if now.took is None or job.failed:
        close(number)
    else:
        running.pop(number)
        if now.kept is not None:
            kill(now.pid)
        seconds = now.took + (now.base.seconds if now.base else 0)
        keep(Base(job.name, job.asked[0], now.kept or now.pid, now.slot, seconds))
    answer(job)


def broke(number, status):
    """It ended before it had said all."""
    now = close(number)
    job = now.job
    if now.base is not None:
        return again(job)
    sig = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    late = now.late or sig == signal.SIGALRM
    how = "no end within %d s" % now.limit if late else "the process ended with signal %d" % sig if sig else \
        "the process ended with status %d" % os.WEXITSTATUS(status)
    job.failed += now.failed
    job.loaded |= now.loaded
    module = now.begun or job.left[-1]
    job.failed.append({"module": module, "error": how, "owners": [job.name]})
    job.left = job.left[job.left.index(module) + 1:]
    # One that ends its process hides no other.
    if job.left and not late:
        return again(job)
    # One that does not end has had the time of all: of the others nobody knows, here as in whatever this is compared with.
    job.failed += [{"module": m, "error": f"not asked: {module} has {how}", "owners": [job.name]} for m in job.left]
    answer(job)


def heard(line):
    said = json.loads(line.decode("utf-8", "replace"))
    now = running.get(said["try"])
    if now is None:
        return
    if "pid" in said:
        now.kept = now.pid if said["rest"] else None
        now.pid, now.deadline = said["pid"], time.monotonic() + now.limit + GRACE
        now.end, now.worked = now.deadline - now.limit + config["limit"], 0
    elif "begun" in said:
        now.begun = said["begun"]
    elif "done" in said:
        now.begun = None
        if said["failed"]:
            now.failed.append({"module": said["done"], **said["failed"]})
    elif "took" in said:
        now.took = said["took"]
    elif "loaded" in said:
        now.loaded.update(said["loaded"])
    else:
        over(said["try"], said["used"])


def read(fd):
    data = b""
    try:
        while more := os.read(fd, 65536):
            data += more
    except BlockingIOError:
        pass
    return data


def reap():
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            ended[pid] = status
    except ChildProcessError:
        pass


def works(now):
    """A fork whose time is over, and that is not only waiting. It has as much time again, and no more than one of its own."""
    if now.base is None or now.pid is None or now.deadline >= now.end:
        return False
    try:
        with open(f"/proc/{now.pid}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
    except OSError:
        return False
    before, now.worked = now.worked, (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    if now.worked - before < now.limit * WORKS:
        return False
    now.deadline = min(now.deadline + now.limit, now.end)
    return True


def look_at_the_dead():
    for number, now in list(running.items()):
        if now.pid in ended:
            broke(number, ended[now.pid])
        elif time.monotonic() > now.deadline and not works(now):
            # Its base made no process of it, or its own alarm did not end it.
            now.late = True
            kill(now.base.pid if now.pid is None else now.pid)
    for number, now in list(running.items()):
        if now.kept in ended:
            now.took = now.kept = None
        if now.pid is None and now.base.pid in ended:
            again(close(number).job)
    drop_bases(lambda base: base.pid in ended)
    ended.clear()


def sweep():
    """Whoever lost its parent is ours, and goes with us (proc_tid_children(5))."""
    for _ in range(50 if reaper else 0):
        reap()
        try:
            with open(f"/proc/self/task/{own}/children") as file:
                left = file.read().split()
        except OSError:
            return
        if not left:
            return
        for pid in left:
            kill(int(pid))
        time.sleep(0.02)


rest = b""
while queue or running:
    start_some()
    ready, _, _ = select.select([inner, waker, asker], [], [], 1)
    if asker in ready and not os.read(asker, 1):
        for each in [*running.values(), *bases]:
            for pid in {each.pid, getattr(each, "kept", None)} - {None}:
                kill(pid)
        sweep()
        sys.exit(1)
    if waker in ready:
        read(waker)
    # What a process has said before it ended is there once it has ended.
    reap()
    *lines, rest = (rest + read(inner)).split(b"\n")
    for line in lines:
        heard(line)
    look_at_the_dead()
drop_bases(lambda base: True)
sweep()
