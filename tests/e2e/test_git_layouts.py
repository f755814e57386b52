"""Packs in repositories as people have them: refs in tables, longer hashes, a part of the files, pointers in place of content."""
import os
import shutil
import subprocess
import unittest

from harness import ROOT
from small import Case, git, untouched, write

GOLDEN = ROOT / "tests" / "golden" / "reftable" / "few.ref"
# The commit that the golden table names for refs/heads/main.
COMMIT = "c4d240e39f7b5a4867e0119bcd3cb7ece08b194f"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 12345\n"


class Layouts(Case):
    def setUp(self):
        super().setUp()
        self.env = self.environment()
        shutil.rmtree(self.env.pack)

    def repository(self, name, *options, files):
        place = self.env.root / "custom_nodes" / name
        place.mkdir()
        git(place, "init", "-q", *options)
        for path, text in files.items():
            write(place / path, text)
        git(place, "add", "-A")
        git(place, "commit", "-qm", "one")
        return place

    def tables(self):
        """As `git init --ref-format=reftable` of git 2.45 makes it, which an older git does not take for a repository."""
        place = self.env.root / "custom_nodes" / "tables"
        place.mkdir()
        git(place, "init", "-q")
        write(place / "a.py", "a\n")
        git(place, "add", "a.py")
        when = {"GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000"}
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example", "commit", "-qm", "one"], cwd=place, check=True,
                       env={**os.environ, **when})
        git(place, "config", "core.repositoryFormatVersion", "1")
        git(place, "config", "extensions.refStorage", "reftable")
        table = place / ".git/reftable"
        table.mkdir()
        shutil.copy(GOLDEN, table / "1.ref")
        write(table / "tables.list", "1.ref\n")
        write(place / ".git/HEAD", "ref: refs/heads/.invalid\n")
        shutil.rmtree(place / ".git/refs/heads")
        return place

    def test_each_says_its_commit_and_whether_it_is_changed(self):
        init = {"__init__.py": "NODE_CLASS_MAPPINGS = {}\n"}
        tables = self.tables()
        longer = self.repository("longer", "--object-format=sha256", files=init)
        part = self.repository("part", files={**init, "docs/a.txt": "a", "docs/b.txt": "b"})
        git(part, "sparse-checkout", "set", "--no-cone", "/*", "!/docs/")
        pointers = self.repository("pointers", files={**init, "model.onnx": POINTER, "about.md": f"```\n{POINTER}```\n", "sub/picture.png": POINTER})
        with untouched(self, self.env.root):
            report = self.inspect(self.env).json
        said = {pack["name"]: pack["git"] for pack in report["packs"]}
        self.assertEqual({name: (state["dirty"], state["changed"]) for name, state in said.items()},
                         dict.fromkeys(["tables", "longer", "part", "pointers"], (False, [])))
        self.assertEqual((said["tables"]["commit"], said["tables"]["branch"]), (COMMIT, "main"))
        self.assertEqual(len(said["longer"]["commit"]), 64)
        lines = {(f["severity"], f["path"], f["message"]) for f in report["findings"] if f["topic"] == "git"}
        self.assertEqual(lines, {
            ("info", "custom_nodes/part", "a sparse checkout: 2 files of its commit are not here, and do not ship; `git sparse-checkout disable` "
                                          "brings them"),
            ("warning", "custom_nodes/pointers", "2 files that ship are Git LFS pointers and not the content (model.onnx, sub/picture.png): "
                                                 f"run `git lfs pull` in {pointers}")})
        for place, name in ((tables, "a.py"), (longer, "__init__.py"), (part, "__init__.py")):
            write(place / name, "CHANGED = True\n")
        report = self.inspect(self.env).json
        changed = {pack["name"]: pack["git"]["changed"] for pack in report["packs"]}
        self.assertEqual(changed, {"tables": [" M a.py"], "longer": [" M __init__.py"], "part": [" M __init__.py"], "pointers": []})
        # What did not change is remembered, and said again.
        self.env.age()
        self.inspect(self.env)
        again = self.inspect(self.env).json
        self.assertEqual({f["path"] for f in again["findings"] if f["topic"] == "git"}, {"custom_nodes/part", "custom_nodes/pointers"})


if __name__ == "__main__":
    unittest.main()
