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
    SlurmRefusedError,
    SlurmUnavailableError,
    StorageError,
)
from jarvice_slurmd.slurm.output import SlurmOutputError

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


@define
class _Outage:
    since: float
    endpoints: set[str] = field(factory=set)


class Outages:
    """What is out of order as the answers of the endpoints tell it.

    An outage is over when an endpoint that failed by it has had an answer from the cluster; what
    was asked before that and fails later is no new one.
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
        if outage is None and asked_at < self._over_at.get(kind, asked_at):
            _log.info("%s: %d %s", endpoint, code, error)
            return
        if outage is None:
            outage = self._outages[kind] = _Outage(self._clock.seconds())
            _log.warning("%s: %d %s (told once until it is over)", endpoint, code, error)
        else:
            _log.info("%s: %d %s", endpoint, code, error)
        outage.endpoints.add(endpoint)

    def answered(self, endpoint: str) -> None:
        """The cluster has answered an endpoint's question."""
        for kind, outage in tuple(self._outages.items()):
            if endpoint in outage.endpoints:
                del self._outages[kind]
                self._over_at[kind] = self._clock.seconds()
                seconds = self._clock.seconds() - outage.since
                what = _OUTAGES[kind]
                _log.warning("%s works again after %.0f s, says %s", what, seconds, endpoint)
