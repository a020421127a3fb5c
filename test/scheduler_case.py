"""What the scheduler's tests stand on: a scripted login node, and a clock."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.scheduler import SlurmScheduler
from jarvice_slurmd.snapshot import QueueSnapshot
from test.fakes import SETTINGS, ScriptedShell

T = TypeVar("T")


class SchedulerTestCase(SynchronousTestCase):
    """A scheduler whose login node says what a test wants it to."""

    def setUp(self) -> None:
        self.shell = ScriptedShell()
        self.clock = Clock()
        self.clock.advance(1000)
        self.settings = SETTINGS
        self.scheduler = self.make_scheduler()
        self.shell.answer("scontrol -o show job", b"")
        self.set_queue()

    def make_scheduler(self) -> SlurmScheduler:
        return SlurmScheduler(
            self.shell, QueueSnapshot(self.shell, self.clock, make_mark=str), self.settings
        )

    def set_queue(self, *lines: str) -> None:
        """What squeue says from now on; two seconds later, so that it is asked."""
        self.shell.answer("exec squeue", "".join(f"{line}\n" for line in lines).encode())
        self.clock.advance(2)

    def ask(self, question: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Begin, and let two seconds pass."""
        asked = Deferred.fromCoroutine(question)
        self.clock.pump([0.5] * 4)
        return asked

    def result(self, question: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(self.ask(question))

    def error(self, question: Coroutine[Any, Any, object], *kinds: type[Exception]) -> str:
        return str(self.failureResultOf(self.ask(question), *kinds).value)
