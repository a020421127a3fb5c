"""What the login node's scripts read and remove, run in a real shell on a temporary home."""

from __future__ import annotations

import os
import shutil
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.slurm.commands import (
    Status,
    render_collect_garbage,
    render_list_folder,
    render_root,
    render_tail,
)
from test.properties import names, paths, property_test
from test.slurm.sandbox import Sandbox

_ROOT = render_root(None)
_DAY = 86400.0


class TailTests(SynchronousTestCase):
    """`render_tail`."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)

    def tail(self, lines: int, limit: int = 1000, name: str = "x") -> tuple[int, bytes]:
        result = self.node.run(render_tail(root=_ROOT, name=name, lines=lines, limit=limit))
        return result.status, result.stdout

    def test_lines(self) -> None:
        """The last ones; 0 means all."""
        self.node.write("x.out", "".join(f"{n}\n" for n in range(10)))
        self.assertEqual(self.tail(2), (0, b"8\n9\n"))
        self.assertEqual(self.tail(100)[1].count(b"\n"), 10)
        self.assertEqual(self.tail(0)[1].count(b"\n"), 10)

    def test_bytes(self) -> None:
        """Never more than the bound, however long the lines."""
        self.node.write("x.out", "a" * 5000 + "\n" + "b" * 5000)
        for lines in (0, 1, 100):
            self.assertEqual(self.tail(lines), (0, b"b" * 1000))

    def test_no_output(self) -> None:
        """None yet, whether the file is empty, not there, or the folder is not there."""
        self.assertEqual(self.tail(5), (Status.NO_OUTPUT, b""))
        self.node.write("x.out", "")
        self.assertEqual(self.tail(5), (Status.NO_OUTPUT, b""))

    def test_not_mounted(self) -> None:
        """A scratch folder that is not mounted is no job without output."""
        root = render_root(f"{self.node.folder}/scratch/")
        result = self.node.run(render_tail(root=root, name="x", lines=1, limit=1))
        self.assertEqual((result.status, result.stdout), (Status.NO_FOLDER, b""))

    @given(names)
    @property_test(60)
    def test_name(self, name: str) -> None:
        """A file of any name that a job can have."""
        self.node.write(f"{name}.out", f"of {name}\n")
        self.assertEqual(self.tail(1, name=name), (0, f"of {name}\n".encode()))


class ListFolderTests(SynchronousTestCase):
    """`render_list_folder`: PROTOCOL, pvcls."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)
        self.folder = self.node.folder / "data"
        self.folder.mkdir()

    def list(self, path: object, *, details: bool = False) -> list[str]:
        result = self.node.run(render_list_folder(path=str(path), details=details))
        self.assertEqual((result.status, result.stderr), (0, b""))
        return result.stdout.decode("utf-8", "surrogateescape").split("\n")[:-1]

    def test_folders_then_files(self) -> None:
        """Folders end in a slash; what is deeper is not listed; hidden ones are."""
        (self.folder / "sub" / "deeper").mkdir(parents=True)
        for name in ("a", ".hidden", "sub/b"):
            (self.folder / name).touch()
        listed = self.list(self.folder)
        self.assertEqual(listed[0], f"/data{self.folder}/sub/")
        self.assertEqual(
            sorted(listed[1:]), [f"/data{self.folder}/.hidden", f"/data{self.folder}/a"]
        )

    def test_details(self) -> None:
        """Modification time and size before each."""
        (self.folder / "sub").mkdir()
        (self.folder / "a").write_text("12345")
        os.utime(self.folder / "a", (5, 1700000000.75))
        listed = self.list(self.folder, details=True)
        self.assertRegex(listed[0], rf"^\d+ \d+ /data{self.folder}/sub/$")
        self.assertEqual(listed[1], f"1700000000 5 /data{self.folder}/a")

    def test_trailing_slash_and_root(self) -> None:
        """No slash is doubled."""
        (self.folder / "a").touch()
        self.assertEqual(self.list(f"{self.folder}/"), [f"/data{self.folder}/a"])
        self.assertIn("/data/tmp/", self.list("/"))

    def test_links(self) -> None:
        """A link is what it leads to; one that leads nowhere is not listed."""
        (self.folder / "a").touch()
        (self.folder / "link").symlink_to(self.folder / "a")
        (self.folder / "up").symlink_to(self.node.folder)
        (self.folder / "broken").symlink_to("/nonexistent/it")
        listed = self.list(self.folder)
        self.assertEqual(
            set(listed), {f"/data{self.folder}/{name}" for name in ("a", "link", "up/")}
        )

    def test_empty(self) -> None:
        """An empty folder lists nothing, and is no error."""
        self.assertEqual(self.list(self.folder), [])

    def test_not_listable(self) -> None:
        """What is no folder gives the reason."""
        (self.folder / "file").touch()
        for name, reason in (("gone", b"gone"), ("file", b"file")):
            result = self.node.run(render_list_folder(path=f"{self.folder}/{name}", details=False))
            self.assertEqual((result.status, result.stdout), (Status.NOT_LISTABLE, b""))
            self.assertIn(reason, result.stderr)

    def test_no_action_of_find(self) -> None:
        """A path that spells find's actions is a path; nothing is removed or run."""
        (self.folder / "keep").touch()
        for path in ("/-delete", "/-exec", "/-exec touch {} ;", f"{self.folder}/keep -delete"):
            result = self.node.run(render_list_folder(path=path, details=True))
            self.assertEqual((result.status, result.stdout), (Status.NOT_LISTABLE, b""), path)
        self.assertTrue((self.folder / "keep").exists())

    def test_percent_and_backslash(self) -> None:
        """find's own format characters in the path and in names are shown as they are."""
        folder = self.folder / "100%p\\n %%" / "it's"
        folder.mkdir(parents=True)
        (folder / "%f\\t").touch()
        self.assertEqual(self.list(folder), [f"/data{folder}/%f\\t"])

    @given(paths)
    @property_test(80)
    def test_any_path(self, path: str) -> None:
        """A folder of any path is listed under its own name."""
        folder = f"{self.folder}{path}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/file", "w", encoding="utf-8"):
            pass
        self.assertIn(f"/data{folder}/file", self.list(folder))


