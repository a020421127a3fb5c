"""A part of the cluster: one daemon, started in the foreground and put into the background."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.devcluster import processes
from deploy.devcluster.layout import Cluster, DevClusterError

_START_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """How one daemon is started, known to be up, and ended.

    `argv` runs it in the foreground. `answers` says whether it does its work, not only runs; it
    must return within seconds. `prepare`, where given, is run before each start. `members` says
    which other processes end with it.
    """

    name: str
    argv: tuple[str, ...]
    answers: Callable[[], bool]
    environ: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    members: Callable[[], set[int]] = set

    def pid_file(self, cluster: Cluster) -> Path:
        return cluster.run / f"{self.name}.pid"

    def pid(self, cluster: Cluster) -> int | None:
        """Its process, None when it is down."""
        return processes.recorded(self.pid_file(cluster))

    def start(self, cluster: Cluster) -> None:
        """Start it unless it runs; `wait` tells when it is up."""
        if self.pid(cluster) is not None:
            return
        self.prepare()
        with (cluster.log / f"{self.name}.out").open("ab") as output:
            child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={**processes.environment(cluster), **self.environ},
                start_new_session=True,
            )
        processes.record(self.pid_file(cluster), child.pid)

    def wait(self, cluster: Cluster) -> None:
        """Wait until it answers; raise, with the tail of its log, when it ends or is too slow."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self.pid(cluster) is None:
                raise DevClusterError(f"{self.name} ended while it started{self.tail(cluster)}")
            if time.monotonic() > deadline:
                raise DevClusterError(
                    f"{self.name} was not up after {_START_SECONDS:.0f} s{self.tail(cluster)}"
                )
            time.sleep(0.05)

    def stop(self, cluster: Cluster, *, kill: bool = False) -> None:
        """End it, by SIGTERM or SIGKILL, and return when it is gone."""
        pids = self.members()
        if (pid := self.pid(cluster)) is not None:
            pids.add(pid)
        processes.end(pids, kill=kill)
        self.pid_file(cluster).unlink(missing_ok=True)

    def tail(self, cluster: Cluster) -> str:
        """The last lines of what it logged."""
        found = []
        for path in (cluster.log / f"{self.name}.log", cluster.log / f"{self.name}.out"):
            if path.exists() and (lines := path.read_text(errors="replace").splitlines()[-20:]):
                found += [f"\n{path.name}:", *(f"  {line}" for line in lines)]
        return "\n".join(found)


def start_all(cluster: Cluster, parts: Iterable[Part]) -> None:
    """Start parts that do not wait for each other, then wait for each."""
    started = list(parts)
    for part in started:
        part.start(cluster)
    for part in started:
        part.wait(cluster)


def accepts(address: str, port: int) -> bool:
    """Whether a TCP connection is accepted there."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


def run(
    argv: Iterable[str],
    *,
    env: Mapping[str, str] | None = None,
    seconds: float = 120,
    is_watched: bool = False,
) -> str:
    """Run a tool to its end and return its stdout; what it said when it failed is raised.

    With `is_watched` a person sees its stderr as it comes.
    """
    words = [*argv]
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if is_watched else subprocess.PIPE,
            text=True,
            errors="replace",
            env=env,
        )
    except FileNotFoundError as error:
        raise DevClusterError(f"{words[0]} is not installed") from error
    with child:
        try:
            stdout, stderr = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            child.kill()
            raise DevClusterError(f"{words[0]} did not end in {seconds:.0f} s") from error
        except KeyboardInterrupt:
            # Not killed: it cleans up behind itself, and what installs packages is not cut short.
            child.terminate()
            child.communicate()
            raise
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        said = (stderr or stdout or "see above").strip()
        raise DevClusterError(f"{' '.join(words)} failed ({child.returncode}): {said}")
    return stdout
