"""A host under maintenance and its return, hosts that are added and put aside, and a host that has nothing of stillframe any more."""
import shutil
import unittest

import service
from service import Stream

SECONDS = 110


class Maintenance(service.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.place.deploy("--label", "good", mark="good")
        # Another project's service on the same host.
        cls.other = cls.place.ws.root / "other"
        shutil.copytree(cls.place.project, cls.other, ignore=shutil.ignore_patterns(".stillframe"))
        text = (cls.other / "stillframe.toml").read_text().replace('name = "demo"', 'name = "beside"\nport = 8300')
        (cls.other / "stillframe.toml").write_text(text)
        Stream(cls.place.ws.stillframe("--json", "deploy", "--snapshot", "good", cwd=cls.other, code=0))

    def answers(self, port):
        return self.place.inside("alpha", ["curl", "-sS", "--noproxy", "*", "--max-time", "5", f"http://127.0.0.1:{port}/system_stats"], check=False).returncode == 0

    def test_1_drain_and_return(self):
        self.assertEqual((self.answers(8188), self.answers(8300)), (True, True))
        refused = self.place.run("host", "drain", "alpha", code=2)
        self.assertIn("alpha  stops beside (generation 1), demo (generation 1)", refused.out)
        self.assertIn("nothing was done: nobody can be asked here", refused.err)
        self.assertEqual((self.answers(8188), self.answers(8300)), (True, True))
        [done] = self.place.run("host", "drain", "alpha", "--yes", "--json").json["hosts"]
        self.assertEqual([(s["service"], s["status"]) for s in done["services"]], [("beside", "succeeded"), ("demo", "succeeded")])
        self.assertEqual(done["maintenance"]["services"], ["beside", "demo"])
        self.assertEqual((self.answers(8188), self.answers(8300)), (False, False))
        self.assertIn("alpha  is under maintenance since", self.place.run("status").out)
        self.alpha.reboot()
        self.wait(lambda: self.alpha.run("systemctl", "is-active", "stillframe.service", check=False).stdout.strip() == "active", 60)
        self.assertEqual((self.answers(8188), self.answers(8300)), (False, False))
        for words in (("deploy", "--snapshot", "good"), ("start",), ("rollback",)):
            host = Stream(self.place.run("--json", *words, code=1))
            self.assertIn("this host is under maintenance since", host.text, words)
        # One of them does not come back at first: the host stays as it is.
        self.alpha.sh("mv /srv/models /srv/away; mkdir -p /run/systemd/system/stillframe-demo-s0-g1.service.d && "
                      "printf '[Service]\\nExecStartPre=/bin/false\\n' >/run/systemd/system/stillframe-demo-s0-g1.service.d/broken.conf && systemctl daemon-reload")
        failed = self.place.run("host", "return", "alpha", code=1)
        self.assertIn("alpha stays under maintenance: run this again", failed.out)
        self.assertEqual((self.answers(8188), self.answers(8300)), (False, True))
        self.alpha.sh("mv /srv/away /srv/models; rm -r /run/systemd/system/stillframe-demo-s0-g1.service.d; systemctl daemon-reload")
        [done] = self.place.run("host", "return", "alpha", "--json").json["hosts"]
        self.assertEqual([(s["service"], s["status"]) for s in done["services"]], [("demo", "succeeded")])
        self.assertIsNone(done["maintenance"])
        self.assertEqual((self.answers(8188), self.answers(8300)), (True, True))
        self.assertNotIn("maintenance", self.place.run("status").out)
        self.assertIn("alpha is not under maintenance", self.place.run("host", "return", "alpha").out)
        self.assertEqual(self.place.mark(), "good")

    def test_2_hosts_files(self):
        hosts = self.place.project / "hosts"
        self.place.run("host", "add", "gpu-9=deploy@10.0.0.9:2222", "--tag", "eu")
        self.assertEqual((hosts / "gpu-9.toml").read_text(), 'address = "10.0.0.9"\nuser = "deploy"\nport = 2222\ntags = ["eu"]\n')
        self.assertIn("is there already", self.place.run("host", "add", "gpu-9", code=2).err)
        self.assertIn("is no tag", self.place.run("host", "add", "gpu-10", "--tag", "a b", code=2).err)
        self.assertFalse((hosts / "gpu-10.toml").exists())
        self.assertIn("demo is still there: nobody would look after it", self.place.run("host", "remove", "alpha", code=2).err)
        self.assertTrue((hosts / "alpha.toml").exists())
        self.assertIn("--forget", self.place.run("host", "remove", "gpu-9", code=1).err)
        done = self.place.run("host", "remove", "gpu-9", "--forget", "--json").json
        self.assertEqual((done["name"], (hosts / "gpu-9.toml").exists(), (hosts / "gpu-9.toml.removed").exists()), ("gpu-9", False, True))
        self.assertEqual([host["name"] for host in self.place.run("host", "list", "--json").json["hosts"]], ["alpha"])

    def test_3_nothing_of_stillframe(self):
        refused = self.place.run("host", "retire", "alpha", "--yes", code=1)
        self.assertIn("services are still here: beside, demo", refused.err)
        self.place.run("remove", "--yes", "--data")
        self.place.ws.stillframe("remove", "--yes", "--data", cwd=self.other)
        self.place.run("host", "retire", "alpha", "--yes")
        self.alpha.sh("! ls -d /var/lib/stillframe* /etc/systemd/system/stillframe* /etc/systemd/system/*/stillframe* /nix/var/nix/gcroots/stillframe 2>/dev/null")
        self.assertNotIn("stillframe", self.alpha.run("systemctl", "list-unit-files", "--no-legend").stdout)
        self.assertIn("alpha is not prepared", self.place.run("status", code=1).err)
        # And again from nothing.
        self.place.run("host", "prepare", "--yes")
        self.place.deploy("--snapshot", "good")
        self.assertEqual(self.place.mark(), "good")
        self.place.run("remove", "--yes")
        self.place.run("host", "remove", "alpha")
        self.assertFalse((self.place.project / "hosts" / "alpha.toml").exists())


if __name__ == "__main__":
    unittest.main()
