"""`make bench`: measure the daemon beside its neighbours, in one run, and print one report."""

from __future__ import annotations

import http.client
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cryptography
import paramiko  # type: ignore[import-not-found, import-untyped, unused-ignore]

import twisted
from test.bench import long_queue, status, submit
from test.bench.figures import NoFiguresError, Section, render_report
from test.bench.load import LoadFailedError
from test.bench.neighbours import AskFailedError, ControlMaster
from test.bench.scene import Scene, SceneError, set_scene
from test.cluster.harness import DevClusterFailedError

_RUNNING_JOBS = 10

# What ends the bench early with a sentence; anything else is the bench's own fault.
_TOLD = (
    AskFailedError,
    DevClusterFailedError,
    LoadFailedError,
    NoFiguresError,
    OSError,
    SceneError,
    http.client.HTTPException,
    subprocess.SubprocessError,
)


def _facts() -> Iterable[str]:
    """The machine, and the versions of what is measured."""
    yield f"jarvice-slurmd bench, {time.strftime('%Y-%m-%d %H:%M %Z')}"
    processors = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^model name\s*: (.*)", processors, re.MULTILINE)
    model = platform.machine() if found is None else found[1]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    yield f"  {os.cpu_count()} cores, {model}, Linux {platform.release()}; load before: {load}"
    yield (
        f"  Python {platform.python_version()}, Twisted {twisted.__version__},"
        f" cryptography {cryptography.__version__}, paramiko {paramiko.__version__}"
    )
    yield f"  {_said('ssh', '-V')}"


def _said(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip()


def main() -> int:
    """Measure; 0 unless something failed. That a machine is slow is no failure."""
    facts = list(_facts())
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {what}", file=sys.stderr, flush=True)

    sections: list[Section] = []
    broken: list[str] = []
    tell("bringing up the cluster and the daemon")
    try:
        with set_scene(_RUNNING_JOBS) as scene:
            facts.append(f"  {scene.cluster.slurm('sinfo', '--version').strip()}")
            for section in _measure(scene, tell):
                sections.append(section)
                broken += section.broken
    except _TOLD as error:
        broken.append(f"the bench could not go on: {error}")
    facts.append(f"  took {time.monotonic() - began:.0f} s")
    print(render_report(facts, sections, broken), flush=True)
    return 1 if broken else 0


def _measure(scene: Scene, tell: Callable[[str], None]) -> Iterator[Section]:
    socket = scene.folder / "master"
    with ControlMaster(scene.login, socket) as master:
        yield status.measure_rates(scene, str(socket), tell)
        yield status.measure_questions(scene, str(socket), tell)
        yield submit.measure_latency(scene, master, tell)
        yield submit.measure_burst(scene, master, tell)
        yield long_queue.measure(scene, master, tell)


def _stopped(signal_number: int, _frame: object) -> None:
    # What was started is ended on the way out.
    raise SystemExit(128 + signal_number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stopped)
    sys.exit(main())
