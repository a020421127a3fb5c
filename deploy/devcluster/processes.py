"""Finding, starting and ending a cluster's processes: by pid, never by name."""

from __future__ import annotations

import os
import pwd
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from deploy.devcluster.layout import TEST_USER, Cluster, DevClusterError

# In the environment of everything a cluster starts; how `down` knows it again.
MARKER = "DEVCLUSTER_STATE"

_PROC = Path("/proc")


def environment(cluster: Cluster) -> dict[str, str]:
    """The environment of the cluster's daemons: nothing of the caller's leaks into jobs."""
    return {
        "PATH": f"{cluster.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "SLURM_CONF": str(cluster.slurm_conf),
        MARKER: str(cluster.state),
    }


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone or a zombie.

    With the pid it names a process for good (proc(5), stat fields 3 and 22).
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in b"ZX" else int(fields[19])


def record(pid_file: Path, pid: int) -> None:
    """Write a started process down."""
    pid_file.write_text(f"{pid} {start_time(pid) or 0}\n")


def recorded(pid_file: Path) -> int | None:
    """The process that a pid file names, when that very process still runs."""
    try:
        pid, started = map(int, pid_file.read_text().split())
    except (OSError, ValueError):
        return None
    return pid if start_time(pid) == started else None


def end(pids: set[int], *, kill: bool, seconds: float = 60.0) -> None:
    """Send SIGTERM or SIGKILL to processes and wait until they are gone."""
    started = {pid: start_time(pid) for pid in pids}
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while any(at is not None and start_time(pid) == at for pid, at in started.items()):
        if time.monotonic() > deadline:
            raise DevClusterError(f"processes {sorted(pids)} did not end in {seconds:.0f} s")
        _reap()
        time.sleep(0.02)


def sweep(state: Path, cluster: Cluster | None) -> None:
    """Kill every process of a cluster, whatever state it is in, until none is left."""
    deadline = time.monotonic() + 30
    while found := find(state, cluster):
        if time.monotonic() > deadline:
            raise DevClusterError(f"processes {sorted(found)} can't be killed")
        end(found, kill=True, seconds=30)
    _reap()


def find(state: Path, cluster: Cluster | None) -> set[int]:
    """The processes of a cluster, and their descendants, but for this one and those above it.

    A process belongs to it that has the cluster's marker or slurm.conf in its environment, that
    holds a socket at one of its ports (sshd's sessions overwrite their environment with their
    title), or that is the test user's and works in the cluster's folder (a job that was
    submitted with a clean environment, and has outlived its slurmstepd).
    """
    marks = {os.fsencode(f"{MARKER}={state}"), os.fsencode(f"SLURM_CONF={state}/etc/slurm.conf")}
    sockets = _sockets_at(cluster.ports) if cluster else set()
    try:
        user = pwd.getpwnam(TEST_USER).pw_uid
    except KeyError:
        user = -1
    parents: dict[int, int] = {}
    found: set[int] = set()
    for pid in _pids():
        if (parent := _parent(pid)) is None:
            continue
        parents[pid] = parent
        if (
            not marks.isdisjoint(_environ(pid))
            or not sockets.isdisjoint(_open_files(pid))
            or (_owner(pid) == user and _works_in(pid, state))
        ):
            found.add(pid)
    for pid in parents:
        if not found.isdisjoint(_ancestors(pid, parents)):
            found.add(pid)
    return found - set(_ancestors(os.getpid(), parents)) - {os.getpid()}


def holding(port: int) -> set[int]:
    """The processes that hold a socket at a local TCP port: a server and its sessions."""
    sockets = _sockets_at(range(port, port + 1))
    return {pid for pid in _pids() if not sockets.isdisjoint(_open_files(pid))}


def _pids() -> Iterator[int]:
    for entry in os.listdir(_PROC):
        if entry.isdecimal() and start_time(int(entry)) is not None:
            yield int(entry)


def _parent(pid: int) -> int | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while (parent := parents.get(pid, 0)) > 0:
        yield parent
        pid = parent


def _environ(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _owner(pid: int) -> int:
    try:
        return (_PROC / str(pid)).stat().st_uid
    except OSError:
        return -2


def _open_files(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for entry in os.scandir(_PROC / str(pid) / "fd"):
            with suppress(OSError):
                found.add(os.readlink(entry.path))
    return found


def _works_in(pid: int, state: Path) -> bool:
    paths = _open_files(pid)
    with suppress(OSError):
        paths.add(os.readlink(_PROC / str(pid) / "cwd"))
    return any(path == str(state) or path.startswith(f"{state}/") for path in paths)


def _sockets_at(ports: range) -> set[str]:
    """What /proc/*/fd calls the sockets with such a local port (proc(5), /proc/net/tcp)."""
    found = set()
    for table in ("net/tcp", "net/tcp6"):
        with suppress(OSError):
            for line in (_PROC / table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) in ports and fields[9] != "0":
                    found.add(f"socket:[{fields[9]}]")
    return found


def _reap() -> None:
    """Collect this process's own dead children; others are collected by their parents."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
