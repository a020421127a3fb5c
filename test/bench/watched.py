"""The daemon in a process that watches its own reactor.

`python -m test.bench.watched PORT --http ENDPOINT` is `twistd jarvice-slurmd --http ENDPOINT` with
a call every millisecond that notes how late it is. GET http://127.0.0.1:PORT/ answers with the
longest gap between two of those calls since the last question, as a `Stall` in JSON.
"""

from __future__ import annotations

import json
import sys
import time

from attrs import asdict, frozen
from twisted.internet import reactor
from twisted.internet.task import LoopingCall
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from jarvice_slurmd.service import Options, makeService

_INTERVAL = 0.001


@frozen(kw_only=True)
class Stall:
    """The longest time between two turns of the reactor, in seconds.

    `wall` is what a caller feels, `cpu` the longest that our own code worked in one turn: a busy
    machine moves the first and not the second.
    """

    wall: float = 0.0
    cpu: float = 0.0


class Watch(Resource):
    """Measures and tells."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[float, float] | None = None
        self._longest = Stall()

    def tick(self) -> None:
        """Note how long ago the last tick was."""
        now = time.perf_counter(), time.thread_time()
        if self._last is not None:
            wall, cpu = now[0] - self._last[0], now[1] - self._last[1]
            if wall > self._longest.wall or cpu > self._longest.cpu:
                self._longest = Stall(
                    wall=max(wall, self._longest.wall), cpu=max(cpu, self._longest.cpu)
                )
        self._last = now

    def render_GET(self, request: Request) -> bytes:
        """Tell, and begin anew."""
        longest, self._longest = self._longest, Stall()
        return json.dumps(asdict(longest)).encode("ascii")


def main(words: list[str]) -> None:
    """Run until SIGTERM."""
    options = Options()
    options.parseOptions(words[1:])
    service = makeService(options)
    watch = Watch()
    reactor.listenTCP(int(words[0]), Site(watch), interface="127.0.0.1")  # type: ignore[arg-type]
    LoopingCall(watch.tick).start(_INTERVAL)
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
