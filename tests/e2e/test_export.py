"""`stillframe export`: what others' tools can read of a snapshot, and what they cannot is named."""
import json
import subprocess
import tomllib
import unittest

from small import Case, Wheel, write

SECONDS = 45
BATCH = True


class Export(Case):
    def setUp(self):
        super().setUp()
        self.env = self.environment()
        index = self.index()
        pinned = Wheel("alpha", members={"alpha-1.0.dist-info/licenses/LICENSE": b"text"})
        pinned.members["alpha-1.0.dist-info/METADATA"] = b"Metadata-Version: 2.4\nName: alpha\nVersion: 1.0\nLicense-Expression: MIT OR 0BSD\n"
        named = Wheel("beta")
        named.members["beta-1.0.dist-info/METADATA"] = b"Metadata-Version: 2.1\nName: beta\nVersion: 1.0\nLicense: Our own\n"
        for wheel in (pinned, named, Wheel("gamma")):
            wheel.install(self.env.site)
        for wheel in (pinned, named):
            index.publish(wheel)
        self.url = index.url
        write(self.env.root / "custom_nodes/loose.py", "NODE_CLASS_MAPPINGS = {}\n")
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example", "-C", self.env.pack]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "remote", "add", "origin", "https://secret@git.example/first-pack.git"], check=True)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", "one"], check=True)
        self.commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        write(self.env.root / "custom_nodes/plain/__init__.py", "NODE_CLASS_MAPPINGS = {}\n")
        write(self.env.pack / "__init__.py", "NODE_CLASS_MAPPINGS = {}\nCHANGED = 1\n")
        self.taken = self.run_it("snapshot", "--json", self.env.root, PIP_INDEX_URL=self.url).json

    def export(self, *arguments, code=0):
        return self.run_it("export", *arguments, code=code)

    def test_a_manager_snapshot_names_what_it_cannot_hold_and_agrees_with_the_environment(self):
        done = self.export("manager-snapshot")
        snapshot = json.loads(done.out)
        self.assertEqual(list(snapshot["git_custom_nodes"].values()), [{"hash": self.commit, "disabled": False}])
        self.assertEqual(snapshot["file_custom_nodes"], [{"filename": "loose.py", "disabled": False}])
        self.assertEqual(sorted(snapshot["pips"]), ["alpha==1.0", "beta==1.0", "gamma==1.0"])
        for item in ("the main program: it is not in git", "the changes to pack first-pack: it is not as its commit", "pack plain: no repository has it",
                     "gamma 1.0 as it is: no wheel of an index vouches for it"):
            self.assertIn(f"not in a Manager snapshot: {item}", done.err)
        file = write(self.env.root / "manager.json", done.out)
        write(self.env.root / "stillframe.toml", 'intent = ["manager.json"]\n')
        found = self.run_it("inspect", "--json", "--offline", self.env.root).json["findings"]
        disagreements = [f for f in found if f["topic"] == "intent" and f["severity"] != "info"]
        # The one thing that is so: the pack is not as its commit, which the export said.
        self.assertTrue(all("first-pack" in f["path"] + f["message"] for f in disagreements), disagreements)
        file.unlink()

    def test_a_bill_of_materials(self):
        target = self.station.root / "bom.json"
        self.export("cyclonedx", self.taken["id"], "--output", target)
        bom = json.loads(target.read_text())
        self.assertEqual((bom["bomFormat"], bom["specVersion"], bom["metadata"]["component"]["version"]), ("CycloneDX", "1.6", self.taken["id"]))
        components = {c["bom-ref"]: c for c in bom["components"]}
        self.assertEqual(len(components), len(bom["components"]))
        self.assertEqual(sorted(components), ["comfyui", "distribution:gamma@1.0", "pack:first-pack", "pack:loose.py", "pack:plain",
                                              "pkg:pypi/alpha@1.0", "pkg:pypi/beta@1.0", "python"])
        self.assertEqual(components["pkg:pypi/alpha@1.0"]["licenses"], [{"expression": "MIT OR 0BSD"}])
        self.assertEqual(components["pkg:pypi/beta@1.0"]["licenses"], [{"license": {"name": "Our own"}}])
        self.assertNotIn("licenses", components["distribution:gamma@1.0"])
        reference = components["pkg:pypi/alpha@1.0"]["externalReferences"][0]
        self.assertEqual((reference["type"], reference["hashes"][0]["alg"]), ("distribution", "SHA-256"))
        self.assertTrue(reference["url"].endswith("alpha-1.0-py3-none-any.whl"))
        pack = components["pack:first-pack"]
        self.assertEqual((pack["version"], pack["externalReferences"][0]["url"]), (self.commit, "https://git.example/first-pack.git"))
        self.assertEqual(bom["dependencies"], [{"ref": "snapshot", "dependsOn": [c["bom-ref"] for c in bom["components"]]}])
        # What is no file is written to, not replaced.
        link = self.station.root / "link.json"
        link.symlink_to(target)
        self.export("cyclonedx", "--output", link)
        self.assertTrue(link.is_symlink())
        # The same snapshot, the same document.
        self.assertEqual(json.loads(self.export("cyclonedx").out), bom)

    def test_pylock_is_the_snapshots_own(self):
        lock = tomllib.loads(self.export("pylock").out)
        self.assertEqual(lock["lock-version"], "1.0")
        self.assertEqual({p["name"] for p in lock["packages"]} & {"alpha", "beta"}, {"alpha", "beta"})

    def test_what_is_not_there(self):
        self.assertIn("no snapshot is called \"zzz\"", self.export("pylock", "zzz", code=2).err)
        self.assertIn("invalid value 'spdx'", self.export("spdx", code=2).err)


if __name__ == "__main__":
    unittest.main()
