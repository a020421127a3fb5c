"""The log: a line an entry, in PROTOCOL §6's format, whatever is logged."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from io import StringIO
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.log import ANNOUNCEMENTS, choose_log, make_observer, set_up_logging
from test.properties import property_test

_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[(\d+)\] ([A-Z]+) (.*)")


class LogTestCase(SynchronousTestCase):
    """Gives logging back as it was."""

    def setUp(self) -> None:
        root, announcements = logging.getLogger(), logging.getLogger(ANNOUNCEMENTS)
        before = (root.handlers[:], root.level, announcements.level)

        def restore() -> None:
            root.handlers[:], level, announced = before
            root.setLevel(level)
            announcements.setLevel(announced)

        self.addCleanup(restore)
        self.stream = StringIO()

    def entries(self) -> list[tuple[str, str]]:
        """Level and message of each line; every line is in the format."""
        found: list[tuple[str, str]] = []
        for line in self.stream.getvalue().split("\n")[:-1]:
            match = _LINE.fullmatch(line)
            assert match is not None, line
            self.assertEqual(match[1], str(os.getpid()))
            found.append((match[2], match[3]))
        return found


class FormatTests(LogTestCase):
    """`set_up_logging`."""

    def test_format(self) -> None:
        """Time, process, level and message."""
        set_up_logging(10, self.stream)
        logging.getLogger("x").info("say %s", "this")
        self.assertEqual(self.entries(), [("INFO", "say this")])

    def test_nobody_reads_it(self) -> None:
        """A log that can't be written to any longer harms nothing, and tells nobody."""
        reader, writer = os.pipe()
        os.close(reader)
        stderr = StringIO()
        with os.fdopen(writer, "w", buffering=1) as stream, contextlib.redirect_stderr(stderr):
            set_up_logging(10, stream)
            for _ in range(3):
                logging.getLogger("x").warning("lost")
            logging.getLogger().handlers.clear()
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.assertEqual(stderr.getvalue(), "")

    def test_level(self) -> None:
        """Python's numbers; what is below is not told."""
        set_up_logging(30, self.stream)
        for level in (10, 20, 30, 40):
            logging.getLogger("x").log(level, "entry")
        self.assertEqual([level for level, _ in self.entries()], ["WARNING", "ERROR"])

    def test_announcements(self) -> None:
        """The init report is told whatever the level."""
        for level in (0, 30, 50, 100):
            set_up_logging(level, self.stream)
            logging.getLogger(ANNOUNCEMENTS).info("at %d", level)
        self.assertEqual([text for _, text in self.entries()], ["at 0", "at 30", "at 50", "at 100"])

    def test_once(self) -> None:
        """Set up again, it does not say everything twice."""
        set_up_logging(10, StringIO())
        set_up_logging(10, self.stream)
        logging.getLogger("x").warning("once")
        self.assertEqual(len(self.entries()), 1)

    def test_forged_entry(self) -> None:
        """A line feed in what somebody sent makes no second entry."""
        set_up_logging(10, self.stream)
        logging.getLogger("x").warning("%s", "a\n2023-09-12 09:08:04,204 [1] INFO forged\r\x1b[2J")
        ((_, message),) = self.entries()
        self.assertEqual(message, "a\\x0a2023-09-12 09:08:04,204 [1] INFO forged\\x0d\\x1b[2J")

    def test_traceback(self) -> None:
        """An error with its traceback is one entry, its own words included."""
        set_up_logging(10, self.stream)
        try:
            raise ValueError("a\n2023-09-12 09:08:04,204 [1] INFO forged")
        except ValueError:
            logging.getLogger("x").exception("went wrong")
        ((level, message),) = self.entries()
        self.assertEqual(level, "ERROR")
        self.assertIn("went wrong\\x0aTraceback", message)
        self.assertIn("ValueError: a\\x0a2023", message)

    @given(st.text())
    @property_test(100)
    def test_any_text(self, text: str) -> None:
        """Whatever is logged is one entry that a file in UTF-8 can hold."""
        self.stream = StringIO()
        set_up_logging(10, self.stream)
        logging.getLogger("x").warning("%s", text + "\ud800\u2028\x85")
        self.assertEqual(len(self.entries()), 1)
        self.assertEqual(len(self.stream.getvalue().splitlines()), 1)
        self.stream.getvalue().encode("utf-8")


class ObserverTests(LogTestCase):
    """`make_observer`: what twistd calls."""

    def test_twisted_joins(self) -> None:
        """Twisted's own events are entries of the same log file, appended to what is there."""
        file = Path(self.mktemp())
        file.write_text("before\n")
        choose_log(20, str(file))
        self.addCleanup(choose_log, logging.WARNING, None)
        logger = Logger(observer=LogPublisher(make_observer()))
        logger.debug("too low")
        logger.info("of {what}", what="Twisted\nforged")
        logger.failure("failed", Failure(RuntimeError("why")))
        for handler in logging.getLogger().handlers:
            self.addCleanup(handler.stream.close)  # type: ignore[attr-defined]
        first, *self_lines = file.read_text().split("\n")[:-1]
        self.assertEqual(first, "before")
        for line in self_lines:
            self.assertRegex(line, _LINE)
        self.assertIn("INFO of Twisted\\x0aforged", self_lines[0])
        self.assertEqual(len(self_lines), 2)
