"""`render_collect_garbage` in a real shell: what goes, and what must never go."""

from __future__ import annotations

import fcntl
import os
import shutil
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.slurm.commands import render_root
from jarvice_slurmd.slurm.garbage import MOST, render_collect_garbage
from test.properties import names, property_test
from test.slurm.sandbox import Sandbox

_ROOT = render_root(None)
_DAY = 86400.0
_HOUR = 3600.0


# All of the queue, or the jobs of one name.
_SQUEUE = r"""
for word; do
    case $word in
    --name=*)
        while read -r jobid state name; do
            [ "$name" != "${word#--name=}" ] || echo "$jobid"
        done <"$HOME/queue"
        exit
        ;;
    esac
done
cat "$HOME/queue"
"""
# `scontrol -o show job <id>`.
_SCONTROL = r"""
while read -r jobid state name; do
    if [ "$jobid" = "$4" ]; then
        echo "JobId=$jobid JobName=$name UserId=jarvice(1000)"
        exit 0
    fi
done <"$HOME/queue"
echo "slurm_load_jobs error: Invalid job id specified" >&2
exit 1
"""


class GarbageTestCase(SynchronousTestCase):
    """A login node with what jobs left."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)
        self.now = time.time()
        self.node.stub("scancel")
        self.set_queue()

    def set_queue(self, *lines: str) -> None:
        """What Slurm knows: `<job id> <state> <job name>` lines."""
        (self.node.home / "queue").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        self.node.stub("squeue", _SQUEUE)
        self.node.stub("scontrol", _SCONTROL)

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

    def collect(self, *, most: int = MOST, printed: bytes = b"") -> None:
        script = render_collect_garbage(
            root=_ROOT, answered_minutes=60, unasked_days=30, slurm_seconds=5, most=most
        )
        result = self.node.run(script)
        self.assertEqual((result.status, result.stdout, result.stderr), (0, printed, b""))

    def files(self) -> set[str]:
        """What is there, but for the lock of whoever collects."""
        return self.node.files() - {".collecting"}

    def jobs(self) -> set[str]:
        """Ids of jobs that left anything at all."""
        return {path.split("/")[1] for path in self.files() if path.startswith("jobs/")}


class OddThingsTests(GarbageTestCase):
    """What jobs may leave in our folders, by mistake or by malice."""

    def test_no_files(self) -> None:
        """A FIFO in place of a record keeps nobody from cleaning up after the others."""
        self.add("5", "old", 50, age=3700, exit="COMPLETED 0 1 2", answer="COMPLETED 1")
        for jobid, path in enumerate(
            ("jobs/{0}/name", "submit/{1}/jobid", "submit/{1}/number", "submit/{1}/lock"), 10
        ):
            name = f"odd{jobid}"
            self.add(str(jobid), name, jobid, age=3700, answer="COMPLETED 1")
            fifo = self.node.root / path.format(jobid, name)
            fifo.unlink()
            os.mkfifo(fifo)
        self.set_queue("11 PD jarvice_odd11")
        self.collect()
        self.assertEqual(self.jobs(), set())
        self.assertFalse((self.node.root / "old.out").exists())
        self.assertEqual(self.node.calls("scancel"), [])

    def test_line_feeds(self) -> None:
        """A line feed in a name does not make another job's name of it."""
        self.add("6", "new", 60, age=10, exit="COMPLETED 0 1 2")
        kept = self.files()
        for path in ("jobs/5\n6/answer", "jobs/5\n6/exit", "a\nnew.out", "numbers/1\n60"):
            self.node.write(path, "", age=99 * _DAY, now=self.now)
        folder = self.node.root / "submit" / "a\nnew"
        folder.mkdir()
        os.utime(folder, (1, 1))
        self.collect()
        self.assertLessEqual(kept, self.files())


