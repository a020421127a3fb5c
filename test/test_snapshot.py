"""The shared view of the queue: one question, many answers."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import NotConnectedError, SlurmRefusedError, SlurmUnavailableError
from jarvice_slurmd.interfaces import CommandResult
from jarvice_slurmd.slurm.output import is_jobid
from jarvice_slurmd.snapshot import LINES_A_TURN, MAX_MISSED, QueueSnapshot, QueueView
from test.fakes import ScriptedShell


def _line(jobid: int | str, name: str, state: str = "R") -> str:
    return f"{jobid}|{state}|0:05|n1|None|jarvice_{name}\n"


def _result(text: str) -> CommandResult:
    return CommandResult(status=0, stdout=text.encode(), stderr=b"")


class SnapshotTestCase(SynchronousTestCase):
    """A snapshot, a shell whose squeue answers when told, and a clock."""

    def setUp(self) -> None:
        self.shell = ScriptedShell()
        self.clock = Clock()
        self.clock.advance(1000)
        self.snapshot = QueueSnapshot(self.shell, self.clock, make_mark=str)
        self.pending: list[Deferred[CommandResult]] = []
        self.shell.answer("squeue", self.hold)

    def hold(self) -> Deferred[CommandResult]:
        """A question that is answered later."""
        pending: Deferred[CommandResult] = Deferred()
        self.pending.append(pending)
        return pending

    def answer(self, text: str) -> None:
        """Answer the oldest question, and let the clock's turns pass."""
        self.pending.pop(0).callback(_result(text))
        self.clock.advance(0)

    def view(self, text: str = "") -> QueueView:
        """A fresh view."""
        waiting = self.snapshot.current()
        self.answer(text)
        return self.successResultOf(waiting)


