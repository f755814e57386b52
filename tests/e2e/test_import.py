"""`stillframe import`: an environment from another tool's file, with real git and real pip; what cannot be had is named."""
import json
import subprocess
import unittest
import zipfile

from small import Case, Wheel, git, write

SECONDS = 35
BATCH = True

BACKEND = """\
import zipfile
def build_wheel(folder, *_):
    with zipfile.ZipFile(folder + "/gamma-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write("gamma.py")
        wheel.writestr("gamma-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: gamma\\nVersion: 1.0\\n")
        wheel.writestr("gamma-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("gamma-1.0.dist-info/RECORD", "gamma.py,,\\ngamma-1.0.dist-info/METADATA,,\\ngamma-1.0.dist-info/WHEEL,,\\ngamma-1.0.dist-info/RECORD,,\\n")
    return "gamma-1.0-py3-none-any.whl"
"""


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
        git(place, "init", "-q")
        git(place, "add", "-A")
        git(place, "commit", "-qm", "one")
        return git(place, "rev-parse", "HEAD")

    def change(self, place, path, text):
        write(place / path, text)
        git(place, "commit", "-qam", "two")

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

    def bring(self, file, *arguments, code=0, **more):
        return self.run_it("import", file, *arguments, code=code, PIP_INDEX_URL=self.url, **more)

    def found_at(self, *addresses):
        """git finds a repository of this test where the file names a public one."""
        lines = "".join(f"\tinsteadOf = {address}\n" for address in addresses)
        write(self.station.root / "home/.gitconfig", f'[url "file://{self.work}/"]\n{lines}')
        return {"HOME": self.station.root / "home"}

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

    def test_nothing_takes_the_place_of_a_package_of_its_name(self):
        """ComfyUI-Manager writes a package from an address as NAME: ADDRESS; the index has another of this name."""
        commit = self.repository("gamma", {
            # Built by itself: there is no index of build tools here.
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
            "backend.py": BACKEND, "gamma.py": "NAME = 'of the repository'\n"})
        index = self.index()
        for name in ("gamma", "torch", "beta"):
            index.publish(Wheel(name, "9.9", members={f"{name}/__init__.py": b"NAME = 'somebody else'\n"}))
        self.url = index.url
        where = self.found_at("https://github.com/comfyanonymous/", "https://git.example/x/")
        for kind in ("json", "yaml"):
            with self.subTest(kind=kind):
                pips = {"gamma": f"git+https://git.example/x/gamma@{commit}", "torch==2.4.1+cu121": "", "beta": ""}
                snapshot = {"comfyui": self.main, "git_custom_nodes": {}, "pips": pips}
                file = write(self.station.root / f"x.{kind}", json.dumps({"custom_nodes": snapshot} if kind == "yaml" else snapshot))
                target = self.place / f"made-{kind}"
                done = self.bring(file, "--json", "--into", target, code=1, **where)
                beta, torch = done.json["description"]["unresolved"]
                self.assertEqual(beta, "requirement beta: no version is named")
                self.assertIn("requirement torch==2.4.1+cu121: it is a build of an index that the file does not name", torch)
                self.assertEqual(self.installed(target), {"gamma": "1.0"})
                said = subprocess.run([target / ".venv/bin/python", "-c", "import gamma; print(gamma.NAME)"], check=True, capture_output=True, text=True)
                self.assertEqual(said.stdout.strip(), "of the repository")

    def installed(self, target):
        code = "import importlib.metadata as m; print(*sorted(d.metadata['Name'] + '==' + d.version for d in m.distributions()), sep='\\n')"
        said = subprocess.run([target / ".venv/bin/python", "-I", "-c", code], check=True, capture_output=True, text=True).stdout
        return dict(line.split("==") for line in said.split() if line.split("==")[0] not in ("pip", "setuptools"))

    def test_a_package_of_an_index_comes_from_there_alone(self):
        """torch is of another index than the rest, as uv's sources say; what a source cannot give exactly, no index gives."""
        own = self.index()
        own.publish(Wheel("delta", "1.0+cu1"))
        general = self.index()
        needs = Wheel("alpha")
        needs.members["alpha-1.0.dist-info/METADATA"] += b"Requires-Dist: delta\n"
        general.publish(needs)
        general.publish(Wheel("delta", "9.9"))
        self.url = general.url
        more = f"""[tool.uv]
constraint-dependencies = ["delta==1.0+cu1"]
[[tool.uv.index]]
name = "cu1"
url = "{own.url}"
explicit = true
[tool.uv.sources]
delta = {{ index = "cu1" }}
"""
        self.bring(self.manifest(more), "--into", self.place / "one")
        self.assertEqual(self.installed(self.place / "one"), {"alpha": "1.0", "delta": "1.0+cu1"})
        # A pack's requirement has no version of delta to choose from.
        more = '[tool.uv.sources]\ndelta = { git = "https://git.example/delta", branch = "main" }\n'
        done = self.bring(self.manifest(more, dependencies='["alpha==1.0", "delta"]'), "--into", self.place / "two", code=1)
        self.assertIn("pip failed", done.err)
        self.assertEqual(self.left(), ["one"])

    def package(self, name, pack, *members):
        file = self.station.root / name
        with zipfile.ZipFile(file, "w") as archive:
            packs = [{"url": "https://git.example/x/scripted", "commit_hash": pack, "disabled": False}]
            archive.writestr("around/snapshot.json", json.dumps({"comfyui": self.main, "models": [], "custom_nodes": packs}))
            archive.writestr("around/requirements.txt", "alpha==1.0\n")
            for member in members:
                # By its parts: the library itself turns backslashes.
                info = zipfile.ZipInfo("x")
                info.filename = member
                archive.writestr(info, f"content of {member}")
        return file

    def test_files_of_an_archive_and_install_scripts(self):
        where = self.found_at("https://github.com/comfyanonymous/", "https://git.example/x/")
        script = "import alpha, pathlib\npathlib.Path('ran').write_text(alpha.NAME)\n"
        pack = self.repository("scripted", {"__init__.py": "", "install.py": script})
        file = self.package("x.cpack.zip", pack, "around/input/a.png", "around\\input\\deep\\b.png", "around/workflow_api.json")
        target = self.place / "ComfyUI"
        done = self.bring(file, "--into", target, "--install-scripts", **where)
        self.assertNotIn("not resolved", done.out)
        self.assertEqual((target / "input/a.png").read_text(), "content of around/input/a.png")
        self.assertTrue((target / "input/deep/b.png").is_file())
        self.assertTrue((target / "user/default/workflows/workflow_api.json").is_file())
        self.assertEqual((target / "custom_nodes/scripted/ran").read_text(), "alpha")
        done = self.bring(file, "--into", self.place / "second", code=1, **where)
        self.assertIn("pack scripted: its install.py was not run", done.out)
        self.assertFalse((self.place / "second/custom_nodes/scripted/ran").exists())

    def test_an_archive_writes_through_no_link(self):
        (self.work / "out").mkdir()
        (self.work / "ComfyUI/input").symlink_to(self.work / "out")
        self.main = self.repository("ComfyUI", {"extra": ""})
        where = self.found_at("https://github.com/comfyanonymous/", "https://git.example/x/")
        file = self.package("x.cpack.zip", self.repository("scripted", {"__init__.py": ""}), "around/input/a.png")
        self.assertIn("is no folder", self.bring(file, "--into", self.place / "ComfyUI", code=1, **where).err)
        self.assertEqual((list((self.work / "out").iterdir()), self.left()), ([], []))

    def test_a_file_of_comfyuis_own_repository_is_not_lacking(self):
        self.main = self.repository("ComfyUI", {"custom_nodes/websocket_image_save.py": "", "custom_nodes/other.py": ""})
        where = self.found_at("https://github.com/comfyanonymous/")
        files = [{"filename": name, "disabled": False} for name in ("websocket_image_save.py", "other.py")]
        snapshot = {"comfyui": self.main, "git_custom_nodes": {}, "file_custom_nodes": files, "pips": {"alpha==1.0": ""}}
        self.bring(write(self.station.root / "x.json", json.dumps(snapshot)), "--into", self.place / "whole", **where)
        snapshot["file_custom_nodes"].append({"filename": "mine.py"})
        done = self.bring(write(self.station.root / "x.json", json.dumps(snapshot)), "--into", self.place / "less", code=1, **where)
        self.assertIn("pack mine.py: a single file that only its machine has", done.out)
        self.assertIn("without 1 item", done.out)

    def test_files_of_every_kind_and_of_none(self):
        with zipfile.ZipFile(self.station.root / "x.cpack.zip", "w") as archive:
            archive.writestr("snapshot.json", json.dumps({"python": "3.11", "comfyui": self.main, "models": [], "custom_nodes": []}))
            archive.writestr("requirements.txt", "alpha==1.0\n")
        kinds = {
            "x.cpack.zip": None,
            "manager.json": json.dumps({"comfyui": self.main, "git_custom_nodes": {}}),
            "comfy-lock.yaml": f"models: []\ncustom_nodes:\n  comfyui: {self.main}\n  git_custom_nodes: {{}}\n",
            "comfy-build.yaml": "schema: comfy-build/1\ndefinition:\n  baseComfyVersion: v0.3.40\n",
            "pyproject.toml": self.manifest().read_text(),
        }
        formats = []
        for name, text in kinds.items():
            if text is not None:
                write(self.station.root / name, text)
            formats.append(json.loads(self.bring(self.station.root / name, "--json").out)["description"]["format"])
        self.assertEqual(formats, ["comfy-pack package", "ComfyUI-Manager snapshot", "ComfyUI-Manager snapshot", "comfy-build.yaml", "comfygit manifest"])
        self.assertIn("it is none of", self.bring(write(self.station.root / "x.txt", ""), code=2).err)
        self.assertIn("not a comfy-pack package", self.bring(write(self.station.root / "y.zip", "PK"), code=2).err)
        self.assertIn("cannot read", self.bring(self.station.root / "absent.json", code=2).err)


if __name__ == "__main__":
    unittest.main()
