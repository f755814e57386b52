#!/usr/bin/env python3
"""Test hosts: real Debian 13 machines (systemd, sshd, Nix) in namespaces, on a network of their own.

    hosts.py [--state DIR] up [-n 2] [--rtt MS] [--rate MBIT] [--loss PCT]
    hosts.py down | list | ssh NAME [CMD...] | exec NAME CMD... | client CMD...
    hosts.py reboot NAME | power-loss NAME | boot NAME | network NAME on|off | line NAME [--rtt MS] [--rate MBIT] [--loss PCT]
    hosts.py fill NAME [--leave MIB] | unfill NAME

The client side has a network namespace too, without a default route: nothing meant for a test host can leave the machine.
"""
import argparse
import fcntl
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from image import image  # noqa: E402

HERE = Path(__file__).resolve().parent
NAMES = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
NIX_MIB = 3072
VAR_MIB = 2048
ETC_MIB = 64
#: EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32), and its flag that leaves out the log.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
CGROUPS = next((p for p in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")) if (p / "cgroup.procs").exists()), None)


def sh(*command, check=True, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="backslashreplace", **options)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}: {done.stderr or done.stdout}")
    return done


def alive(pid, start):
    """Whether the process that was recorded is still that one: ids are used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return False
    # A zombie has ended; its parent has not looked yet.
    return fields[19] == start and fields[0] != "Z"


def started(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


class Host:
    def __init__(self, hosts, name, number):
        self.hosts, self.name, self.number = hosts, name, number
        self.address = f"10.77.0.{10 + number}"
        self.dir = hosts.state / "hosts" / name
        self.netns = hosts.namespace(name)
        self.cgroup = CGROUPS / f"{hosts.id}-{name}"

    # --- life

    def prepare(self):
        etc = self.dir / "etc"
        (etc / "ssh").mkdir(parents=True)
        (etc / "hostname").write_text(self.name + "\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (etc / "machine-id").write_text(uuid.uuid4().hex + "\n")
        (etc / "resolv.conf").write_text("")
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", etc / "ssh/ssh_host_ed25519_key")
        # One place for all users' keys: it may not be writable by others, and homes are theirs.
        keys = etc / "ssh/keys"
        keys.mkdir()
        shutil.copy(self.hosts.state / "key.pub", keys / "all")
        (etc / "ssh/sshd_config.d").mkdir()
        (etc / "ssh/sshd_config.d/keys.conf").write_text("AuthorizedKeysFile /etc/ssh/keys/all\n")
        for path in [etc, *etc.rglob("*")]:
            os.chown(path, 0, 0)
            path.chmod(0o600 if path.name.endswith("_key") else 0o755 if path.is_dir() else 0o644)
        for name, mib in (("nix.img", NIX_MIB), ("var.img", VAR_MIB), ("etc.img", ETC_MIB)):
            with open(self.dir / name, "wb") as f:
                f.truncate(mib << 20)
            sh("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", self.dir / name)

    def boot(self):
        log = open(self.dir / "console", "ab")
        process = subprocess.Popen(["bash", HERE / "boot.sh", "supervise", self.dir, self.hosts.image, self.netns, self.cgroup],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        (self.dir / "supervisor").write_text(f"{process.pid} {started(process.pid)}")

    def supervisor(self):
        try:
            pid, start = (self.dir / "supervisor").read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if alive(pid, start) else None

    def pid(self):
        """The host's process 1, as this machine numbers it."""
        supervisor = self.supervisor()
        if supervisor is None:
            return None
        try:
            outer = int((self.dir / "unshare.pid").read_text())
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except (OSError, ValueError):
            return None
        return int(children[0]) if children else None

    def wait_ready(self, timeout=150):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            done = self.run("systemctl", "is-active", "ssh.service", "nix-daemon.socket", "dbus.socket", check=False)
            # Its status says whether one of them is.
            if done is not None and done.stdout.split() == ["active"] * 3:
                return self
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} does not come up: {(self.dir / 'console').read_text(errors='replace')[-3000:]}")

    def cut_disk(self):
        """What /nix, /var and /etc have in memory alone never reaches their disks: each file system is shut down as it is (ext4,
        EXT4_IOC_SHUTDOWN without a flush of the log), so that no unmounting writes it out."""
        pid = self.pid()
        if pid is None:
            return
        for mounted in ("etc", "var", "nix"):
            try:
                folder = os.open(f"/proc/{pid}/root/{mounted}", os.O_RDONLY)
            except OSError:
                # It ends just now, or never came so far as to mount it.
                return
            try:
                fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
            finally:
                os.close(folder)

    def power_loss(self):
        """Ends it as a pulled plug does, with what /nix, /var and /etc had not synced; `boot` starts it over the same disk. (The rest of
        its disk is this machine's, and keeps what was written.)"""
        self.cut_disk()
        self.kill()

    def kill(self):
        pid = self.pid()
        supervisor = self.supervisor()
        if supervisor is not None:
            os.kill(supervisor, signal.SIGKILL)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        self.wait_gone()

    def wait_gone(self, timeout=30):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                left = (self.cgroup / "cgroup.procs").read_text().split() if self.cgroup.exists() else []
            except OSError:
                left = []
            if not left and self.supervisor() is None:
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not end")

    def reboot(self):
        """An orderly reboot from within; returns when it is up again."""
        before = self.pid()
        self.run("systemctl", "--no-block", "reboot", check=False)
        deadline = time.monotonic() + 150
        while self.pid() in (before, None):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not reboot")
            time.sleep(0.05)
        return self.wait_ready()

    def destroy(self):
        self.kill()
        for group in sorted(self.cgroup.rglob("*"), reverse=True) if self.cgroup.exists() else []:
            if group.is_dir():
                group.rmdir()
        if self.cgroup.exists():
            self.cgroup.rmdir()

    # --- looking in

    def run(self, *command, check=True, **options):
        """A command as root on the host, not over its network."""
        pid = self.pid()
        if pid is None:
            if check:
                raise RuntimeError(f"{self.name} is not running")
            return None
        return sh("nsenter", "--target", pid, "--all", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                  *command, check=check, **options)

    def sh(self, script, **options):
        return self.run("sh", "-c", script, **options)

    def ssh(self, *command, user="root", check=True):
        return self.hosts.client("ssh", "-F", self.hosts.ssh_config, f"{user}@{self.name}", *command, check=check)

    # --- trouble

    def network(self, on):
        sh("ip", "-n", self.hosts.namespace("sw"), "link", "set", f"h{self.number}", "up" if on else "down")

    def line(self, rtt_ms=0, rate_mbit=0, loss=0):
        """The line to this host; all 0: as fast as the machine is."""
        switch = self.hosts.namespace("sw")
        pidfile = self.dir / "line"
        if pidfile.exists():
            pid, start = pidfile.read_text().split()
            if alive(pid, start):
                os.kill(int(pid), signal.SIGKILL)
                while alive(pid, start):
                    time.sleep(0.01)
            pidfile.unlink()
        if not (rtt_ms or rate_mbit or loss):
            sh("ip", "-n", switch, "link", "set", f"h{self.number}", "master", "br0")
            return
        sh("ip", "-n", switch, "link", "set", f"h{self.number}", "nomaster")
        process = subprocess.Popen(["ip", "netns", "exec", switch, sys.executable, HERE / "link.py", f"h{self.number}", f"d{self.number}",
                                    "--delay", str(rtt_ms / 2), "--rate", str(rate_mbit), "--loss", str(loss)],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        pidfile.write_text(f"{process.pid} {started(process.pid)}")

    def fill_disk(self, leave_mib=0):
        """Fills the file system of /nix but for so much."""
        self.sh(f"free=$(df -Pm /nix | awk 'NR==2 {{print $4}}'); n=$((free - {leave_mib})); [ $n -le 0 ] || fallocate -l ${{n}}M /nix/.filler || true; "
                f"[ {leave_mib} -gt 0 ] || dd if=/dev/zero of=/nix/.filler2 bs=4k 2>/dev/null || true")

    def unfill(self):
        self.sh("rm -f /nix/.filler /nix/.filler2")


class Hosts:
    """`with Hosts(2) as hosts: hosts["alpha"].ssh("true")`"""

    def __init__(self, count=2, state=None, **line):
        self.count, self.line = count, line
        self.state = Path(state or f"{tempfile.gettempdir()}/sf-hosts-{uuid.uuid4().hex[:8]}").absolute()
        self.id = "sf" + hashlib.sha256(str(self.state).encode()).hexdigest()[:8]
        self.ssh_config = self.state / "ssh_config"
        self.hosts = []
        self.image = None

    def namespace(self, name):
        return f"{self.id}-{name}"

    def __getitem__(self, name):
        return next(h for h in self.hosts if h.name == name)

    def __enter__(self):
        try:
            return self.up()
        except BaseException:
            self.down()
            raise

    def __exit__(self, *_):
        self.down()

    def attach(self):
        """The hosts of a state directory that are there already."""
        self.count = json.loads((self.state / "hosts.json").read_text())["count"]
        self.hosts = [Host(self, name, number) for number, name in enumerate(NAMES[:self.count], 1)]
        return self

    def up(self):
        self.image = image()
        self.down()
        self.state.mkdir(parents=True)
        (self.state / "hosts.json").write_text(json.dumps({"count": self.count}))
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", self.state / "key")
        self.hosts = [Host(self, name, number) for number, name in enumerate(NAMES[:self.count], 1)]
        for host in self.hosts:
            host.prepare()
        self.write_ssh()
        self.wire()
        for host in self.hosts:
            host.boot()
            if self.line:
                host.line(**self.line)
        for host in self.hosts:
            host.wait_ready()
        return self

    def write_ssh(self):
        known = self.state / "known_hosts"
        known.write_text("".join(f"{h.name},{h.address} {(h.dir / 'etc/ssh/ssh_host_ed25519_key.pub').read_text()}" for h in self.hosts))
        lines = [f"Host {h.name}\n  HostName {h.address}\n  HostKeyAlias {h.name}\n" for h in self.hosts]
        self.ssh_config.write_text("".join(lines) + f"Host *\n  User root\n  IdentityFile {self.state / 'key'}\n  IdentitiesOnly yes\n"
                                   f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n  BatchMode yes\n  ConnectTimeout 5\n")

    def wire(self):
        switch, client = self.namespace("sw"), self.namespace("cl")
        for name in (switch, client):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        # It sends every frame everywhere: where a host's line is plugged in changes, and it must not remember.
        sh("ip", "-n", switch, "link", "set", "br0", "type", "bridge", "ageing_time", "0")
        sh("ip", "-n", switch, "link", "set", "br0", "up")

        def plug(port, netns, address):
            sh("ip", "link", "add", port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", netns)
            sh("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
            sh("ip", "-n", netns, "link", "set", "eth0", "up")
            sh("ip", "-n", netns, "addr", "add", f"{address}/24", "dev", "eth0")
        plug("c0", client, "10.77.0.1")
        for host in self.hosts:
            sh("ip", "netns", "add", host.netns)
            sh("ip", "-n", host.netns, "link", "set", "lo", "up")
            plug(f"h{host.number}", host.netns, host.address)
            # For a slow line: `link.py` carries frames from h to d, whose other end is on the bridge.
            sh("ip", "link", "add", f"d{host.number}", "netns", switch, "type", "veth", "peer", "name", f"b{host.number}", "netns", switch)
            sh("ip", "-n", switch, "link", "set", f"b{host.number}", "master", "br0", "up")
            sh("ip", "-n", switch, "link", "set", f"d{host.number}", "up")
        # Frames are read and written as they are: their checksums must be in them.
        for netns in [client, *[h.netns for h in self.hosts]]:
            sh("ip", "netns", "exec", netns, "ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off", check=False)

    def client_command(self, *command):
        return ["ip", "netns", "exec", self.namespace("cl"), *map(str, command)]

    def client(self, *command, **options):
        return sh(*self.client_command(*command), **options)

    def down(self):
        if (self.state / "hosts.json").exists():
            self.attach()
        for host in self.hosts:
            if host.dir.exists():
                pidfile = host.dir / "line"
                if pidfile.exists():
                    pid, start = pidfile.read_text().split()
                    if alive(pid, start):
                        os.kill(int(pid), signal.SIGKILL)
                host.destroy()
        listed = sh("ip", "netns", "list").stdout.split()
        for name in [n for n in listed if n.startswith(self.id + "-")]:
            sh("ip", "netns", "delete", name)
        shutil.rmtree(self.state, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", default="/tmp/stillframe-hosts")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, *arguments):
        sub = commands.add_parser(name)
        for flags, options in arguments:
            sub.add_argument(*flags, **options)
        return sub
    name = (["name"], {"choices": NAMES})
    rest = (["words"], {"nargs": argparse.REMAINDER})
    line = [(["--rtt"], {"type": float, "default": 0}), (["--rate"], {"type": float, "default": 0}), (["--loss"], {"type": float, "default": 0})]
    command("up", (["-n"], {"type": int, "default": 2}), *line)
    command("down")
    command("list")
    command("ssh", name, rest)
    command("exec", name, rest)
    command("client", rest)
    for plain in ("reboot", "power-loss", "boot", "unfill"):
        command(plain, name)
    command("network", name, (["state_"], {"choices": ["on", "off"]}))
    command("line", name, *line)
    command("fill", name, (["--leave"], {"type": int, "default": 0}))
    a = parser.parse_args()
    if os.geteuid():
        sys.exit("test hosts need root's rights (namespaces, mounts)")
    hosts = Hosts(state=a.state)
    if a.command == "up":
        hosts.count = a.n
        hosts.line = {"rtt_ms": a.rtt, "rate_mbit": a.rate, "loss": a.loss} if a.rtt or a.rate or a.loss else {}
        hosts.up()
        print(f"up: {', '.join(f'{h.name} {h.address}' for h in hosts.hosts)}")
        print(f"ssh configuration: {hosts.ssh_config}\nfrom their network:  {' '.join(hosts.client_command('ssh', '-F', hosts.ssh_config, 'alpha'))}")
        return
    if a.command == "down":
        hosts.down()
        return
    if not (hosts.state / "hosts.json").exists():
        sys.exit(f"no test hosts in {hosts.state}: hosts.py up")
    hosts.attach()
    hosts.image = image()
    host = hosts[a.name] if getattr(a, "name", None) else None
    if a.command == "list":
        for h in hosts.hosts:
            print(h.name, h.address, f"pid {h.pid()}" if h.pid() else "off")
    elif a.command == "client":
        os.execvp("ip", hosts.client_command(*a.words))
    elif a.command == "ssh":
        os.execvp("ip", hosts.client_command("ssh", "-F", hosts.ssh_config, a.name, *a.words))
    elif a.command == "exec":
        os.execvp("nsenter", ["nsenter", "--target", str(host.pid()), "--all", "--", *(a.words or ["bash"])])
    elif a.command == "network":
        host.network(a.state_ == "on")
    elif a.command == "line":
        host.line(a.rtt, a.rate, a.loss)
    elif a.command == "fill":
        host.fill_disk(a.leave)
    else:
        {"reboot": host.reboot, "power-loss": host.power_loss, "boot": lambda: (host.boot(), host.wait_ready()), "unfill": host.unfill}[a.command]()


if __name__ == "__main__":
    main()
