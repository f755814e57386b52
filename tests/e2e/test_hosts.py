"""The test hosts themselves: real systemd, SSH and Nix, and every trouble that can be made for them."""
import os
import shutil
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hosts"))
from hosts import CGROUPS, Hosts  # noqa: E402

SECONDS = 60
ALONE = True


class TestHosts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hosts = Hosts(2)
        cls.addClassCleanup(cls.hosts.down)
        cls.hosts.up()
        cls.alpha, cls.beta = cls.hosts.hosts

    def test_a_host_is_a_whole_machine(self):
        for host in self.hosts.hosts:
            self.assertEqual(host.run("cat", "/proc/1/comm").stdout, "systemd\n")
            state = host.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
            failed = host.run("systemctl", "--failed", "--no-legend", check=False).stdout
            self.assertEqual((state, failed), ("running", ""))
            self.assertEqual(host.run("hostname").stdout.strip(), host.name)
        unit = self.alpha.run("systemd-run", "--wait", "--pipe", "--quiet", "-p", "DynamicUser=yes", "-p", "ProtectSystem=strict",
                              "sh", "-c", "id -un; touch /etc/x 2>&1 || true")
        user, denied = unit.stdout.splitlines()
        self.assertNotEqual(user, "root")
        self.assertIn("Read-only file system", denied)

    def test_who_may_come_in(self):
        self.assertEqual(self.alpha.ssh("id", "-un").stdout, "root\n")
        self.assertEqual(self.alpha.ssh("sudo", "-n", "id", "-un", user="deploy").stdout, "root\n")
        asks = self.alpha.ssh("sudo", "-n", "id", user="nosudo", check=False)
        self.assertIn("password is required", asks.stderr)
        wrong = self.hosts.client("ssh", "-F", self.hosts.ssh_config, "-o", "HostKeyAlias=beta", "alpha", "true", check=False)
        self.assertIn("Host key verification failed", wrong.stderr)

    def test_nix_through_ssh(self):
        self.alpha.run("sh", "-c", "echo over ssh >/tmp/text")
        path = self.alpha.ssh("sudo", "-n", "nix-store", "--add", "/tmp/text", user="deploy").stdout.strip()
        self.assertTrue(path.startswith("/nix/store/"), path)
        self.assertEqual(self.alpha.ssh("nix-store", "--verify-path", path).returncode, 0)

    def test_lines_are_as_slow_as_asked(self):
        def best():
            took = []
            for _ in range(3):
                started = time.monotonic()
                self.beta.ssh("true")
                took.append(time.monotonic() - started)
            return min(took)
        quick = best()
        self.beta.line(rtt_ms=80)
        self.addCleanup(self.beta.line)
        # TCP, versions, keys, user, channel, command: several round trips one after another.
        self.assertGreater(best() - quick, 0.4)

    def test_a_network_can_be_lost_and_found(self):
        self.beta.network(False)
        gone = self.beta.ssh("true", check=False)
        self.beta.network(True)
        self.assertEqual(gone.returncode, 255)
        self.assertRegex(gone.stderr, "timed out|No route to host")
        self.assertEqual(self.beta.ssh("echo", "back").stdout, "back\n")

    def test_disks_survive_what_memory_does_not(self):
        for again in ("reboot", "power loss"):
            with self.subTest(again):
                self.alpha.sh("echo kept >/var/lib/kept; echo kept >/nix/var/kept; echo kept >/etc/kept; echo lost >/run/lost; sync")
                if again == "reboot":
                    self.alpha.reboot()
                else:
                    self.alpha.power_loss()
                    self.assertIsNone(self.alpha.pid())
                    self.alpha.boot()
                    self.alpha.wait_ready()
                self.assertEqual(self.alpha.run("cat", "/var/lib/kept", "/nix/var/kept", "/etc/kept").stdout, "kept\n" * 3)
                self.assertNotEqual(self.alpha.run("cat", "/run/lost", check=False).returncode, 0)
                self.assertEqual(self.alpha.ssh("echo", "up").stdout, "up\n")

    def test_a_full_disk_is_the_hosts_alone(self):
        before = shutil.disk_usage("/").free
        self.beta.fill_disk()
        self.addCleanup(self.beta.unfill)
        full = self.beta.sh("head -c 1000000 /dev/zero >/nix/store/.try", check=False)
        self.assertIn("No space left on device", full.stderr)
        self.beta.sh("rm -f /nix/store/.try")
        # The image is sparse at first, and of a size of its own.
        self.assertLess(before - shutil.disk_usage("/").free, 4 << 30)
        self.assertEqual(self.beta.sh("echo fits >/var/lib/fits && cat /var/lib/fits").stdout, "fits\n")


class Traces(unittest.TestCase):
    def test_two_at_once_and_nothing_left(self):
        with Hosts(1) as one, Hosts(1) as two:
            self.assertEqual(one["alpha"].ssh("hostname").stdout, "alpha\n")
            self.assertEqual(two["alpha"].ssh("hostname").stdout, "alpha\n")
            self.assertNotEqual(one["alpha"].run("cat", "/etc/machine-id").stdout, two["alpha"].run("cat", "/etc/machine-id").stdout)
        for gone in (one, two):
            self.assertFalse(gone.state.exists())
            self.assertNotIn(gone.id, subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout)
            self.assertEqual([p for p in CGROUPS.iterdir() if p.name.startswith(gone.id)], [])
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.assertNotIn(os.fsencode(gone.state), process.read_bytes())
                except OSError:
                    continue