class GarbageTests(SynchronousTestCase):
    """`render_collect_garbage`: answered jobs after an hour, unasked ones after 30 days."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)
        self.now = time.time()

    def add(self, jobid: str, name: str, number: int, *, age: float, **records: str) -> None:
        """A job's folders; its records (exit, answer, cancelled) are `age` seconds old."""
        for path, text in {
            f"jobs/{jobid}/name": f"{name}\n",
            f"jobs/{jobid}/start": "1\n",
            f"submit/{name}/jobid": f"{jobid}\n",
            f"submit/{name}/number": f"{number}\n",
            f"submit/{name}/lock": "",
            f"numbers/{number}": f"{name}\n",
            f"{name}.out": "output\n",
            **{f"jobs/{jobid}/{record}": text for record, text in records.items()},
        }.items():
            self.node.write(path, text, age=age, now=self.now)

    def collect(self) -> None:
        script = render_collect_garbage(root=_ROOT, answered_minutes=60, unasked_days=30)
        result = self.node.run(script)
        self.assertEqual((result.status, result.stdout, result.stderr), (0, b"", b""))

    def jobs(self) -> set[str]:
        """Ids of jobs that left anything at all."""
        return {path.split("/")[1] for path in self.node.files() if path.startswith("jobs/")}

    def test_answered(self) -> None:
        """An hour after the answer all of it is gone, and nothing of another job."""
        self.add("5", "old", 50, age=3700, exit="COMPLETED 0 1 2", answer="COMPLETED 1")
        self.add("6", "new", 60, age=3000, exit="COMPLETED 0 1 2", answer="COMPLETED 1")
        kept = {path for path in self.node.files() if "6" in path or "new" in path}
        self.collect()
        self.assertEqual(self.node.files(), kept)
        self.assertFalse((self.node.root / "submit" / "old").exists())

    def test_unasked(self) -> None:
        """Ended and never asked about: 30 days."""
        self.add("5", "old", 50, age=32 * _DAY, exit="COMPLETED 0 1 2")
        self.add("6", "cancelled", 60, age=32 * _DAY, cancelled="5")
        self.add("7", "new", 70, age=29 * _DAY, exit="FAILED 1 1 2")
        self.collect()
        self.assertEqual(self.jobs(), {"7"})

    def test_not_ended(self) -> None:
        """A job that waits or runs stays, however long."""
        self.add("5", "long", 50, age=400 * _DAY)
        before = self.node.files()
        self.collect()
        self.assertEqual(self.node.files(), before)

    def test_nothing_there(self) -> None:
        """No folder, nothing to do."""
        self.collect()
        self.assertFalse(self.node.root.exists())

    def test_no_name(self) -> None:
        """A folder without a name, or with one that leads elsewhere, takes nothing with it."""
        outside = self.node.write("../keep.out", "x")
        old = {"age": 40 * _DAY, "now": self.now}
        for jobid, name in {
            "1": "",
            "2": "..",
            "3": "../..",
            "4": "/etc",
            "5": ".",
            "6": "a/b",
        }.items():
            self.node.write(f"jobs/{jobid}/answer", "COMPLETED 1", **old)
            self.node.write(f"jobs/{jobid}/name", name, **old)
        self.node.write("jobs/7/answer", "COMPLETED 1", **old)
        kept = {"submit/x/jobid", "numbers/5", "y.out", ".out", "a/b.out", "../keep"}
        for path in ("submit/x/jobid", "numbers/5", "y.out", ".out", "a/b.out"):
            self.node.write(path, "8\n", **old)
        self.collect()
        self.assertEqual(self.node.files(), kept - {"../keep"})
        self.assertTrue(outside.exists())

    def test_only_job_ids(self) -> None:
        """Folders that are no job's stay, whatever their names do to a shell."""
        for name in ("images", "a b", "*", "-rf", "$HOME", "5;x"):
            self.node.write(f"jobs/{name}/answer", "x", age=40 * _DAY, now=self.now)
        before = self.node.files()
        self.collect()
        self.assertEqual(self.node.files(), before)

    def test_links_are_not_followed(self) -> None:
        """A link in the place of a job's folder leads nowhere."""
        elsewhere = self.node.write("../elsewhere/answer", "x", age=40 * _DAY, now=self.now)
        (self.node.root / "jobs").mkdir(parents=True)
        (self.node.root / "jobs" / "5").symlink_to(elsewhere.parent)
        self.collect()
        self.assertTrue(elsewhere.exists())

    def test_wrong_id_in_a_question(self) -> None:
        """A folder that a question with a wrong job id left does not take the job with it."""
        self.add("5", "runs", 50, age=40 * _DAY)
        before = self.node.files()
        self.node.write("jobs/4/name", "runs\n", age=40 * _DAY, now=self.now)
        self.node.write("jobs/4/answer", "CANCELLED 0\n", age=40 * _DAY, now=self.now)
        self.collect()
        self.assertEqual(self.node.files(), before)

    def test_number_given_again(self) -> None:
        """A number that belongs to another job meanwhile stays that job's."""
        self.add("5", "old", 50, age=3700, answer="COMPLETED 1")
        self.node.write("numbers/50", "other\n")
        self.collect()
        self.assertEqual(self.node.files(), {"numbers/50"})

    @given(st.lists(names, min_size=2, max_size=3, unique=True))
    @property_test(30)
    def test_any_name(self, job_names: list[str]) -> None:
        """Only the answered one goes, whatever the names."""
        shutil.rmtree(self.node.root, ignore_errors=True)
        for number, name in enumerate(job_names[1:], 2):
            self.add(f"{number}", name, number, age=3700)
        kept = self.node.files()
        self.add("1", job_names[0], 1, age=3700, answer="COMPLETED 1")
        self.collect()
        self.assertEqual(self.node.files(), kept)
