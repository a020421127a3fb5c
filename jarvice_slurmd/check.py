"""`python -m jarvice_slurmd.check`: what an administrator runs before go-live.

Reads the daemon's own environment variables, connects as the daemon does, and prints a line for
each requirement of the cluster. The exit status is 0 when none has failed (warnings and what could
not be checked included), 1 when one has, 2 when the configuration is wrong or nobody answered.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react
from twisted.logger import STDLibLogObserver, globalLogBeginner

from jarvice_slurmd.daemon import make_check, make_links
from jarvice_slurmd.log import set_up_logging
from jarvice_slurmd.service import read_settings
from jarvice_slurmd.settings import Settings
from jarvice_slurmd.slurm.findings import is_failed, render_findings, render_summary

OK, FAILED, NOT_CHECKED = 0, 1, 2


async def check(reactor: IReactorTime, settings: Settings, arguments: argparse.Namespace) -> int:
    """Connect, check, print; the exit status."""
    link, tunnels = make_links(settings, reactor)
    link.startService()
    tunnels.startService()
    try:
        reason = await link.first_attempt()
        if reason is not None:
            print(f"could not connect to the login node: {reason}", file=sys.stderr)
            return NOT_CHECKED
        findings = await make_check(settings, link, tunnels, reactor).whole(
            on_compute_node=arguments.on_compute_node,
            partition=arguments.partition,
            patience=arguments.patience,
        )
        lost = link.last_error
    finally:
        await tunnels.stopService()
        await link.stopService()
    for line in render_findings(findings):
        print(line)
    print(render_summary(findings))
    if lost is not None:
        print(f"the link to the login node was lost meanwhile: {lost}", file=sys.stderr)
        return NOT_CHECKED
    return FAILED if is_failed(findings) else OK


def main(words: Sequence[str] | None = None) -> None:
    """The command; ends the process."""
    arguments = _parser().parse_args(words)
    settings, problems = read_settings(os.environ)
    if problems:
        print("the configuration is wrong:", *problems, sep="\n  ", file=sys.stderr)
        sys.exit(NOT_CHECKED)
    set_up_logging(settings.log_level, sys.stderr)
    globalLogBeginner.beginLoggingTo([STDLibLogObserver("twisted")], redirectStandardIO=False)

    def run(reactor: IReactorTime) -> Deferred[None]:
        async def end() -> None:
            raise SystemExit(await check(reactor, settings, arguments))

        return Deferred.fromCoroutine(end())

    react(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jarvice_slurmd.check",
        description="Check whether a Slurm cluster offers what jobs need. Configured by the"
        " daemon's environment variables; exit status 0: nothing failed, 1: something did,"
        " 2: could not be checked.",
    )
    parser.add_argument(
        "--on-compute-node", action="store_true", help="also run a short job of one core"
    )
    parser.add_argument("--partition", metavar="NAME", help="where that job runs")
    parser.add_argument(
        "--patience", type=int, default=180, metavar="S", help="seconds that it gets (180)"
    )
    return parser


if __name__ == "__main__":
    main()
