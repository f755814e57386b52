"""The matrix of faults: everything that can go wrong at a place of a command. Which places there are, an agent with the feature
`fault-points` tells (`oracle.Two.steps`)."""
import json
import signal
import time
from dataclasses import dataclass
from typing import Callable

from oracle import FOLDER, OTHER, SERVICE

STATE = f"/var/lib/stillframe/services/{SERVICE}/state.json"
DAY = 86_400

#: Commands: those that end in another generation, and those that change none.
DEPLOYS = frozenset({"deploy", "copy", "upgrade"})
BOOTS = frozenset({"boot", "recovery", "completion"})
ALL = DEPLOYS | BOOTS | {"retention", "prepare"}


@dataclass
class Fault:
    name: str
    #: In a few words, for the table's page.
    text: str
    #: What the place does: `hang` until it is released, or fail with an errno.
    act: str
    strike: Callable
    #: Of which commands.
    commands: frozenset = DEPLOYS
    #: Commands that can still say what became of them.
    tells: frozenset = ALL
    #: The gateway itself was down: requests may have failed.
    forgives: bool = False
    #: Store paths are hashed afterwards.
    hashes: bool = False
    #: Only places that write what must last have it.
    writes: bool = False

    def can(self, step):
        return step.command in self.commands and (not self.writes or step.place in WRITES)


def agent_of(two):
    """How the process of the agent that does the command's work is found."""
    return {
        "deploy": f"systemctl kill --signal=KILL 'stillframe-{SERVICE}-activation-*'",
        "upgrade": f"systemctl kill --signal=KILL 'stillframe-{SERVICE}-activation-*'",
        "copy": "pkill -KILL -f 'stillframe-agent [o]rder'; pkill -KILL -f 'stillframe-agent [r]eceive'",
        **{boot: "systemctl kill --signal=KILL stillframe.service" for boot in BOOTS},
        "retention": "pkill -KILL -f 'stillframe-agent [r]etention'",
        "prepare": "pkill -KILL -f 'stillframe-agent [i]nstall'; pkill -KILL -f 'stillframe-agent [r]eceive'",
    }[two.command]


def kill_agent(two, process, serving):
    two.host.sh(agent_of(two), check=False)


def kill_workstation(two, process, serving):
    process.kill()
    two.release()


def cut(two, process, serving):
    two.host.sh("pkill -KILL -f 'sshd-session: root' || pkill -KILL sshd-session", check=False)
    time.sleep(0.2)
    two.release()


def kill_gateway(two, process, serving):
    two.host.sh(f"systemctl kill --signal=KILL stillframe-{SERVICE}-gateway.service", check=False)
    two.release()


def kill_new(two, process, serving):
    two.host.sh(f"for u in $(systemctl list-units --plain --no-legend 'stillframe-{SERVICE}-s0-g*' | cut -d' ' -f1); do "
                f"[ $u = {two.unit(serving)} ] || systemctl kill --signal=KILL $u; done", check=False)
    two.release()


def kill_old(two, process, serving):
    two.host.sh(f"systemctl kill --signal=KILL {two.unit(serving)}", check=False)
    two.release()


def power_loss(two, process, serving):
    two.host.power_loss()
    two.host.boot()
    two.host.wait_ready()


def reboot(two, process, serving):
    two.host.reboot()


def cancel(two, process, serving):
    two.place.run("cancel", code=None)
    two.release()


def interrupt(two, process, serving):
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    two.release()


def nothing(two, process, serving):
    pass


def jump(seconds):
    """The agent's time of day; the machine's own clock is that of all the tests, and stays."""
    def strike(two, process, serving):
        two.host.sh(f"echo {seconds} >{FOLDER}/clock")
        two.release()
    return strike


def spoil(script):
    """The state file as something else left it, found after a power loss."""
    def strike(two, process, serving):
        two.host.sh(f"cd $(dirname {STATE}); {script}; sync -f .")
        power_loss(two, process, serving)
    return strike


def other_version(change, strike_then):
    """The state file as another version of the agent writes it."""
    def strike(two, process, serving):
        text = two.host.sh(f"cat {STATE}").stdout
        document = json.loads(text)
        document.pop("sha256", None)
        change(document)
        two.host.sh(f"cat >{STATE}.t && mv {STATE}.t {STATE} && sync -f {STATE}", input=json.dumps(document))
        strike_then(two, process, serving, text)
    return strike


def found_at_boot(two, process, serving, text):
    power_loss(two, process, serving)


