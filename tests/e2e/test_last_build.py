"""Editable installs that are built anew at each import: what the last build made ships, laid out as an install would be. The hooks are those
of meson-python and scikit-build-core, shortened: what they serve is what they say."""
import json
import os
import unittest

from small import Case, Wheel, untouched, write

BATCH = True

MESON = """import json, os, sys, importlib.machinery, importlib.util
MARKER = 'MESONPY_EDITABLE_SKIP'
class Finder:
    def __init__(self, build):
        self.build = build
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split('.')[0] != 'mesoned':
            return None
        if not os.access(self.build, os.W_OK) or os.statvfs(self.build).f_flag & os.ST_RDONLY:
            raise ImportError('re-building failed')
        plan, table = json.load(open(self.build + '/meson-info/intro-install_plan.json')), {}
        for source, target in [pair for kind in plan.values() for pair in kind.items()]:
            place = target['destination'].split('/', 1)[1]
            inner = os.listdir(source) if os.path.isdir(source) else ['']
            table.update({os.path.join(place, name) if name else place: os.path.join(source, name) if name else source for name in inner})
        path = fullname.replace('.', '/')
        if path + '.py' in table:
            return importlib.util.spec_from_file_location(fullname, table[path + '.py'])
        if path + '/__init__.py' in table:
            return importlib.util.spec_from_file_location(fullname, table[path + '/__init__.py'], submodule_search_locations=['/nowhere'])
        if any(name.startswith(path + '/') for name in table):
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = ['/nowhere']
            return spec
def install(*arguments):
    sys.meta_path.insert(0, Finder(arguments[-3]))
"""

SCIKIT = """import os, sys, importlib.util
DIR = os.path.dirname(os.path.abspath(__file__))
class ScikitBuildRedirectingFinder:
    def __init__(self, sources, built, path, rebuild):
        self.sources, self.built, self.path = sources, built, path
    def find_spec(self, fullname, path=None, target=None):
        if fullname in self.built:
            if not os.path.isdir(self.path):
                raise ImportError('no build folder')
            return importlib.util.spec_from_file_location(fullname, os.path.join(DIR, self.built[fullname]))
        if fullname in self.sources:
            file = self.sources[fullname]
            where = [os.path.dirname(file)] if file.endswith('__init__.py') else None
            return importlib.util.spec_from_file_location(fullname, file, submodule_search_locations=where)
def install(sources, built, path, rebuild=False, *more):
    sys.meta_path.insert(0, ScikitBuildRedirectingFinder(sources, built, path, rebuild))
"""


