"""The load generator: a process of its own, so that it does not share the daemon's core.

`python -m test.bench.load` reads a `Load` as JSON from stdin, prints `warm` when the load is on,
and in the end a `figures.Sample` as JSON. `start` runs it so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from attrs import asdict, frozen
from twisted.internet.task import react

from test.bench.figures import Sample
from test.bench.http_load import HttpLoad
from test.bench.namespaces import Namespace
from test.bench.neighbours import Ask, AskFailedError, ControlMaster, FreshParamiko, Login

_PROJECT = Path(__file__).parents[2]


@frozen(kw_only=True)
class Load:
    """What to ask, how, by how many at once, for how many seconds and at most how often.

    `technique` is `http`, which asks `requests` of the daemon at `port` one after another and finds
    `expected` in each answer, or one of the neighbours, who run `command` on the login node with
    `stdin`.
    """

    technique: str
    callers: int
    seconds: float
    most: int = 10**9
    port: int = 0
    requests: tuple[str, ...] = ()
    expected: str = ""
    login: Login | None = None
    control_socket: str = ""
    command: str = ""
    stdin: str = ""


class LoadFailedError(Exception):
    """The load generator gave no sample."""


class RunningLoad:
    """A load generator at work, in a namespace if not here."""

    def __init__(self, load: Load, namespace: Namespace | None = None) -> None:
        before = [] if namespace is None else namespace.words
        self._process = subprocess.Popen(
            [*before, sys.executable, "-m", "test.bench.load"],
            cwd=_PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(load)))
        self._process.stdin.close()
        if self._process.stdout.readline() != "warm\n":
            raise LoadFailedError(f"{load.technique} with {load.callers} callers did not start")

    def sample(self) -> Sample:
        """Wait for its end; what it measured."""
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        if self._process.wait() != 0:
            raise LoadFailedError(f"the load generator ended with {self._process.returncode}")
        return Sample(**json.loads(said))


def run(load: Load, namespace: Namespace | None = None) -> Sample:
    """Run a load generator to its end."""
    return RunningLoad(load, namespace).sample()


def ask_at_once(ask: Ask, load: Load) -> Sample:
    """Have as many threads ask as there are callers, each one question after another."""
    lock = threading.Lock()
    latencies: list[float] = []
    failures: Counter[str] = Counter()
    left = load.most
    began = time.perf_counter()

    def call() -> None:
        nonlocal left
        while True:
            with lock:
                if left <= 0 or time.perf_counter() - began >= load.seconds:
                    return
                left -= 1
            asked = time.perf_counter()
            try:
                said = ask(load.command, load.stdin.encode())
            except AskFailedError as error:
                reason = str(error)
            else:
                reason = "" if load.expected.encode() in said else "an answer without the job"
            with lock:
                if reason:
                    failures[reason] += 1
                else:
                    latencies.append(time.perf_counter() - asked)

    threads = [threading.Thread(target=call) for _ in range(load.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Sample(seconds=time.perf_counter() - began, latencies=latencies, failures=failures)


def _is_warm() -> None:
    print("warm", flush=True)


def main() -> None:
    """Do what stdin says."""
    said = json.load(sys.stdin)
    login = None if said["login"] is None else Login(**said["login"])
    load = Load(**{**said, "login": login, "requests": tuple(said["requests"])})
    if load.technique == "http":
        http = HttpLoad(
            port=load.port,
            requests=[request.encode() for request in load.requests],
            expected=load.expected.encode(),
            callers=load.callers,
            seconds=load.seconds,
            warm=_is_warm,
        )

        react(lambda reactor: http.run(reactor).addCallback(_tell))
        return
    assert login is not None
    asks: dict[str, Ask] = {
        "paramiko": FreshParamiko(login, look_up=False).ask,
        "predecessor": FreshParamiko(login, look_up=True).ask,
        "controlmaster": ControlMaster(login, Path(load.control_socket)).ask,
    }
    _is_warm()
    _tell(ask_at_once(asks[load.technique], load))


def _tell(sample: Sample) -> None:
    print(json.dumps(asdict(sample)), flush=True)


if __name__ == "__main__":
    main()
