"""What commands print with `--json` is what `stillframe schema NAME` says, field by field."""
import unittest

from schema import Schema
from small import Case, Wheel, server, write

SECONDS = 40
BATCH = True


class Documents(Case):
    def setUp(self):
        super().setUp()
        self.env = self.environment()
        Wheel("alpha").install(self.env.site)
        write(self.env.root / "main.py", server("{}"))
        self.schemas = {}

    def fits(self, name, *words, code=0, **variables):
        """The document of a command, which is as its schema says."""
        if name not in self.schemas:
            self.schemas[name] = Schema(self.run_it("schema", name).json)
        document = self.run_it("--json", *words, code=code, **variables).json
        self.schemas[name].check(document)
        self.assertEqual(document.get("version", 1), 1)
        return document

    def test_every_command_that_needs_no_host(self):
        env = self.env.root
        self.fits("inspect", "inspect", env)
        self.fits("lock", "lock", env)
        one = self.fits("snapshot", "snapshot", "--label", "one", env)
        write(self.env.pack / "more.py", "")
        two = self.fits("snapshot", "snapshot", env)
        self.assertEqual(len(self.fits("snapshots-list", "snapshots", "list")["snapshots"]), 2)
        self.fits("snapshots-show", "snapshots", "show", "one")
        self.assertEqual(self.fits("snapshots-diff", "snapshots", "diff", one["id"], two["id"])["packs"][0]["what"], "changed")
        self.assertTrue(self.fits("snapshots-verify", "snapshots", "verify", code=None)["report"]["sources"])
        self.fits("snapshots-remove", "snapshots", "remove", two["id"])
        self.fits("explain", "explain")
        self.fits("explain", "explain", "secret")
        self.fits("doctor", "doctor", env, code=None)
        self.fits("man", "man", self.place / "pages")
        manager = write(self.place / "snapshot.json", '{"comfyui": "' + "a" * 40 + '", "git_custom_nodes": {}, "pips": {"alpha==1.0": ""}}')
        self.fits("import", "import", manager)
        project = self.place / "project"
        self.fits("init", "init", "--yes", "--host", "alpha", "--models", "/srv/models", env, code=None)
        write(project / "stillframe.toml", f'environment = "{env}"\n')
        write(project / "hosts" / "alpha.toml", 'address = "192.0.2.1"\n')
        self.fits("host-list", "--config", project / "stillframe.toml", "host", "list")
        for words in (["snapshots", "show", "none-such"], ["inspect", self.place / "nowhere"], ["explain", "zebra"]):
            self.fits("error", *words, code=None)

    def test_each_has_a_schema(self):
        names = self.run_it("schema", "no-such-name", code=2).err
        for name in ("project", "host", "status", "history", "events", "logs", "host-check", "host-send", "retention"):
            self.assertIn(name, names)
            self.assertIn("$schema", self.run_it("schema", name).json)


if __name__ == "__main__":
    unittest.main()
