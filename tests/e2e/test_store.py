"""The store on a host: what a commit refers to outlives a pulled plug, what is there but wrong is found and brought again, and what came
from a binary cache is what the workstation has, or is never used."""
import hashlib
import os
import subprocess
import sys

import service
from service import Stream

SECONDS = 150
SHARES = {"clock"}
AGENT = "/var/lib/stillframe/agent/bin/stillframe-agent"


class Case(service.Case):
    def cut(self, host):
        """Pulls the plug and starts the host again."""
        host.power_loss()
        host.boot()
        host.wait_ready()

    def closure(self, path, host=None):
        return (host or self.alpha).run("nix-store", "--query", "--requisites", path).stdout.split()

    def serving(self):
        """The store path of what alpha serves."""
        view = self.place.status()
        return next(g["snapshot"] for g in view["generations"] if g["generation"] == view["serving"])

    def whole(self, path, host=None):
        """Nix reads every file again."""
        (host or self.alpha).run("nix-store", "--verify-path", *self.closure(path, host))

    def check(self, *arguments, code=0, host="alpha"):
        return self.place.run("host", "check", "--json", host, *arguments, code=code).json["hosts"][0]


class PowerCut(Case):
    """Neither host is given a moment between a success and the cut."""
    count = 2

    @classmethod
    def setUpClass(cls):
        cls.place = service.Place(2, prepare=False)
        cls.addClassCleanup(cls.place.down)

    def test_what_succeeded_outlives_it(self):
        self.place.run("host", "prepare", "--yes", "alpha")
        done = self.place.deploy("--hosts", "alpha", mark="durable")
        self.alpha.power_loss()
        self.assertEqual(done.host()["status"], "succeeded")
        self.alpha.boot()
        self.alpha.wait_ready()
        self.wait(lambda: (self.place.status() or {}).get("ready") == 1)
        self.assertEqual(self.place.mark(), "durable")
        self.whole(self.serving())
        self.assertEqual(self.check("--deep")["integrity"]["wrong"], [])
        written = [e for e in self.place.history()[0]["events"] if e["text"] == "what was copied is written to disk"]
        self.assertEqual(len(written), 1)

    def test_what_was_prepared_outlives_it(self):
        beta = self.hosts["beta"]
        self.place.run("host", "prepare", "--yes", "beta")
        self.cut(beta)
        self.assertEqual(self.check(host="beta")["problems"], [])
        self.assertRegex(beta.run(AGENT, "--version").stdout, "^stillframe-agent ")
        self.assertIn("is prepared: nothing to do", self.place.run("host", "prepare", "beta").out)