class QuestionTests(SnapshotTestCase):
    """When Slurm is asked."""

    def test_nobody_asks(self) -> None:
        """Nothing is asked, not even as time passes after an answer."""
        self.clock.advance(100)
        self.view()
        self.clock.pump([1] * 100)
        self.assertEqual(len(self.shell.commands), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_question(self) -> None:
        """A hundred callers at once cost one, and all have its answer."""
        waiting = [self.snapshot.current() for _ in range(100)]
        self.assertEqual(len(self.shell.commands), 1)
        self.answer(_line(1, "x"))
        self.assertEqual(len({id(self.successResultOf(one)) for one in waiting}), 1)

    def test_one_a_second(self) -> None:
        """Whoever asks within a second of a question has its answer; later a new one is asked."""
        first = self.view(_line(1, "x"))
        self.clock.advance(0.99)
        self.assertIs(self.successResultOf(self.snapshot.current()), first)
        self.clock.advance(0.02)
        second = self.snapshot.current()
        self.assertNoResult(second)
        self.answer(_line(2, "y"))
        self.assertEqual(list(self.successResultOf(second).entries), ["2"])

    def test_load(self) -> None:
        """Constant asking for a minute: at most a question a second, and never two at once."""
        for _ in range(600):
            self.snapshot.current()
            self.assertLessEqual(len(self.pending), 1)
            if self.pending:
                self.answer("")
            self.clock.advance(0.1)
        self.assertLessEqual(len(self.shell.commands), 61)
        self.assertGreaterEqual(len(self.shell.commands), 50)

    def test_slow_answer(self) -> None:
        """While a question is in flight for long, no second one is sent."""
        waiting = [self.snapshot.current()]
        for _ in range(50):
            self.clock.advance(1)
            waiting.append(self.snapshot.current())
        self.assertEqual(len(self.shell.commands), 1)
        self.answer("")
        for one in waiting:
            self.successResultOf(one)

    def test_bounded(self) -> None:
        """squeue's output is bounded."""
        self.view()
        self.assertIsNotNone(self.shell.commands[0].max_output)

    def test_after(self) -> None:
        """A later view is a question of its own, not before a second has passed."""
        first = self.view(_line(1, "x"))
        later = self.snapshot.after(first)
        self.clock.advance(0)
        self.assertEqual(len(self.shell.commands), 1)
        self.clock.advance(1)
        self.answer("")
        self.assertGreater(self.successResultOf(later).asked_at, first.asked_at)

    def test_after_an_old_one(self) -> None:
        """For a view that is old already, the present one is later."""
        first = self.view()
        self.clock.advance(5)
        second = self.view()
        self.assertIs(self.successResultOf(self.snapshot.after(first)), second)

    def test_parsed_in_slices(self) -> None:
        """10,000 jobs are read in slices; the reactor has its turn in between."""
        count = 10_000
        waiting = self.snapshot.current()
        text = "".join(_line(n, f"job{n}", "R" if n % 2 else "PD") for n in range(1, count + 1))
        turns: list[int] = []

        def turn() -> None:
            turns.append(1)
            if self.clock.getDelayedCalls():
                self.clock.callLater(0, turn)

        self.pending.pop(0).callback(_result(text))
        turn()
        self.clock.advance(0)
        self.assertGreaterEqual(len(turns), count // LINES_A_TURN)
        view = self.successResultOf(waiting)
        self.assertEqual((len(view.entries), len(view.running)), (count, count // 2))
        self.assertTrue(all(is_jobid(job.jobid) for job in view.queued))

    def test_marked(self) -> None:
        """Only lines with the question's own mark are records, and no two have the same."""
        snapshot = QueueSnapshot(self.shell, self.clock)
        marks: list[str] = []
        for _ in range(2):
            waiting = snapshot.current()
            mark = self.shell.commands[-1].script.partition("--format='")[2].partition("%")[0]
            marks.append(mark)
            self.answer(f"{mark}{_line(1, 'x')}{_line(2, 'y')}{'0' * len(mark)}{_line(3, 'z')}")
            self.assertEqual(list(self.successResultOf(waiting).entries), ["1"])
            self.clock.advance(2)
        self.assertNotEqual(*marks)


class FailureTests(SnapshotTestCase):
    """What happens when Slurm or the link does not answer."""

    def test_shared(self) -> None:
        """All who wait are told of the same failure."""
        waiting = [self.snapshot.current() for _ in range(3)]
        self.pending.pop().errback(NotConnectedError("no link"))
        for one in waiting:
            self.failureResultOf(one, NotConnectedError)
        self.assertEqual(len(self.shell.commands), 1)

    def test_not_remembered_as_empty(self) -> None:
        """After a failure there is no view, old or empty, but a new question in a second."""
        self.view(_line(1, "x"))
        self.clock.advance(2)
        failing = self.snapshot.current()
        self.pending.pop().callback(
            CommandResult(status=1, stdout=b"", stderr=b"Unable to contact slurm controller")
        )
        self.failureResultOf(failing, SlurmUnavailableError)
        self.clock.advance(1)
        self.assertEqual(list(self.view(_line(2, "y")).entries), ["2"])

    def test_outage_costs_no_more(self) -> None:
        """While questions fail at once they are still a second apart."""
        self.shell.answer("squeue", NotConnectedError("no link"))
        for _ in range(100):
            self.snapshot.current().addErrback(lambda failure: failure.trap(NotConnectedError))
            self.clock.advance(0.1)
        self.assertLessEqual(len(self.shell.commands), 11)

    def test_refused(self) -> None:
        """squeue's own no is no outage."""
        self.shell.refuse("squeue", 1, b"squeue: error: Invalid user: x")
        self.failureResultOf(self.snapshot.current(), SlurmRefusedError)


class WaiterTests(SnapshotTestCase):
    """Callers that go away."""

    def test_cancelled(self) -> None:
        """The others have their answer; the question goes on."""
        gone, stays = self.snapshot.current(), self.snapshot.current()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.answer("")
        self.successResultOf(stays)

    def test_last_one_cancelled_before_asking(self) -> None:
        """Where nobody waits any more when the second is over, nothing is asked."""
        later = self.snapshot.after(self.view())
        later.cancel()
        self.failureResultOf(later, CancelledError)
        self.clock.advance(5)
        self.assertEqual(len(self.shell.commands), 1)
        self.assertEqual(list(self.view(_line(1, "x")).entries), ["1"])

    def test_cancelled_by_another(self) -> None:
        """A callback that cancels another waiter leaves the rest their answers."""
        first, second, third = (self.snapshot.current() for _ in range(3))
        first.addCallback(lambda _: second.cancel())
        self.answer("")
        self.failureResultOf(second, CancelledError)
        self.successResultOf(third)

    def test_asks_again_at_once(self) -> None:
        """A callback that asks again waits for another question."""
        again: list[Deferred[QueueView]] = []
        self.snapshot.current().addCallback(lambda view: again.append(self.snapshot.after(view)))
        self.answer("")
        self.clock.advance(1)
        self.assertEqual(len(self.shell.commands), 2)
        self.answer("")
        self.successResultOf(again[0])


class SubmittedTests(SnapshotTestCase):
    """A job that has just been submitted is in every view."""

    def test_at_once(self) -> None:
        """In the view that is there already, without a question."""
        self.view(_line(1, "x"))
        self.snapshot.add_submitted("y", "2")
        view = self.successResultOf(self.snapshot.current())
        self.assertEqual([(job.name, job.jobid) for job in view.queued], [("y", "2")])
        self.assertEqual([job.jobid for job in view.running], ["1"])
        self.assertEqual(len(self.shell.commands), 1)

    def test_view_asked_before(self) -> None:
        """A question that was asked before the submission does not lose it."""
        waiting = self.snapshot.current()
        self.clock.advance(0.1)
        self.snapshot.add_submitted("y", "2")
        self.answer(_line(1, "x"))
        view = self.successResultOf(waiting)
        self.assertEqual(set(view.entries), {"1", "2"})

    def test_view_that_saw_it(self) -> None:
        """What Slurm says of it counts, and it stands there once."""
        waiting = self.snapshot.current()
        self.snapshot.add_submitted("y", "2")
        self.answer(_line(2, "y", "R"))
        view = self.successResultOf(waiting)
        self.assertEqual(([job.jobid for job in view.running], list(view.queued)), (["2"], []))

    def test_added_twice(self) -> None:
        """A submission that was answered again does not double it."""
        self.view()
        self.snapshot.add_submitted("y", "2")
        self.snapshot.add_submitted("y", "2")
        view = self.successResultOf(self.snapshot.current())
        self.assertEqual([job.jobid for job in view.queued], ["2"])

    def test_later_view(self) -> None:
        """A question asked after the submission is believed."""
        self.snapshot.add_submitted("y", "2")
        self.clock.advance(0.1)
        self.assertEqual(dict(self.view().entries), {})

    def test_earlier_views_do_not_change(self) -> None:
        """Whoever holds a view holds what it was."""
        view = self.view()
        self.snapshot.add_submitted("y", "2")
        self.assertEqual((dict(view.entries), list(view.queued)), ({}, []))


class MissedTests(SnapshotTestCase):
    """`missed_before`: absence counts twice."""

    def test_twice(self) -> None:
        """Not in the first view; in a later one that lacks it too."""
        first = self.view()
        self.assertFalse(self.snapshot.missed_before("7", first))
        self.assertFalse(self.snapshot.missed_before("7", first))
        self.clock.advance(1)
        self.assertTrue(self.snapshot.missed_before("7", self.view()))

    def test_seen_in_between(self) -> None:
        """A job that was there again since has not been missed twice."""
        self.assertFalse(self.snapshot.missed_before("7", self.view()))
        self.clock.advance(1)
        self.view(_line(7, "x"))
        self.clock.advance(1)
        self.assertFalse(self.snapshot.missed_before("7", self.view()))

    def test_bounded(self) -> None:
        """Questions about invented jobs don't fill the memory; they are forgotten, oldest first."""
        first = self.view()
        for number in range(MAX_MISSED + 1):
            self.snapshot.missed_before(str(number), first)
        self.clock.advance(1)
        second = self.view()
        self.assertTrue(self.snapshot.missed_before(str(MAX_MISSED), second))
        self.assertFalse(self.snapshot.missed_before("0", second))
