"""Work that many wait for and nobody owns."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Shared(Generic[T]):
    """Does a thing once for all who ask while it is being done.

    Its result, or its error, is told to each; one who stops waiting stops nobody else.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._waiting: list[Deferred[T]] = []
        self._working = False

    def done(self) -> Deferred[T]:
        """Fires when the work that is being done now, or begins now, is done."""
        waiting: Deferred[T] = Deferred()
        self._waiting.append(waiting)
        if not self._working:
            self._working = True
            Deferred.fromCoroutine(self._work()).addBoth(self._tell)
        return waiting

    def _tell(self, outcome: T | Failure) -> None:
        self._working = False
        waiting, self._waiting = self._waiting, []
        tell(waiting, outcome)


def tell(waiting: Iterable[Deferred[T]], outcome: T | Failure) -> None:
    """Give a result, or an error, to all who have not stopped waiting for it."""
    for one in waiting:
        if one.called:
            continue
        if isinstance(outcome, Failure):
            one.errback(outcome)
        else:
            one.callback(outcome)
