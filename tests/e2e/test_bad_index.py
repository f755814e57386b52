"""Package indexes and wheels that fail, drag or lie. The rule: the capture goes on with what is on disk, says
why a distribution could not be pinned, and never says "pinned" of one that is not.
"""
import os
import random
import socket
import struct
import time
import unittest

import harness
from small import JSON, Case, Wheel, record_hash, untouched, write

SECONDS = 220


class Unhelpful(Case):
    """The index is not there, slow, or answers nonsense."""

    def setUp(self):
        super().setUp()
        self.env = self.environment()
        self.wheels = [Wheel(name).install(self.env.site) for name in ("alpha", "beta", "gamma")]

    def captured(self, url, reason, problem=None, **variables):
        """All three are captured for `reason`, by every command; returns the report of `inspect`."""
        with untouched(self, self.place):
            result = self.inspect(self.env, PIP_INDEX_URL=url, **variables)
        self.assertEqual(self.provenance(result),
                         {w.name: ("captured", reason.replace("NAME", w.name)) for w in self.wheels})
        self.finds(result, *(("info", "captured", w.name, reason.replace("NAME", w.name)) for w in self.wheels))
        problems = [f for f in self.findings(result) if f[0] == "problem"]
        self.assertEqual(problems, [("problem", "index", "3 distributions", f"captured, not pinned: {problem}")] if problem else [])
        return result

    def closed_port(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return free.getsockname()[1]

    def test_unreachable(self):
        port = self.closed_port()
        reason = f"the index could not be reached: cannot connect to 127.0.0.1:{port}: Connection refused (os error 111)"
        self.captured(f"http://127.0.0.1:{port}/simple", reason, reason)
        # The person at the terminal is told, too, and the snapshot is taken all the same.
        text = self.run_it("inspect", self.env.root, PIP_INDEX_URL=f"http://127.0.0.1:{port}/simple").out
        self.assertIn("  distributions 3: 0 pinned, 0 patched, 3 captured\n", text)
        self.assertIn(f"index\n  problem 3 distributions: captured, not pinned: {reason}\n", text)
        taken = self.snapshot(self.env, PIP_INDEX_URL=f"http://127.0.0.1:{port}/simple")
        self.assertFalse(taken.json["unchanged"])
        self.assertIn(f"captured, not pinned: {reason}", [f["message"] for f in taken.json["findings"]])
        self.store_is_sound()

    def test_once_reachable_the_next_run_pins(self):
        port = self.closed_port()
        self.inspect(self.env, PIP_INDEX_URL=f"http://127.0.0.1:{port}/simple")
        self.env.age()
        # Twice, so that the second could remember what the first was told.
        self.inspect(self.env, PIP_INDEX_URL=f"http://127.0.0.1:{port}/simple")
        index = self.index()
        for wheel in self.wheels:
            index.publish(wheel)
        result = self.inspect(self.env, PIP_INDEX_URL=index.url)
        self.assertEqual(self.provenance(result), {w.name: ("pinned", None) for w in self.wheels})

    def test_the_index_of_a_uv_project(self):
        index = self.index()
        for wheel in self.wheels:
            index.publish(wheel)
        write(self.env.root / "pyproject.toml", f"""\
[project]
name = "comfyui"
[tool.uv]
find-links = ["{self.place}/wheels"]
[[tool.uv.index]]
url = "{index.url}"
default = true
""")
        result = self.inspect(self.env, PIP_INDEX_URL=None)
        self.assertEqual(self.provenance(result), {w.name: ("pinned", None) for w in self.wheels})
        self.finds(result, ("info", "index", "index", f"not asked: {self.place}/wheels from find-links (wheels are looked for in indexes only)"))

    def test_pinned_later_it_is_the_same_snapshot(self):
        """The index decides what is known of the files, not what they are: nothing is sent or built again."""
        first = self.snapshot(self.env, PIP_INDEX_URL=f"http://127.0.0.1:{self.closed_port()}/simple").json
        self.run_it("snapshots", "show", first["id"])
        index = self.index()
        for wheel in self.wheels:
            index.publish(wheel)
        second = self.snapshot(self.env, PIP_INDEX_URL=index.url).json
        self.assertEqual((second["snapshot"], second["unchanged"]), (first["snapshot"], True))
        self.assertEqual((second["realise"]["sent_paths"], second["realise"]["built"]), (0, 0))
        shown = self.run_it("snapshots", "show", "--json", second["id"]).json
        self.assertEqual([d["provenance"] for d in shown["lock"]["distributions"]], ["pinned"] * 3)
        # Now it can be made from the wheels; before, nothing but a copy of the trees would have done.
        self.assertNotEqual(second["derivation"], first["derivation"])
        self.station.nix("nix-store", "--gc")
        done = self.run_it("snapshots", "verify", "--json", PIP_INDEX_URL=index.url).json
        self.assertEqual((done["verified"], done["report"]["wheels"]), (True, 3))

    def test_what_was_captured_is_made_by_nothing(self):
        first = self.snapshot(self.env).json
        outputs = self.run_it("snapshots", "show", "--json", first["id"]).json["record"]["outputs"]
        alpha = next(o for o in outputs if o["label"] == "alpha 1.0" and "derivation" in o)
        with harness.Workstation("sf-bad-bare-") as other:
            copy = "nix-store --export $(nix-store --query --requisites $0) | NIX_REMOTE=$1 nix-store --import"
            self.station.nix("sh", "-c", copy, alpha["derivation"], f"local?root={other.store}")
            done = other.nix("nix-store", "--realise", alpha["derivation"], code=None)
        self.assertNotEqual(done.code, 0)
        self.assertIn(f"{alpha['path']} was captured from an environment and cannot be built: copy it from a store that has it", done.err)

    def test_a_dribble_is_given_up(self):
        index = self.index()
        index.drip = 0.1
        reason = f"the index could not be reached: {index.host} sends less than 1000 bytes in 1 s"
        result = self.captured(index.url, reason, reason, PIP_DEFAULT_TIMEOUT="1")
        self.assertLess(result.seconds, 10)

    def test_silence_is_given_up(self):
        index = self.index()
        index.drip = 60
        reason = f"the index could not be reached: {index.host} is silent for 1 s"
        result = self.captured(index.url, reason, reason, PIP_DEFAULT_TIMEOUT="1")
        self.assertLess(result.seconds, 10)

    def test_a_hundred_distributions_wait_once(self):
        index = self.index()
        index.drip = 60
        for at in range(100):
            Wheel(f"more{at}").install(self.env.site)
        result = self.inspect(self.env, PIP_INDEX_URL=index.url, PIP_DEFAULT_TIMEOUT="1")
        self.assertEqual({p for p, _ in self.provenance(result).values()}, {"captured"})
        self.assertLess(result.seconds, 15)

    def test_interrupted_while_it_waits(self):
        index = self.index()
        index.drip = 60
        process = self.background("inspect", self.env.root, PIP_INDEX_URL=index.url)
        while not index.requests:
            time.sleep(0.01)
        started = time.monotonic()
        process.send_signal(2)
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130)
        self.assertLess(time.monotonic() - started, 2)
        self.assertEqual(err, """\
stopping at the next safe point; once more to stop at once
error: interrupted
  hint: run the same command again: it goes on from what is done
""")

    def garbage(self, kind, body, reason, status=200):
        index = self.index()
        for wheel in self.wheels:
            index.publish(wheel)
            index.pages[wheel.name] = (status, kind, body)
        problem = reason.replace("HOST", index.host) if "could not be reached" in reason else None
        self.captured(index.url, reason.replace("HOST", index.host), problem)

    def test_a_login_page(self):
        self.garbage("text/html", b"<html><body><h1>Sign in</h1><a href='/login'>here</a></body></html>",
                     "the index has no wheel NAME 1.0 for tags py3-none-any (built from an sdist?)")

    def test_text_that_is_no_page(self):
        self.garbage("text/html", b"\x00\x01 out of order \xff",
                     "the index's answer for NAME is unusable: the answer is no index page in HTML")

    def test_broken_json(self):
        self.garbage(JSON, b'{"files": [{"filename": "alpha', "the index's answer for NAME is unusable: the answer is no "
                     "index page in JSON (EOF while parsing a string at line 1 column 30)")

    def test_json_of_something_else(self):
        self.garbage(JSON, b'{"files": 5}', "the index's answer for NAME is unusable: the answer is no index page in JSON "
                     "(invalid type: integer `5`, expected a list of files at line 1 column 11)")

    def test_a_wrong_content_type(self):
        self.garbage("image/png", b"\x89PNG\r\n\x1a\n" + bytes(100),
                     "the index's answer for NAME is unusable: the answer is no index page in HTML")

    def test_the_right_page_under_a_wrong_content_type_is_read(self):
        index = self.index()
        for wheel in self.wheels:
            index.publish(wheel)
            status, _, body = index.pages[wheel.name]
            index.pages[wheel.name] = (status, "application/octet-stream", body)
        result = self.inspect(self.env, PIP_INDEX_URL=index.url)
        self.assertEqual(self.provenance(result), {w.name: ("pinned", None) for w in self.wheels})

    def test_server_errors(self):
        self.garbage("text/plain", b"sorry", "the index could not be reached: HOST answers with status 500", status=500)
        self.garbage("text/plain", b"who?", "the index could not be reached: HOST refuses access (status 401)", status=401)


