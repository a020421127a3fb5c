"""`make bench`: measure the daemon beside its neighbours, in one run, and print one report.

`python -m test.bench PART...` measures only some of it: `batch` or `tunnels`, or parts of these by
the names in `_BATCH` and `_TUNNELS`.
"""

from __future__ import annotations

import http.client
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cryptography
import paramiko  # type: ignore[import-not-found, import-untyped, unused-ignore]

import twisted
from test.bench import bulk, fairness, long_queue, stalls, status, submit, websockets
from test.bench.figures import NoFiguresError, Section, render_report
from test.bench.load import LoadFailedError
from test.bench.namespaces import NamespaceFailedError
from test.bench.neighbours import AskFailedError, ControlMaster
from test.bench.scene import Scene, SceneError, set_scene
from test.bench.transfer import TransferFailedError
from test.bench.ways import Service, start_service
from test.cluster.harness import DevClusterFailedError

_RUNNING_JOBS = 10

Tell = Callable[[str], None]

_BATCH: dict[str, Callable[[Scene, ControlMaster, Tell], Section]] = {
    "status": status.measure_rates,
    "questions": status.measure_questions,
    "submit": submit.measure_latency,
    "burst": submit.measure_burst,
    "queue": long_queue.measure,
}
_TUNNELS: dict[str, Callable[[Scene, Service, Tell], Section]] = {
    "bulk": bulk.measure_near,
    "distance": bulk.measure_far,
    "keystrokes": websockets.measure_latency,
    "websockets": websockets.measure_many,
    "stalls": stalls.measure,
    "fairness": fairness.measure_near,
    "fairness-far": fairness.measure_far,
}

# What ends the bench early with a sentence; anything else is the bench's own fault.
_TOLD = (
    AskFailedError,
    DevClusterFailedError,
    LoadFailedError,
    NamespaceFailedError,
    NoFiguresError,
    OSError,
    SceneError,
    TransferFailedError,
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


def main(words: Sequence[str]) -> int:
    """Measure what the words name, or all; 0 unless something failed.

    That a machine is slow is no failure.
    """
    wanted = _wanted(words)
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
            for section in _measure(scene, wanted, tell):
                sections.append(section)
                broken += section.broken
    except _TOLD as error:
        broken.append(f"the bench could not go on: {error}")
    facts.append(f"  took {time.monotonic() - began:.0f} s")
    print(render_report(facts, sections, broken), flush=True)
    return 1 if broken else 0


def _wanted(words: Sequence[str]) -> set[str]:
    """The names of the parts to measure."""
    groups = {"batch": _BATCH.keys(), "tunnels": _TUNNELS.keys()}
    known = {*_BATCH, *_TUNNELS}
    wanted: set[str] = set()
    for word in words or groups:
        if word not in known and word not in groups:
            raise SystemExit(f"no such part: {word}; there are {', '.join([*groups, *known])}")
        wanted |= set(groups.get(word, [word]))
    return wanted


def _measure(scene: Scene, wanted: set[str], tell: Tell) -> Iterator[Section]:
    # Tunnels first: they do not mind a few jobs, and would mind ten thousand.
    if wanted & _TUNNELS.keys():
        tell("starting the job that tunnels lead to")
        service = start_service(scene)
        for name, through in _TUNNELS.items():
            if name in wanted:
                yield through(scene, service, tell)
    if wanted & _BATCH.keys():
        with ControlMaster(scene.login, scene.folder / "master") as master:
            for name, beside in _BATCH.items():
                if name in wanted:
                    yield beside(scene, master, tell)


def _stopped(signal_number: int, _frame: object) -> None:
    # What was started is ended on the way out.
    raise SystemExit(128 + signal_number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stopped)
    sys.exit(main(sys.argv[1:]))
