"""Outages in the log: once as one begins, once as it is over, however many ask meanwhile."""

from __future__ import annotations

import logging
from typing import Final

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from jarvice_slurmd.errors import (
    CommandTimedOutError,
    InvalidArgumentsError,
    JarviceSlurmdError,
    LinkLostError,
    LoginShellError,
    NotConnectedError,
    OutputTooLargeError,
    SlurmOutputError,
    SlurmRefusedError,
    SlurmUnavailableError,
    StorageError,
)

_log = logging.getLogger(__name__)

#: What lasts until somebody mends it, and what works again then.
_OUTAGES: Final[dict[type[JarviceSlurmdError], str]] = {
    SlurmUnavailableError: "Slurm",
    StorageError: "The cluster's storage",
    CommandTimedOutError: "The cluster",
    LoginShellError: "The login shell",
}

#: What the SSH link tells by itself, loss and return.
_LINK: Final = (NotConnectedError, LinkLostError)

#: What is worth an administrator's attention each time.
_EVENTS: Final = (SlurmRefusedError, SlurmOutputError, OutputTooLargeError)


#: Seconds without another failure until what works again is believed to: where the trouble is one
#: job's alone, others of the same endpoint are answered in between. Upstream asks every 5 s.
QUIET_SECONDS: Final = 10.0


@define
class _Outage:
    """`answered`: when, and to which endpoint, the cluster gave its first answer since."""

    since: float
    endpoints: set[str] = field(factory=set)
    answered: tuple[float, str] | None = None


class Outages:
    """What is out of order as the answers of the endpoints tell it.

    An outage is over when an endpoint that failed by it has had an answer from the cluster, and
    nothing has failed by it for `QUIET_SECONDS` after that. What was asked before the answer and
    fails later is neither a new outage nor the old one still.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._outages: dict[type[JarviceSlurmdError], _Outage] = {}
        self._over_at: dict[type[JarviceSlurmdError], float] = {}

    def failed(
        self, endpoint: str, code: int, error: JarviceSlurmdError, *, asked_at: float
    ) -> None:
        """An endpoint answered with an error what it was asked at that time of the clock."""
        kind = next((kind for kind in _OUTAGES if isinstance(error, kind)), None)
        if kind is None:
            level = logging.WARNING if isinstance(error, _EVENTS) else logging.INFO
            _log.log(level, "%s: %d %s", endpoint, code, error)
            if not isinstance(error, (*_LINK, InvalidArgumentsError)):
                self.answered(endpoint)
            return
        outage = self._outages.get(kind)
        worked_at = self._over_at.get(kind)
        if outage is not None:
            worked_at = None if outage.answered is None else outage.answered[0]
        if worked_at is not None and asked_at < worked_at:
            _log.info("%s: %d %s", endpoint, code, error)
            return
        if outage is None:
            outage = self._outages[kind] = _Outage(self._clock.seconds())
            _log.warning("%s: %d %s (told once until it is over)", endpoint, code, error)
        else:
            _log.info("%s: %d %s", endpoint, code, error)
        outage.endpoints.add(endpoint)
        outage.answered = None

    def answered(self, endpoint: str) -> None:
        """The cluster has answered an endpoint's question."""
        now = self._clock.seconds()
        for kind, outage in tuple(self._outages.items()):
            if outage.answered is None and endpoint in outage.endpoints:
                outage.answered = now, endpoint
            if outage.answered is None or now - outage.answered[0] < QUIET_SECONDS:
                continue
            del self._outages[kind]
            answered_at, by = outage.answered
            self._over_at[kind] = answered_at
            what, seconds = _OUTAGES[kind], answered_at - outage.since
            _log.warning("%s works again after %.0f s, says %s", what, seconds, by)
