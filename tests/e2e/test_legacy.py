"""Installations without a wheel, as `setup.py install` and `develop` leave them: eggs, egg-links, `.egg-info` with and without a list of
its files. Each is a distribution like any other."""
import json
import subprocess
import zipfile

from small import Case, untouched, write

SECONDS = 30
BATCH = True


class Legacy(Case):
    def entry_script(self, env, name, point):
        """What setuptools writes for an entry point."""
        write(env.venv / "bin" / point, f"""#!{env.venv}/bin/python
# EASY-INSTALL-ENTRY-SCRIPT: '{name}==0.3','console_scripts','{point}'
import re
import sys

# for compatibility with easy_install; see #2198
__requires__ = '{name}==0.3'

try:
    from importlib.metadata import distribution
except ImportError:
    try:
        from importlib_metadata import distribution
    except ImportError:
        from pkg_resources import load_entry_point


def importlib_load_entry_point(spec, group, name):
    dist_name, _, _ = spec.partition('==')
    matches = (
        entry_point
        for entry_point in distribution(dist_name).entry_points
        if entry_point.group == group and entry_point.name == name
    )
    return next(matches).load()


globals().setdefault('load_entry_point', importlib_load_entry_point)


if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])
    sys.exit(load_entry_point('{name}==0.3', 'console_scripts', '{point}')())
""", 0o755)

    def info(self, name):
        return {"PKG-INFO": f"Metadata-Version: 2.1\nName: old-{name}\nVersion: 0.3\n", "top_level.txt": f"old_{name}\n",
                "entry_points.txt": f"[console_scripts]\nrun-{name} = old_{name}:main\n"}

    def module(self, name):
        return {f"old_{name}/__init__.py": f"def main():\n    print('ran {name}')\n", f"old_{name}/d.txt": f"data of {name}"}

    def test_each_form_is_a_distribution(self):
        env = self.environment()
        names = ["folder", "zipped", "linked", "listed", "sourced"]
        for name in names:
            self.entry_script(env, f"old-{name}", f"run-{name}")
        folder = env.site / "old_folder-0.3-py3.11.egg"
        members = lambda name: {**self.module(name), **{f"EGG-INFO/{k}": v for k, v in self.info(name).items()},
                                f"EGG-INFO/scripts/tool-{name}": f"#!python\nimport old_{name}; old_{name}.main()\n"}
        for path, text in members("folder").items():
            write(folder / path, text)
        with zipfile.ZipFile(env.site / "old_zipped-0.3-py3.11.egg", "w", zipfile.ZIP_DEFLATED) as archive:
            for path, text in members("zipped").items():
                archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
        # One that nothing puts on the path, and another of a name that is there.
        for path, text in members("idle").items():
            write(env.site / "old_idle-0.3-py3.11.egg" / path, text)
        project = self.place / "project"
        for path, text in {**self.module("linked"), **{f"old_linked.egg-info/{k}": v for k, v in self.info("linked").items()},
                           "tool-linked": "import old_linked; old_linked.main()\n"}.items():
            write(project / path, text)
        write(env.site / "old-linked.egg-link", f"{project}\n.")
        write(env.site / "easy-install.pth", f"./{folder.name}\n./old_zipped-0.3-py3.11.egg\n{project}\n")
        write(env.venv / "bin" / "tool-linked", f"#!{env.venv}/bin/python\n# EASY-INSTALL-DEV-SCRIPT: 'old-linked==0.3','tool-linked'\n"
              f"__file__ = '{project}/tool-linked'\nwith open(__file__) as f:\n    exec(compile(f.read(), __file__, 'exec'))\n", 0o755)
        write(env.venv / "bin" / "tool-folder", f"#!{env.venv}/bin/python\n# EASY-INSTALL-SCRIPT: 'old-folder==0.3','tool-folder'\n"
              "import old_folder; old_folder.main()\n", 0o755)
        for name in ("listed", "sourced"):
            for path, text in self.module(name).items():
                write(env.site / path, text)
            write(env.venv / "bin" / f"tool-{name}", f"#!{env.venv}/bin/python\nimport old_{name}; old_{name}.main()\n", 0o755)
            info = env.site / f"old_{name}-0.3-py3.11.egg-info"
            for path, text in self.info(name).items():
                write(info / path, text)
        write(env.venv / "share" / "listed" / "x.txt", "x of listed")
        write(env.site / "old_listed-0.3-py3.11.egg-info" / "installed-files.txt", "\n".join(
            ["../old_listed/__init__.py", "../old_listed/d.txt", "PKG-INFO", "entry_points.txt", "installed-files.txt", "top_level.txt",
             "../../../../bin/run-listed", "../../../../bin/tool-listed", "../../../../share/listed/x.txt"]) + "\n")
        write(env.site / "old_sourced-0.3-py3.11.egg-info" / "SOURCES.txt", "setup.py\nbin/tool-sourced\nold_sourced/__init__.py\nold_sourced/d.txt\n")
        tools = ["tool-folder", "tool-linked", "tool-listed", "tool-sourced"]
        code = """
import importlib, importlib.metadata as m, json, os, pkgutil, subprocess, sys
names, tools = json.loads(sys.argv[1])
out = {"distributions": sorted(d.metadata["Name"] for d in m.distributions())}
for n in names:
    points = sorted((e.name, e.value) for e in m.distribution("old-" + n).entry_points)
    out[n] = [m.version("old-" + n), importlib.import_module("old_" + n).__name__, pkgutil.get_data("old_" + n, "d.txt").decode(), points]
for script in tools + ["run-" + n for n in names]:
    out[script] = subprocess.run([os.path.join(sys.prefix, "bin", script)], capture_output=True, text=True).stdout
out["share"] = open(os.path.join(sys.prefix, "share/listed/x.txt")).read()
print(json.dumps(out))
"""
        ask = ["-B", "-c", code, json.dumps([names, tools])]
        wanted = json.loads(subprocess.run([env.venv / "bin" / "python", *ask], capture_output=True, text=True, check=True).stdout)
        self.assertEqual((wanted["run-zipped"], wanted["tool-linked"]), ("ran zipped\n", "ran linked\n"))
        with untouched(self, self.place):
            report = self.inspect(env)
            taken = self.snapshot(env).json
        self.assertEqual(json.loads(self.station.inside(f"{taken['snapshot']}/python/bin/python", *ask, hide=[self.place]).out), wanted)
        self.assertEqual(sorted(self.provenance(report)), sorted(f"old-{name}" for name in names))
        self.assertEqual(self.provenance(report)["old-linked"], ("captured", "an editable install, as `setup.py develop` makes it"))
        idle = {f"old_idle-0.3-py3.11.egg/{path}" for path in members("idle")}
        self.assertEqual({f[2] for f in self.findings(report) if f[1] in ("unowned", "patched", "scripts")}, idle | {"easy-install.pth"})
        for form in ("pylock", "cyclonedx", "manager-snapshot"):
            said = self.run_it("export", form, taken["id"]).text
            for name in names:
                self.assertIn(f"old-{name}", said, form)
