"""Packs and packages made to do harm: nothing of theirs runs, and nothing leaves its own store path."""
import os
import subprocess
import unittest

from small import Case, Wheel, untouched, write

SECONDS = 60
BATCH = True


class Hostile(Case):
    """A pack or a wheel that wants to run, or to be somewhere else, during a capture."""

    def setUp(self):
        super().setUp()
        self.env = self.environment()
        self.marker = self.station.root / "marker"
        self.code = f"open({str(self.marker)!r}, 'a').write(__name__)\n"

    def every_command(self, **variables):
        """Nothing was run by `inspect`, `lock` and `snapshot`, and the environment is as it was."""
        with untouched(self, self.place):
            for command in ("inspect", "snapshot"):
                result = self.run_it(command, "--json", self.env.root, **variables)
                self.assertFalse(self.marker.exists(), f"{command} ran code of the environment")
        self.run_it("lock", self.env.root, **variables)
        self.assertFalse(self.marker.exists(), "lock ran code of the environment")
        self.store_is_sound()
        return result

    def test_nothing_of_the_environment_runs(self):
        env, code = self.env, self.code
        for place in ("__init__.py", "prestartup_script.py", "install.py", "setup.py", "conftest.py", "json.py"):
            write(env.pack / place, code)
        for place in ("main.py", "nodes.py", "comfy/__init__.py", "json.py", "os.py", "sitecustomize.py", "encodings.py"):
            write(env.root / place, code)
        for place in ("sitecustomize.py", "usercustomize.py", "json.py", "os.py", "platform.py", "pip/__init__.py",
                      "pip/__main__.py", "encodings/__init__.py"):
            write(env.site / place, code)
        write(env.site / "evil.pth", f"import os; {code}")
        members = {"owned.pth": f"import os; {code}".encode(), "alpha/__init__.py": code.encode(),
                   "alpha-1.0.data/scripts/git": b"#!python\n" + code.encode(), "setup.py": code.encode()}
        wheel = Wheel("alpha", members=members)
        wheel.members["alpha-1.0.dist-info/entry_points.txt"] = b"[console_scripts]\nnix-daemon = alpha:main\n"
        wheel.install(env.site)
        # Also from an activated environment, and from inside of it with a PATH that has the current directory.
        for tool in ("git", "nix-daemon", "sh"):
            for folder in (env.venv / "bin", env.root):
                write(folder / tool, f"#!/bin/sh\necho x >>{self.marker}\n", 0o755)
        result = self.every_command(cwd=env.root, PATH=f"{env.venv / 'bin'}:.::{os.environ['PATH']}")
        # All the same it is in the snapshot, as it would run there.
        self.assertIn("evil.pth", [f["path"] for f in result.json["findings"] if f["topic"] == "unowned"])

    def test_a_repository_that_names_programs_runs_none(self):
        pack, run = self.env.pack, f"touch {self.marker}"
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "-C", pack]
        write(pack / "kept.txt", "kept\n")
        write(pack / ".gitattributes", "*.txt filter=evil diff=evil merge=evil\n")
        for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "one"]):
            subprocess.run([*git, *arguments], check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"})
        write(pack / "kept.txt", "changed\n")
        write(pack / "new.txt", "new\n")
        with open(pack / ".git" / "config", "a") as config:
            config.write(f"""\
[core]
    fsmonitor = "{run}; false"
    sshCommand = {run}
    gitProxy = {run}
    pager = {run}
    editor = {run}
    askPass = {run}
    alternateRefsCommand = {run}
    hooksPath = {pack}/.git/hooks
[filter "evil"]
    clean = {run}
    smudge = {run}
    process = {run}
    required = true
[diff "evil"]
    textconv = {run}
    command = {run}
[diff]
    external = {run}
[alias]
    ls-tree = !{run}
    check-ignore = !{run}
[credential]
    helper = !{run}
[extensions]
    partialClone = origin
[remote "origin"]
    url = "ext::sh -c '{run}'"
    promisor = true
""")
        for hook in ("post-index-change", "fsmonitor-watchman", "pre-commit", "reference-transaction"):
            write(pack / ".git" / "hooks" / hook, f"#!/bin/sh\n{run}\n", 0o755)
        # A missing object: git would fetch it from the promisor.
        tree = subprocess.run([*git, "rev-parse", "HEAD^{tree}"], capture_output=True, text=True, check=True).stdout.strip()
        self.assertFalse(self.marker.exists())
        found = self.every_command()
        (pack / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
        write(pack / "more.txt", "more\n")
        found = self.every_command()
        self.finds(found, ("info", "git", "custom_nodes/first-pack", "whether it differs from its commit could not be told (no "
                           "git, or missing objects); captured as it is on disk"))

    def test_links_out_of_a_pack(self):
        """What they lead to is captured in their place, and named; no link of the store leads out of its path."""
        pack = self.env.pack
        outside = write(self.place / "outside" / "file.txt", "outside").parent
        os.chmod(outside / "file.txt", 0o600)
        (pack / "hostname").symlink_to("/etc/hostname")
        (pack / "relative").symlink_to("../../../outside/file.txt")
        (pack / "folder").symlink_to(outside)
        (pack / "kernel").symlink_to("/proc/self/environ")
        (pack / "roundabout").symlink_to(f"../{pack.name}/__init__.py")
        (pack / "key").symlink_to(write(self.place / "home" / ".ssh" / "id_ed25519", "private"))
        result = self.every_command()
        self.finds(result, ("problem", "symlink", "custom_nodes/first-pack/kernel", "links to /proc/self/environ, the kernel's: left out"),
                   ("warning", "secret", "custom_nodes/first-pack/key",
                    "an SSH private key: left out; give it to the host as a service secret, under [service.secrets]: FIRST_PACK_KEY = "
                    f'{{ file = "{outside.parent}/home/.ssh/id_ed25519", at = "custom_nodes/first-pack/key" }}'))
        named = [(o["from"], o["to"], o["captured"]) for o in self.inspect(self.env).json["outside"]]
        for name, to in (("hostname", "/etc/hostname"), ("relative", outside / "file.txt"), ("folder", outside)):
            self.assertIn((f"custom_nodes/first-pack/{name}", str(to), True), named)
        tree = self.tree(result.json, "first-pack")
        for name in ("relative", "folder/file.txt"):
            self.assertEqual((tree / name).read_text(), "outside")
        for folder, folders, files in os.walk(tree):
            for name in folders + files:
                path = os.path.join(folder, name)
                self.assertTrue(os.path.realpath(path).startswith(f"{tree}/"), path)

    def test_links_out_of_site_packages(self):
        site = self.env.site
        module = write(self.place / "outside" / "module.py", "OUTSIDE = 1\n")
        (site / "linked.py").symlink_to(module)
        (site / "package").symlink_to(module.parent)
        (site / "harmless.txt").symlink_to(write(self.place / "home" / ".ssh" / "id_ed25519", "private"))
        write(site / "system.pth", "/etc\n")
        write(site / "kernel.pth", "/proc/self\n")
        result = self.every_command()
        own = "the system's own and not captured"
        self.finds(result,
                   ("warning", "unowned", "linked.py", f"a link to {module}, and no distribution owns it; the file is captured"),
                   ("problem", "symlink", "package", f"a link to the folder {module.parent}; left out: name the folder in a .pth "
                    "file instead"),
                   ("warning", "secret", "harmless.txt", "an SSH private key: left out; give it to the host as a service secret; allow-secrets = "
                    '[".venv/lib/python3.11/site-packages/harmless.txt"] ships it as it is'),
                   ("problem", "outside", f"{site}/system.pth", f"names /etc, which is {own}"),
                   ("problem", "outside", f"{site}/kernel.pth", f"names /proc/self, which is {own}"))

    def test_a_wheel_with_names_that_leave(self):
        index = self.index()
        wheel = Wheel("alpha").install(self.env.site)
        climb = "../" * 20 + str(self.marker).lstrip("/")
        for name in (climb, str(self.marker), f"alpha/{climb}"):
            index.publish(wheel, wheel.archive(more=[(name, b"written by a wheel")]))
            result = self.every_command(PIP_INDEX_URL=index.url)
            self.assertEqual([f["path"] for f in result.json["findings"] if f["topic"] == "captured"], ["alpha"])

    def test_names_too_long_and_names_alike(self):
        """Names that a store path cannot have become ones that it can, and stay apart."""
        packs = self.env.root / "custom_nodes"
        names = ["x" * 250, ".hidden", "a b", "a+b", "a?b", "$(touch marker)", "-rf"]
        for name in names:
            write(packs / name / "__init__.py", f"NAME = {name!r}\n")
        result = self.every_command().json
        for name in names:
            tree = self.tree(result, name)
            self.assertEqual((tree / "__init__.py").read_text(), f"NAME = {name!r}\n")
            self.assertLess(len(tree.name), 33 + 212)


if __name__ == "__main__":
    unittest.main()
