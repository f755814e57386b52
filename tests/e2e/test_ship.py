"""Shipping to real hosts over real SSH: what arrives, what goes on where it was cut, and every host that is not as it should be."""
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hosts"))
import small  # noqa: E402
from harness import Workstation, in_order  # noqa: E402
from hosts import Hosts  # noqa: E402

SECONDS = 90
SHARES = {"clock"}

SHARED = {}
MIB = 1 << 20


def setUpModule():
    hosts, ws = Hosts(2), Workstation()
    unittest.addModuleCleanup(ws.remove)
    unittest.addModuleCleanup(hosts.down)
    hosts.up()
    ws.prefix = hosts.client_command()
    env = small.Environment(ws.root / "env")
    # A weight file inside a pack does not compress, and is a path of its own.
    weight = env.root / "custom_nodes" / "heavy" / "weights.safetensors"
    weight.parent.mkdir(parents=True)
    (weight.parent / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    weight.write_bytes(os.urandom(60 * MIB))
    project = ws.root / "project"
    (project / "hosts").mkdir(parents=True)
    (project / "stillframe.toml").write_text(f'environment = "{env.root}"\n')
    SHARED.update(hosts=hosts, ws=ws, env=env, project=project)
    for host in hosts.hosts:
        describe(host.name)
    ws.stillframe("host", "prepare", "--yes", cwd=project)
    SHARED["snapshot"] = ws.stillframe("snapshot", "--offline", "--label", "one", "--json", cwd=project).json


def describe(name, file=None, **more):
    """hosts/NAME.toml"""
    values = {"address": name, "ssh-config": str(SHARED["hosts"].ssh_config), "tags": ["test"], **more}
    text = "".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in values.items())
    path = SHARED["project"] / "hosts" / f"{file or name}.toml"
    path.write_text(text)
    return path


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.hosts, self.ws = SHARED["hosts"], SHARED["ws"]
        self.alpha, self.beta = self.hosts.hosts

    def run_it(self, *arguments, code=0, **options):
        return self.ws.stillframe(*arguments, code=code, cwd=SHARED["project"], **options)

    def host(self, name, **more):
        """A further host's file, for this test alone."""
        self.addCleanup(describe(name, **more).unlink)

    def forget(self, host):
        """Deletes what was shipped, as a garbage collector without roots does."""
        host.run("nix-store", "--gc")
        host.sh("rm -f /var/lib/stillframe/incoming/*")

    def error(self, *arguments):
        done = self.run_it(*arguments, "--json", code=1).json
        self.assertEqual(done["failed"], 1)
        return next(h["error"] for h in done["hosts"] if "error" in h)

    def assert_whole(self, host):
        snapshot = SHARED["snapshot"]["snapshot"]
        closure = host.run("nix-store", "--query", "--requisites", snapshot).stdout.split()
        here = self.ws.nix("nix-store", "--query", "--requisites", snapshot).out.split()
        self.assertEqual(closure, here)
        # Nix reads every file again.
        self.assertEqual(host.run("nix-store", "--verify-path", *closure).returncode, 0)

    def start(self, *arguments):
        process = subprocess.Popen([*map(str, self.ws.prefix), str(small.harness.BINARY), *arguments, "--json"], cwd=SHARED["project"],
                                   env=self.ws.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process

    def wait_for_bytes(self, host, least):
        """Until so much of the heavy path lies on the host."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            shown = host.sh("cat /var/lib/stillframe/incoming/*.nar 2>/dev/null | wc -c", check=False).stdout.strip()
            if int(shown or 0) >= least:
                return
            time.sleep(0.05)
        self.fail("nothing arrives")


class Arrival(Case):
    def test_from_nothing_to_all_and_a_change(self):
        in_order(self, self.check_says_what_hosts_have, self.a_snapshot_arrives_whole_on_all_hosts, self.a_change_ships_alone,
                 self.a_user_with_sudo)

    def check_says_what_hosts_have(self):
        done = self.run_it("host", "check", "--json").json
        self.assertEqual([h["host"] for h in done["hosts"]], ["alpha", "beta"])
        for host in done["hosts"]:
            self.assertEqual(host["problems"], [])
            facts = host["facts"]
            self.assertEqual((facts["init"], facts["nix"], facts["hostname"]), ("systemd", "2.26.3", host["host"]))
            self.assertGreaterEqual(facts["systemd"], 257)
            self.assertIn(22, facts["ports"])
            self.assertGreater(facts["store_free_bytes"], 1 << 30)
        text = self.run_it("host", "check", "alpha").out
        self.assertIn("ready for a deployment", text)
        self.assertNotIn("beta", text)

    def a_snapshot_arrives_whole_on_all_hosts(self):
        plan = self.run_it("host", "send", "--dry-run", "--json").json
        # All but the agent, which is what answered.
        self.assertEqual([h["missing_paths"] for h in plan["hosts"]], [plan["paths"] - 1] * 2)
        done = self.run_it("host", "send", "--json").json
        for host, sent in zip(self.hosts.hosts, done["hosts"]):
            self.assertEqual(sent["sent"]["nar_bytes"], sent["missing_bytes"])
            self.assert_whole(host)
        again = self.run_it("host", "send")
        self.assertEqual(again.out, f"alpha has all {done['paths']} paths\nbeta has all {done['paths']} paths\n")

    def a_change_ships_alone(self):
        pack = SHARED["env"].root / "custom_nodes" / "heavy" / "__init__.py"
        before = pack.read_text()
        self.addCleanup(lambda: self.run_it("snapshots", "remove", "two"))
        self.addCleanup(pack.write_text, before)
        pack.write_text("NODE_CLASS_MAPPINGS = {'a': 1}\n")
        self.run_it("snapshot", "--offline", "--label", "two")
        done = self.run_it("host", "send", "alpha", "--snapshot", "two", "--json").json["hosts"][0]
        # The pack, the environment's list of packs: under 1 % of what the whole is.
        self.assertLess(done["sent"]["wire_bytes"], 1 * MIB)
        self.assertLessEqual(done["missing_paths"], 3)

    def a_user_with_sudo(self):
        self.forget(self.alpha)
        self.host("alpha", file="other", user="deploy")
        done = self.run_it("host", "send", "other", "--json").json["hosts"][0]
        self.assertGreater(done["missing_paths"], 5)
        self.assert_whole(self.alpha)

    def test_selectors(self):
        done = self.run_it("host", "check", "@test,!beta", "--json").json
        self.assertEqual([h["host"] for h in done["hosts"]], ["alpha"])
        wrong = self.run_it("host", "check", "alpa", code=2)
        self.assertEqual(wrong.err, 'error: no host is called "alpa"\n  hint: did you mean alpha?\n')


class Cut(Case):
    def setUp(self):
        super().setUp()
        self.forget(self.alpha)

    def test_a_lost_network_and_the_rest_afterwards(self):
        self.alpha.line(rate_mbit=150)
        self.addCleanup(self.alpha.line)
        process = self.start("host", "send", "alpha")
        self.wait_for_bytes(self.alpha, 16 * MIB)
        # The connection is cut for good, as by a router that forgot it.
        self.alpha.sh("pkill -KILL sshd-session || pkill -KILL -f 'sshd.*root'", check=False)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, out + err)
        self.assertIn("alpha: the connection ended during the transfer", out)
        self.assertIn("what arrived stays on the host: run the command again and it goes on from there", out)
        self.alpha.line()
        done = self.run_it("host", "send", "alpha", "--json").json["hosts"][0]
        self.assertGreaterEqual(done["sent"]["resumed_bytes"], 12 * MIB)
        self.assert_whole(self.alpha)
        self.assertEqual(self.alpha.sh("ls /var/lib/stillframe/incoming").stdout, "")

    def test_ctrl_c(self):
        self.alpha.line(rate_mbit=150)
        self.addCleanup(self.alpha.line)
        process = self.start("host", "send", "alpha")
        self.wait_for_bytes(self.alpha, 8 * MIB)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        self.assertNotEqual(process.returncode, 0)
        self.alpha.line()
        done = self.run_it("host", "send", "alpha", "--json").json["hosts"][0]
        self.assertGreaterEqual(done["sent"]["resumed_bytes"], 4 * MIB)
        self.assert_whole(self.alpha)

    def test_a_garbage_collector_in_the_middle(self):
        self.alpha.line(rate_mbit=150)
        self.addCleanup(self.alpha.line)
        process = self.start("host", "send", "alpha")
        self.wait_for_bytes(self.alpha, 16 * MIB)
        self.alpha.run("nix-store", "--gc")
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, out + err)
        self.assert_whole(self.alpha)

    def test_a_disk_that_is_full_before(self):
        self.alpha.fill_disk(leave_mib=100)
        self.addCleanup(self.alpha.unfill)
        error = self.error("host", "send", "alpha")
        self.assertRegex(error["message"], r"^alpha: the store has \d+ MiB free, \d+ MiB are needed$")
        self.assertEqual(error["hint"], "free space on the host: stillframe retention, nix-collect-garbage")

    def test_a_disk_that_fills_during_the_copy(self):
        self.alpha.line(rate_mbit=150)
        self.addCleanup(self.alpha.line)
        process = self.start("host", "send", "alpha")
        self.wait_for_bytes(self.alpha, 8 * MIB)
        self.alpha.fill_disk()
        self.addCleanup(self.alpha.unfill)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 1, out + err)
        self.assertIn("No space left on device", out)
        self.alpha.unfill()
        self.alpha.line()
        self.run_it("host", "send", "alpha")
        self.assert_whole(self.alpha)


class Nix(Case):
    OFFICIAL = "/nix/var/nix/profiles/default/bin"

    def test_nix_where_its_own_installer_puts_it(self):
        """For all users, and on the PATH of no command over SSH: the daemon runs from there, `host prepare` installs no other."""
        again = "systemctl daemon-reload; systemctl stop nix-daemon.service; systemctl restart nix-daemon.socket"
        self.addCleanup(self.beta.sh, f"mv {self.OFFICIAL}/nix* /usr/bin/; rm -r /etc/systemd/system/nix-daemon.service.d; {again}")
        self.beta.sh(f"mkdir -p {self.OFFICIAL} /etc/systemd/system/nix-daemon.service.d && mv /usr/bin/nix /usr/bin/nix-* {self.OFFICIAL}/ && "
                     f"printf '[Service]\\nExecStart=\\nExecStart=@{self.OFFICIAL}/nix-daemon nix-daemon --daemon\\n' "
                     f">/etc/systemd/system/nix-daemon.service.d/moved.conf && {again}")
        self.assertNotEqual(self.hosts.client("ssh", "-F", self.hosts.ssh_config, "root@beta", "nix-store", "--version", check=False).returncode, 0)
        done = self.run_it("host", "check", "beta", "--json", code=None).json["hosts"][0]
        self.assertEqual(done["facts"]["nix"], "2.26.3")
        self.assertEqual(done["facts"]["daemon"], f"{self.OFFICIAL}/nix-daemon")
        self.assertEqual([p for p in done["problems"] if "prepared" not in p["what"]], [])
        said = self.run_it("host", "prepare", "beta", "--yes").out
        self.assertNotIn("apt", said)
        # The agent itself may come by Nix's own program.
        self.beta.sh("rm /var/lib/stillframe/agent", check=False)
        self.run_it("host", "prepare", "beta", "--yes")
        self.run_it("host", "send", "beta")

    def test_settings_that_are_not_safe_are_said(self):
        def told():
            return [note["what"] for note in self.run_it("host", "check", "beta", "--json", code=None).json["hosts"][0]["notes"]]
        # As the test hosts are: a sandbox within their namespaces is not to be had.
        before = told()
        self.assertTrue([what for what in before if what.startswith("Nix builds with sandbox = false")], before)
        self.assertFalse([what for what in before if "trusted-users" in what], before)
        self.beta.sh("cp /etc/nix/nix.conf /etc/nix/nix.conf.before; sed -i 's/^sandbox.*/sandbox = true/; s/^trusted-users.*/trusted-users = root @users me/' /etc/nix/nix.conf")
        self.addCleanup(self.beta.sh, "mv /etc/nix/nix.conf.before /etc/nix/nix.conf")
        now = told()
        self.assertFalse([what for what in now if "sandbox" in what], now)
        self.assertTrue([what for what in now if what.startswith("trusted-users has @users, me")], now)
        self.assertIn("note: trusted-users has @users, me", self.run_it("host", "check", "beta", code=None).out)


class Refused(Case):
    def test_a_host_that_is_down_is_named_and_the_other_goes_on(self):
        self.beta.network(False)
        self.addCleanup(self.beta.network, True)
        done = self.run_it("host", "check", "--json", code=1).json
        self.assertEqual(done["failed"], 1)
        self.assertEqual(done["hosts"][0]["problems"], [])
        error = done["hosts"][1]["error"]
        self.assertRegex(error["message"], r"^beta: cannot connect to beta: .*(timed out|No route to host)")
        self.assertEqual((error["kind"], error["hint"]), ("host", "try it by hand: ssh beta"))

    def test_a_key_that_the_host_does_not_know(self):
        key = self.ws.root / "stranger"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        config = self.ws.root / "stranger.conf"
        config.write_text(self.hosts.ssh_config.read_text().replace(str(self.hosts.state / "key"), str(key)))
        self.host("alpha", file="other", **{"ssh-config": str(config)})
        error = self.error("host", "check", "other")
        self.assertRegex(error["message"], r"^other: cannot connect to alpha: .*Permission denied \(publickey\)")
        self.assertEqual(error["hint"], "the host does not accept your key: check the user and the key, or add it with ssh-copy-id alpha")

    def known_hosts(self, text):
        config, known = self.ws.root / "known.conf", self.ws.root / "known"
        known.write_text(text)
        config.write_text(self.hosts.ssh_config.read_text().replace(str(self.hosts.state / "known_hosts"), str(known)))
        self.host("alpha", file="other", **{"ssh-config": str(config)})
        return self.error("host", "check", "other")

    def test_a_host_key_that_is_not_known(self):
        error = self.known_hosts("")
        self.assertEqual(error["message"], "other: cannot connect to alpha: Host key verification failed.")
        self.assertEqual(error["hint"], "the host's key is not known here: compare it and accept it by hand once: ssh alpha")

    def test_a_host_key_that_changed(self):
        wrong = (self.beta.dir / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        error = self.known_hosts(f"alpha {wrong}")
        self.assertEqual(error["message"], "other: cannot connect to alpha: Host key verification failed.")
        self.assertTrue(error["hint"].startswith("the host's key is not the known one: if it was installed anew, remove the old key"), error["hint"])

    def test_sudo_that_asks(self):
        self.host("alpha", file="other", user="nosudo")
        error = self.error("host", "check", "other")
        self.assertEqual(error["message"], "other: no root's rights: `sudo -n true`: sudo: a password is required")
        self.assertIn("NOPASSWD", error["hint"])

    def test_no_nix(self):
        hide = "for p in nix-store nix-daemon; do mv /usr/bin/$p /usr/bin/$p.hidden; done"
        self.beta.sh(hide)
        self.addCleanup(self.beta.sh, "for p in nix-store nix-daemon; do mv /usr/bin/$p.hidden /usr/bin/$p; done")
        error = self.error("host", "send", "beta")
        self.assertEqual(error["message"], "beta: Nix is not installed")
        text = self.run_it("host", "check", "beta", code=1).out
        self.assertIn("problem: Nix is not installed", text)

    def test_another_kind_of_machine(self):
        self.beta.sh("mv /usr/bin/uname /usr/bin/uname.hidden; printf '#!/bin/sh\\ncase $1 in -m) echo aarch64 ;; *) exec uname.hidden \"$@\" ;; esac\\n' "
                     ">/usr/bin/uname; chmod 755 /usr/bin/uname")
        self.addCleanup(self.beta.sh, "mv /usr/bin/uname.hidden /usr/bin/uname")
        error = self.error("host", "send", "beta")
        self.assertEqual((error["message"], error["hint"]), ("beta: the host is aarch64-linux, the snapshot is for x86_64-linux",
                                                             "take the snapshot on a workstation of the host's kind, or leave this host out"))

    def test_a_login_that_talks(self):
        self.beta.sh("echo 'echo Welcome' >/root/.bashrc.talk; cp /root/.bashrc /root/.bashrc.kept; (echo 'echo Welcome to beta'; cat /root/.bashrc.kept) >/root/.bashrc")
        self.addCleanup(self.beta.sh, "mv /root/.bashrc.kept /root/.bashrc; rm /root/.bashrc.talk")
        error = self.error("host", "check", "beta")
        self.assertEqual(error["message"], 'beta: its login prints "Welcome to beta" before a command\'s own output')
        self.assertEqual(error["hint"], "the user's login shell must run commands and print nothing of its own (see .bashrc there)")

    def test_files_that_say_nonsense(self):
        path = SHARED["project"] / "hosts" / "gamma.toml"
        self.addCleanup(path.unlink)
        path.write_text('address = "gamma"\nidentity-fil = "key"\n')
        error = self.run_it("host", "check", code=2).err
        self.assertIn(f"error: {path} is not valid: TOML parse error at line 2, column 1", error)
        self.assertIn("hint: did you mean `identity-file`?", error)

    def test_no_host_at_all(self):
        away = SHARED["project"] / "elsewhere"
        (SHARED["project"] / "hosts").rename(away)
        self.addCleanup(away.rename, SHARED["project"] / "hosts")
        error = self.run_it("host", "check", code=2).err
        self.assertIn("there is no host in", error)
        self.assertIn("hint: describe one in hosts/NAME.toml", error)


def tearDownModule():
    shutil.rmtree(SHARED["project"], ignore_errors=True)
