"""What a check of the cluster comes to: a verdict, and the words that go with it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from attrs import field, frozen


class Verdict(Enum):
    """How a requirement is met. What could not be checked is unknown, never ok."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


@frozen(kw_only=True)
class Finding:
    """One requirement: what was found, what is needed, and how to fix it where it is not met."""

    name: str
    verdict: Verdict
    found: str
    needed: str
    fix: str = ""


@frozen(kw_only=True)
class Answer:
    """What asking came to: exit status and output; `status` None when nobody answered.

    Then `stderr` is the reason.
    """

    status: int | None
    stdout: str = field(default="", repr=False)
    stderr: str = ""

    @property
    def trouble(self) -> str:
        """What is to be said when this is no answer: the first words of stderr, or the status."""
        words = " ".join(self.stderr.split())[:300]
        return words or f"the command ended with exit status {self.status} and said nothing"


def parse_facts(text: str) -> dict[str, str]:
    """The lines `name=value` of a probe's output; a name's last value counts."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, separator, value in pairs if separator}


def parse_version(text: str) -> tuple[int, ...] | None:
    """The first version number in a text: 22.05.8 in `slurm 22.05.8`; None without one."""
    for word in text.replace("-", " ").split():
        numbers = word.split(".")
        if len(numbers) > 1 and numbers[0].isdigit() and numbers[1].isdigit():
            patch = "".join(char for char in numbers[2] if char.isdigit()) if numbers[2:] else ""
            return (int(numbers[0]), int(numbers[1]), int(patch or 0))
    return None


def is_failed(findings: Iterable[Finding]) -> bool:
    """Whether a requirement is known not to be met."""
    return any(finding.verdict is Verdict.FAILED for finding in findings)


def render_findings(findings: Iterable[Finding]) -> Iterator[str]:
    """The lines for an administrator: one for each check, and how to fix what is not ok."""
    for finding in findings:
        mark = f"[{finding.verdict.value}]"
        yield f"{mark:<9} {finding.name}: {finding.found} (needed: {finding.needed})"
        if finding.verdict is not Verdict.OK and finding.fix:
            yield f"{'':<9}   fix: {finding.fix}"


def render_summary(findings: Iterable[Finding]) -> str:
    """How many checks came to which verdict."""
    verdicts = [finding.verdict for finding in findings]
    counts = (f"{verdicts.count(verdict)} {verdict.value}" for verdict in Verdict)
    return ", ".join(counts)