def left_alone(two, process, serving, text):
    """A newer agent's state is not this one's to change: whoever finds it says so and does nothing, what serves goes on, and so does the other
    service. Then the newer agent has gone, and its state with it."""
    if two.command == "boot":
        # Nothing serves yet, and nothing of this service comes up.
        two.release()
        two.note(not two.wait(lambda: two.mark(port=two.other_port) == OTHER), "the other service is down while the state is a newer agent's")
    else:
        kill_agent(two, process, serving)
        two.note(two.mark() is None, "nothing answers while the state is a newer agent's")
    problems = two.wait(lambda: [line for line in two.problems() if SERVICE in line])
    two.note(not problems, "nobody says that the state is a newer agent's")
    now = json.loads(two.host.sh(f"cat {STATE}").stdout)["version"]
    two.note(now != 99, f"a newer agent's state became version {now}")
    two.host.sh(f"cat >{STATE}.t && mv {STATE}.t {STATE}", input=text)
    if two.command == "boot":
        two.host.sh("systemctl reset-failed stillframe.service; systemctl start stillframe.service", check=False)


def older(document):
    document["version"] = 1


def newer(document):
    document["version"] = 99


ACTIVATIONS = frozenset({"deploy", "upgrade"})
REMOTE = DEPLOYS | {"retention", "prepare"}
STATEFUL = frozenset({"deploy", "boot"})
FAULTS = [
    Fault("kill agent", "SIGKILL for the agent's process that is at the place", "hang", kill_agent, ALL, tells=ACTIVATIONS),
    Fault("kill workstation", "SIGKILL for `stillframe`", "hang", kill_workstation, REMOTE, tells=frozenset()),
    Fault("ssh cut", "the host's SSH sessions end", "hang", cut, REMOTE, tells=frozenset()),
    Fault("kill gateway", "SIGKILL for the gateway", "hang", kill_gateway, ACTIVATIONS, forgives=True),
    Fault("kill new", "SIGKILL for the new instance", "hang", kill_new, ACTIVATIONS),
    Fault("kill old", "SIGKILL for the old instance", "hang", kill_old, ACTIVATIONS, forgives=True),
    Fault("cancel", "`stillframe cancel` from elsewhere", "hang", cancel),
    Fault("ctrl-c", "SIGINT for `stillframe`", "hang", interrupt, tells=frozenset()),
    Fault("power loss", "the host is off at once, and what was not synced is gone", "hang", power_loss, ALL, tells=frozenset(),
          forgives=True, hashes=True),
    Fault("reboot", "an orderly reboot", "hang", reboot, ALL, tells=frozenset(), forgives=True),
    Fault("ENOSPC", "the write fails for want of space", "enospc", nothing, ALL, writes=True),
    Fault("EIO", "the write fails, the disk being broken", "eio", nothing, ALL, writes=True),
    Fault("EROFS", "the write fails, the file system being read-only", "erofs", nothing, ALL, writes=True),
    Fault("clock +1 day", "the agent's time of day jumps a day ahead", "hang", jump(DAY), DEPLOYS | BOOTS),
    Fault("clock -1 day", "the agent's time of day jumps a day back", "hang", jump(-DAY), DEPLOYS | BOOTS),
    Fault("torn state", "power loss; the state file's second half is zeros", "hang",
          spoil("n=$(stat -c %s state.json); head -c $((n / 2)) state.json >t; head -c $((n - n / 2)) /dev/zero >>t; mv t state.json"),
          STATEFUL, tells=frozenset(), forgives=True),
    Fault("truncated state", "power loss; of the state file 200 bytes are left", "hang", spoil("head -c 200 state.json >t && mv t state.json"),
          STATEFUL, tells=frozenset(), forgives=True),
    Fault("empty state", "power loss; the state file is empty", "hang", spoil(": >state.json"), STATEFUL, tells=frozenset(), forgives=True),
    Fault("deleted state", "power loss; the state file is gone", "hang", spoil("rm -f state.json"), STATEFUL, tells=frozenset(), forgives=True),
    Fault("older state", "power loss; the state file is of version 1", "hang", other_version(older, found_at_boot), STATEFUL, tells=frozenset(),
          forgives=True),
    Fault("newer state", "the state file is of a version that this agent does not know; the agent is killed, and the file comes back later", "hang",
          other_version(newer, left_alone), STATEFUL, tells=frozenset(), forgives=True),
]

#: Places that write what must last.
WRITES = {"journal", "save", "link", "unlink", "point", "copy/verified", "copy/root", "copy/register", "prepare/reserve", "prepare/root",
          "prepare/agent", "prepare/unit", "prepare/enable", "gateway/table", "gateway/settings", "gateway/upgrade", "retention/tidy"}