class GarbageTests(GarbageTestCase):
    """Answered jobs after an hour, unasked ones after 30 days."""

    def test_answered(self) -> None:
        """An hour after the answer all of it is gone, and nothing of another job."""
        self.add("5", "old", 50, age=3700, exit="COMPLETED 0 1 2", answer="COMPLETED 1")
        self.add("6", "new", 60, age=3000, exit="COMPLETED 0 1 2", answer="COMPLETED 1")
        kept = {path for path in self.files() if "6" in path or "new" in path}
        self.collect()
        self.assertEqual(self.files(), kept)
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
        self.set_queue("5 R jarvice_long")
        before = self.files()
        self.collect()
        self.assertEqual(self.files(), before)

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
        kept = {"submit/x/jobid", ".out", "a/b.out", "jobs/8/name"}
        for path in kept:
            self.node.write(path, "8\n", **old)
        self.set_queue("8 PD jarvice_x")
        self.collect()
        self.assertEqual(self.files(), kept)
        self.assertTrue(outside.exists())

    def test_only_job_ids(self) -> None:
        """Folders that are no job's stay, whatever their names do to a shell."""
        for name in ("images", "a b", "*", "-rf", "$HOME", "5;x"):
            self.node.write(f"jobs/{name}/answer", "x", age=40 * _DAY, now=self.now)
        before = self.files()
        self.collect()
        self.assertEqual(self.files(), before)

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
        self.set_queue("5 R jarvice_runs")
        before = self.files()
        self.node.write("jobs/4/name", "runs\n", age=40 * _DAY, now=self.now)
        self.node.write("jobs/4/answer", "CANCELLED 0\n", age=40 * _DAY, now=self.now)
        self.collect()
        self.assertEqual(self.files(), before)

    def test_number_given_again(self) -> None:
        """A number that belongs to another job meanwhile stays that job's."""
        self.add("5", "old", 50, age=3700, answer="COMPLETED 1")
        self.node.write("numbers/50", "other\n")
        self.collect()
        self.assertEqual(self.files(), {"numbers/50"})

    @given(st.lists(names, min_size=2, max_size=3, unique=True))
    @property_test(30)
    def test_any_name(self, job_names: list[str]) -> None:
        """Only the answered one goes, whatever the names."""
        shutil.rmtree(self.node.root, ignore_errors=True)
        for number, name in enumerate(job_names[1:], 2):
            self.add(f"{number}", name, number, age=3700)
        kept = self.files()
        self.add("1", job_names[0], 1, age=3700, answer="COMPLETED 1")
        self.collect()
        self.assertEqual(self.files(), kept)


