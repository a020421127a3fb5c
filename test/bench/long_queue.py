"""Ten thousand jobs in the queue: the first answer, and how long the reactor stands still."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

from attrs import evolve

from deploy.demo.processes import free_port
from test.bench import load, status
from test.bench.figures import Goal, Section, Series, milliseconds, render_failures
from test.bench.neighbours import Ask, ControlMaster, FreshParamiko
from test.bench.scene import Scene, SceneError, Upstream, daemon
from test.bench.watched import Stall

JOBS: Final = 10_000
_ROUNDS: Final = 5

# Longer than a view of the queue is used: the next question has to wait for a new one.
_STALE_SECONDS: Final = 1.1

_MOST_STALL_MS: Final = 50.0


def measure(scene: Scene, master: ControlMaster, tell: Callable[[str], None]) -> Section:
    """Fill the queue with tiny held jobs and ask."""
    words = [sys.executable, "-m", "test.bench.watched"]
    watch_port = free_port()
    with daemon(scene.cluster, scene.folder, [*words, str(watch_port)]) as process:
        watch = Upstream(watch_port)
        watched = evolve(scene, port=process.port)
        tell("first status answers with a short queue")
        short = _first_answers(scene, master)
        tell(f"submitting {JOBS} held jobs")
        submitting = _fill(scene)
        tell(f"first status answers with {JOBS} jobs queued")
        long = _first_answers(scene, master)
        tell("watching the reactor")
        questions: dict[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "POST /runstatus": lambda: _runstatus(watched),
            "GET /queued": lambda: _queued(watched),
        }
        stalls = {title: _stalls(ask, watch) for title, ask in questions.items()}
    tell(f"status answers a second with {JOBS} jobs queued")
    rate = Series([load.run(status.runstatus(scene).with_callers(8))])
    worst = max(stall.wall for title in stalls for stall in stalls[title] if title != "nothing")
    rows = [("first answer after a second's silence, ms", "short queue", f"{JOBS} jobs")]
    rows += [(title, f"{median(short[title]):.0f}", f"{median(long[title]):.0f}") for title in long]
    remarks = [
        "",
        f"longest turn of the daemon's reactor with {JOBS} jobs, of {_ROUNDS} questions"
        " (wall; its own CPU):",
    ]
    remarks += [
        f"  asked {title}: {max(s.wall for s in found) * 1000:.1f} ms;"
        f" {max(s.cpu for s in found) * 1000:.1f} ms"
        for title, found in stalls.items()
    ]
    remarks += [
        f"status answers a second with {JOBS} jobs, 8 callers: {rate.rate:.0f},"
        f" p50 {milliseconds(rate, 50)} ms, p99 {milliseconds(rate, 99)} ms",
        f"(the {JOBS} are real, tiny held jobs, submitted on the node in {submitting:.0f} s)",
    ]
    return Section(
        title=f"{JOBS} jobs queued",
        table=rows,
        remarks=remarks,
        goals=[
            Goal(
                text=f"reactor never stands still for {_MOST_STALL_MS:.0f} ms, {JOBS} jobs",
                measured=f"{worst * 1000:.1f} ms",
                reached=worst * 1000 < _MOST_STALL_MS,
            )
        ],
        broken=[f"with {JOBS} jobs: {render_failures(rate.failures)}"] if rate.failures else [],
    )


def _fill(scene: Scene) -> float:
    """Submit the jobs on the node, as root for the user, several at once; seconds taken."""
    began = time.monotonic()
    script = scene.folder / "tiny.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    name = f"jarvice_{time.strftime('%Y%m%d%H%M%S')}-BENCH-queue-some_user_s1"
    words = ["sbatch", "--quiet", f"--uid={scene.login.user}", "--hold", f"--job-name={name}-@"]
    words += ["--output=/dev/null", "--nodes=1", "--ntasks=1", "--chdir=/", str(script)]
    subprocess.run(
        ["nice", "xargs", f"-P{(os.cpu_count() or 1) + 1}", "-I@", *words],
        input="".join(f"{number}\n" for number in range(JOBS)),
        env={**os.environ, "SLURM_CONF": str(scene.cluster.state / "etc" / "slurm.conf")},
        text=True,
        check=True,
    )
    seconds = time.monotonic() - began
    queued = len(scene.upstream().get("/queued"))
    if queued < JOBS:
        raise SceneError(f"only {queued} of {JOBS} jobs are queued")
    return seconds


def _first_answers(scene: Scene, master: ControlMaster) -> dict[str, list[float]]:
    """Milliseconds of each technique's answer when nobody has asked for a while."""
    job = scene.jobs[0]
    one = f"squeue --noheader -o '%t|%M|%N' -j {job.jobid} -t all -u {scene.login.user}"
    every = f"squeue --noheader -u {scene.login.user} -t PD -o '%j|%A'"
    paramiko = FreshParamiko(scene.login, look_up=True)

    def run(ask: Ask, command: str) -> Callable[[], object]:
        return lambda: ask(command, b"")

    techniques: dict[str, Callable[[], object]] = {
        "daemon, POST /runstatus": lambda: _runstatus(scene),
        "daemon, GET /queued": lambda: _queued(scene),
        "ControlMaster, squeue of one job": run(master.ask, one),
        "ControlMaster, squeue of all that wait": run(master.ask, every),
        "paramiko as the predecessor, one job": run(paramiko.ask, one),
        "paramiko as the predecessor, all that wait": run(paramiko.ask, every),
    }
    milliseconds: dict[str, list[float]] = {title: [] for title in techniques}
    for _ in range(_ROUNDS):
        for title, ask in techniques.items():
            if title.startswith("daemon"):
                time.sleep(_STALE_SECONDS)
            asked = time.perf_counter()
            ask()
            milliseconds[title].append((time.perf_counter() - asked) * 1000)
    return milliseconds


def _stalls(ask: Callable[[], object], watch: Upstream) -> list[Stall]:
    found: list[Stall] = []
    for _ in range(_ROUNDS):
        time.sleep(_STALE_SECONDS)
        watch.get("/")
        ask()
        # Whatever the answer leaves behind to be done belongs to it.
        time.sleep(0.1)
        found.append(Stall(**watch.get("/")))
    return found


def _runstatus(scene: Scene) -> Any:
    job = scene.jobs[0]
    args: dict[str, object] = {"name": job.name, "number": job.number, "jobid": job.jobid}
    answer = scene.upstream().post("/runstatus", args)
    if not answer[0]:
        raise SceneError(f"/runstatus of a running job: {answer}")
    return answer


def _queued(scene: Scene) -> Any:
    return scene.upstream().get("/queued")
