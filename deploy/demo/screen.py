"""What the demo shows a person: steps, facts and the daemon's own log, in colour on a terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import Final, TextIO

_BOLD, _DIM, _GREEN, _RED, _CYAN, _PLAIN = "1", "2", "32", "31", "36", "0"
_MARGIN: Final = "  "


class Screen:
    """Prints the demo's story; colours only where a terminal shows them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colours = self._stream.isatty()

    def title(self, text: str) -> None:
        """A chapter of the story."""
        self._print(f"\n{self._in(_BOLD, text)}")

    def step(self, text: str) -> None:
        """Something begins, or is known now."""
        self._print(f"{_MARGIN}{self._in(_CYAN, '•')} {text}")

    def good(self, text: str) -> None:
        """Something worked."""
        self._print(f"{_MARGIN}{self._in(_GREEN, '✔')} {text}")

    def bad(self, text: str) -> None:
        """Something did not."""
        self._print(f"{_MARGIN}{self._in(_RED, '✘')} {text}")

    def request(self, text: str) -> None:
        """What upstream asks the daemon."""
        self._print(f"{_MARGIN}{self._in(_BOLD, '→')} {text}")

    def answer(self, text: str) -> None:
        """What the daemon answers."""
        self._print(f"{_MARGIN}{self._in(_BOLD, '←')} {text}")

    def daemon(self, line: str) -> None:
        """A line of the daemon's log."""
        self._print(f"{_MARGIN}{self._in(_DIM, f'│ {line}')}")

    def output(self, line: str) -> None:
        """A line of the job's output."""
        self._print(f"{_MARGIN}{self._in(_GREEN, '┃')} {line}")

    def plain(self, text: str = "") -> None:
        """A line as it is, to copy."""
        self._print(f"{_MARGIN}{text}" if text else "")

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[{_PLAIN}m" if self._colours else text

    def _print(self, text: str) -> None:
        # Nobody may be there any more; what the demo does, cleaning up above all, goes on.
        with contextlib.suppress(OSError):
            print(text, file=self._stream, flush=True)
