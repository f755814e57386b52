"""The matrix of faults: everything that can go wrong at an effect of an activation. Which effects there are, an agent with the feature
`fault-points` tells (`oracle.Two.steps`)."""
import signal
import time
from dataclasses import dataclass
from typing import Callable

from oracle import SERVICE

STATE = f"/var/lib/stillframe/services/{SERVICE}/state.json"


@dataclass
class Fault:
    name: str
    #: What the effect does: `hang` until it is released, or fail with an errno.
    act: str
    strike: Callable
    #: The command can still say what became of it.
    tells: bool = True
    #: The gateway itself was down: requests may have failed.
    forgives: bool = False
    #: Store paths are hashed afterwards.
    hashes: bool = False
    #: Only effects that write durable state have it.
    writes: bool = False

    def can(self, step):
        return not self.writes or step[0] in WRITES


def unit(two):
    return f"'stillframe-{SERVICE}-activation-*'"


def kill_agent(two, process, serving):
    two.alpha.sh(f"systemctl kill --signal=KILL {unit(two)}")


def kill_workstation(two, process, serving):
    process.kill()
    two.release()


def cut(two, process, serving):
    two.alpha.sh("pkill -KILL -f 'sshd-session: root' || pkill -KILL sshd-session", check=False)
    time.sleep(0.2)
    two.release()


def kill_gateway(two, process, serving):
    two.alpha.sh(f"systemctl kill --signal=KILL stillframe-{SERVICE}-gateway.service")
    two.release()


def kill_new(two, process, serving):
    two.alpha.sh(f"for u in $(systemctl list-units --plain --no-legend 'stillframe-{SERVICE}-s0-g*' | cut -d' ' -f1); do "
                 f"[ $u = {two.unit(serving)} ] || systemctl kill --signal=KILL $u; done", check=False)
    two.release()


def kill_old(two, process, serving):
    two.alpha.sh(f"systemctl kill --signal=KILL {two.unit(serving)}", check=False)
    two.release()


def power_loss(two, process, serving):
    two.alpha.power_loss()
    two.alpha.boot()
    two.alpha.wait_ready()


def reboot(two, process, serving):
    two.alpha.reboot()


def cancel(two, process, serving):
    two.place.run("cancel", code=None)
    two.release()


def interrupt(two, process, serving):
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    two.release()


def nothing(two, process, serving):
    pass


def spoil(script):
    """The state file as something else left it, found after a power loss."""
    def strike(two, process, serving):
        two.alpha.sh(f"cd $(dirname {STATE}); {script}; sync -f .")
        power_loss(two, process, serving)
    return strike


FAULTS = [
    Fault("kill agent", "hang", kill_agent),
    Fault("kill workstation", "hang", kill_workstation, tells=False),
    Fault("ssh cut", "hang", cut, tells=False),
    Fault("kill gateway", "hang", kill_gateway, forgives=True),
    Fault("kill new", "hang", kill_new),
    Fault("kill old", "hang", kill_old, forgives=True),
    Fault("cancel", "hang", cancel),
    Fault("ctrl-c", "hang", interrupt, tells=False),
    Fault("power loss", "hang", power_loss, tells=False, forgives=True, hashes=True),
    Fault("reboot", "hang", reboot, tells=False, forgives=True),
    Fault("ENOSPC", "enospc", nothing, writes=True),
    Fault("EIO", "eio", nothing, writes=True),
    Fault("EROFS", "erofs", nothing, writes=True),
    Fault("torn state", "hang", spoil("head -c 200 state.json >t && mv t state.json"), tells=False, forgives=True),
    Fault("empty state", "hang", spoil(": >state.json"), tells=False, forgives=True),
    Fault("deleted state", "hang", spoil("rm -f state.json"), tells=False, forgives=True),
]

#: Effects that write durable state.
WRITES = {"journal", "save", "link", "unlink", "point"}
