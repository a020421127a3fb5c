"""Runs trial over the whole suite and closes with one line that CI can read.

`python -m test.run [MODULE...]`: trial's output passes through; after it stands one line
`N passed, M failed, K skipped` with trial's own counts, and the exit status is trial's.
"""

from __future__ import annotations

import sys

from twisted.trial.reporter import Reporter, TreeReporter
from twisted.trial.runner import TestLoader, TrialRunner


def render_counts(result: Reporter) -> str:
    """The closing line: a failure, an error and an unexpected success all count as failed."""
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    passed = result.successes + len(result.expectedFailures)
    return f"{passed} passed, {failed} failed, {len(result.skips)} skipped"


def main(names: list[str]) -> int:
    """Run trial over the modules of these names; returns its exit status."""
    suite = TestLoader().loadByNames(names or ["test"], recurse=True)
    result = TrialRunner(TreeReporter, workingDirectory="_trial_temp").run(suite)
    assert isinstance(result, Reporter)
    print(render_counts(result), flush=True)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
