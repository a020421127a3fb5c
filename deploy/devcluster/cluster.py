"""The whole cluster: up, down, and what is in between."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deploy.devcluster import (
    accounting,
    apptainer,
    login,
    processes,
    registry,
    registry_images,
    slurm,
)
from deploy.devcluster.layout import (
    LOCK,
    Cluster,
    DevClusterError,
    Options,
    check_state,
    free_block,
)
from deploy.devcluster.parts import Part, run, start_all

#: Installs the Debian packages that are missing, or names them.
INSTALL_PACKAGES = str(Path(__file__).parents[1] / "install-packages")

_NODES_SECONDS = 60.0


def parts(cluster: Cluster) -> list[Part]:
    """Every part, in the order in which they start. Optional parts are added here."""
    found = [slurm.munge_part(cluster)]
    if cluster.options.accounting:
        found += [accounting.database_part(cluster), accounting.daemon_part(cluster)]
    found += [slurm.controller_part(cluster)]
    found += [slurm.node_part(cluster, name) for name in cluster.node_names]
    if cluster.options.registry:
        found += [registry.registry_part(cluster)]
    found += [login.sshd_part(cluster)]
    return found


def packages(cluster: Cluster) -> list[str]:
    """The Debian packages that these options need. Optional parts add theirs here."""
    needed = [*slurm.PACKAGES, *login.PACKAGES, *login.shell_packages(cluster)]
    if cluster.options.accounting:
        needed += accounting.PACKAGES
    if cluster.options.registry:
        needed += registry.PACKAGES
    if cluster.options.apptainer:
        needed += apptainer.packages()
    return needed


def up(state: Path, options: Options) -> Cluster:
    """Bring a cluster up; when that fails nothing of it is left.

    One that is up with the same options is left alone, what is left of one that crashed, or
    one with other options, is taken down first.
    """
    check_state(state)
    with locked(state):
        before = Cluster.load(state)
        if before and before.options == options and all(p.pid(before) for p in parts(before)):
            return before
        if before:
            _clear(state, before)
        with free_block() as block:
            cluster = Cluster(state=state, block=block, options=options)
            try:
                _start(cluster)
            except BaseException:
                _remove(state, cluster)
                raise
    return cluster


def down(state: Path, *, keep: bool = False) -> bool:
    """End every process of a cluster and remove its folder, unless it is to be kept.

    False when there was none.
    """
    if not state.exists():
        return False
    with locked(state):
        cluster = Cluster.load(state)
        if cluster is None:
            return False
        if keep:
            processes.sweep(state, cluster)
        else:
            _remove(state, cluster)
        return True


def find(state: Path) -> Cluster:
    """The cluster of a folder; an error when there is none."""
    cluster = Cluster.load(state)
    if cluster is None:
        raise DevClusterError(f"there is no cluster in {state}")
    return cluster


def start(cluster: Cluster, name: str) -> None:
    """Start one part unless it runs, and wait until it is up, and Slurm sees it."""
    part = _part(cluster, name)
    with locked(cluster.state):
        start_all(cluster, [part])
        if name in {"slurmctld", *cluster.node_names}:
            _wait_for_nodes(cluster)


def stop(cluster: Cluster, name: str, *, kill: bool = False) -> None:
    """Stop one part if it runs, and wait until it is down."""
    part = _part(cluster, name)
    with locked(cluster.state):
        part.stop(cluster, kill=kill)


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """One command at a time changes a cluster. The lock is the folder's, and ends with us."""
    path = state / LOCK
    while True:
        state.mkdir(mode=0o755, parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # While we waited the folder may have been removed, and made anew, under us.
            if not _is_at(lock, path):
                continue
            yield
            return


def _is_at(opened: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _part(cluster: Cluster, name: str) -> Part:
    known = {part.name: part for part in parts(cluster)}
    if name not in known:
        raise DevClusterError(f"there is no part {name}; there are {', '.join(known)}")
    return known[name]


def _start(cluster: Cluster) -> None:
    cluster.make_folders()
    cluster.save()
    run([INSTALL_PACKAGES, *packages(cluster)], seconds=900, is_watched=True)
    login.check_shell(cluster)
    login.ensure_user()
    if cluster.options.apptainer:
        _install_apptainer(cluster)
    if cluster.options.registry:
        registry.prepare(cluster)
    slurm.prepare(cluster)
    login.prepare(cluster)
    start_all(cluster, [slurm.munge_part(cluster)])
    if cluster.options.accounting:
        accounting.prepare(cluster)
        start_all(cluster, [accounting.database_part(cluster)])
        start_all(cluster, [accounting.daemon_part(cluster)])
        accounting.register(cluster)
    # Each waits for what it needs by itself; what runs by now is left alone.
    start_all(cluster, parts(cluster))
    if cluster.options.registry:
        registry_images.push_images(cluster)
    _wait_for_nodes(cluster)


def _install_apptainer(cluster: Cluster) -> None:
    try:
        cluster.bin.symlink_to(apptainer.install_apptainer())
    except apptainer.ApptainerError as error:
        raise DevClusterError(str(error)) from error


def _wait_for_nodes(cluster: Cluster) -> None:
    """Wait until Slurm gives work to every node whose slurmd runs, if slurmctld does."""
    controller = slurm.controller_part(cluster)
    nodes: Sequence[Part] = [slurm.node_part(cluster, name) for name in cluster.node_names]
    deadline = time.monotonic() + _NODES_SECONDS
    while controller.pid(cluster) is not None:
        states = slurm.node_states(cluster)
        waiting = [
            node
            for node in nodes
            if node.pid(cluster) is not None and not slurm.usable(states.get(node.name, "unknown"))
        ]
        if not waiting:
            return
        if time.monotonic() > deadline:
            first = waiting[0]
            raise DevClusterError(
                f"Slurm says of the nodes {states}{controller.tail(cluster)}{first.tail(cluster)}"
            )
        time.sleep(0.05)


def _clear(state: Path, cluster: Cluster) -> None:
    """End a cluster's processes and empty its folder, but for the lock that we hold."""
    processes.sweep(state, cluster)
    for path in state.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _remove(state: Path, cluster: Cluster) -> None:
    """End a cluster's processes and remove its folder."""
    _clear(state, cluster)
    shutil.rmtree(state)
