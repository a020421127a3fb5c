"""How a job ended: the truth table of `judge`."""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import JobStillRunningError, SlurmUnavailableError
from jarvice_slurmd.slurm.output import PostMortem, QueueEntry
from jarvice_slurmd.slurm.states import LOST, JobState, Phase, parse_state
from jarvice_slurmd.slurm.verdict import End, judge

_COMPLETED, _FAILED = parse_state("COMPLETED"), parse_state("FAILED")
_CANCELLED, _TIMEOUT = parse_state("CANCELLED"), parse_state("TIMEOUT")


def _entry(state: JobState, elapsed: int = 11) -> QueueEntry:
    return QueueEntry(jobid="7", name="x", state=state, elapsed=elapsed, hostlist="n1", reason="")


def _found(
    name: str | None = "x",
    start: int | None = None,
    cancelled: int | None = None,
    exit: tuple[JobState, int, int, int] | None = None,
    answer: tuple[JobState, int] | None = None,
    accounting: tuple[JobState, int, str] | None = None,
    accounting_error: str | None = None,
    is_known: bool = False,
) -> PostMortem:
    return PostMortem(
        name=name,
        start=start,
        cancelled=cancelled,
        exit=exit,
        answer=answer,
        accounting=accounting,
        accounting_error=accounting_error,
        is_known=is_known,
        output=b"",
    )


_NOTHING = _found(name=None)


class PrecedenceTests(SynchronousTestCase):
    """Answer before queue before sacct before the job's own record before a note before nothing."""

    def test_order(self) -> None:
        """Of all that is there the first in this order decides, for every combination."""
        sources = ("answer", "queue", "accounting", "exit", "cancelled", "start")
        ends = {
            "answer": End(state=_TIMEOUT, elapsed=1),
            "queue": End(state=_COMPLETED, elapsed=2),
            "accounting": End(state=parse_state("DEADLINE"), elapsed=3),
            "exit": End(state=parse_state("NODE_FAIL"), elapsed=4),
            "cancelled": End(state=_CANCELLED, elapsed=5),
            "start": End(state=LOST, elapsed=0),
        }
        for there in product((False, True), repeat=len(sources)):
            has = dict(zip(sources, there, strict=True))
            found = _found(
                answer=(_TIMEOUT, 1) if has["answer"] else None,
                accounting=(parse_state("DEADLINE"), 3, "jarvice_x") if has["accounting"] else None,
                exit=(parse_state("NODE_FAIL"), 1, 96, 100) if has["exit"] else None,
                cancelled=105 if has["cancelled"] else None,
                start=100 if has["start"] else None,
            )
            entry = _entry(_COMPLETED, 2) if has["queue"] else None
            wanted = next((ends[source] for source in sources if has[source]), None)
            if wanted == ends["cancelled"] and not has["start"]:
                wanted = End(state=_CANCELLED, elapsed=0)
            self.assertEqual(judge("x", entry, found), wanted, has)

    def test_nothing_known(self) -> None:
        """A job nobody knows."""
        self.assertIsNone(judge("x", None, _NOTHING))

    def test_lost(self) -> None:
        """It began, nothing recorded its end, Slurm has forgotten it: -9, the queue silent."""
        end = judge("x", None, _found(start=5))
        self.assertEqual(end and end.state.return_code, -9)


class DoubtTests(SynchronousTestCase):
    """The queue lacked the job, and Slurm knows it all the same."""

    def test_not_over(self) -> None:
        """Nothing is concluded from a start, a cancellation or accounting's silence."""
        for found in (
            _found(is_known=True, start=5),
            _found(is_known=True, cancelled=5),
            _found(is_known=True, accounting_error="away"),
        ):
            self.assertRaises(JobStillRunningError, judge, "x", None, found)

    def test_listed(self) -> None:
        """What the queue or an earlier answer says stands."""
        found = _found(is_known=True, answer=(_FAILED, 3))
        self.assertEqual(judge("x", None, found), End(state=_FAILED, elapsed=3))
        entry = _entry(_COMPLETED)
        self.assertEqual(
            judge("x", entry, _found(is_known=True)), End(state=_COMPLETED, elapsed=11)
        )


