"""Runs trial over the whole suite and closes with one line that CI can read.

`python -m test.run [MODULE...]`: trial's output passes through; after it stands one line
`N passed, M failed, K skipped` with trial's own counts, and the exit status is trial's.

Without modules the suite is run in groups, a trial process each and a few at a time: tests on a
cluster mostly wait for it. What a group printed is shown when it has ended.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from twisted.trial.reporter import Reporter, TreeReporter
from twisted.trial.runner import TestLoader, TrialRunner

_FOLDER = Path(__file__).parent
_COUNTS = re.compile(r"(\d+) passed, (\d+) failed, (\d+) skipped")

#: Groups that run at the same time, whatever the number of cores: they wait more than they work.
LANES = 3

#: Packages whose modules each are a group: they take long, and share no cluster.
_SLOW = ("cluster", "faults")

#: Seconds that one group may take.
_PATIENCE = 900.0


def find_groups() -> list[list[str]]:
    """The suite in groups of module names: slow modules first, one by one, then whole packages."""
    slow = [
        [f"test.{package}.{module.stem}"]
        for package in _SLOW
        for module in sorted((_FOLDER / package).glob("test_*.py"))
    ]
    packages = [
        [f"test.{package.parent.name}"]
        for package in sorted(_FOLDER.glob("*/__init__.py"))
        # What holds no tests is no group: a run without tests has failed.
        if package.parent.name not in _SLOW and any(package.parent.glob("test_*.py"))
    ]
    own = [f"test.{module.stem}" for module in sorted(_FOLDER.glob("test_*.py"))]
    return [*slow, *packages, own]


def run_group(names: list[str]) -> tuple[str, int, tuple[int, int, int], float]:
    """Run one group in a process of its own; its output, exit status, counts and seconds."""
    began = time.monotonic()
    command = [sys.executable, "-m", "test.run", *names]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
        output, status = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        output = printed.decode("utf-8", "replace") if isinstance(printed, bytes) else printed
        output, status = f"{output}\n{names} did not end within {_PATIENCE:.0f} s\n", 1
    body, _, last = output.rstrip("\n").rpartition("\n")
    match = _COUNTS.fullmatch(last)
    if match is None:
        # It died before it could count: that is one failure, and all of what it said is shown.
        return output, status or 1, (0, 1, 0), time.monotonic() - began
    passed, failed, skipped = (int(count) for count in match.groups())
    return f"{body}\n", status, (passed, failed, skipped), time.monotonic() - began


def run_all(groups: Iterable[list[str]]) -> int:
    """Run every group; prints what they print, and the closing line; returns trial's status."""
    totals, worst = [0, 0, 0], 0
    with ThreadPoolExecutor(LANES) as lanes:
        running = {lanes.submit(run_group, names): names for names in groups}
        for ended in as_completed(running):
            output, status, counts, seconds = ended.result()
            told = f"{seconds:.0f} s" if status == 0 else f"{seconds:.0f} s, exit status {status}"
            print(f"\n=== {', '.join(running[ended])} ({told})\n{output}", flush=True)
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
            worst = worst or status
    print("{} passed, {} failed, {} skipped".format(*totals), flush=True)
    return worst if totals[0] else 1


def render_counts(result: Reporter) -> str:
    """The closing line: a failure, an error and an unexpected success all count as failed."""
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    passed = result.successes + len(result.expectedFailures)
    return f"{passed} passed, {failed} failed, {len(result.skips)} skipped"


def run_here(names: list[str]) -> int:
    """Run trial over these modules in this process; returns its exit status."""
    suite = TestLoader().loadByNames(names, recurse=True)
    folder = f"_trial_temp/{names[0]}"
    Path("_trial_temp").mkdir(exist_ok=True)
    result = TrialRunner(TreeReporter, workingDirectory=folder).run(suite)
    assert isinstance(result, Reporter)
    print(render_counts(result), flush=True)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(run_here(sys.argv[1:]) if sys.argv[1:] else run_all(find_groups()))
