"""Credentials that people write into addresses: none of them gets into the store, a lock, a record, a report or an export."""
import json
import unittest

from small import Case, Wheel, git, write

SECONDS = 40
BATCH = True


def token(letter):
    """In the form of one; put together, so that nobody finds one here."""
    return "gh" + "p_" + letter * 8 + "k3jX9vQ2mZ7rT5wL1nB8yH4dF6sG"


class Credentials(Case):
    def repository(self, place, remote):
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"], ["remote", "add", "origin", remote]):
            git(place, *words)

    def setUp(self):
        super().setUp()
        self.env = self.environment()
        self.index = self.index()
        self.index.publish(Wheel("alpha"))
        Wheel("alpha").install(self.env.site)
        # A password that only its place tells from a word.
        self.secrets = {name: token(letter) for name, letter in zip(("remote", "main", "direct", "query", "index", "pack", "program"), "ABCDEFG")}
        self.secrets["plain"] = "Tr0ub4dor-and-3"
        s = self.secrets
        private = self.env.root / "custom_nodes/private-pack"
        write(private / "__init__.py", "NODE_CLASS_MAPPINGS = {}\n")
        self.repository(private, f"https://oauth2:{s['remote']}@git.example/org/private-pack.git")
        write(self.env.root / ".gitignore", ".venv\ncustom_nodes\n")
        self.repository(self.env.root, f"https://{s['main']}@git.example/me/ComfyUI")
        for name, told in (("viagit", {"url": f"https://user:{s['direct']}@git.example/x/viagit.git", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}}),
                           ("viaurl", {"url": f"https://files.example/viaurl.whl?token={s['query']}&X-Amz-Signature={s['query']}", "archive_info": {}})):
            Wheel(name).install(self.env.site)
            write(self.env.site / f"{name}-1.0.dist-info/direct_url.json", json.dumps(told))
        write(self.env.root / "requirements.txt", f"--extra-index-url https://user:{s['index']}@host.example/simple\n")
        pack = self.env.pack
        for file, text in (("requirements.txt", f"a==1\nlib @ git+https://{s['pack']}@git.example/x/lib.git\n"),
                           (".gitmodules", f'[submodule "x"]\n\tpath = x\n\turl = https://u:{s["plain"]}@git.example/x/y.git\n'),
                           ("constraints.txt", f"b @ https://files.example/b.whl?X-Amz-Signature={s['pack']}\n"), ("pip.conf", f"[global]\nindex-url = https://u:{s['plain']}@host.example/simple\n"),
                           ("pyproject.toml", f'[tool.uv.sources]\nlib = {{ git = "https://{s["pack"]}@git.example/x" }}\n'), ("uv.lock", f'source = {{ registry = "https://u:{s["plain"]}@host.example/simple" }}\n'),
                           ("push.py", f"URL = 'https://{s['program']}@git.example'\n"),
                           ("defaults.py", "URL = 'http://admin:admin@localhost'\nAPI_KEY = 'q8Zr4Tn1Xw7Lb2Kd9Vs6Hy3M'\n"), ("notes.txt", "https://user:password@host.example\n")):
            write(pack / file, text)
        self.url = self.index.url.replace("http://", f"http://user:{s['index']}@")

    def run_all(self):
        env, keep = self.env, {"PIP_INDEX_URL": self.url}
        taken = self.run_it("snapshot", "--json", env.root, **keep)
        self.run_it("lock", env.root, **keep)
        results = {"snapshot": taken, "inspect": self.run_it("inspect", env.root, **keep)}
        for words in (["snapshots", "show", "--json"], ["export", "pylock"], ["export", "cyclonedx"], ["export", "manager-snapshot"]):
            results[" ".join(words)] = self.run_it(*words, taken.json["id"])
        return taken.json, results

    def test_no_credential_gets_anywhere(self):
        taken, results = self.run_all()
        found = set()

        def look(name, data):
            found.update((name, which) for which, secret in self.secrets.items() if secret.encode() in data)
        for name, result in results.items():
            look(name, result.text.encode())
        for file in (self.env.root / "stillframe.lock", self.env.root / "pylock.toml", *(self.station.root / "state").rglob("*")):
            if file.is_file():
                look(file.name, file.read_bytes())
        closure = {path for of in ("snapshot", "derivation") for path in self.station.nix("nix-store", "-qR", taken[of]).out.split()}
        for path in closure:
            real = self.station.real(path)
            for file in [real] if real.is_file() else real.rglob("*"):
                if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 20:
                    look(f"{path}: {file.name}", file.read_bytes())
        self.assertEqual(found, set())
        told = {f[2].split("/")[-1]: f for f in self.findings(results["snapshot"]) if f[1] == "secret" and "/first-pack/" in f[2]}
        for file, line in (("requirements.txt", 2), (".gitmodules", 3), ("constraints.txt", 1), ("pip.conf", 2), ("pyproject.toml", 2), ("uv.lock", 1), ("push.py", 1)):
            severity, _, path, message = told[file]
            self.assertEqual(severity, "problem" if file == "push.py" else "warning")
            self.assertTrue(message.startswith(f"line {line} holds "), message)
            self.assertIn(f'allow-secrets = ["{path}"]', message)
        # What only looks like one ships.
        self.assertIn("it ships", told["defaults.py"][3])
        self.assertNotIn("notes.txt", told)
        tree = self.tree(taken, "first-pack")
        self.assertEqual(sorted(p.name for p in tree.iterdir()), ["__init__.py", "defaults.py", "notes.txt"])

    def test_what_the_configuration_allows_ships(self):
        allowed = ["custom_nodes/first-pack/push.py", "custom_nodes/first-pack/requirements.txt"]
        write(self.env.root / "stillframe.toml", f"allow-secrets = {json.dumps(allowed)}\n")
        taken = self.run_it("snapshot", "--json", cwd=self.env.root, PIP_INDEX_URL=self.url)
        tree = self.tree(taken.json, "first-pack")
        self.assertEqual(sorted(p.name for p in tree.iterdir()), ["__init__.py", "defaults.py", "notes.txt", "push.py", "requirements.txt"])
        told = {f[2]: f for f in self.findings(taken) if f[1] == "secret"}
        for path in allowed:
            self.assertEqual(told[path][0], "info")
            self.assertIn("it ships, as allow-secrets says", told[path][3])

    def settings(self):
        """A pack's settings with one key in them, and the place of the file."""
        at = "custom_nodes/first-pack/settings.json"
        write(self.env.root / at, '{\n  "civitai_api_key": "0f3b9d27c1a84e65",\n  "folders": ["a"]\n}\n')
        return at

    def kept(self, at, *arguments):
        """What the snapshot has of it, and what is told of it."""
        taken = self.run_it("snapshot", "--json", *arguments, cwd=self.env.root, PIP_INDEX_URL=self.url)
        file = self.tree(taken.json, "first-pack") / "settings.json"
        told = [f for f in self.findings(taken) if f[1:3] == ("secret", at)]
        return file.read_text() if file.exists() else None, told

    def test_what_is_left_out_can_be_given_or_ship_without_the_value(self):
        """The report has both lines, and each does what it says when it is pasted."""
        at = self.settings()
        self.assertEqual((file := self.kept(at))[0], None)
        [(severity, _, _, message)] = file[1]
        given = f'FIRST_PACK_SETTINGS = {{ file = "{self.env.root}/{at}", at = "{at}" }}'
        redacted = f'"{at}" = ["civitai_api_key"]'
        self.assertEqual((severity, message), ("warning",
                         "holds a value for `civitai_api_key`: left out; give it to the host as a service secret, "
                         f"under [service.secrets]: {given}; or ship it without that value, under [redact]: {redacted}"))
        write(self.env.root / "stillframe.toml", f"[redact]\n{redacted}\n")
        whole = (self.env.root / at).read_text()
        self.assertEqual(self.kept(at), (whole.replace("0f3b9d27c1a84e65", ""), [
            ("info", "secret", at, "ships with `civitai_api_key` empty, as redact says")]))
        # It is found to be a secret again when redact does not say so any more, though the file is as old.
        write(self.env.root / "stillframe.toml", f"allow-secrets = [\"{at}\"]\n")
        self.assertEqual(self.kept(at), (whole, [
            ("info", "secret", at, "holds a value for `civitai_api_key`: it ships, as allow-secrets says")]))
        write(self.env.root / "stillframe.toml", f"[service.secrets]\n{given}\n")
        self.assertEqual(self.kept(at), (None, []))

    def test_what_else_is_secret_keeps_the_file_out(self):
        at = self.settings()
        write(self.env.root / at, '{"civitai_api_key": "0f3b9d27c1a84e65", "hf_token": "hf_notarealtoken1", "list": []}\n')
        write(self.env.root / "stillframe.toml", f'[redact]\n"{at}" = ["civitai_api_key"]\n"gone.json" = ["a"]\n')
        file, told = self.kept(at)
        self.assertEqual((file, [f[0] for f in told]), (None, ["warning"]))
        left_out = told[0][3]
        self.assertTrue(left_out.startswith("holds a value for `hf_token`: left out; "), left_out)
        self.assertTrue(left_out.endswith(f'"{at}" = ["civitai_api_key","hf_token"]'), left_out)
        self.assertEqual([f[0] for f in self.findings(self.inspect(self.env)) if f[2] == "gone.json"], ["problem"])
        # A secret that has another name now would ship.
        write(self.env.root / "stillframe.toml", f'[redact]\n"{at}" = ["civitai_api_key", "other"]\n')
        self.assertEqual(self.kept(at), (None, [("problem", "secret", at, "redact names `other`, which it does not have: left out")]))
        write(self.env.root / "stillframe.toml", f'[redact]\n"{at}" = ["civitai_api_key", "hf_token", "list"]\n')
        self.assertEqual(self.kept(at), (None, [("problem", "secret", at, "redact cannot empty values of it: `list` is more than one value; left out")]))

    def test_of_what_is_imported_none_is_shown(self):
        snapshot = {"comfyui": "a" * 40, "git_custom_nodes": {f"https://{token('A')}@git.example/p": {"hash": "b" * 40}},
                    "pips": {"lib": f"git+https://u:{token('B')}@git.example/lib@main", f"own @ https://files.example/own.whl?token={token('C')}": ""}}
        file = write(self.station.root / "x.json", json.dumps(snapshot))
        for arguments in ([], ["--json"]):
            text = self.run_it("import", file, *arguments).text
            self.assertEqual([letter for letter in "ABC" if token(letter) in text], [])
            self.assertIn("git.example", text)


if __name__ == "__main__":
    unittest.main()
