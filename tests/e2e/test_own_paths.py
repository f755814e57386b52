"""Texts of packs and the main program that name the environment's own folders: each is reported with its line, and where the configuration
says so an instance finds its own places there."""
import json
import re
import unittest

from harness import Server
from small import Case, server, untouched, write

CLI_ARGS = 'FLAGS = ["--base-directory", "--input-directory", "--output-directory", "--user-directory", "--temp-directory"]\n'
# Answers with what the pack's configuration says and whether each place is there.
MAIN = server("{n: [p, os.path.exists(p)] for n, p in CONFIG.items()}", """
import os
base = sys.argv[sys.argv.index('--base-directory') + 1] if '--base-directory' in sys.argv else os.path.dirname(os.path.abspath(__file__))
CONFIG = json.load(open(os.path.join(base, 'custom_nodes/first-pack/was_config.json')))
""")


class OwnPaths(Case):
    def setUp(self):
        super().setUp()
        self.env = self.environment()
        root = self.env.root
        write(root / "main.py", MAIN)
        write(root / "comfy/cli_args.py", CLI_ARGS)
        self.config = {"wildcards": f"{root}/custom_nodes/first-pack/wildcards", "models": f"{root}/models", "python": f"{self.env.venv}/bin/python",
                       "web": f"{root}/web", "far": "/usr"}
        write(self.env.pack / "was_config.json", json.dumps(self.config, indent=1).replace(f"{root}/web", f"{root}/web".replace("/", "\\/")))
        write(self.env.pack / "wildcards/a.txt", "red\n")
        write(self.env.pack / "inner/own.ini", f"[x]\ny = {root}/output\nz = {root}-old/x\n")
        write(self.env.pack / "README.md", f"cd {root}\n")
        write(self.env.pack / "code.py", f"X = '{root}'\n")
        write(root / "web/index.js", "x\n")

    def own(self, result):
        return [(f[0], f[2], f[3]) for f in self.findings(result) if f[1] == "own-path"]

    def test_each_is_named_with_its_line(self):
        said = "names {}{}, which is this machine's: no host has that; own-paths = [\"{}\"] in stillframe.toml gives an instance its own place there"
        pack = "custom_nodes/first-pack"
        wanted = [("warning", f"{pack}/inner/own.ini:2", said.format(self.env.root, "", f"{pack}/inner/own.ini")),
                  ("warning", f"{pack}/was_config.json:2", said.format(self.env.root, " (and 3 more lines)", f"{pack}/was_config.json"))]
        with untouched(self, self.env.root):
            self.assertEqual(self.own(self.inspect(self.env)), wanted)
        # What an earlier run has looked at is said again.
        self.env.age()
        self.inspect(self.env)
        self.assertEqual(self.own(self.inspect(self.env)), wanted)

    def test_an_instance_finds_its_own_places(self):
        named = ["custom_nodes/*/was_config.json", "custom_nodes/gone.json", "custom_nodes/first-pack/large.json"]
        write(self.env.pack / "large.json", json.dumps(self.config) + " " * (1 << 20))
        write(self.env.root / "stillframe.toml", f"own-paths = {json.dumps(named)}\n")
        with untouched(self, self.env.root / "custom_nodes"):
            taken = self.snapshot(self.env)
        self.assertEqual([(severity, path) for severity, path, _ in self.own(taken)],
                         [("warning", "custom_nodes/first-pack/inner/own.ini:2"), ("warning", "custom_nodes/first-pack/large.json"),
                          ("warning", "custom_nodes/gone.json"),
                          ("info", "custom_nodes/first-pack/was_config.json:2")])
        place = self.tree(taken.json, "first-pack")
        shipped = (place / "was_config.json").read_text()
        self.assertNotIn(str(self.place), shipped)
        running = Server(self.station, taken.json["id"], hide=[self.place])
        got = running.get("/x")
        self.assertEqual({name: there for name, (_, there) in got.items()}, dict.fromkeys(self.config, True))
        slot = re.fullmatch("(.*)/base/custom_nodes/first-pack/wildcards", got["wildcards"][0])[1]
        self.assertEqual(got["web"][0], f"{slot}/main/web")
        self.assertEqual(got["far"][0], "/usr")
        self.assertTrue(got["python"][0].startswith("/nix/store/"))
        # Nothing was written: filled is not changed.
        running.process.terminate()
        running.process.wait()
        self.assertNotIn("was_config.json", (self.station.root / "server.log").read_text())
        # The same files are the same snapshot; another word in the configuration is another.
        self.env.age()
        self.assertEqual(self.snapshot(self.env).json["snapshot"], taken.json["snapshot"])
        (self.env.root / "stillframe.toml").unlink()
        self.assertNotEqual(self.snapshot(self.env).json["snapshot"], taken.json["snapshot"])


if __name__ == "__main__":
    unittest.main()
