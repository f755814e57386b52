"""`stillframe run`: what it is told with options, and what it does when that cannot be had."""
import re
import socket
import unittest
from pathlib import Path

import harness
from harness import remove_tree
from small import Case, server, write

SECONDS = 35
BATCH = True

MODELS = "../base/models"
SERVER = server(f'{{"models": os.path.realpath("{MODELS}"), "files": sorted(os.listdir("{MODELS}"))}}',
                'import os\nopen("made.txt", "w").write("by the program")')


class Run(Case):
    def setUp(self):
        super().setUp()
        self.env = self.environment()
        write(self.env.root / "main.py", SERVER)
        write(self.env.root / "models" / "own.safetensors", "m")

    def taken(self):
        return self.snapshot(self.env).json

    def serve(self, *arguments, hide=()):
        server = harness.Server(self.station, *arguments, hide=hide)
        self.addCleanup(lambda: server.process.poll() is None and server.stop())
        return server

    def refused(self, *arguments, code):
        return self.station.inside(harness.BINARY, "run", *arguments, code=code).err

    def slots(self):
        return list((self.station.root / "state").rglob("slot-*"))

    def test_as_it_is_told(self):
        taken = self.taken()
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        models, base = self.place / "shared-models", self.place / "data"
        write(models / "shared.safetensors", "m")
        server = self.serve(taken["id"], "--port", port, "--models", models, "--base", base, "--keep")
        self.assertEqual({key: server.ready[key] for key in ("version", "id", "url", "base")},
                         {"version": 1, "id": taken["id"], "url": f"http://127.0.0.1:{port}", "base": str(base)})
        self.assertEqual(server.get("/"), {"models": str(models), "files": ["shared.safetensors"]})
        self.assertTrue((base / "input").is_dir())
        # Somebody listens there: another is not taken for the one that was to be started.
        self.says(self.refused("--port", port, code=2), f"""\
error: cannot listen on port {port} of 127.0.0.1
  because: Address already in use (os error 98)
  hint: end what listens there, or name another port; without --port a free one is taken""")
        slot = Path(server.ready["slot"])
        self.assertEqual(server.stop(), 0)
        self.assertEqual((slot / "main" / "made.txt").read_text(), "by the program")
        said = (self.station.root / "server.log").read_text()
        self.assertRegex(said, rf"written into the program, thrown away with this instance:\n  main/made.txt\nkept {re.escape(str(slot))}\n$")
        self.says(self.refused("--models", self.place / "nowhere", code=1), f"""\
error: cannot open {self.place}/nowhere
  because: No such file or directory (os error 2)""")
        # What was kept is nobody's: it is for the user to remove.
        self.assertEqual(self.slots(), [slot])

    def test_secrets_that_a_pack_reads_from_a_file(self):
        """They are where the pack looks for them, and in nothing that stays."""
        at = "custom_nodes/first-pack/settings.json"
        write(self.env.root / "main.py", server('{"settings": json.load(open(FILE)), "mode": os.stat(FILE).st_mode & 0o777}',
                                                f"import os\nFILE = '../base/{at}'"))
        write(self.env.root / at, '{"api_key": "0f3b9d27c1a84e65"}\n')
        project = self.place / "project"
        write(project / "stillframe.toml", f'environment = "{self.env.root}"\n[service.secrets]\n'
              f'KEY = {{ file = "{self.env.root}/{at}", at = "{at}" }}\n')
        taken = self.run_it("snapshot", "--json", "--config", project / "stillframe.toml").json
        self.assertFalse((self.tree(taken, "first-pack") / "settings.json").exists())
        running = self.serve("--config", project / "stillframe.toml")
        self.assertEqual(running.get("/"), {"settings": {"api_key": "0f3b9d27c1a84e65"}, "mode": 0o600})
        self.assertEqual(running.stop(), 0)
        self.assertEqual((self.station.root / "server.log").read_text(), "")
        self.assertEqual([p for p in (self.station.root / "state").rglob("*") if p.is_file() and b"0f3b9d27c1a84e65" in p.read_bytes()], [])

    def test_the_models_of_the_environment_for_as_long_as_it_is_there(self):
        self.taken()
        server = self.serve("--port", "0")
        self.assertEqual(server.get("/"), {"models": str(self.env.root / "models"), "files": ["own.safetensors"]})
        self.assertEqual(server.stop(), 0)
        remove_tree(self.env.root)
        server = self.serve()
        self.assertEqual(server.get("/")["files"], [])
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.slots(), [])
        self.assertFalse(self.env.root.exists())

    def test_one_that_does_not_answer_in_time_or_ends(self):
        write(self.env.root / "main.py", "import time\nprint('asleep', flush=True)\ntime.sleep(600)\n")
        self.taken()
        self.says(self.refused("--timeout", "1", code=1), "error: http://127.0.0.1:{{\\d+}}/system_stats did not answer within 1 s")
        write(self.env.root / "main.py", "raise SystemExit('no such thing')\n")
        self.taken()
        self.says(self.refused(code=1), """\
no such thing
error: the server ended before it answered: exit status: 1
  hint: its own messages are above""")
        self.assertEqual(self.slots(), [])

    def test_a_store_that_is_not_at_its_place(self):
        snapshot = self.taken()["snapshot"]
        self.says(self.run_it("run", code=1).err, f"""\
error: cannot read {snapshot}/launch/comfyui.json
  because: No such file or directory (os error 2)
  hint: programs are started at their store paths: a snapshot of another store cannot be run here""")


if __name__ == "__main__":
    unittest.main()
