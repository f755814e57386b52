"""The cached root of the test hosts: Debian 13 with systemd, sshd, sudo and Nix, made once by mmdebstrap."""
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SUITE = "trixie"
PACKAGES = ["systemd", "systemd-sysv", "dbus", "openssh-server", "iproute2", "nix-bin", "nix-setup-systemd", "sudo", "procps",
            "ca-certificates", "zstd"]
# Nothing may start by itself in the middle of a measurement.
QUIET = ["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
         "systemd-tmpfiles-clean.timer", "getty@tty1.service", "console-getty.service", "systemd-networkd-wait-online.service",
         "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount", "dev-mqueue.mount", "ssh.socket",
         "systemd-firstboot.service", "systemd-pstore.service", "systemd-modules-load.service", "e2scrub_reap.service"]
SETUP = """
set -e
systemctl --quiet enable ssh.service nix-daemon.socket systemd-journald.service
systemctl --quiet mask {quiet}
for name in deploy nosudo; do useradd --create-home --shell /bin/bash $name; usermod --password '*' $name; done
usermod --append --groups sudo nosudo
echo 'deploy ALL=(root) NOPASSWD: ALL' >/etc/sudoers.d/deploy
chmod 440 /etc/sudoers.d/deploy
mkdir -p /etc/systemd/journald.conf.d && printf '[Journal]\\nStorage=persistent\\n' >/etc/systemd/journald.conf.d/persistent.conf
mkdir -p /etc/systemd/system.conf.d && printf '[Manager]\\nDefaultTimeoutStopSec=15s\\n' >/etc/systemd/system.conf.d/stop.conf
mkdir -p /etc/nix /var/log/journal /nix/store /nix/var/nix
cat >/etc/nix/nix.conf <<'CONF'
build-users-group = nixbld
sandbox = false
substituters =
trusted-users = root
experimental-features = nix-command
CONF
# A build user of another Nix on this machine is killed by that one: these are others.
getent group nixbld >/dev/null || groupadd --system nixbld
for i in 1 2 3 4; do
    userdel nixbld$i 2>/dev/null || true
    useradd --system --uid $((31000 + i)) --no-create-home --home-dir /var/empty --shell /usr/sbin/nologin --gid nixbld --groups nixbld nixbld$i
done
sed -i 's/^#*PermitRootLogin.*/PermitRootLogin prohibit-password/; s/^#*PasswordAuthentication.*/PasswordAuthentication no/; s/^#*UseDNS.*/UseDNS no/' /etc/ssh/sshd_config
echo 'MaxStartups 100' >>/etc/ssh/sshd_config
rm -f /etc/ssh/ssh_host_* /etc/machine-id /var/lib/dbus/machine-id
"""


def mirror():
    """The mirror that this machine itself is configured for; empty: mmdebstrap's default."""
    shown = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "ORIGIN: Debian"],
                           capture_output=True, text=True).stdout
    codename = next((line.split("=")[1].strip() for line in Path("/etc/os-release").read_text().splitlines()
                     if line.startswith("VERSION_CODENAME=")), "")
    return next((line.split()[0] for line in shown.splitlines() if line.endswith(" " + codename)), None)


def image():
    """The root's path; made first where it is not there yet."""
    setup = SETUP.format(quiet=" ".join(QUIET))
    tag = hashlib.sha256(repr((SUITE, PACKAGES, setup)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("STILLFRAME_TEST_CACHE") or Path.home() / ".cache/stillframe-tests")
    root = cache / f"host-{SUITE}-{tag}"
    if (root / ".complete").exists():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "host.lock", "w") as lock:
        # Two callers at once: the second waits and finds the work done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (root / ".complete").exists():
            return root
        for old in cache.glob(f"host-{SUITE}-*"):
            shutil.rmtree(old)
        partial = cache / f"host-{SUITE}-{tag}.partial"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, partial, mirror()]
        print("making the test hosts' root (once)", file=sys.stderr)
        subprocess.run([str(c) for c in command if c], check=True, stdout=sys.stderr)
        subprocess.run(["chroot", partial, "sh", "-c", setup], check=True, stdout=sys.stderr)
        (partial / ".complete").touch()
        partial.rename(root)
    return root


if __name__ == "__main__":
    print(image())