class LastBuild(Case):
    def setUp(self):
        super().setUp()
        self.env = self.environment()

    def installed(self, name, hook, text, files=(), begin=""):
        """An editable install of `place/name` with a hook of that name."""
        wheel = Wheel(name)
        del wheel.members[f"{name}/__init__.py"], wheel.members[f"{name}/data.txt"]
        wheel.members[f"{hook}.py"] = text.encode()
        wheel.members[f"{name}-editable.pth"] = f"import {hook}{begin}".encode()
        wheel.members.update(dict(files))
        wheel.install(self.env.site)
        write(self.env.site / wheel.info / "direct_url.json", json.dumps({"url": f"file://{self.place}/{name}", "dir_info": {"editable": True}}))

    def meson(self, call):
        project = self.place / "mesoned"
        build = project / "build" / "cp311"
        write(project / "meson.build", "project('mesoned', 'c')\n")
        write(project / "mesoned/__init__.py", "from . import _core\nfrom .data import more\nV = _core.V + more.W\n")
        write(project / "mesoned/data/more.py", "W = 'source'\n")
        write(project / "mesoned/data/ABOUT.in", "not installed\n")
        write(project / "core.c", "int x;\n")
        write(build / "_core.py", "V = 'built, '\n")
        write(build / "build.ninja", "")
        info = build / "meson-info"
        platlib = lambda path: {"destination": "{py_platlib}/" + path, "tag": "python-runtime", "subproject": None}
        write(info / "intro-install_plan.json", json.dumps({
            "targets": {str(build / "_core.py"): platlib("mesoned/_core.py")},
            "python": {str(project / "mesoned/__init__.py"): platlib("mesoned/__init__.py")},
            "install_subdirs": {str(project / "mesoned/data"): {**platlib("mesoned/data"), "exclude_files": ["ABOUT.in"], "exclude_dirs": []}},
            "man": {str(project / "core.c"): {"destination": "{mandir}/x.1"}}}))
        write(info / "intro-buildsystem_files.json", json.dumps([str(project / "meson.build")]))
        write(info / "intro-targets.json", json.dumps([
            {"name": "_core", "filename": [str(build / "_core.py")], "target_sources": [{"language": "c", "sources": [str(project / "core.c")]},
                                                                                       {"linker": ["cc"]}]}]))
        old = 1_600_000_000
        for path in (project / "meson.build", project / "core.c"):
            os.utime(path, (old, old))
        self.installed("mesoned", "_mesoned_editable_loader", MESON + call.format(build=build), begin="; _mesoned_editable_loader.init()" if "init" in call else "")
        return project, build

    NEW = "install(\n    'mesoned',\n    {{'mesoned'}},\n    '{build}',\n    ['/usr/bin/ninja'],\n    False,\n)"
    NEWEST = "def MesonpyMetaFinder(*arguments):\n    return Finder(arguments[-3])\ndef init():\n    finder = MesonpyMetaFinder(\n        'mesoned',\n" \
             "        {{'mesoned'}},\n        '{build}',\n        ['/usr/bin/ninja'],\n        False,\n    )\n    sys.meta_path.insert(0, finder)\n"
    OLD = "install(\n    {{'mesoned'}},\n    '{build}',\n    ['/usr/bin/ninja'],\n    False,\n)"

    def scikit(self):
        project, build = self.place / "sciked", self.place / "scikit-build"
        write(project / "src/sciked/__init__.py", "import os\nfrom . import _core, sub\nV = _core.V + open(os.path.dirname(__file__) + '/d.txt').read()\n")
        write(project / "src/sciked/sub/__init__.py", "")
        write(project / "src/sciked/d.txt", "data")
        write(project / "src/core.c", "")
        write(build / "_core.so", "")
        os.utime(project / "src/core.c", (1_600_000_000, 1_600_000_000))
        reply = build / ".cmake/api/v1/reply"
        write(reply / "codemodel-v2-1.json", json.dumps({"paths": {"source": str(project), "build": str(build)},
                                                         "configurations": [{"targets": [{"jsonFile": "target-core-1.json"}]}]}))
        write(reply / "target-core-1.json", json.dumps({"artifacts": [{"path": "_core.so"}], "sources": [{"path": "src/core.c"}]}))
        src = project / "src/sciked"
        sources = {"sciked": f"{src}/__init__.py", "sciked.sub": f"{src}/sub/__init__.py"}
        call = f"\n\ninstall({sources!r}, {{'sciked._core': 'sciked/_core.py'}}, {str(build)!r}, True, False, [], [], '')\n"
        self.installed("sciked", "_sciked_editable", SCIKIT + call, {"sciked/_core.py": b"V = 'built, '\n"})
        return project

    def values(self, python, *names, **more):
        ask = "import json, importlib, importlib.metadata as m\nprint(json.dumps({n: [importlib.import_module(n).V, m.version(n)] for n in %r}))" % (names,)
        done = self.station.inside(python, "-B", "-c", ask, **more)
        return json.loads(done.out)

    def imports(self, taken):
        return [f for f in self.findings(taken) if f[1] == "imports"]

    def test_each_ships_as_it_was_built(self):
        project, build = self.meson(self.NEW)
        second = self.scikit()
        names = ["mesoned", "sciked"]
        want = {"mesoned": ["built, source", "1.0"], "sciked": ["built, data", "1.0"]}
        self.assertEqual(self.values(f"{self.env.venv}/bin/python", *names), want)
        with untouched(self, self.place):
            taken = self.snapshot(self.env)
        self.assertEqual(self.imports(taken), [])
        self.finds(taken, *[("info", "captured", name, f"editable install of {self.place}/{name} by {builder}, which builds it at each import: what its "
                             "last build made ships, without that hook") for name, builder in (("mesoned", "meson-python"), ("sciked", "scikit-build-core"))])
        self.assertEqual(self.values(f"{taken.json['snapshot']}/python/bin/python", *names, hide=[self.place]), want)
        tree = self.tree(taken.json, "mesoned 1.0")
        inside = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and "dist-info" not in str(path))
        self.assertEqual(inside, ["mesoned/__init__.py", "mesoned/_core.py", "mesoned/data/more.py"])
        # What is newer than its product is said; a change of a product is another snapshot.
        self.env.age()
        self.assertEqual(self.snapshot(self.env).json["snapshot"], taken.json["snapshot"])
        os.utime(project / "core.c")
        os.utime(second / "src/core.c")
        again = self.snapshot(self.env)
        stale = "stale: {} is newer than what was built of it, and what was built ships; import {} once in the environment, which builds it"
        self.assertEqual(self.imports(again), [("warning", "imports", "mesoned", stale.format(project / "core.c", "mesoned")),
                                               ("warning", "imports", "sciked", stale.format(second / "src/core.c", "sciked"))])
        self.assertEqual(again.json["snapshot"], taken.json["snapshot"])
        write(build / "_core.py", "V = 'newer, '\n")
        self.assertNotEqual(self.snapshot(self.env).json["snapshot"], taken.json["snapshot"])

    def test_of_other_versions_and_of_one_that_says_too_little(self):
        def reasons():
            seen = self.inspect(self.env)
            return self.provenance(seen)["mesoned"][1], self.imports(seen)
        for call in (self.OLD, self.NEWEST):
            _, build = self.meson(call)
            self.assertEqual(self.values(f"{self.env.venv}/bin/python", "mesoned")["mesoned"][0], "built, source")
            said, imports = reasons()
            self.assertIn("what its last build made ships", said)
            self.assertEqual(imports, [])
        problem = ("problem", "imports", "mesoned", "an editable install of meson-python, which is built at each import: a host cannot do that, and it "
                   "does not import there; install it without -e")
        (build / "_core.py").rename(build / "moved.py")
        self.assertEqual(reasons(), (f"editable install of {self.place}/mesoned", [problem]))
        (build / "_core.py").symlink_to("/etc/hostname")
        self.assertEqual(reasons()[1], [problem], "a file of nobody's project")


if __name__ == "__main__":
    unittest.main()
