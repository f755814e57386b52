"""`snapshots verify`: what is not as it was recorded is named, whichever version of the program recorded it."""
import hashlib
import json
import os
import random
import re
import unittest
import zlib

from harness import remove_tree
from small import Case, Wheel, sri, write

SECONDS = 160
BATCH = True


class VerifyNames(Case):
    """Whatever is not as it was recorded is named, with the first file that differs or why that cannot be told."""

    def setUp(self):
        super().setUp()
        self.env = self.environment()
        self.served, self.wheel = self.index(), Wheel("alpha")
        self.wheel.install(self.env.site)
        self.served.publish(self.wheel)

    def taken(self):
        taken = self.snapshot(self.env, PIP_INDEX_URL=self.served.url).json
        return self.run_it("snapshots", "show", "--json", taken["id"]).json["record"]

    def path(self, record, label):
        return next(o["path"] for o in record["outputs"] if o["label"] == label)

    def alter(self, record, label, name):
        """Flips one bit below Nix's notice."""
        path = self.path(record, label)
        file = self.station.real(path) / name
        content, mode = file.read_bytes(), file.stat().st_mode
        os.chmod(file, 0o644)
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.chmod(file, mode)
        return path

    def verify(self, code=1, **variables):
        return self.run_it("snapshots", "verify", code=code, PIP_INDEX_URL=self.served.url, **variables)

    def named(self, path, label, rest):
        done = self.verify()
        self.says(done.out, f"{label} differs: {path}\n  recorded {{{{sha256-\\S+}}}}, found {{{{sha256-\\S+}}}}\n  {rest}")
        recorded, found = re.search(r"recorded (\S+), found (\S+)", done.out).groups()
        self.assertNotEqual(recorded, found)
        return done

    def differing(self, name, executable=False):
        what = f"{{{{an executable}}}}" if executable else "a file"
        return f"first differing file: {name}: {what} of {{{{\\d+}}}} bytes, {{{{sha256-\\S+}}}} / {what} of {{{{\\d+}}}} bytes, {{{{sha256-\\S+}}}}"

    def test_nothing_altered(self):
        self.taken()
        self.assertRegex(self.verify(code=0).out, r"^\w{10} verified: \d+ rebuilt, 1 wheels fetched, \d+ sources hashed; every NAR hash is equal\n$")

    def test_packs_without_bytecode(self):
        """As a governed ComfyUI wants them: another snapshot, whose launch file `verify` takes at its word."""
        compiled = self.taken()
        write(self.env.root / "stillframe.toml", "[python]\npack-bytecode = false\n")
        plain = self.taken()
        label = "bytecode of first-pack"
        self.assertEqual([[o["label"] for o in r["outputs"] if o["label"] == label] for r in (compiled, plain)], [[label], []])
        layers = json.loads((self.station.real(plain["snapshot"]) / "launch/comfyui.json").read_text())["layers"]
        self.assertEqual([(l["at"], "bytecode" in l) for l in layers], [("main", True), ("base/custom_nodes/first-pack", False)])
        self.verify(code=0)

    def test_the_collector_as_the_program_has_it(self):
        """Another launch file, the same environment; `verify` goes by what the snapshot has."""
        launches = []
        for more in ("", "[python]\ndefer-gc = false\n"):
            write(self.env.root / "stillframe.toml", more)
            record = self.taken()
            launches.append(json.loads((self.station.real(record["snapshot"]) / "launch/comfyui.json").read_text()))
            self.verify(code=0)
        self.assertEqual([l["environment"].pop("STILLFRAME_DEFER_GC", None) for l in launches], ["{port}", None])
        self.assertEqual(*launches)

    def test_a_pack(self):
        record = self.taken()
        self.named(self.alter(record, "first-pack", "__init__.py"), "first-pack", self.differing("__init__.py"))
        value = self.run_it("snapshots", "verify", "--json", code=1, PIP_INDEX_URL=self.served.url).json
        self.assertEqual((value["verified"], [m["label"] for m in value["report"]["mismatches"]]), (False, ["first-pack"]))

    def test_the_main_program_of_an_environment_that_went_on(self):
        record = self.taken()
        path = self.alter(record, "main program", "nodes.py")
        write(self.env.root / "nodes.py", "CHANGED = 1\n")
        self.named(path, "main program", f"the first differing file cannot be named: {self.env.root} no longer has it as it was recorded")
        remove_tree(self.env.root)
        self.named(path, "main program", f"the first differing file cannot be named: {self.env.root} cannot be read again: "
                   f"cannot open the environment {self.env.root}: No such file or directory (os error 2)")

    def test_base_libraries_which_the_runtime_refers_to(self):
        record = self.taken()
        self.named(self.alter(record, "base libraries", "lib/libz.so.1"), "base libraries", self.differing("lib/libz.so.1"))

    def test_what_was_built(self):
        record = self.taken()
        label = "bytecode of alpha 1.0"
        name = next(p.relative_to(self.station.real(self.path(record, label))) for p in self.station.real(self.path(record, label)).rglob("*.pyc"))
        self.named(self.alter(record, label, name), label, self.differing(name))

    def test_a_distribution(self):
        record = self.taken()
        self.named(self.alter(record, "alpha 1.0", "alpha/data.txt"), "alpha 1.0", self.differing("alpha/data.txt"))

    def test_a_wheel_that_the_index_changed(self):
        record = self.taken()
        true = hashlib.sha256(self.wheel.archive()).hexdigest()
        self.served.publish(self.wheel, self.wheel.archive(more=[("alpha/new.py", b"")]), sha256=true)
        done = self.named(self.path(record, self.wheel.file), self.wheel.file,
                          "the first differing file cannot be named: the index serves another file under this name now")
        self.assertEqual(sri(re.search(r"recorded (\S+),", done.out)[1]), true)

    def test_a_false_pin(self):
        """A wheel that holds other bytes than its RECORD says, of the same length and CRC-32: it was never downloaded, and what Nix
        makes of it tells."""
        name, true = "alpha/data.txt", random.Random(2).randbytes(100)
        # CRC-32 is linear: a multiple of its polynomial, added anywhere, changes nothing of it.
        polynomial = (0xEDB88320 << 1 | 1).to_bytes(5, "little")
        other = bytes(a ^ b for a, b in zip(true, bytes(50) + polynomial + bytes(45)))
        self.assertEqual(zlib.crc32(true), zlib.crc32(other))
        self.wheel.members[name] = true
        self.wheel.install(self.env.site)
        rows = self.wheel.rows()
        self.wheel.members[name] = other
        self.served.publish(self.wheel, self.wheel.archive(record="\n".join(rows) + "\n"))
        record = self.taken()
        lock = self.run_it("snapshots", "show", "--json").json["lock"]
        self.assertEqual([d["provenance"] for d in lock["distributions"]], ["pinned"])
        self.named(self.path(record, "alpha 1.0"), "alpha 1.0",
                   "first differing file: alpha-1.0.dist-info/RECORD: a file of {{\\d+}} bytes, {{sha256-\\S+}} / a file of {{\\d+}} bytes, {{sha256-\\S+}}")

    def test_a_large_wheel_of_which_the_index_says_another_hash(self):
        """More than comes with its end, so that the hash of the whole is not known before Nix has it."""
        self.wheel.members["alpha/large.bin"] = random.Random(3).randbytes(200_000)
        self.wheel.install(self.env.site)
        self.served.publish(self.wheel, sha256="0" * 64)
        record = self.taken()
        done = self.named(self.path(record, self.wheel.file), self.wheel.file,
                          "the first differing file cannot be named: the index serves another file under this name now")
        self.assertEqual(sri(re.search(r"found (\S+)", done.out)[1]), hashlib.sha256(self.wheel.archive()).hexdigest())

    def test_one_whose_derivations_are_another_versions(self):
        """What another stillframe would write for the same content: the store's derivations say how, not this program."""
        record = self.taken()
        derivation = record["derivation"]
        shown = json.loads(self.station.nix("nix", "--extra-experimental-features", "nix-command", "show-derivation", derivation).out)[derivation]
        quote = lambda text: json.dumps(text).replace("${", "\\${")
        context = [f'{quote(path)} = {{ outputs = [ "out" ]; }};' for path in shown["inputDrvs"]]
        context += [f"{quote(path)} = {{ path = true; }};" for path in shown["inputSrcs"]]
        environment = {key: value for key, value in shown["env"].items() if key not in ("out", "config", "builder", "name", "system")}
        expression = write(self.place / "other.nix", f"""\
derivation {{
  name = "comfyui-snapshot"; system = {quote(shown["system"])}; builder = {quote(shown["builder"])};
  args = [ {" ".join(map(quote, shown["args"]))} ];
  {" ".join(f"{key} = {quote(value)};" for key, value in environment.items())}
  config = builtins.appendContext {quote(shown["env"]["config"])} {{ {" ".join(context)} }};
  another = "1";
}}
""")
        other = self.station.nix("nix-instantiate", expression).out.strip()
        snapshot = self.station.nix("nix-store", "--realise", other).out.strip()
        self.assertNotEqual(snapshot, record["snapshot"])
        text = json.dumps(record).replace(record["snapshot"], snapshot).replace(derivation, other)
        file = self.station.root / "state" / "stillframe" / "snapshots" / record["id"] / "record.json"
        file.write_text(text)
        self.assertRegex(self.verify(code=0).out, r" verified: .* every NAR hash is equal\n$")
        built = self.alter({"outputs": json.loads(text)["outputs"]}, "snapshot", "snapshot.json")
        self.assertEqual(built, snapshot)
        self.named(built, "snapshot", self.differing("snapshot.json"))
        file.write_text(json.dumps(record).replace(derivation, other))
        self.says(self.verify(code=2).err, f"""\
error: the record of {record["id"]} is damaged: {other} does not make {record["snapshot"].removeprefix("/nix/store/")}
  hint: take the snapshot again""")

    def test_after_the_collector_came(self):
        """What no path of the snapshot refers to is gone, or has a root of its own; every command has what it needs."""
        write(self.env.root / "stillframe.toml", '[python]\nreal-files = ["alpha"]\n')
        write(self.env.site / "own.pth", "import sys\n")
        first = self.taken()
        remove_tree(self.env.site / "alpha-1.0.dist-info")
        Wheel("alpha", "2.0").install(self.env.site)
        self.served.publish(Wheel("alpha", "2.0"))
        second = self.taken()
        self.station.nix("nix-store", "--gc")
        # The bytecode of a folder without modules is one that nothing links to.
        compiled = self.path(first, "bytecode of files no distribution owns")
        self.assertFalse(self.station.real(compiled).exists())
        for record, version in ((first, "1.0"), (second, "2.0")):
            self.assertTrue(self.station.real(self.path(record, f"alpha {version}")).exists())
        self.assertRegex(self.run_it("snapshots", "verify", second["id"]).out,
                         r" verified: \d+ rebuilt \(1 of them collected since, nothing needs them\), 1 wheels fetched, ")
        diff = self.run_it("snapshots", "diff", first["id"], second["id"], "--json").json["distributions"]
        self.assertIn("alpha-2.0.dist-info/METADATA", diff[0]["files"])
        self.run_it("export", "cyclonedx", first["id"])
        # Nix builds no more of it than a change needs, and that is what is counted.
        write(self.env.pack / "more.py", "MORE = 1\n")
        self.assertEqual(self.snapshot(self.env, PIP_INDEX_URL=self.served.url).json["realise"]["built"], 2)
        self.assertFalse(self.station.real(compiled).exists())
        # Of the environment itself nothing may be missing.
        self.station.nix("nix-store", "--delete", "--ignore-liveness", self.path(first, "snapshot"))
        self.says(self.run_it("snapshots", "verify", first["id"], code=1).err, f"""\
error: {self.path(first, "snapshot")} is not in the store
  hint: it was deleted since: take the snapshot again""")

    def test_a_lock_or_a_text_that_was_changed(self):
        record = self.taken()
        lock = self.station.root / "state" / "stillframe" / "snapshots" / record["id"] / "stillframe.lock"
        text = lock.read_text()
        lock.write_text(text.replace('name = "alpha-1.0"', 'name = "alpha-1.1"'))
        self.assertNotEqual(lock.read_text(), text)
        self.says(self.verify(code=2).err, f"""\
error: the lock of {record["id"]} names {{{{\\w+}}}}-alpha-1.1, which its derivations neither need nor make
  hint: its stillframe.lock was changed: take the snapshot again""")
        lock.write_text(text)
        inputs = self.station.nix("nix-store", "--query", "--requisites", record["derivation"]).out.split()
        for path in (next(p for p in inputs if p.endswith("-snapshot.py")), record["derivation"]):
            file = self.station.real(path)
            content = file.read_bytes()
            os.chmod(file, 0o644)
            file.write_bytes(content + b"\n")
            self.says(self.verify().err, f"""\
error: {path} is not what its name says: the file was changed
  hint: remove the snapshot, collect garbage (`nix-store --gc`), and take it again""")
            file.write_bytes(content)
        self.verify(code=0)

    def test_a_daemon_that_looks_elsewhere(self):
        self.taken()
        daemon = write(self.place / "daemon", f"#!/bin/sh\nNIX_REMOTE='local?root={self.station.store}' exec nix-daemon --stdio\n", 0o755)
        done = self.verify(STILLFRAME_NIX_DAEMON=daemon)
        self.says(done.err, f"""\
error: the scratch store below {self.station.root}/cache/stillframe/verify-{{{{\\S+}}}} has {{{{\\S+}}}} before anything was put there
  hint: the daemon must use the store that NIX_REMOTE names: see STILLFRAME_NIX_DAEMON""")

    def tearDown(self):
        cache = self.station.root / "cache" / "stillframe"
        self.assertEqual([p.name for p in cache.iterdir() if p.name.startswith("verify-")], [])


if __name__ == "__main__":
    unittest.main()
