"""Metadata that an interrupted upgrade left behind: one store path gives one answer, whatever the order of a folder."""
import json
import os
import shutil
import subprocess

from small import Case, Wheel, untouched, write

SECONDS = 40
BATCH = True


class Leftovers(Case):
    def versions(self, taken, *names):
        code = "import importlib.metadata as m, json, sys; print(json.dumps([m.version(n) for n in sys.argv[1:]]))"
        return json.loads(self.station.inside(f"{taken['snapshot']}/python/bin/python", "-B", "-c", code, *names, hide=[self.place]).out)

    def metadata(self, taken):
        listed = self.station.inside("sh", "-c", f"cd {taken['snapshot']}/python/lib/python3*/site-packages && ls -A").out.split()
        return [name for name in listed if not name.startswith("_stillframe")]

    def test_what_pip_ignores_is_left_out_and_named(self):
        env = self.environment()
        Wheel("alpha", "2.0").install(env.site)
        write(env.site / "alpha-1.0.dist-info" / "INSTALLERxne2hz8x.tmp", "pip")
        Wheel("beta", "2.0").install(env.site)
        (env.site / "beta-1.0.dist-info").mkdir()
        Wheel("gamma").install(env.site)
        for name in ("~amma", "~-mma-0.9.dist-info", "~amma.libs"):
            write(env.site / name / "METADATA", "Metadata-Version: 2.1\nName: gamma\nVersion: 0.9\n")
        # Whose modules nobody owns any more.
        Wheel("delta").install(env.site)
        (env.site / "delta-1.0.dist-info" / "METADATA").unlink()
        write(env.site / "_odd_-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
        # Of somebody who names a file so.
        Wheel("epsilon", members={"~epsilon/of_its_own.txt": b"x"}).install(env.site)
        with untouched(self, self.place):
            taken = self.snapshot(env)
        whole = ["alpha-2.0.dist-info", "beta-2.0.dist-info", "epsilon-1.0.dist-info", "gamma-1.0.dist-info"]
        self.assertEqual(sorted(self.metadata(taken.json)), sorted([*whole, "alpha", "beta", "gamma", "delta", "epsilon", "~epsilon"]))
        self.assertEqual(self.versions(taken.json, "alpha", "beta", "gamma", "epsilon"), ["2.0", "2.0", "1.0", "1.0"])
        unusable = "no usable metadata (No such file or directory (os error 2)), and its files count as owned by no distribution: left out"
        aside = "what pip had set aside during an installation that it did not end: left out"
        about = {(os.path.basename(path), message) for _, topic, path, message in self.findings(taken) if topic == "captured" and "/" in path}
        self.assertEqual(about, {("alpha-1.0.dist-info", unusable), ("beta-1.0.dist-info", unusable), ("delta-1.0.dist-info", unusable),
                                 ("~amma", aside), ("~-mma-0.9.dist-info", aside), ("~amma.libs", aside),
                                 ("_odd_-1.0.dist-info", "no name of a distribution: pip ignores it, too: left out")})
        self.finds(taken, ("warning", "unowned", "delta/__init__.py", "no distribution owns it; it is captured"))

    def test_of_two_whole_ones_the_one_whose_files_lie_there(self):
        env = self.environment()
        def both(name, last):
            """Two versions in turn, neither uninstalled: the metadata of both, the files of the last."""
            for version in sorted(["1.0", "10.0"], key=lambda version: version == last):
                Wheel(name, version, members={f"{name}/__init__.py": f"V = {version!r}\n".encode(), f"{name}/only_{version[0:2]}.py": b""}).install(env.site)
        both("alpha", "1.0")
        both("beta", "10.0")
        # Of one version, in two spellings.
        Wheel("ga_mma").install(env.site)
        other = Wheel("ga.mma").install(env.site)
        shutil.rmtree(env.site / "ga.mma")
        taken = self.snapshot(env)
        self.assertEqual(self.versions(taken.json, "alpha", "beta", "ga-mma"), ["1.0", "10.0", "1.0"])
        self.assertEqual([n for n in sorted(self.metadata(taken.json)) if "-info" in n],
                         ["alpha-1.0.dist-info", "beta-10.0.dist-info", "ga_mma-1.0.dist-info"])
        for name, gone, stays in (("alpha", "alpha-10.0.dist-info", "alpha-1.0.dist-info"), ("beta", "beta-1.0.dist-info", "beta-10.0.dist-info"),
                                  ("ga-mma", other.info, "ga_mma-1.0.dist-info")):
            self.finds(taken, ("warning", "captured", f"{env.site}/{gone}", f"a second metadata folder of {name} beside {stays}, whose files lie there: left out"))
        self.assertEqual({d["name"]: d["changed"] for d in self.inspect(env).json["distributions"]}, {"alpha": [], "beta": [], "ga-mma": []})

    def test_two_orders_of_every_folder(self):
        """The same names and bytes, listed the other way round: one lock, one report, one store path."""
        env = self.environment()
        for name in ("alpha", "beta", "gamma"):
            Wheel(name, members={f"shared/{name}.py": b"", f"both/{name[0]}.txt": b"x"}).install(env.site)
            Wheel(name, "0.5").install(env.site, record=False)
            write(env.site / f"{name}-0.1.dist-info" / "INSTALLER", "pip")
            write(env.site / f"loose_{name}" / "x.py", "")
            write(env.site / f"{name}.pth", f"{write(self.place / 'far' / name / 'm.py', '').parent}\n")
            write(env.venv / "share" / name / "x", "x")
            write(env.root / "custom_nodes" / f"pack-{name}" / "__init__.py", "NODE_CLASS_MAPPINGS = {}\n")
            write(env.root / "custom_nodes" / f".{name}.disabled" / "__init__.py", "")
            write(env.root / ".cache" / "huggingface" / "hub" / f"models--{name}" / "x", "x")
            write(env.root / "models" / name / "x.safetensors", "x")
            write(env.root / f"requirements-{name}.txt", f"{name}==9\n")
        Wheel("alpha", "2.0", members={"beta/data.txt": b"of alpha"}).install(env.site)
        kept = self.place / "kept"
        env.root.rename(kept)
        env.root.mkdir()
        def filled(backwards):
            subprocess.run(["mount", "-t", "tmpfs", "none", env.root], check=True)
            self.addCleanup(subprocess.run, ["umount", "-l", env.root], stderr=subprocess.DEVNULL)
            def copy(source, target):
                for name in sorted(os.listdir(source), reverse=backwards):
                    inner, outer = source / name, target / name
                    if inner.is_dir() and not inner.is_symlink():
                        outer.mkdir()
                        copy(inner, outer)
                    else:
                        shutil.copy2(inner, outer, follow_symlinks=False)
            copy(kept, env.root)
        seen = []
        for backwards in (False, True):
            filled(backwards)
            order = os.listdir(env.site)
            report = {**self.inspect(env).json, "index": None}
            taken = self.snapshot(env).json
            lock = self.run_it("snapshots", "show", "--json", taken["id"]).json["lock"]
            seen.append((order, report, lock, taken["snapshot"], taken["findings"]))
            subprocess.run(["umount", env.root], check=True)
            shutil.rmtree(self.station.root / "cache", ignore_errors=True)
        one, other = seen
        self.assertNotEqual(one[0], other[0], "this file system lists by name: nothing is shown")
        for first, second in zip(one[1:], other[1:]):
            self.assertEqual(first, second)
        self.assertGreater(len(one[1]["findings"]), 10)
