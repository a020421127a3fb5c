"""Whether requests can be answered at this moment, for GET /ready."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from jarvice_slurmd.errors import JarviceSlurmdError, NotConnectedError, SlurmUnavailableError
from jarvice_slurmd.web.outages import Outages

_log = logging.getLogger(__name__)

_ENDPOINT: Final = "GET /ready"


class Readiness:
    """Asks the cluster when somebody asks it, one check at a time, and tells `outages` of it.

    `link_down` says why there is no link to the login node, or None; `check` raises what requests
    would end with. An outcome stands for `max_age` seconds. Who asks while a check is under way
    waits for at most `patience` seconds, less than Kubernetes gives a probe, and is then told the
    outcome before: a cluster that is slow is not out of order, and a check that hangs ends as any
    command does. Where there is none, or none of the last `max_delay` seconds, nothing is known and
    nothing is ready.
    """

    def __init__(
        self,
        link_down: Callable[[], str | None],
        check: Callable[[], Awaitable[None]],
        clock: IReactorTime,
        outages: Outages,
        *,
        max_age: float = 2.0,
        patience: float = 0.8,
        max_delay: float = 15.0,
    ) -> None:
        self._link_down = link_down
        self._check = check
        self._clock = clock
        self._outages = outages
        self._max_age = max_age
        self._patience = patience
        self._max_delay = max_delay
        self._checked_at: float | None = None
        self._error: JarviceSlurmdError | None = None
        self._checking = False
        self._waiting: list[Deferred[None]] = []

    async def error(self) -> JarviceSlurmdError | None:
        """Why requests can't be answered now; None when they can."""
        reason = self._link_down()
        if reason is not None:
            # What was found through the link before says nothing about the next one.
            self._checked_at = self._error = None
            return NotConnectedError(reason)
        now = self._clock.seconds()
        if self._checked_at is None or now - self._checked_at >= self._max_age:
            self._start()
        if self._checking:
            await self._wait()
        if self._checked_at is None:
            return SlurmUnavailableError("the cluster has not answered the first check yet")
        if self._error is None and self._clock.seconds() - self._checked_at > self._max_delay:
            return SlurmUnavailableError("the cluster has not answered the check yet")
        return self._error

    def _start(self) -> None:
        if not self._checking:
            self._checking = True
            checking = Deferred.fromCoroutine(_run(self._check))
            checking.addBoth(self._ended, self._clock.seconds())

    def _ended(self, outcome: Failure | None, asked_at: float) -> None:
        self._checking = False
        self._checked_at = self._clock.seconds()
        self._error = None
        if outcome is None:
            self._outages.answered(_ENDPOINT)
        elif isinstance(outcome.value, JarviceSlurmdError):
            self._error = outcome.value
            self._outages.failed(_ENDPOINT, 503, outcome.value, asked_at=asked_at)
        else:
            _log.error("The check for /ready failed:\n%s", outcome.getTraceback())
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.called:
                one.callback(None)

    def _wait(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred(self._forget)
        self._waiting.append(waiting)
        late = self._clock.callLater(self._patience, self._too_late, waiting)

        def over(outcome: Failure | None) -> Failure | None:
            if late.active():
                late.cancel()
            return outcome

        return waiting.addBoth(over)

    def _too_late(self, waiting: Deferred[None]) -> None:
        self._forget(waiting)
        waiting.callback(None)

    def _forget(self, waiting: Deferred[None]) -> None:
        # It may be among those that are being answered, when another's callback cancels it.
        if waiting in self._waiting:
            self._waiting.remove(waiting)


async def _run(check: Callable[[], Awaitable[None]]) -> None:
    await check()
