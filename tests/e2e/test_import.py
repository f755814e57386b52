"""`stillframe import`: an environment from another tool's file, with real git and real pip; what cannot be had is named."""
import json
import subprocess
import unittest
import zipfile

from small import Case, Wheel, write

SECONDS = 35
BATCH = True

GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example", "-c", "init.defaultBranch=main"]


class Import(Case):
    def setUp(self):
        super().setUp()
        self.work = self.station.root / "work"
        self.main = self.repository("ComfyUI", {"main.py": "", "nodes.py": "", "comfy/__init__.py": "", "custom_nodes/.keep": ""})
        self.pack = self.repository("first-pack", {"__init__.py": "NODE_CLASS_MAPPINGS = {}\n"})
        # What was imported is a commit that the branch has left behind.
        self.change(self.work / "first-pack", "__init__.py", "NODE_CLASS_MAPPINGS = {'Newer': None}\n")
        index = self.index()
        index.publish(Wheel("alpha"))
        self.url = index.url

    def repository(self, name, files):
        place = self.work / name
        for path, text in files.items():
            write(place / path, text)
        subprocess.run([*GIT, "-C", place, "init", "-q"], check=True)
        subprocess.run([*GIT, "-C", place, "add", "-A"], check=True)
        subprocess.run([*GIT, "-C", place, "commit", "-qm", "one"], check=True)
        return subprocess.run([*GIT, "-C", place, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    def change(self, place, path, text):
        write(place / path, text)
        subprocess.run([*GIT, "-C", place, "commit", "-qam", "two"], check=True)

    def manifest(self, extra="", main=None, pack=None, dependencies='["alpha==1.0"]'):
        return write(self.station.root / "pyproject.toml", f"""\
[project]
name = "x"
dependencies = {dependencies}
[tool.comfygit]
comfyui_repository = "file://{self.work}/ComfyUI"
comfyui_commit_sha = "{main or self.main}"
[tool.comfygit.nodes.first]
name = "first-pack"
source = "git"
repository = "file://{self.work}/first-pack"
pinned_commit = "{pack or self.pack}"
{extra}
""")

    def bring(self, file, *arguments, code=0):
        return self.run_it("import", file, *arguments, code=code, PIP_INDEX_URL=self.url)

    def left(self):
        return sorted(p.name for p in self.place.iterdir()) if self.place.exists() else []

    def test_an_environment_is_made_and_is_what_was_described(self):
        target = self.place / "ComfyUI"
        done = self.bring(self.manifest(), "--into", target)
        self.assertIn(f"made {target}; next: stillframe inspect {target}", done.out)
        self.assertEqual((target / "custom_nodes/first-pack/__init__.py").read_text(), "NODE_CLASS_MAPPINGS = {}\n")
        self.assertEqual(self.left(), ["ComfyUI"])
        report = self.run_it("inspect", "--json", target, PIP_INDEX_URL=self.url).json
        self.assertEqual([(d["name"], d["provenance"]) for d in report["distributions"] if d["name"] == "alpha"], [("alpha", "pinned")])
        self.assertEqual(report["main"]["git"]["commit"], self.main)
        self.assertEqual([(p["name"], p["git"]["commit"]) for p in report["packs"]], [("first-pack", self.pack)])
        # Once more is no repair: what is there stays.
        self.assertIn("is there already", self.bring(self.manifest(), "--into", target, code=2).err)

    def test_what_is_lacking_is_named_and_does_not_pass_for_whole(self):
        file = self.manifest('[tool.comfygit.nodes.own]\nsource = "bundled"\nbundle_path = "x"\n')
        told = json.loads(self.bring(file, "--json").out)
        self.assertEqual(told["description"]["unresolved"], ["pack own: its files lie beside the manifest, not in a repository"])
        self.assertEqual((told["made"], self.left()), (None, []))
        done = self.bring(file, "--into", self.place / "ComfyUI", code=1)
        self.assertIn("pack own: its files lie beside the manifest", done.out)
        self.assertIn("without 1 item, which is named above", done.out)

    def test_what_fails_leaves_nothing(self):
        missing = "0" * 39 + "1"
        for text, why in ((self.manifest(main=missing).read_text(), f"looking for {missing} in file://{self.work}/ComfyUI failed"),
                          (self.manifest(pack=missing).read_text(), f"looking for {missing} in file://{self.work}/first-pack failed"),
                          (self.manifest(dependencies='["none-such==1"]').read_text(), "pip failed")):
            self.assertIn(why, self.bring(write(self.station.root / "pyproject.toml", text), "--into", self.place / "ComfyUI", code=1).err)
            self.assertEqual(self.left(), [])

    def test_files_of_every_kind_and_of_none(self):
        with zipfile.ZipFile(self.station.root / "x.cpack.zip", "w") as archive:
            archive.writestr("snapshot.json", json.dumps({"python": "3.11", "comfyui": self.main, "models": [], "custom_nodes": []}))
            archive.writestr("requirements.txt", "alpha==1.0\n")
        kinds = {
            "x.cpack.zip": None,
            "manager.json": json.dumps({"comfyui": self.main, "git_custom_nodes": {}}),
            "comfy-build.yaml": "schema: comfy-build/1\ndefinition:\n  baseComfyVersion: v0.3.40\n",
            "pyproject.toml": self.manifest().read_text(),
        }
        formats = []
        for name, text in kinds.items():
            if text is not None:
                write(self.station.root / name, text)
            formats.append(json.loads(self.bring(self.station.root / name, "--json").out)["description"]["format"])
        self.assertEqual(formats, ["comfy-pack package", "ComfyUI-Manager snapshot", "comfy-build.yaml", "comfygit manifest"])
        self.assertIn("it is none of", self.bring(write(self.station.root / "x.txt", ""), code=2).err)
        self.assertIn("not a comfy-pack package", self.bring(write(self.station.root / "y.zip", "PK"), code=2).err)
        self.assertIn("cannot read", self.bring(self.station.root / "absent.json", code=2).err)


if __name__ == "__main__":
    unittest.main()
