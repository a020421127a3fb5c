"""The shared view of the queue: one question, many answers (DESIGN, idea 2).

However many callers ask, at most one `squeue` is in flight and at most one is started a second,
and none while nobody asks. An answer is never older than that. A failure is told to all who waited
for it and to nobody else: who asks later waits for the next question, which comes no sooner than
after an answer, so that an outage costs Slurm no more questions than health does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from secrets import token_hex

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure

from jarvice_slurmd.interfaces import IRemoteShell
from jarvice_slurmd.jobs.model import JobSummary
from jarvice_slurmd.shared import tell
from jarvice_slurmd.slurm.commands import render_queue
from jarvice_slurmd.slurm.output import QueueEntry, iter_queue, refusal
from jarvice_slurmd.slurm.states import PENDING, Phase

#: Lines parsed before the reactor gets its turn: about 5 ms.
LINES_A_TURN = 500

#: Bytes of `squeue` output: 100,000 jobs of 300 bytes.
MAX_QUEUE_BYTES = 32 * 1024 * 1024

#: Job ids that a view lacked, remembered so that the next question about them need not wait.
MAX_MISSED = 10_000


@frozen(kw_only=True)
class QueueView:
    """The queue as one `squeue` saw it; `asked_at` is the clock's time when it was started."""

    asked_at: float
    entries: Mapping[str, QueueEntry]
    running: Sequence[JobSummary]
    queued: Sequence[JobSummary]


@define
class _Drain:
    """What a question's parsing has gathered so far."""

    entries: dict[str, QueueEntry] = field(factory=dict)
    running: list[JobSummary] = field(factory=list)
    queued: list[JobSummary] = field(factory=list)

    def add(self, entry: QueueEntry) -> None:
        self.entries[entry.jobid] = entry
        if entry.state.phase is Phase.RUNNING:
            self.running.append(JobSummary(name=entry.name, jobid=entry.jobid))
        elif entry.state.phase is Phase.QUEUED:
            self.queued.append(JobSummary(name=entry.name, jobid=entry.jobid))


class QueueSnapshot:
    """Answers questions about the queue from one short-lived view of it.

    `max_age` is in seconds: how old a view may be when it answers, and how far apart two questions
    to Slurm are at least. `make_mark` makes the word by which a question's records are known.
    """

    def __init__(
        self,
        shell: IRemoteShell,
        clock: IReactorTime,
        *,
        max_age: float = 1.0,
        make_mark: Callable[[], str] = lambda: f"{token_hex(4)}|",
    ) -> None:
        self._shell = shell
        self._clock = clock
        self._max_age = max_age
        self._make_mark = make_mark
        # One slice a turn: whoever else has something to do comes in between.
        self._cooperator = Cooperator(
            terminationPredicateFactory=lambda: lambda: True,
            scheduler=lambda call: clock.callLater(0, call),
        )
        self._last: QueueView | None = None
        self._last_asked_at: float | None = None
        self._asking = False
        self._waiting: list[Deferred[QueueView]] = []
        self._missed: dict[str, float] = {}
        self._submitted: dict[str, tuple[float, QueueEntry]] = {}

    def current(self) -> Deferred[QueueView]:
        """A view at most `max_age` old; errs with what the question erred with."""
        if self._last is None or self._since(self._last.asked_at) >= self._max_age:
            return self._wait()
        return succeed(self._last)

    def after(self, view: QueueView) -> Deferred[QueueView]:
        """A view that Slurm was asked for later than for this one."""
        if self._last is not None and self._last.asked_at > view.asked_at:
            return self.current()
        return self._wait()

    def missed_before(self, jobid: str, view: QueueView) -> bool:
        """Whether an older view lacked the job too, and none since had it; remembers this one."""
        first = self._missed.setdefault(jobid, view.asked_at)
        while len(self._missed) > MAX_MISSED:
            del self._missed[next(iter(self._missed))]
        return first < view.asked_at

    def add_submitted(self, name: str, jobid: str) -> None:
        """Have a job that Slurm has just accepted in every view, until a later one sees it."""
        entry = QueueEntry(jobid=jobid, name=name, state=PENDING, elapsed=0, hostlist="", reason="")
        self._submitted[jobid] = (self._clock.seconds(), entry)
        if self._last is not None and jobid not in self._last.entries:
            self._last = self._with_submitted(
                _Drain(dict(self._last.entries), list(self._last.running), list(self._last.queued)),
                self._last.asked_at,
            )

    def _since(self, at: float) -> float:
        return self._clock.seconds() - at

    def _wait(self) -> Deferred[QueueView]:
        waiting: Deferred[QueueView] = Deferred(self._forget)
        self._waiting.append(waiting)
        if not self._asking:
            self._asking = True
            asked_at = self._last_asked_at
            if asked_at is not None and self._since(asked_at) < self._max_age:
                self._clock.callLater(self._max_age - self._since(asked_at), self._start)
            else:
                self._start()
        return waiting

    def _forget(self, waiting: Deferred[QueueView]) -> None:
        # It may be among those that are being answered, when another's callback cancels it.
        if waiting in self._waiting:
            self._waiting.remove(waiting)

    def _start(self) -> None:
        if not self._waiting:
            self._asking = False
            return
        Deferred.fromCoroutine(self._ask()).addBoth(self._answer)

    async def _ask(self) -> QueueView:
        asked_at = self._last_asked_at = self._clock.seconds()
        mark = self._make_mark()
        result = await self._shell.run(render_queue(mark), max_output=MAX_QUEUE_BYTES)
        if result.status != 0:
            raise refusal(result.stderr, result.status)
        drain = _Drain()
        await self._cooperator.cooperate(_parse(result.stdout, mark, drain)).whenDone()
        for jobid in self._missed.keys() & drain.entries.keys():
            del self._missed[jobid]
        self._submitted = {
            jobid: (at, entry) for jobid, (at, entry) in self._submitted.items() if at >= asked_at
        }
        return self._with_submitted(drain, asked_at)

    def _with_submitted(self, drain: _Drain, asked_at: float) -> QueueView:
        for jobid, (_, entry) in self._submitted.items():
            if jobid not in drain.entries:
                drain.add(entry)
        return QueueView(
            asked_at=asked_at, entries=drain.entries, running=drain.running, queued=drain.queued
        )

    def _answer(self, outcome: QueueView | Failure) -> None:
        self._asking = False
        self._last = None if isinstance(outcome, Failure) else outcome
        waiting, self._waiting = self._waiting, []
        tell(waiting, outcome)


def _parse(stdout: bytes, mark: str, drain: _Drain) -> Iterator[None]:
    # Lines of other jobs count too: an account may have many that are none of ours.
    for count, entry in enumerate(iter_queue(stdout.decode("utf-8", "replace"), mark), 1):
        if entry is not None:
            drain.add(entry)
        if count % LINES_A_TURN == 0:
            yield None
