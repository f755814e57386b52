"""What lies where Python looks: secrets, links, files that nobody owns, several site directories, scripts, libraries, `.pth` files."""
import importlib.util
import json
import os
import re
import subprocess
import sys
import unittest
import zipfile

from small import BasePython, Case, Environment, Wheel, library, record_hash, shared_object, untouched, write

SECONDS = 120
BATCH = True


class Site(Case):
    def places(self, env):
        """Where Python code is besides distributions and packs: a loose folder of site-packages, the folder of a
        `.pth` file, an editable project. With what the report calls each, and its tree's label in a snapshot."""
        shared, project = self.place / "shared", self.place / "project"
        write(shared / "shared.py", "SHARED = 1\n")
        write(env.site / "shared.pth", f"{shared}\n")
        Wheel("delta").editable(env.site, project)
        return {env.site / "loose": ("loose", "files no distribution owns", "loose/"), shared: (str(shared), "shared", ""),
                project: (str(project), "project", "")}

    def test_secrets_beside_the_modules(self):
        env = self.environment()
        token = "[service]\ntoken = hf_notarealtoken1\n"
        key = "-----BEGIN PRIVATE KEY-----\nhf_notarealtoken1\n-----END PRIVATE KEY-----\n"
        places = self.places(env)
        for folder in places:
            write(folder / "inner" / "server.pem", key)
            write(folder / "config.ini", token)
            write(folder / ".env", "TOKEN=hf_notarealtoken1\n")
            (folder / "harmless.txt").symlink_to(write(self.place / "home" / folder.name / "id_ed25519", "hf_notarealtoken1"))
            write(folder / "certificate.pem", "-----BEGIN CERTIFICATE-----\n")
        with untouched(self, self.place):
            taken = self.snapshot(env)
        note = "left out; give it to the host as a service secret"
        for folder, (label, _, _) in places.items():
            # A file beside the modules has a line of the configuration that lets it ship.
            inside = folder.is_relative_to(env.site)
            for file, what in (("inner/server.pem", "holds a private key"), ("config.ini", "holds a value for `token`"), (".env", "an environment file"),
                               ("harmless.txt", "an SSH private key")):
                ships = f'; allow-secrets = ["{(folder / file).relative_to(env.root)}"] ships it as it is' if inside else ""
                self.finds(taken, ("warning", "secret", f"{label}/{file}", f"{what}: {note}{ships}"))
        self.assertEqual(len([f for f in self.findings(taken) if f[1] == "secret"]), 12)
        for _, label, inner in places.values():
            self.assertTrue((self.tree(taken.json, label) / inner / "certificate.pem").exists())
        found = subprocess.run(["grep", "-rl", "hf_notarealtoken1", self.station.store / "nix" / "store"], capture_output=True, text=True)
        self.assertEqual((found.returncode, found.stdout), (1, ""))

    def test_links_out_of_folders_that_python_looks_in(self):
        """What they lead to is captured in their place, or named."""
        env = self.environment()
        outside = write(self.place / "outside" / "file.txt", "outside").parent
        places = self.places(env)
        for folder, (_, name, _) in places.items():
            folder.mkdir(exist_ok=True)
            (folder / "file.txt").symlink_to(outside / "file.txt")
            (folder / "gone").symlink_to("/nonexistent/file")
            (folder / "kernel").symlink_to("/proc/self/environ")
            (folder / "model").symlink_to(write(env.root / "models" / "loras" / "big.safetensors", "x"))
            if name != "files no distribution owns":
                (folder / "folder").symlink_to(outside)
        with untouched(self, self.place):
            taken = self.snapshot(env)
        report = self.inspect(env).json
        named = [(o["from"], o["to"], o["captured"]) for o in report["outside"]]
        for label, name, inner in places.values():
            tree = self.tree(taken.json, name)
            self.assertEqual((tree / inner / "file.txt").read_text(), "outside")
            if not inner:
                self.assertEqual((tree / "folder" / "file.txt").read_text(), "outside")
                self.assertIn((f"{label}/file.txt", str(outside / "file.txt"), True), named)
                self.finds(taken, ("problem", "symlink", f"{label}/gone", "links to /nonexistent/file, which does not exist; left out"),
                           ("problem", "symlink", f"{label}/kernel", "links to /proc/self/environ, the kernel's: left out"),
                           ("warning", "outside", f"{label}/model", f"links into the models folder ({env.root}/models/loras/big.safetensors): "
                            "not captured, like models"))
            for folder, folders, files in os.walk(tree):
                for each in folders + files:
                    self.assertTrue(os.path.realpath(os.path.join(folder, each)).startswith(f"{tree}/"), each)
        no = "left out: No such file or directory (os error 2)"
        self.finds(taken, ("problem", "symlink", "loose/gone", f"a link that cannot be followed; {no}"),
                   ("problem", "symlink", "loose/kernel", "a link to /proc/self/environ, the kernel's: left out"),
                   ("warning", "outside", "loose/model", f"links into the models folder ({env.root}/models/loras/big.safetensors): "
                    "not captured, like models"))

    def test_files_of_the_venv_that_nobody_owns(self):
        env = self.environment()
        write(env.venv / "bin" / "mine.sh", "#!/bin/sh\n", 0o755)
        write(env.venv / "share" / "tool" / "one", "1")
        write(env.venv / "share" / "tool" / "inner" / "two", "2")
        write(env.venv / "etc" / "tool.conf", "x = 1\n")
        # A distribution's own data, its script, and a second name for that, as pip gives itself: nothing to tell.
        script = lambda body: f"#!{env.venv}/bin/python\nimport sys\nfrom alpha import main\nif __name__ == '__main__':\n{body}    sys.exit(main())\n"
        wheel = Wheel("alpha")
        wheel.members[f"{wheel.info}/entry_points.txt"] = b"[console_scripts]\nkept = alpha:main\nedited = alpha:main\nstrange = alpha:main\n"
        strange = b"#!/bin/sh\n# of an installer that nobody knows\n"
        rows = [*wheel.rows(), "../../../share/alpha/x,,", f"../../../bin/strange,{record_hash(strange)},{len(strange)}",
                *(f"../../../bin/{name},," for name in ("kept", "edited", "kept3.11"))]
        wheel.install(env.site, record="\n".join(rows) + "\n")
        write(env.venv / "share" / "alpha" / "x", "x")
        for name, body in (("kept", ""), ("kept3.11", ""), ("edited", "    sys.argv.append('--more')\n")):
            write(env.venv / "bin" / name, script(body), 0o755)
        write(env.venv / "bin" / "strange", strange, 0o755)
        alone = "no distribution owns it, and it is outside site-packages: not captured"
        wanted = {("bin/mine.sh", alone), ("etc/tool.conf", alone),
                  ("share/tool", "2 files that no distribution owns, outside site-packages: not captured"),
                  ("bin/edited", "the script of alpha 1.0: changed; the snapshot has the one that an installer writes for `edited = alpha:main`")}
        found = lambda report: {(f[2], f[3]) for f in self.findings(report) if f[1] in ("unowned", "patched")}
        with untouched(self, self.place):
            self.assertEqual(found(self.inspect(env)), wanted)
        env.age()
        self.inspect(env)
        self.assertEqual(found(self.inspect(env)), wanted)
        write(env.venv / "bin" / "edited", script(""), 0o755)
        self.assertEqual(found(self.inspect(env)), {w for w in wanted if w[0] != "bin/edited"})

    def test_the_site_packages_of_the_user(self):
        """`pip install --user`: looked in by an interpreter without a venv, and by a venv that includes the system's."""
        env = self.environment()
        home = self.place / "home"
        user = home / ".local" / "lib" / env.site.parent.name / "site-packages"
        Wheel("useralpha").install(user)
        write(user / "loose_of_user.py", "")
        outside = {"from": "site-packages of the user", "to": str(user), "captured": True}
        def seen(**variables):
            report = self.run_it("inspect", "--json", "--offline", env.root, HOME=home, **variables).json
            return "useralpha" in {d["name"] for d in report["distributions"]}, outside in report["outside"]
        self.assertEqual(seen(), (False, False))
        config = env.venv / "pyvenv.cfg"
        config.write_text(config.read_text().replace("include-system-site-packages = false", "include-system-site-packages = true"))
        self.assertEqual(seen(), (True, True))
        self.assertEqual(seen(PYTHONNOUSERSITE="1"), (False, False))
        base = os.path.realpath(env.venv / "bin" / "python")
        write(env.root / "stillframe.toml", f'[python]\ninterpreter = "{base}"\n')
        self.assertEqual(seen(), (True, True))
        self.assertEqual(seen(PYTHONUSERBASE=str(self.place / "nowhere")), (False, False))
        report = self.run_it("inspect", "--json", "--offline", env.root, HOME=home)
        self.finds(report, ("warning", "unowned", "loose_of_user.py", "no distribution owns it; it is captured"))

    def test_what_lies_in_two_site_directories(self):
        """As with Debian's pip and a newer one in a venv that includes the system's: the first on sys.path is what is imported, and
        what ships."""
        prefix, _ = BasePython().copy(self.place / "python")
        env = self.environment(python=prefix / "bin" / "python3")
        home = self.place / "home"
        user = home / ".local" / "lib" / env.site.parent.name / "site-packages"
        config = env.venv / "pyvenv.cfg"
        config.write_text(config.read_text().replace("include-system-site-packages = false", "include-system-site-packages = true"))
        Wheel("alpha", members={"bin_of_alpha.py": b"WHICH = 1\n"}).install(env.site)
        Wheel("alpha", "2.0", members={"alpha/later.py": b"", "alpha/__init__.py": b"NAME = 'two'\n"}).install(user)
        for name, site in (("beta", env.site), ("gamma", user)):
            Wheel(name, members={"tests_of_both/__init__.py": f"OF = {name!r}\n".encode(), f"space/{name}.py": b""}).install(site)
        write(user / "alpha" / "loose.py", "")
        write(user / "space" / "loose.py", "")
        write(user / "same.py", "SITE = 'user'\n")
        write(env.site / "same.py", "SITE = 'venv'\n")
        code = "import importlib.metadata as m, alpha, bin_of_alpha, tests_of_both, space.beta, space.gamma, space.loose, same; " \
               "print(m.version('alpha'), alpha.NAME, tests_of_both.OF, same.SITE)"
        wanted = "1.0 alpha beta venv\n"
        own = subprocess.run([env.venv / "bin" / "python", "-B", "-c", code], env={**os.environ, "HOME": str(home)}, capture_output=True,
                             text=True)
        self.assertEqual((own.stdout, own.stderr), (wanted, ""))
        taken = self.run_it("snapshot", "--json", "--offline", env.root, HOME=home)
        self.assertEqual(self.station.inside(f"{taken.json['snapshot']}/python/bin/python", "-c", code, hide=[self.place]).out, wanted)
        self.finds(taken, ("warning", "captured", f"{user}/alpha-2.0.dist-info", "alpha is installed twice; the first on sys.path counts"),
                   ("info", "unowned", "alpha/loose.py", f"behind {env.site}/alpha, which is earlier on sys.path: never imported, left out"),
                   ("info", "unowned", "same.py", f"behind {env.site}/same.py, which is earlier on sys.path: never imported, left out"),
                   ("warning", "unowned", "space/loose.py", "no distribution owns it; it is captured"))
        self.assertNotIn("alpha/later.py", [f[2] for f in self.findings(taken)])
        self.run_it("snapshots", "verify")

    def test_two_scripts_of_one_name(self):
        """Whose the environment has ships, whatever comes first in the alphabet."""
        env, index = self.environment(), self.index()
        taken, shown = [], []
        for last in ("alpha", "zeta"):
            for name in sorted(("alpha", "zeta"), key=lambda name: name == last):
                Wheel(name, members={f"{name}-1.0.dist-info/entry_points.txt": f"[console_scripts]\ntool = {name}:main\n".encode()}).install(env.site)
                write(env.venv / "bin" / "tool", f"#!{env.venv}/bin/python\nimport sys\nfrom {name} import main\nif __name__ == '__main__':\n"
                      "    sys.exit(main())\n", 0o755)
            taken.append(self.snapshot(env, PIP_INDEX_URL=index.url))
            python = (self.station.real(taken[-1].json["snapshot"]) / "python").readlink()
            shown.append(re.search(r"from (\w+) import main", (self.station.real(python) / "bin" / "tool").read_text())[1])
            self.finds(taken[-1], ("warning", "scripts", "bin/tool",
                                   f"a script of alpha and of zeta: the environment has that of {last}, `tool = {last}:main`"))
            self.assertEqual([f for f in self.findings(taken[-1]) if f[1] == "patched"], [])
        self.assertEqual(shown, ["alpha", "zeta"])
        self.assertNotEqual(taken[0].json["snapshot"], taken[1].json["snapshot"])

    def test_secrets_in_distributions_that_no_index_gave(self):
        """A local project's secrets are its owner's; a key in what an index gives to everybody is a test's."""
        env = self.environment()
        key = b"-----BEGIN PRIVATE KEY-----\nhf_notarealtoken2\n-----END PRIVATE KEY-----\n"
        members = {"NAME/test.pem": key, "NAME/config.ini": b"token = hf_notarealtoken2\n"}
        for name in ("local", "public", "edited"):
            Wheel(name, members={k.replace("NAME", name): v for k, v in members.items()}).install(env.site)
        write(env.site / "local-1.0.dist-info" / "direct_url.json", json.dumps({"url": f"file://{self.place}/local", "dir_info": {}}))
        write(env.site / "edited" / "config.ini", "token = hf_notarealtoken3\n")
        taken = self.snapshot(env)
        site = env.site.relative_to(env.root)

        def left(file, what):
            ships = f'allow-secrets = ["{site}/{file}"] ships it as it is'
            return (file, f"{file.partition('/')[0]} 1.0: left out, a secret: holds {what}; {ships}")
        self.assertEqual({(f[2], f[3]) for f in self.findings(taken) if f[1] == "secret"}, {
            left("local/test.pem", "a private key"), left("local/config.ini", "a value for `token`"), left("edited/config.ini", "a value for `token`")})
        self.assertEqual((self.tree(taken.json, "public 1.0") / "public" / "test.pem").read_bytes(), key)
        found = subprocess.run(["grep", "-rlE", "hf_notarealtoken[23]", self.station.store / "nix" / "store"], capture_output=True, text=True).stdout.split()
        self.assertEqual(sorted(os.path.basename(os.path.dirname(p)) + "/" + os.path.basename(p) for p in found),
                         ["edited/test.pem", "public/config.ini", "public/test.pem"])
        # What was decided before counts no more once the configuration says otherwise.
        write(env.root / "stillframe.toml", f'allow-secrets = ["{site}/local/config.ini"]\n')
        allowed = self.snapshot(env)
        self.assertEqual((self.tree(allowed.json, "local 1.0") / "local" / "config.ini").read_bytes(), members["NAME/config.ini"])
        write(env.root / "stillframe.toml", f'[redact]\n"{site}/local/config.ini" = ["token"]\n')
        self.finds(self.snapshot(env), ("warning", "secret", "local/config.ini", "local 1.0: left out, a secret: redact names it, and a file of a "
                                        f'distribution cannot be emptied; allow-secrets = ["{site}/local/config.ini"] ships it as it is'))

    def test_headers_in_the_folder_that_an_installer_chose(self):
        """pip names it as it was asked for the distribution, uv by the normalized name. Pinned either way, and where the environment has it."""
        wheel = Wheel("dotted.name", members={"dotted.name-1.0.data/headers/dotted.h": b"int dotted;\n"})
        wheel.members.pop("dotted.name/__init__.py")
        index = self.index().publish(wheel)
        for number, spelled in enumerate(("dotted.name", "dotted-name", "Dotted_Name")):
            with self.subTest(spelled):
                env = Environment(self.place / str(number) / "ComfyUI")
                place = f"include/site/{env.site.parent.name}/{spelled}/dotted.h"
                rows = [row for row in wheel.rows() if "headers" not in row]
                content = wheel.members["dotted.name-1.0.data/headers/dotted.h"]
                wheel.install(env.site, record="\n".join([*rows, f"../../../{place},{record_hash(content)},{len(content)}"]) + "\n")
                subprocess.run(["rm", "-r", env.site / "dotted.name-1.0.data"], check=True)
                write(env.venv / place, content)
                for variables in ({}, {"PIP_INDEX_URL": index.url}):
                    report = self.inspect(env, **variables)
                    self.assertEqual([f for f in self.findings(report) if f[1] in ("patched", "unowned")], [])
                self.assertEqual(self.provenance(report), {"dotted-name": ("pinned", None)})
                taken = self.snapshot(env, PIP_INDEX_URL=index.url).json
                self.assertEqual(self.station.inside("cat", f"{taken['snapshot']}/python/{place}").out, content.decode())

    def test_bytecode_in_a_record_with_its_source_beside_it(self):
        """As virtualenv's seeds have it: named where no interpreter looks for it, and not there. What has no source is missed."""
        env = self.environment()
        wheel = Wheel("alpha", members={"alone.py": b"", "alpha/there.pyc": b"bytecode"})
        tag = sys.implementation.cache_tag
        rows = [*wheel.rows(), f"alpha/__init__.{tag}.pyc,,", f"alone.{tag}.pyc,,", "alpha/__init__.pyc,,", "alpha/__pycache__,,",
                f"alpha/sourceless.{tag}.pyc,,"]
        wheel.install(env.site, record="\n".join(rows) + "\n")
        report = self.inspect(env)
        self.assertEqual([f for f in self.findings(report) if f[1] in ("patched", "unowned", "unreadable")],
                         [("warning", "patched", f"alpha/sourceless.{tag}.pyc", "alpha 1.0: missing")])

    def test_entry_points_that_are_none(self):
        env = self.environment()
        lines = [".. = alpha:main", "../up = alpha:main", "python3 = alpha:main", "bare = alpha", "evil = alpha:main();x", "good = alpha:main"]
        points = {"alpha": ("[console_scripts]\n" + "\n".join(lines) + "\n").encode(), "beta": b"[console_scripts]\nb\xff = beta:main\n",
                  "gamma": b"[console_scripts\ng = gamma:main\n"}
        for name, text in points.items():
            wheel = Wheel(name)
            wheel.members[f"{wheel.info}/entry_points.txt"] = text
            wheel.install(env.site)
        with untouched(self, self.place):
            taken = self.snapshot(env)
        found = {(path, message) for _, topic, path, message in self.findings(taken) if topic == "scripts"}
        of = lambda name, why: (f"{name}-1.0.dist-info/entry_points.txt", f"{name}: entry_points.txt: {why}; no script is made of it")
        self.assertEqual(found, {
            of("alpha", '".." is no script name'), of("alpha", '"../up" is no script name'),
            of("alpha", '"python3" is the interpreter\'s own name'), of("alpha", 'bare has the target "alpha", expected module:function'),
            of("alpha", 'evil has the target "alpha:main();x", expected module:function'), of("beta", "it is not UTF-8"),
            of("gamma", 'line 1: a section header without "]"')})
        layout = self.tree(taken.json, "Python environment")
        self.assertEqual(sorted(p.name for p in (layout / "bin").iterdir() if not p.name.startswith("python")), ["good"])
        self.assertTrue((layout / "bin" / "python3").is_symlink())
        self.store_is_sound()

    def test_a_script_in_the_place_of_the_interpreter(self):
        env = self.environment()
        script = b"#!python\nraise SystemExit('never')\n"
        members = {f"alpha-1.0.data/{place}": script for place in ("scripts/python3", "scripts/run", "data/bin/python", "data/pyvenv.cfg")}
        wheel, index = Wheel("alpha", members=members), self.index()
        index.publish(wheel)
        for name in members:
            wheel.members.pop(name)
        wheel.install(env.site)
        write(env.venv / "bin" / "run", b"#!" + bytes(env.venv) + b"/bin/python" + script.removeprefix(b"#!python"), 0o755)
        taken = self.snapshot(env, PIP_INDEX_URL=index.url)
        why = "alpha 1.0: left out: it would take the interpreter's place"
        self.finds(taken, *(("problem", "unreadable", f"alpha-1.0.data/{place}", why)
                            for place in ("scripts/python3", "data/bin/python", "data/pyvenv.cfg")))
        layout = self.tree(taken.json, "Python environment")
        self.assertTrue((layout / "bin" / "python3").is_symlink())
        self.assertIn("include-system-site-packages = false\n", (layout / "pyvenv.cfg").read_text())
        self.assertIn("never", (layout / "bin" / "run").read_text())

    def test_libraries_of_every_tree_are_audited(self):
        env = self.environment()
        places = self.places(env)
        for at, folder in enumerate(places):
            shared_object(folder / "native.so", f"libnone{at}.so.1")
        shared_object(env.pack / "native.so", "libnone3.so.1")
        shared_object(env.root / "comfy" / "native.so", "libnone4.so.1")
        shared_object(env.root / ".cache" / "torch_ops" / "native.so", "libnone5.so.1")
        # Of distributions without a usable RECORD: one of a wheel, one known by its top level alone; and a program.
        wheel, index = Wheel("alpha"), self.index()
        wheel.members["alpha/native.so"] = shared_object(self.place / "x.so", "libnone6.so.1").read_bytes()
        wheel.install(env.site, record=False)
        index.publish(wheel)
        shared_object(env.site / "beta" / "native.so", "libnone7.so.1")
        write(env.site / "beta-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: beta\nVersion: 1.0\n")
        write(env.site / "beta-1.0.dist-info" / "top_level.txt", "beta\n")
        shared_object(env.site / "gamma" / "program", "libnone8.so.1")
        result = self.inspect(env, PIP_INDEX_URL=index.url)
        labels = [f"{label}/native.so" for label, _, _ in places.values()] + [
            "custom_nodes/first-pack/native.so", f"{env.root}/comfy/native.so", ".cache/torch_ops/native.so", "alpha/native.so",
            "beta/native.so", "gamma/program"]
        wanted = [("info", "audit", label, f"needs libnone{at}.so.1, which neither the snapshot nor this machine has")
                  for at, label in enumerate(labels)]
        self.assertEqual(sorted(f for f in self.findings(result) if f[1] == "audit"), sorted(wanted))
        # The same of what is remembered.
        env.age()
        self.inspect(env, PIP_INDEX_URL=index.url)
        result = self.inspect(env, PIP_INDEX_URL=index.url)
        self.assertEqual(sorted(f for f in self.findings(result) if f[1] == "audit"), sorted(wanted))

    def test_what_else_the_audit_warns_of(self):
        """Two majors of CUDA, a newer C library than the captured one, and a RUNPATH in front of the snapshot's libraries."""
        env = self.environment()
        shared_object(env.site / "eleven" / "a.so", "libcudart.so.11.0")
        shared_object(env.site / "twelve" / "b.so", "libcublas.so.12")
        newer = env.site / "newer" / "c.so"
        newer.parent.mkdir()
        build = self.place / "build"
        write(build / "stub.c", "void wanted(void) {}\n")
        write(build / "stub.map", "GLIBC_2.99 { global: wanted; };\n")
        write(build / "user.c", "void wanted(void); void call(void) { wanted(); }\n")
        cc = ["cc", "-shared", "-nostdlib", "-fPIC"]
        subprocess.run([*cc, build / "stub.c", "-o", build / "libc.so.6", "-Wl,-soname,libc.so.6", f"-Wl,--version-script,{build}/stub.map"], check=True)
        subprocess.run([*cc, build / "user.c", build / "libc.so.6", "-o", newer], check=True)
        # One that a module of the standard library needs, and that is not loaded before it.
        modules = {"_lzma": "liblzma.so.5", "_bz2": "libbz2.so.1.0", "_ctypes": "libffi.so.8"}
        brought = next(name for module, name in modules.items() if importlib.util.find_spec(module))
        far = env.site / "far" / "d.so"
        far.parent.mkdir()
        subprocess.run([*cc, "-x", "c", "/dev/null", "-x", "none", "-o", far, "-Wl,--no-as-needed", "-Wl,--enable-new-dtags,-rpath,/usr/lib/x86_64-linux-gnu",
                        library(brought)], check=True)
        result = self.inspect(env)
        found = [f for f in self.findings(result) if f[1] == "audit"]
        self.assertIn(("warning", "audit", "CUDA", "CUDA versions are mixed: CUDA 11 by eleven; CUDA 12 by twelve"), found)
        self.assertIn(("warning", "audit", "far/d.so", f"its RUNPATH hides the snapshot's {brought}; the host's would be used"), found)
        grave = next(f for f in found if f[0] == "problem" and f[2] == "newer/c.so")
        self.assertRegex(grave[3], r"^needs GLIBC 2\.99, the captured C library is 2\.\d+$")
        self.assertRegex(next(f for f in found if f[2] == "GLIBC")[3], r"^newer/c\.so needs glibc 2\.99, the captured one is 2\.\d+$")
        self.assertEqual(result.json["audit"]["glibc_floor"][0], [2, 99])

    def test_a_library_of_the_system_is_advised_and_the_advice_helps(self):
        env = self.environment()
        known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
        names = sorted({line.split()[0] for line in known.splitlines() if "=>" in line and "x86-64" in line and ".so." in line})
        shared_object(env.site / "native.so", *names[:60])
        advice = re.compile(r"needs (\S+), which nothing in the snapshot has; add (\S+) to \[python\] libraries")
        said = [f for f in self.findings(self.inspect(env)) if f[1] == "audit"]
        found = [(f[0], f[2], advice.fullmatch(f[3])) for f in said]
        severity, path, (library, where) = next((s, p, m.groups()) for s, p, m in found if m)
        self.assertEqual((severity, path, os.path.basename(where)), ("problem", "native.so", library))
        self.assertTrue(os.path.exists(where))
        write(env.root / "stillframe.toml", f'[python]\nlibraries = ["{where}"]\n')
        taken = self.snapshot(env)
        after = {advice.fullmatch(f[3])[1] for f in self.findings(taken) if f[1] == "audit" and advice.fullmatch(f[3])}
        self.assertEqual(after & {library}, set())
        self.assertLess(len(after), len(found))
        self.assertTrue((self.tree(taken.json, "further libraries") / "lib" / library).exists())
        # The line that names all of them mends all of them.
        ready = next(f[3] for f in said if f[2] == "stillframe.toml").partition("missing libraries: ")[2]
        write(env.root / "stillframe.toml", f"[python]\n{ready}\n")
        self.assertEqual([f for f in self.findings(self.inspect(env)) if f[1] == "audit" and "[python]" in f[3]], [])

    def test_code_in_pth_files(self):
        env = self.environment()
        folder = write(self.place / "by-code" / "far.py", "").parent
        pth = write(env.site / "code.pth", f"# a comment\nimport sys; sys.path.append('{folder}')\nimport sys; sys.path += []\nimport os\n")
        Wheel("alpha", members={"alpha.pth": f"import site; site.addsitedir('{folder}')\n".encode()}).install(env.site)
        rest = "by code, which is not followed: nothing of it is captured; name the folder on a line of its own instead"
        wanted = [("warning", "outside", str(env.site / "alpha.pth"), f"line 1 adds {folder} to sys.path {rest}"),
                  ("warning", "outside", str(pth), f"line 2 adds {folder} to sys.path {rest}"),
                  ("warning", "outside", str(pth), f"line 3 changes sys.path {rest}")]
        self.assertEqual([f for f in self.findings(self.inspect(env)) if f[1] == "outside"], wanted)
        # Remembered as well as read.
        env.age()
        self.inspect(env)
        self.assertEqual([f for f in self.findings(self.inspect(env)) if f[1] == "outside"], wanted)

    def test_folders_that_pth_files_name_in_any_way(self):
        env = self.environment()
        write(self.place / "beside" / "by_place.py", "")
        write(self.place / "far" / "inner" / "by_slashes.py", "")
        archive = self.place / "eggs.zip"
        with zipfile.ZipFile(archive, "w") as eggs:
            eggs.writestr("by_zip.py", "")
        beside = os.path.relpath(self.place / "beside", env.site)
        pth = write(env.site / "ways.pth", f"{beside}\n/{self.place}//far/../far/inner/\n{archive}\n")
        taken = self.snapshot(env)
        self.finds(taken, ("problem", "outside", str(pth), f"names {archive}, which is not a folder; it is not captured"))
        python = f"{taken.json['snapshot']}/python/bin/python"
        self.station.inside(python, "-c", "import by_place, by_slashes", hide=[self.place])


if __name__ == "__main__":
    unittest.main()
