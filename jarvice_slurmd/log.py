"""The log: `2023-09-12 09:08:04,204 [1] INFO message`, a line each (PROTOCOL §6)."""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

from attrs import define
from twisted.logger import ILogObserver, STDLibLogObserver

FORMAT: Final = "%(asctime)s [%(process)d] %(levelname)s %(message)s"

#: The init report and the tunnels' lines are told whatever the log level (PROTOCOL §6).
ANNOUNCEMENTS: Final = "jarvice_slurmd.announcements"


class _OneLineFormatter(logging.Formatter):
    """Keeps an entry on its line, traceback and all, whoever wrote it: nobody forges an entry."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record).translate(_CONTROLS)
        return line.encode("utf-8", "backslashreplace").decode("utf-8")


_CONTROLS: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09},
    **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029)},
}


class _Handler(logging.StreamHandler[TextIO]):
    """Drops what can't be written: whoever read the log has gone, and there is no other."""

    def handleError(self, record: logging.LogRecord) -> None:
        # logging would tell it on stderr, which twistd has led into this very log.
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handleError(record)


def set_up_logging(level: int, stream: TextIO) -> None:
    """Send the log to a stream; `level` is one of Python's numbers, 30 meaning warnings."""
    handler = _Handler(stream)
    handler.setFormatter(_OneLineFormatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger(ANNOUNCEMENTS).setLevel(logging.INFO)


@define
class _Choice:
    level: int = logging.WARNING
    logfile: str | None = None


# twistd takes an observer's factory by name only, so what it is to make is chosen here before.
_choice: Final = _Choice()

#: The name by which twistd finds the factory.
OBSERVER_FACTORY: Final = f"{__name__}.make_observer"


def choose_log(level: int, logfile: str | None) -> None:
    """Say what `make_observer` is to make; `logfile` None or ``-`` means standard output."""
    _choice.level, _choice.logfile = level, logfile


def make_observer() -> ILogObserver:
    """What twistd calls for its log observer: Twisted's own events join the same log."""
    stream = (
        sys.__stdout__
        if _choice.logfile in (None, "-")
        else open(str(_choice.logfile), "a", encoding="utf-8", buffering=1)  # noqa: SIM115
    )
    assert stream is not None
    set_up_logging(_choice.level, stream)
    return STDLibLogObserver("twisted")
