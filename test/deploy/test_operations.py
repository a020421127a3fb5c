"""docs/operations.md: what it quotes is what the daemon says, and nothing loud is left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from test.deploy.variables import known_variables

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "jarvice_slurmd"
PAGE = (PROJECT / "docs" / "operations.md").read_text()

#: In the page `…` stands for what differs; in the texts of the code this does.
_DIFFERS = "\0"

#: Methods of the two loggers that write at WARNING or above.
_LOUD = frozenset({"warn", "warning", "error", "failure", "critical", "exception"})


@cache
def texts() -> tuple[str, ...]:
    """Every text in the package's code, what is put into it left out; and its shell files."""
    found = [path.read_text() for path in PACKAGE.rglob("*.sh")]
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = as_text(node)
            if text is not None:
                found.append(text)
    return tuple(found)


def as_text(node: ast.AST) -> str | None:
    """A string or an f-string, as one text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(as_text(part) or _DIFFERS for part in node.values)
    return None


def loud_messages() -> Iterator[str]:
    """What is logged at WARNING or above; messages that are no text of their own left out."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in _LOUD
                and "log" in ast.unparse(node.func.value)
                and node.args
            ):
                message = as_text(node.args[0])
                assert message is not None, f"{path.name}:{node.lineno} logs what is no text"
                yield message


def quoted() -> list[str]:
    """The messages that the page quotes for three in the morning.

    All that stands in backticks in a table's first column, and elsewhere whatever has a `…`.
    """
    section = PAGE.partition("\n## Three in the morning\n")[2].partition("\n### Looking further")[0]
    section = section.partition("\n### In the log\n")[2]
    found: list[str] = []
    for line in section.split("\n"):
        first, _, rest = line.removeprefix("| ").partition(" | ")
        is_row = line.startswith("| ")
        found += re.findall(r"`([^`]+)`", first if is_row else "")
        found += [one for one in re.findall(r"`([^`]+)`", rest if is_row else line) if "…" in one]
    return found


def pattern(message: str) -> re.Pattern[str]:
    """What a quoted message looks like in the code, where values are put into it."""
    return re.compile("[^\n]*".join(re.escape(piece) for piece in message.split("…")))


class OperationsTests(SynchronousTestCase):
    """The page."""

    def test_quotes(self) -> None:
        """Every message that is quoted is in the code, in one piece."""
        messages = quoted()
        self.assertGreater(len(messages), 60)
        for message in messages:
            found = pattern(message)
            self.assertTrue(any(found.search(text) for text in texts()), message)
            self.assertTrue(message.replace("…", "").strip(" :;,()"), message)

    def test_nothing_loud_is_left_out(self) -> None:
        """Every message at WARNING or above is explained."""
        patterns = [pattern(message) for message in quoted()]
        for message in loud_messages():
            # `%s` and the like alone: what is put in is what counts.
            if re.search(r"[a-z]{2}", re.sub(r"%\S+|\{\w+\}", "", message)):
                self.assertTrue(any(one.search(message) for one in patterns), message)

    def test_variables(self) -> None:
        """Every setting that it names is one."""
        for name in re.findall(r"JARVICE_[A-Z_]+\b", PAGE):
            known = any(one == name or one.startswith(name) for one in known_variables())
            self.assertTrue(known, name)
            if not name.endswith("_"):
                self.assertIn(name, known_variables())

    def test_links(self) -> None:
        """Every file that the documents link to is there."""
        for page in (*(PROJECT / "docs").glob("*.md"), PROJECT / "README.md"):
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
                if "://" not in target:
                    self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")
