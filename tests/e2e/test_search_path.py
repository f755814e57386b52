"""Which folders Python looks in is its own to say: the interpreter's version, prefix and site directories, PYTHONPATH, the active one of
two environments, and virtual environments of links."""
import json
import shutil
import subprocess
import sys

from small import Case, Wheel, untouched, write

SECONDS = 40
BATCH = True


class SearchPath(Case):
    def imports(self, python, names, inside=False, **variables):
        """Which of the modules an interpreter imports, and the version of each as its metadata has it."""
        code = """
import importlib, importlib.metadata, json, sys
def ask(f):
    try: return f()
    except (ImportError, importlib.metadata.PackageNotFoundError): return None
print(json.dumps([[n, ask(lambda: importlib.import_module(n).NAME), ask(lambda: importlib.metadata.version(n))] for n in sys.argv[1:]]))
"""
        command = [python, "-B", "-c", code, *names]
        if inside:
            return json.loads(self.station.inside(*command, hide=[self.place]).out)
        return json.loads(subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True,
                                         env=self.station.environment(**variables)).stdout)

    def test_a_venv_whose_interpreter_became_another_version(self):
        """As after an upgrade of the system: pyvenv.cfg names the old version, whose folder is still there."""
        env = self.environment()
        Wheel("newone").install(env.site)
        config, own = env.venv / "pyvenv.cfg", "%d.%d" % sys.version_info[:2]
        other = "3.%d" % (sys.version_info[1] - 1)
        lines = [line for line in config.read_text().splitlines() if not line.startswith("version")]
        config.write_text("\n".join([*lines, f"version = {other}.4"]) + "\n")
        old = env.venv / "lib" / f"python{other}" / "site-packages"
        Wheel("oldone").install(old)
        names = ["oldone", "newone"]
        wanted = self.imports(env.venv / "bin" / "python", names)
        self.assertEqual(wanted, [["oldone", None, None], ["newone", "newone", "1.0"]])
        with untouched(self, self.place):
            taken = self.snapshot(env)
        self.assertEqual(self.imports(f"{taken.json['snapshot']}/python/bin/python", names, inside=True), wanted)
        version = self.inspect(env).json["python"]["version"]
        self.finds(taken, ("warning", "runtime", str(config), f"says Python {other}.4, but the interpreter is Python {version}: it does not see what "
                           "was installed for the other, which is not captured"))
        # Nothing was installed since.
        env.age()
        shutil.rmtree(env.venv / "lib" / f"python{own}")
        self.failure(["inspect", env.root], 1, f"""\
error: the virtual environment {env.venv} is broken: its interpreter is Python {version}, which finds no site-packages in it, and it was made for Python {other}.4
  hint: recreate it with `uv venv` or `python3 -m venv`; for another Python, set `interpreter` under [python] in stillframe.toml""")

    def test_a_venv_with_links_in_unusual_places(self):
        """Each of its folders may lie on another disk."""
        env = self.environment()
        wheel = Wheel("alpha", members={"alpha-1.0.data/scripts/run": b"#!python\n"})
        wheel.members[f"{wheel.info}/entry_points.txt"] = b"[console_scripts]\ntool = alpha:main\n"
        run = wheel.members.pop("alpha-1.0.data/scripts/run")
        script = f"#!{env.venv}/bin/python\n".encode() + run.partition(b"\n")[2]
        tool = f"#!{env.venv}/bin/python\nimport sys\nfrom alpha import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
        wheel.install(env.site, record="\n".join([*wheel.rows(), "../../../bin/run,,", "../../../bin/tool,,", "../../../share/alpha/x,,"]) + "\n")
        write(env.venv / "bin" / "run", script, 0o755)
        write(env.venv / "bin" / "tool", tool, 0o755)
        write(env.venv / "share" / "alpha" / "x", "x")
        plain = self.inspect(env).json
        version = env.site.parent
        for number, at in enumerate([env.site, version, env.venv / "lib", env.venv / "bin", env.venv / "share", env.venv]):
            with self.subTest(at=at.relative_to(env.root)):
                far = self.place / "far" / str(number)
                far.parent.mkdir(exist_ok=True)
                at.rename(far)
                at.symlink_to(far)
                found = self.inspect(env).json
                self.assertEqual(found["findings"], plain["findings"])
                self.assertEqual((found["distributions"], found["python"]), (plain["distributions"], plain["python"]))
        self.assertEqual([(d["name"], d["changed"]) for d in plain["distributions"]], [("alpha", [])])

    def test_the_active_environment_beside_another(self):
        env = self.environment()
        other = self.place / "opt" / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
        Wheel("beta").install(next((other / "lib").glob("python3*/site-packages")))
        Wheel("alpha").install(env.site)
        names = lambda report: [d["name"] for d in report.json["distributions"]]
        self.assertEqual(names(self.inspect(env)), ["alpha"])
        report = self.inspect(env, VIRTUAL_ENV=str(other))
        self.assertEqual((names(report), report.json["python"]["found"]), (["beta"], "from $VIRTUAL_ENV"))
        self.finds(report, ("warning", "runtime", str(other), f"captured (from $VIRTUAL_ENV); another environment, {env.venv}, is not (beside the "
                            "program); to be certain, set `interpreter` under [python] in stillframe.toml"))

    def test_what_pythonpath_names(self):
        """A folder that `pip install --target` filled, as on the volume of a rented machine; and folders of modules alone."""
        env = self.environment()
        Wheel("alpha").install(env.site)
        Wheel("beta").install(env.site)
        target, loose = self.place / "volume" / "site", self.place / "loose"
        wheel = Wheel("beta", "2.0", members={"beta/__init__.py": b"NAME = 'beta of the volume'\ndef main(): print(NAME)\n"})
        wheel.members[f"{wheel.info}/entry_points.txt"] = b"[console_scripts]\nbeta-tool = beta:main\n"
        wheel.members["beta-2.0.data/scripts/beta-run"] = b"#!python\nimport beta; beta.main()\n"
        wheel.members["beta-2.0.data/data/share/beta.txt"] = b"shared"
        file = write(self.place / wheel.file, wheel.archive())
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", target, file], check=True,
                       capture_output=True)
        write(loose / "loose_module.py", "NAME = 'loose'\n")
        path = f"{target}:{loose}:{env.root}:{self.place}/gone"
        names = ["alpha", "beta"]
        wanted = self.imports(env.venv / "bin" / "python", names, PYTHONPATH=path)
        self.assertEqual(wanted, [["alpha", "alpha", "1.0"], ["beta", "beta of the volume", "2.0"]])
        with untouched(self, self.place):
            taken = self.snapshot(env, PYTHONPATH=path)
        python = f"{taken.json['snapshot']}/python"
        self.assertEqual(self.imports(f"{python}/bin/python", names, inside=True), wanted)
        for script in ("beta-tool", "beta-run"):
            self.assertEqual(self.station.inside(f"{python}/bin/{script}", hide=[self.place]).out, "beta of the volume\n")
        about = [f for f in self.findings(taken) if f[1] in ("outside", "unowned", "patched")]
        self.assertEqual(about, [("warning", "outside", "PYTHONPATH", f"names {loose}, which holds no installed distribution; it is not captured: "
                                  "name the folder in a .pth file instead")])
        self.assertIn({"from": "PYTHONPATH", "to": str(target), "captured": True}, self.inspect(env, PYTHONPATH=path).json["outside"])
        # Without it the environment has the other one.
        self.assertEqual([d["version"] for d in self.inspect(env).json["distributions"]], ["1.0", "1.0"])
