"""`make bench`: measure the daemon beside its neighbours, in one run, and print one report."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import cryptography
import paramiko  # type: ignore[import-not-found, import-untyped, unused-ignore]

import twisted
from test.bench import long_queue, status, submit
from test.bench.figures import Section, render_report
from test.bench.neighbours import ControlMaster
from test.bench.scene import set_scene

_RUNNING_JOBS = 10


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
    tell("bringing up the cluster and the daemon")
    with set_scene(_RUNNING_JOBS) as scene:
        facts.append(f"  {scene.cluster.slurm('sinfo', '--version').strip()}")
        socket = scene.folder / "master"
        with ControlMaster(scene.login, socket) as master:
            sections.append(status.measure_rates(scene, str(socket), tell))
            sections.append(status.measure_questions(scene, str(socket), tell))
            sections.append(submit.measure_latency(scene, master, tell))
            sections.append(submit.measure_burst(scene, master, tell))
            sections.append(long_queue.measure(scene, master, tell))
    print(render_report([*facts, f"  took {time.monotonic() - began:.0f} s"], sections))
    return 1 if any(section.broken for section in sections) else 0


if __name__ == "__main__":
    sys.exit(main())