class Lies(Case):
    """Wheels and installations that do not agree with themselves or each other."""

    def setUp(self):
        super().setUp()
        self.env = self.environment()
        self.wheel = Wheel("alpha")
        self.served = self.index()

    def decided(self, provenance, reason, **publish):
        """What becomes of alpha when it is published so; a snapshot of it is sound, and says the same."""
        if publish:
            self.served.publish(self.wheel, **publish)
        with untouched(self, self.place):
            result = self.inspect(self.env, PIP_INDEX_URL=self.served.url)
        self.assertEqual(self.provenance(result)["alpha"], (provenance, reason))
        taken = self.snapshot(self.env, PIP_INDEX_URL=self.served.url).json
        shown = self.run_it("snapshots", "show", "--json", taken["id"]).json["lock"]["distributions"]
        one = next(d for d in shown if d["name"] == "alpha")
        self.assertEqual((one["provenance"], one.get("reason")), (provenance, reason))
        self.assertEqual("wheel" in one, provenance != "captured")
        self.store_is_sound()
        return result

    def test_bytes_with_another_hash_than_the_index_says(self):
        self.wheel.install(self.env.site)
        self.decided("captured", f"the wheel {self.wheel.file} has another sha256 than the index says",
                     content=self.wheel.archive(), sha256="0" * 64)

    def test_the_index_that_corrects_itself_is_believed(self):
        self.wheel.install(self.env.site)
        self.decided("captured", f"the wheel {self.wheel.file} has another sha256 than the index says",
                     content=self.wheel.archive(), sha256="0" * 64)
        self.decided("pinned", None, content=self.wheel.archive())

    def test_bytes_that_are_no_wheel(self):
        self.wheel.install(self.env.site)
        self.decided("captured", f"the wheel {self.wheel.file} is no zip archive (no end record)",
                     content=b"<html>out of order</html>")

    def test_a_central_directory_that_lies(self):
        self.wheel.install(self.env.site)
        content = bytearray(self.wheel.archive())
        end = content.rindex(b"PK\x05\x06")
        content[end + 16:end + 20] = struct.pack("<I", 5)
        self.decided("captured", f"the wheel {self.wheel.file} has its central directory out of place", content=bytes(content))

    def test_a_central_directory_of_other_sizes(self):
        self.wheel.install(self.env.site)
        content = bytearray(self.wheel.archive())
        at = content.index(b"PK\x01\x02")
        content[at + 24:at + 28] = struct.pack("<I", 7)
        self.decided("captured", "the wheel's RECORD says 15 bytes for \"alpha/__init__.py\", the wheel holds 7",
                     content=bytes(content))

    def test_ranges_refused(self):
        """A wheel of 64 MB served whole: a little is read before it is refused, not the wheel."""
        self.wheel.members["alpha/big.bin"] = random.Random(1).randbytes(64 << 20)
        self.wheel.install(self.env.site)
        self.served.ranges = False
        self.decided("captured", f"{self.served.host} does not serve ranges of {self.wheel.file}",
                     content=self.wheel.archive())
        self.assertLess(self.served.sent[f"/files/{self.wheel.file}"], 32 << 20)

    def test_a_record_that_lies_about_a_member(self):
        """Installed is the wheel's content; its RECORD has the hash of something else."""
        self.wheel.install(self.env.site)
        true, false = record_hash(self.wheel.members["alpha/data.txt"]), record_hash(b"something else")
        record = "\n".join(self.wheel.rows()).replace(true, false) + "\n"
        result = self.decided("patched", f"1 of 4 files differ from {self.wheel.file}", content=self.wheel.archive(record))
        self.finds(result, ("warning", "patched", "alpha/data.txt", "alpha 1.0: changed"))

    def test_a_record_that_matches_a_forged_installation(self):
        """On disk is what RECORD says; the archive holds other bytes, and its checksum tells."""
        content = self.wheel.archive()
        self.wheel.members["alpha/data.txt"] = b"DATA OF alpha"
        self.wheel.install(self.env.site)
        record = "\n".join(self.wheel.rows()) + "\n"
        self.wheel.members["alpha/data.txt"] = b"data of alpha"
        content = self.wheel.archive(record)
        result = self.decided("patched", f"1 of 4 files differ from {self.wheel.file}", content=content)
        self.finds(result, ("warning", "patched", "alpha/data.txt", "alpha 1.0: changed"))

    def test_an_edited_installation_with_an_edited_record(self):
        """The installed RECORD vouches for nothing: the wheel's does."""
        content = self.wheel.archive()
        self.wheel.members["alpha/data.txt"] = b"edited, and the installed RECORD with it"
        self.wheel.install(self.env.site)
        self.decided("patched", f"1 of 4 files differ from {self.wheel.file}", content=content)

    def test_a_record_with_names_that_leave(self):
        self.wheel.install(self.env.site)
        rows = "\n".join(self.wheel.rows())
        for name, what in (("../alpha/data.txt", 'holds a ".." component'), ("/etc/passwd", "is absolute")):
            with self.subTest(name):
                record = rows.replace("alpha/data.txt", name) + "\n"
                self.decided("captured", f'the wheel\'s RECORD names "{name}", which {what}', content=self.wheel.archive(record))

    def test_an_archive_with_names_that_leave(self):
        self.wheel.install(self.env.site)
        for name, what in (("../../escaped.py", 'holds a ".." component'), ("/escaped.py", "is absolute"),
                           ("alpha\\..\\escaped.py", "holds a backslash")):
            with self.subTest(name):
                content = self.wheel.archive(more=[(name, b"raise SystemExit")])
                shown = name.replace("\\", "\\\\")
                self.decided("captured", f'the wheel {self.wheel.file} names "{shown}", which {what}', content=content)
        self.assertEqual(list(self.station.root.rglob("escaped.py")), [])

    def test_a_wheel_without_a_record(self):
        self.wheel.install(self.env.site)
        self.decided("captured", "the wheel has no RECORD", content=self.wheel.archive(record=False))

    def test_a_wheel_that_holds_more_than_its_record_says(self):
        self.wheel.install(self.env.site)
        self.decided("captured", "the wheel's RECORD does not list \"alpha/extra.py\", which the wheel holds",
                     content=self.wheel.archive(more=[("alpha/extra.py", b"")]))

    def changes_after(self, record):
        """Installed so, pinned, remembered at rest; then one byte that no installed RECORD lists is another."""
        self.wheel.install(self.env.site, record=record)
        self.served.publish(self.wheel)
        self.env.age()
        self.decided("pinned", None)
        first = self.snapshot(self.env, PIP_INDEX_URL=self.served.url).json
        self.assertTrue(first["unchanged"])
        asked = len(self.served.requests)
        self.assertTrue(self.snapshot(self.env, PIP_INDEX_URL=self.served.url).json["unchanged"])
        self.assertEqual(len(self.served.requests), asked, "what is remembered was asked for again")
        data, stat = self.env.site / "alpha" / "data.txt", (self.env.site / "alpha" / "data.txt").stat()
        data.write_bytes(b"Data of alpha")
        os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        result = self.inspect(self.env, PIP_INDEX_URL=self.served.url)
        self.finds(result, ("warning", "patched", "alpha/data.txt", "alpha 1.0: changed"))
        self.assertEqual(self.provenance(result)["alpha"], ("patched", f"1 of 4 files differ from {self.wheel.file}"))
        second = self.snapshot(self.env, PIP_INDEX_URL=self.served.url).json
        self.assertFalse(second["unchanged"])
        self.assertNotEqual(second["snapshot"], first["snapshot"])
        self.assertEqual((self.tree(second, "alpha 1.0") / "alpha" / "data.txt").read_bytes(), b"Data of alpha")

    def test_an_installation_without_a_record(self):
        self.wheel.install(self.env.site, record=False)
        write(self.env.site / self.wheel.info / "top_level.txt", "alpha\n")
        result = self.decided("pinned", None, content=self.wheel.archive())
        self.assertEqual([f for f in self.findings(result) if f[1] == "unowned"],
                         [("warning", "unowned", f"{self.wheel.info}/top_level.txt", "no distribution owns it; it is captured")])

    def test_a_change_is_found_without_a_record(self):
        self.changes_after(False)

    def test_a_change_is_found_where_the_record_lacks_a_row(self):
        self.changes_after("\n".join(row for row in self.wheel.rows() if "data.txt" not in row) + "\n")

    def test_two_that_share_a_file_are_decided_together(self):
        """The second's wheel overwrote a file of the first's; a change in one does not make the other forget."""
        other = Wheel("beta", members={"alpha/data.txt": b"beta's own"})
        for wheel in (self.wheel, other):
            wheel.install(self.env.site)
            self.served.publish(wheel)
        self.env.age()
        replaced = ("info", "patched", "alpha/data.txt", "alpha 1.0: replaced by beta")
        self.finds(self.inspect(self.env, PIP_INDEX_URL=self.served.url), replaced)
        write(self.env.site / "alpha" / "__init__.py", "CHANGED = True\n")
        found = [f for f in self.findings(self.inspect(self.env, PIP_INDEX_URL=self.served.url)) if f[1] == "patched"]
        self.assertEqual(found, [("warning", "patched", "alpha/__init__.py", "alpha 1.0: changed"), replaced])
        # Gone, with its file left behind: that is nobody's but alpha's now, and not what alpha's wheel says.
        harness.remove_tree(self.env.site / other.info)
        found = self.inspect(self.env, PIP_INDEX_URL=self.served.url)
        self.finds(found, ("warning", "patched", "alpha/__init__.py", "alpha 1.0: changed"),
                   ("warning", "patched", "alpha/data.txt", "alpha 1.0: changed"))

    def test_an_installed_record_with_names_that_leave(self):
        """/etc/passwd and what lies beside the environment are named in the report and captured by nobody."""
        write(self.place / "beside.txt", "a neighbour's")
        rows = [*self.wheel.rows(), "/etc/passwd,,", "../../../../../beside.txt,,", "../../../../../../../etc/hostname,,"]
        self.wheel.install(self.env.site, record="\n".join(rows) + "\n")
        passwd, beside = "/etc/passwd", str(self.place / "beside.txt")
        why = "alpha's RECORD claims a file outside the environment; it is not captured"
        result = self.decided("captured", "the index has no wheel alpha 1.0 for tags py3-none-any (built from an sdist?)")
        self.finds(result, ("problem", "outside", passwd, why), ("problem", "outside", beside, why))
        self.nothing_like(b"a neighbour's", b"root:x:0:0")
        # With the wheel at hand nothing of the sort counts: its own RECORD is asked.
        result = self.decided("pinned", None, content=self.wheel.archive())
        self.finds(result, ("problem", "outside", passwd, why))

    def test_an_installed_record_that_leaves_through_a_link(self):
        """A folder of the package is a link to /etc: by its name the file is inside, in truth it is not."""
        write(self.place / "secrets" / "key.txt", "a neighbour's")
        self.wheel.install(self.env.site, record="\n".join([*self.wheel.rows(), "alpha/far/key.txt,,", "alpha/near.txt,,"]) + "\n")
        (self.env.site / "alpha" / "far").symlink_to(self.place / "secrets")
        (self.env.site / "alpha" / "near.txt").symlink_to(self.place / "secrets" / "key.txt")
        result = self.decided("captured", "the index has no wheel alpha 1.0 for tags py3-none-any (built from an sdist?)")
        where = self.place / "secrets" / "key.txt"
        for name in ("alpha/far/key.txt", "alpha/near.txt"):
            self.finds(result, ("problem", "unreadable", name,
                                f"alpha 1.0: left out: leads to {where}, outside the environment; put a copy in its place"))
        self.nothing_like(b"a neighbour's")

    def nothing_like(self, *contents):
        for path in (self.station.store / "nix" / "store").rglob("*"):
            if path.is_file() and not path.is_symlink() and "-python-" not in str(path):
                data = path.read_bytes()
                for content in contents:
                    self.assertNotIn(content, data, path)


if __name__ == "__main__":
    unittest.main()
