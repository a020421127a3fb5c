# mypy: allow-untyped-calls
"""The clean-up that the daemon does by itself, beside what GET /gc does."""

from __future__ import annotations

import logging

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from jarvice_slurmd.errors import JarviceSlurmdError, NotConnectedError
from jarvice_slurmd.interfaces import IScheduler

_log = logging.getLogger(__name__)


class CleanUpService(Service):
    """Removes what finished jobs left, at the start and every `interval` seconds.

    Each time until nothing is left to remove. A stop waits for none of it: what is cut short is
    done the next time.
    """

    name = "clean-up"

    def __init__(self, scheduler: IScheduler, clock: IReactorTime, interval: float) -> None:
        self._scheduler = scheduler
        self._interval = interval
        self._loop: LoopingCall = LoopingCall(self._collect)
        self._loop.clock = clock
        self._collecting: Deferred[None] = defer.succeed(None)

    def startService(self) -> None:
        """Begin now."""
        super().startService()
        self._loop.start(self._interval)

    def stopService(self) -> None:
        """End at once."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        self._collecting.cancel()

    def _collect(self) -> Deferred[None]:
        self._collecting = Deferred.fromCoroutine(self._collect_all())
        return self._collecting

    async def _collect_all(self) -> None:
        try:
            while await self._scheduler.collect_garbage():
                _log.debug("Clean-up: there is more")
        except (NotConnectedError, CancelledError) as error:
            # The link tells by itself that it is down.
            _log.info("Clean-up did not run: %s", error or "the daemon stops")
        except JarviceSlurmdError as error:
            _log.warning("Clean-up did not run, or not to its end: %s", error)
        except Exception:
            _log.exception("Clean-up failed in an unexpected way")