class AccountingTests(SynchronousTestCase):
    """What sacct says, and what it does not."""

    def test_down(self) -> None:
        """Nothing known because accounting did not answer is no -9, started job or not."""
        for start in (None, 5):
            with self.assertRaises(SlurmUnavailableError):
                judge("x", None, _found(start=start, accounting_error="Connection refused"))

    def test_down_but_not_needed(self) -> None:
        """The job's own record, a note or an answer does without."""
        error = "Connection refused"
        for found in (
            _found(exit=(_COMPLETED, 0, 1, 2), accounting_error=error),
            _found(cancelled=5, accounting_error=error),
            _found(answer=(_COMPLETED, 5), accounting_error=error),
        ):
            self.assertIsNotNone(judge("x", None, found))
        self.assertIsNotNone(judge("x", _entry(_COMPLETED), _found(accounting_error=error)))

    def test_other_jobs_record(self) -> None:
        """A job id that Slurm has given out again is another job."""
        self.assertIsNone(judge("x", None, _found(accounting=(_FAILED, 3, "jarvice_y"))))
        self.assertIsNone(judge("x", None, _found(accounting=(_FAILED, 3, "x"))))

    def test_still_runs(self) -> None:
        """Accounting that says it runs, and nothing that says it ended."""
        for word in ("RUNNING", "PENDING", "NEW_STATE"):
            with self.assertRaises(JobStillRunningError):
                judge("x", None, _found(start=5, accounting=(parse_state(word), 3, "jarvice_x")))

    def test_late_accounting(self) -> None:
        """Accounting that lags behind does not contradict the job's own record."""
        found = _found(
            exit=(_COMPLETED, 0, 10, 20), accounting=(parse_state("RUNNING"), 3, "jarvice_x")
        )
        self.assertEqual(judge("x", None, found), End(state=_COMPLETED, elapsed=10))


class OwnershipTests(SynchronousTestCase):
    """A folder that names another job says nothing of this one."""

    def test_other_name(self) -> None:
        """Neither its answer nor its record, note or start count."""
        found = _found(
            name="y",
            answer=(_COMPLETED, 1),
            exit=(_COMPLETED, 137, 1, 2),
            cancelled=3,
            start=1,
        )
        self.assertIsNone(judge("x", None, found))
        for state in (_TIMEOUT, _FAILED):
            wanted = End(state=state, elapsed=9)
            self.assertEqual(judge("x", _entry(state, 9), found), wanted)


class CancelledTests(SynchronousTestCase):
    """A killed job fails before Slurm is told that it is cancelled."""

    def test_killed_at_once(self) -> None:
        """FAILED after a note, without a record, by a kill, or no earlier, is CANCELLED."""
        for exit in (None, (_FAILED, 137, 1, 2), (_FAILED, 143, 1, 2), (_FAILED, 1, 1, 5)):
            found = _found(cancelled=5, exit=exit)
            end = judge("x", _entry(_FAILED), found)
            self.assertEqual(end and end.state, _CANCELLED, exit)
        found = _found(cancelled=5, accounting=(_FAILED, 3, "jarvice_x"))
        self.assertEqual(judge("x", None, found), End(state=_CANCELLED, elapsed=3))

    def test_failed_by_itself(self) -> None:
        """A note that came too late does not change a failure or a success."""
        found = _found(cancelled=5, exit=(_FAILED, 3, 1, 2))
        self.assertEqual(judge("x", None, found), End(state=_FAILED, elapsed=1))
        for state in (_COMPLETED, _TIMEOUT):
            end = judge("x", _entry(state), _found(cancelled=5))
            self.assertEqual(end and end.state, state)

    def test_failed_without_note(self) -> None:
        """137 by itself (the kernel's OOM killer, say) is a failure."""
        found = _found(exit=(_FAILED, 137, 1, 2))
        self.assertEqual(judge("x", _entry(_FAILED), found), End(state=_FAILED, elapsed=11))

    def test_clocks_that_differ(self) -> None:
        """A note earlier than the start, or an end earlier, is no negative time."""
        end = judge("x", None, _found(start=100, cancelled=90))
        self.assertEqual(end, End(state=_CANCELLED, elapsed=0))
        end = judge("x", None, _found(exit=(_COMPLETED, 0, 100, 90)))
        self.assertEqual(end, End(state=_COMPLETED, elapsed=0))

    def test_every_answer_has_a_return_code(self) -> None:
        """Whatever state ended it, upstream gets a number."""
        for word in ("CANCELLED", "BOOT_FAIL", "OUT_OF_MEMORY", "SPECIAL_EXIT"):
            end = judge("x", _entry(parse_state(word)), _NOTHING)
            assert end is not None
            self.assertIs(end.state.phase, Phase.ENDED)
            self.assertIsNotNone(end.state.return_code)
