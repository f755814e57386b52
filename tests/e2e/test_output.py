"""What a command prints, where nobody takes it: a full disk, a reader that has enough, a terminal's words from elsewhere."""
import json
import os
import shutil
import subprocess

import service
from schema import Schema

SECONDS = 120

FULL = "error: cannot write to standard output\n  because: No space left on device (os error 28)\n"


class Output(service.Case):
    def full(self, *words):
        """With a disk behind standard output that is full."""
        with open("/dev/full", "w") as disk:
            process = self.place.start(*words, stdout=disk)
            said = process.communicate(timeout=120)[1]
        return process.returncode, said

    def gone(self, *words):
        """With a reader that takes nothing."""
        reader, writer = os.pipe()
        os.close(reader)
        process = self.place.start(*words, stdout=writer)
        os.close(writer)
        said = process.communicate(timeout=120)[1]
        return process.returncode, said

    def test_1_what_was_asked_is_done_and_the_status_says_what_was_not_printed(self):
        taken = self.place.snapshot("one", mark="one")["id"]
        code, said = self.full("deploy", "--snapshot", "one")
        self.assertEqual((code, self.place.mark()), (1, "one"), said)
        self.assertIn(FULL, said)
        self.place.snapshot("two", mark="two")
        # A reader that has enough is no error, and what was asked is done.
        code, said = self.gone("--json", "deploy", "--snapshot", "two")
        self.assertEqual((code, said, self.place.mark()), (0, "", "two"))
        # A failure is one, whoever reads.
        code, said = self.gone("--json", "deploy", "--snapshot", "none-such")
        self.assertEqual(code, 2)
        self.assertIn("no snapshot is called", said)
        commands = [["snapshots", "list"], ["snapshots", "show", taken], ["export", "pylock", taken], ["export", "manager-snapshot", taken],
                    ["export", "cyclonedx", taken], ["status"], ["instances"], ["history"], ["retention", "--dry-run"], ["logs"], ["attach"],
                    ["drift"], ["host", "list"], ["host", "check"], ["explain"], ["schema"], ["completions", "bash"], ["inspect"], ["--help"],
                    ["--version"], ["doctor"]]
        for words in commands:
            with self.subTest(words):
                usual = self.place.start(*words)
                usual.communicate(timeout=120)
                code, said = self.full(*words)
                self.assertEqual(code, usual.returncode or 1, said)
                self.assertIn("No space left on device", said)
                self.assertNotIn("panicked", said)
                code, said = self.gone(*words)
                self.assertEqual(code, usual.returncode, said)
                self.assertNotIn("panicked", said)

    def test_2_standard_error_that_is_full_ends_nothing(self):
        self.place.snapshot("three", mark="three")
        with open("/dev/full", "w") as disk:
            process = self.place.start("deploy", "--snapshot", "three", stderr=disk)
            process.communicate(timeout=120)
        self.assertEqual((process.returncode, self.place.mark()), (0, "three"))

    def test_3_a_log_that_is_followed_ends_with_its_reader(self):
        process = self.place.start("logs", "-f", "-n", "5")
        process.stdout.readline()
        process.stdout.close()
        # The next line finds nobody.
        for _ in range(20):
            self.place.local("alpha", "/system_stats", check=False)
            self.hosts["alpha"].sh("systemctl kill --signal=HUP stillframe-demo-gateway.service", check=False)
            try:
                process.wait(1)
                break
            except subprocess.TimeoutExpired:
                continue
        self.assertEqual(process.wait(1), 0)
        process.stderr.close()

    def test_4_a_wrong_command_line_is_a_document_too(self):
        process = self.place.start("status", "--nope", "--json")
        out, err = process.communicate(timeout=30)
        error = json.loads(out)["error"]
        self.assertEqual((process.returncode, err, error["kind"], error["message"]), (2, "", "input", "unexpected argument '--nope' found"))
        self.assertIn("Usage: stillframe status", error["hint"])

    def test_5_a_log_of_what_never_was_is_an_error(self):
        refused = self.place.run("logs", "s9-g9", code=1).err
        self.assertIn("knows nothing of an instance s9-g9 of demo", refused)

    def test_6_a_label_names_one_snapshot(self):
        one = self.place.snapshot("blue", mark="label one")
        two = self.place.run("snapshot", "--offline", "--label", "blue", code=0).text
        self.assertNotIn("no longer", two)
        self.place.behave(mark="label two")
        moved = self.place.run("snapshot", "--offline", "--label", "blue")
        self.assertRegex(moved.err, rf"blue names \w+ now, and {one['id']} no longer\n")
        named = self.place.run("snapshots", "show", "blue", "--json").json["record"]["id"]
        self.assertNotEqual(named, one["id"])
        renamed = self.place.run("snapshot", "--offline", "--label", "green")
        self.assertIn(f"{named} is called green now, and blue no longer\n", renamed.err)
        for bad in ("", "a" * 65, "two words", "a\n\x1b[2Jb", one["id"], "latest"):
            refused = self.place.run("snapshot", "--offline", "--label", bad, code=2)
            self.assertIn("is no label: ", refused.err)
            self.assertNotIn("\x1b", refused.err)

    def test_7_documents_of_hosts_are_as_their_schemas_say(self):
        for name, *words in (("status", "status"), ("instances", "instances"), ("history", "history", "--events"), ("drift", "drift"),
                             ("retention", "retention", "--dry-run"), ("host-check", "host", "check", "--deep"), ("host-list", "host", "list"),
                             ("host-prepare", "host", "prepare", "--yes"), ("host-repair", "host", "repair"),
                             ("host-send", "host", "send", "--dry-run"), ("unlock", "unlock")):
            with self.subTest(name):
                schema = Schema(self.place.run("schema", name).json)
                schema.check(self.place.run("--json", *words, code=None).json)
        for name, command in (("logs", "logs"), ("events", "attach")):
            schema = Schema(self.place.run("schema", name).json)
            for line in self.place.run("--json", command).out.splitlines():
                schema.check(json.loads(line))

    def test_7_dates_of_status_are_dates(self):
        view = next(h for h in self.place.run("status", "--json").json["hosts"])["view"]
        for generation in view["services"][0]["generations"]:
            self.assertRegex(generation["created"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")

    def test_8_wrong_values_are_named_whatever_the_command(self):
        self.place.configure(service="[service.scaling]\nminimum = 3\nmaximum = 2")
        self.addCleanup(self.place.configure)
        for command in ("status", "logs", "history", "deploy"):
            self.assertRegex(self.place.run(command, code=2).err, r"stillframe.toml line \d+: service.scaling.maximum is 2, below the minimum of 3")
        self.place.configure(service="prot = 8188")
        self.assertIn("  hint: did you mean `port`?\n", self.place.run("status", code=2).err)
        self.place.configure(service='port = "8188"')
        self.assertIn("expected a whole number from 0 to 65535, without quotes\n", self.place.run("status", code=2).err)

    def test_9_the_reason_that_ssh_gives(self):
        key = self.place.ws.root / "open-key"
        shutil.copy(self.hosts.state / "key", key)
        key.chmod(0o644)
        self.addCleanup(self.place.describe, "alpha")
        # No other key helps.
        config = self.place.ws.root / "ssh_config"
        lines = self.hosts.ssh_config.read_text().splitlines(keepends=True)
        config.write_text("".join(line for line in lines if not line.startswith("  IdentityFile ")))
        self.place.describe("alpha", **{"identity-file": str(key), "ssh-config": str(config)})
        self.assertIn(f"chmod 600 {key}\n", self.place.run("status", code=1).err)
        self.place.describe("alpha", **{"identity-file": "missing-key"})
        self.assertRegex(self.place.run("status", code=1).err, r"error: alpha: the key \S+/hosts/missing-key is not there\n")