class LeftoverTests(GarbageTestCase):
    """What never became a job, and jobs that nobody noted the end of."""

    def submission(self, name: str, *, age: float, **files: str) -> None:
        """A submission's folder, and its files, of an age."""
        for file, text in files.items():
            self.node.write(f"submit/{name}/{file.replace('_', '.')}", text, age=age, now=self.now)
        folder = self.node.root / "submit" / name
        os.utime(folder, (self.now - age, self.now - age))

    def submissions(self) -> set[str]:
        """Those that are still there."""
        return {path.name for path in (self.node.root / "submit").iterdir()}

    def test_never_a_job(self) -> None:
        """Refused, or begun and given up by upstream: gone after an hour, its text too."""
        self.submission("refused", age=2 * _HOUR, lock="")
        self.submission("given-up", age=2 * _HOUR, lock="", intent="x y", node_sh="secret")
        self.submission("just-now", age=0.5 * _HOUR, lock="", intent="x y", node_sh="secret")
        self.submission("waits", age=2 * _HOUR, lock="", intent="x y", node_sh="secret")
        self.set_queue("7 PD jarvice_waits")
        self.collect()
        self.assertEqual(self.submissions(), {"just-now", "waits"})
        self.assertTrue((self.node.root / "submit" / "waits" / "node.sh").exists())

    def test_being_submitted(self) -> None:
        """An attempt that holds the lock keeps its folder."""
        self.submission("busy", age=2 * _HOUR, lock="", intent="x y")
        lock = self.node.root / "submit" / "busy" / "lock"
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self.collect()
            self.assertEqual(self.submissions(), {"busy"})
        self.collect()
        self.assertEqual(self.submissions(), set())

    def test_cancelled_before_it_began(self) -> None:
        """Its text, which may hold passwords, goes after an hour; the rest when nobody asks."""
        kept = {"lock": "", "intent": "x y", "number": "5", "jobid": "5"}
        self.submission("young", age=2 * _HOUR, node_sh="secret", **kept)
        self.submission("waits", age=40 * _DAY, node_sh="secret", **{**kept, "jobid": "6"})
        self.submission("old", age=40 * _DAY, node_sh="secret", **{**kept, "jobid": "7"})
        self.node.write("numbers/5", "old\n", age=40 * _DAY, now=self.now)
        self.set_queue("6 PD jarvice_waits")
        self.collect()
        self.assertEqual(self.submissions(), {"young", "waits"})
        self.assertFalse((self.node.root / "submit" / "young" / "node.sh").exists())
        self.assertTrue((self.node.root / "submit" / "waits" / "node.sh").exists())
        self.assertFalse((self.node.root / "numbers" / "5").exists())

    def test_nobody_noted_its_end(self) -> None:
        """A job whose node died goes when nobody asks; one that runs for months stays."""
        self.add("5", "died", 50, age=40 * _DAY)
        self.add("6", "runs", 60, age=40 * _DAY, cancelled="5")
        self.set_queue("6 R jarvice_runs")
        self.collect()
        self.assertEqual(self.jobs(), {"6"})
        self.assertEqual(self.submissions(), {"runs"})

    def test_slurm_does_not_answer(self) -> None:
        """Then only what noted its own end goes."""
        self.node.stub("squeue", "exit 1")
        self.add("5", "died", 50, age=40 * _DAY)
        self.add("6", "ended", 60, age=40 * _DAY, exit="COMPLETED 0 1 2")
        self.add("7", "answered", 70, age=2 * _HOUR, answer="COMPLETED 1")
        self.submission("given-up", age=40 * _DAY, lock="", intent="x y")
        self.collect()
        self.assertEqual(self.jobs(), {"5"})
        self.assertEqual(self.submissions(), {"died", "given-up"})

    def unlisted_jobs(self) -> set[str]:
        """Jobs that Slurm knows, one of each kind, but that its queue does not list just now."""
        text = {"lock": "", "intent": "x", "number": "5", "node_sh": "secret"}
        self.add("5", "runs", 50, age=40 * _DAY)
        self.submission("waits", age=2 * _HOUR, jobid="6", **text)
        self.submission("long", age=40 * _DAY, jobid="7", **text)
        self.submission("unsure", age=2 * _HOUR, **text)
        self.node.write("lost.out", "x", age=40 * _DAY, now=self.now)
        self.set_queue(
            "5 R jarvice_runs", "6 PD jarvice_waits", "7 PD jarvice_long",
            "8 PD jarvice_unsure", "9 R jarvice_lost",
        )  # fmt: skip
        return self.files()

    def test_missing_from_one_answer(self) -> None:
        """What one squeue misses is asked for again, by itself, before anything of it goes."""
        before = self.unlisted_jobs()
        self.node.stub("squeue", f'case "$*" in *--format=%i\\ *) exit 0 ;; esac\n{_SQUEUE}')
        self.collect()
        self.assertEqual(self.files(), before)
        self.assertEqual(self.node.calls("scancel"), [])

    def test_no_second_answer(self) -> None:
        """Where Slurm has gone away by then, nothing is gone."""
        before = self.unlisted_jobs()
        self.node.stub("squeue", 'case "$*" in *--name=*) exit 1 ;; esac')
        for words in ("exit 1", "echo error: Unable to contact slurm controller >&2; exit 1"):
            self.node.stub("scontrol", words)
            self.collect()
            self.assertEqual(self.files(), before)

    def test_job_id_given_again(self) -> None:
        """A job whose id is another's meanwhile is gone."""
        self.add("5", "died", 50, age=40 * _DAY)
        self.submission("old", age=40 * _DAY, lock="", jobid="6")
        self.set_queue("7 R jarvice_x")
        self.node.stub("scontrol", 'echo "JobId=$4 JobName=other_peoples UserId=root(0)"; exit 0')
        self.collect()
        self.assertEqual(self.files(), set())

    def test_more(self) -> None:
        """One call removes so many of a kind; that there is more is said, and none is left out."""
        for number in range(7):
            self.add(f"{number}", f"answered{number}", number, age=3700, answer="COMPLETED 1")
            self.submission(f"refused{number}", age=2 * _HOUR, lock="")
            self.submission(f"gone{number}", age=40 * _DAY, lock="", jobid=f"5{number}")
        for left in (4, 1):
            self.collect(most=3, printed=b"more\n" * 3)
            self.assertEqual(len(self.jobs()), left)
            self.assertEqual(len(self.submissions()), 3 * left)
        self.collect(most=3)
        self.assertEqual(self.files(), set())

    def test_ten_thousand(self) -> None:
        """What stays costs no program of its own, however much it is."""
        for number in range(300):
            name = f"waits{number}"
            self.submission(name, age=2 * _HOUR, lock="", jobid=f"1{number}", node_sh="x")
        self.set_queue(*(f"1{number} PD jarvice_waits{number}" for number in range(300)))
        programs = ("cat", "find", "grep", "sed", "awk", "head", "flock", "rm", "scontrol")
        for program in programs:
            real = shutil.which(program)
            if real is not None:
                self.node.stub(program, f'exec {real} "$@"')
        before = self.files()
        self.collect()
        self.assertEqual(self.files(), before)
        self.assertLess(sum(len(self.node.calls(program)) for program in programs), 100)

    def test_output_without_a_job(self) -> None:
        """Output whose job could not even make its folder."""
        for name in ("lost", "waits"):
            self.node.write(f"{name}.out", "x", age=40 * _DAY, now=self.now)
        self.node.write("young.out", "x", age=20 * _DAY, now=self.now)
        self.node.write("README", "x", age=40 * _DAY, now=self.now)
        self.node.write("images/a.out", "x", age=40 * _DAY, now=self.now)
        self.set_queue("6 PD jarvice_waits")
        self.collect()
        self.assertEqual(self.files(), {"waits.out", "young.out", "README", "images/a.out"})

    def test_second_job(self) -> None:
        """What an attempt became that nobody waits for is cancelled while it waits, by name too."""
        self.submission("x", age=10, jobid="41\n")
        self.submission(" x", age=10, jobid="51\n")
        self.submission("PD x", age=10, jobid="61\n")
        self.submission("unknown", age=10, intent="x y")
        self.set_queue(
            "41 PD jarvice_x", "42 PD jarvice_x", "43 R jarvice_x", "51 PD jarvice_ x",
            "62 PD x", "63 PD jarvice_other", "64 PD jarvice_unknown",
        )  # fmt: skip
        self.collect()
        self.assertEqual(
            [(call[-2], call[-1]) for call in self.node.calls("scancel")],
            [("--name=jarvice_x", "42")],
        )

    @given(names, names)
    @property_test(30)
    def test_any_names(self, first: str, second: str) -> None:
        """Names of any kind: one that Slurm knows stays, the other goes."""
        shutil.rmtree(self.node.root, ignore_errors=True)
        self.submission(first, age=2 * _HOUR, intent="x y")
        self.submission(second, age=2 * _HOUR, intent="x y")
        self.set_queue(f"7 PD jarvice_{first}")
        self.collect()
        self.assertEqual(self.submissions(), {first})