class Wrong(Case):
    """Hosts that an older stillframe left after a power cut: names and database are there, bytes are not."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.taken = cls.place.snapshot("good", mark="good")
        cls.place.deploy("--snapshot", "good")

    def files(self, path):
        return self.alpha.sh(f"find {path} -type f -size +0 | sort").stdout.split()

    def empty(self, *files):
        self.alpha.sh("for f; do chmod u+w $f && : >$f && chmod u-w $f; done".replace("for f;", f"for f in {' '.join(files)};"))

    def empty_agent(self):
        agent = self.alpha.run("readlink", "-f", AGENT).stdout.strip()
        # What runs goes on with the file that it has; the name has an empty one.
        self.alpha.sh(f"d=$(dirname {agent}); chmod u+w $d; : >$d/new; chmod 555 $d/new; mv -f $d/new {agent}; chmod u-w $d")
        return agent.removesuffix("/bin/stillframe-agent")

    def test_empty_files_are_named_and_brought_again(self):
        snapshot = self.serving()
        paths = [p for p in self.closure(snapshot) if self.files(p)][:3]
        self.assertEqual(len(paths), 3)
        self.empty(*[self.files(path)[0] for path in paths])
        found = self.check("--deep", code=1)
        said = {w["path"]: (w["what"], w["services"]) for w in found["integrity"]["wrong"]}
        self.assertEqual(said, dict.fromkeys(paths, ("differs", ["demo"])))
        self.assertEqual(len(found["problems"]), 3)
        self.assertRegex(found["problems"][0]["what"], r"^/nix/store/\S+ \(of demo\) has other files than it must have$")
        self.assertRegex(found["problems"][0]["hint"], r"stillframe deploy --again --snapshot ID --hosts alpha$")
        shown = self.place.run("host", "check", "--deep", code=1).out
        self.assertRegex(shown, r"\d+ paths that it serves from, .*, read in \d+\.\d s: 3 wrong\n  problem: /nix/store/")
        plan = self.place.deploy("--snapshot", "good", "--again", "--dry-run").events
        self.assertEqual([(e["missing_paths"], e["wrong_paths"]) for e in plan if e["type"] == "plan"], [(3, 3)])
        done = self.place.deploy("--snapshot", "good", "--again")
        self.assertEqual([e["sent"]["paths"] for e in done.events if e["type"] == "copied"], [3])
        self.whole(snapshot)
        said = [e["text"] for e in self.place.history()[0]["events"]]
        self.assertEqual(len([text for text in said if text.endswith(" and 2 more had other files than they must have: they are brought again")]), 1)
        self.assertEqual((self.place.mark(), self.check("--deep")["problems"]), ("good", []))
        # Nobody looks deeper: what was written to shows by its size and times.
        self.empty(self.files(paths[0])[0])
        self.assertEqual([e["sent"]["paths"] for e in self.place.deploy("--snapshot", "good", "--again").events if e["type"] == "copied"], [1])
        self.whole(snapshot)
        # What was compared is not read again, and nothing is sent.
        self.assertEqual([e["sent"]["paths"] for e in self.place.deploy("--snapshot", "good", "--again").events if e["type"] == "copied"], [0])

    def test_an_agent_that_does_not_run(self):
        mend = [("prepare", lambda: self.place.run("host", "prepare", "--yes")), ("deploy", lambda: self.place.deploy("--snapshot", "good", "--again"))]
        for name, bring in mend:
            with self.subTest(name):
                path = self.empty_agent()
                problems = [p["what"] for p in self.check(code=1)["problems"]]
                self.assertEqual(problems, [f"the host's agent does not run: {path} is not what was brought there"])
                self.assertEqual(self.place.run("status", code=1).err, "error: alpha is not prepared\n  hint: stillframe host prepare alpha\n")
                bring()
                self.assertEqual(self.check("--deep")["problems"], [])
                self.alpha.run("nix-store", "--verify-path", path)
                self.assertEqual((self.place.mark(), self.place.status()["ready"]), ("good", 1))
                self.assertEqual(self.alpha.sh("ls /var/lib/stillframe/incoming").stdout, "")

    def test_an_agent_with_a_wrong_byte(self):
        agent = self.alpha.run("readlink", "-f", AGENT).stdout.strip()
        # Behind the last section that is loaded; it runs all the same.
        self.alpha.sh(f"d=$(dirname {agent}); chmod u+w $d; cp {agent} $d/new; echo >>$d/new; chmod 555 $d/new; mv -f $d/new {agent}; chmod u-w $d")
        problem = self.check("--deep", code=1)["problems"][0]
        self.assertRegex(problem["what"], r"-stillframe-agent-\S+ \(of demo\) has other files than it must have$")
        done = self.place.run("host", "prepare", "--yes", "--json").json["hosts"][0]
        self.assertEqual((done["done"], self.check("--deep")["problems"]), (["agent"], []))


class Cache(Case):
    """A binary cache over plain HTTP, without a key, and somebody on the way."""

    def serve(self, folder):
        server = subprocess.Popen([*map(str, self.hosts.client_command()), sys.executable, "-m", "http.server", "--bind", "10.77.0.1",
                                   "--directory", str(folder), "8080"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        self.wait(lambda: self.place.client("curl", "-s", "--noproxy", "*", "http://10.77.0.1:8080/nix-cache-info", check=False).stdout)

    def tamper(self, folder):
        """One path that the host lacks gets a file more; which is not content-addressed, so that nothing contradicts."""
        for info in sorted(folder.glob("*.narinfo")):
            fields = dict(line.split(": ", 1) for line in info.read_text().splitlines())
            path = self.place.ws.real(fields["StorePath"])
            there = self.alpha.run("test", "-e", fields["StorePath"], check=False).returncode == 0
            if "CA" in fields or there or not path.is_dir():
                continue
            scratch = folder / "tampered"
            subprocess.run(["cp", "-a", path, scratch], check=True)
            subprocess.run(["chmod", "-R", "u+w", scratch], check=True)
            (scratch / "evil.pth").write_text("import os\n")
            nar = subprocess.run(["nix-store", "--dump", scratch], check=True, stdout=subprocess.PIPE).stdout
            (folder / "nar" / "evil.nar").write_bytes(nar)
            fields = {k: v for k, v in fields.items() if k not in ("FileHash", "FileSize", "Sig")}
            fields |= {"URL": "nar/evil.nar", "Compression": "none", "NarHash": f"sha256:{hashlib.sha256(nar).hexdigest()}", "NarSize": str(len(nar))}
            info.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
            return fields["StorePath"]
        self.fail("every path that is new is content-addressed")

    def test_a_cache_that_lies(self):
        self.place.deploy(mark="before")
        taken = self.place.snapshot(mark="cached")
        folder = self.place.ws.root / "cache"
        self.place.ws.nix("nix", "--extra-experimental-features", "nix-command", "copy", "--to", f"file://{folder}?compression=none", taken["snapshot"])
        evil = self.tamper(folder)
        self.serve(folder)
        self.place.configure('[ship]\ncache = "http://10.77.0.1:8080"')
        refused = self.place.deploy("--snapshot", taken["id"], code=1).host()
        base = os.path.basename(evil)
        self.assertEqual(refused["error"], f"alpha: http://10.77.0.1:8080 gave {base} with another content than this workstation's")
        self.assertIn("name its key ([ship] cache-public-keys)", refused["hint"])
        self.assertEqual(self.place.mark(), "before")
        # What came is not there any more, whoever asks for it.
        self.assertNotEqual(self.alpha.run("test", "-e", f"{evil}/evil.pth", check=False).returncode, 0)
        self.alpha.run("nix-store", "--verify-path", evil)
        self.assertEqual(self.place.history()[0]["events"][-1]["status"], "failed")
        self.place.configure()
        self.assertEqual(self.place.deploy("--snapshot", taken["id"]).host()["status"], "succeeded")
        self.assertEqual(self.place.mark(), "cached")
        self.whole(taken["snapshot"])

    def test_what_an_older_agent_took_is_replaced(self):
        """Long ago, and the cache is gone from the configuration."""
        taken = self.place.snapshot(mark="old")
        folder = self.place.ws.root / "old-cache"
        self.place.ws.nix("nix", "--extra-experimental-features", "nix-command", "copy", "--to", f"file://{folder}?compression=none", taken["snapshot"])
        evil = self.tamper(folder)
        self.serve(folder)
        self.alpha.run("nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--from", "http://10.77.0.1:8080", taken["snapshot"])
        self.alpha.run("test", "-e", f"{evil}/evil.pth")
        self.place.configure()
        self.place.deploy("--snapshot", taken["id"])
        self.assertNotEqual(self.alpha.run("test", "-e", f"{evil}/evil.pth", check=False).returncode, 0)
        self.whole(taken["snapshot"])
