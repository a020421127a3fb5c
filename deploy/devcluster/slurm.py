"""Munge, slurmctld and the slurmds: their configuration and how they are started."""

from __future__ import annotations

import os
import socket
import subprocess
from functools import partial

from deploy.devcluster import accounting, processes
from deploy.devcluster.layout import Cluster
from deploy.devcluster.parts import Part, accepts

PACKAGES = ("munge", "slurm-client", "slurmctld", "slurmd")

# What a node claims to have, whatever the machine has (config_overrides): many jobs fit.
_CPUS = 64
_MEMORY_MB = 256 * 1024
# Where none is given a job would get all of a node's memory, and the next one would wait.
_DEFAULT_MEMORY_MB_A_CPU = 512
_GPUS = 4


def render_slurm_conf(cluster: Cluster) -> str:
    """slurm.conf(5); the caller's own lines stand last, where they override."""
    options = cluster.options
    host = socket.gethostname().partition(".")[0]
    storage = (
        accounting.render_slurm_conf(cluster)
        if options.accounting
        else "AccountingStorageType=accounting_storage/none"
    )
    nodes = "\n".join(
        f"NodeName={name} NodeAddr={cluster.node_address(name)} Port={cluster.port(name)}"
        f" CPUs={_CPUS} RealMemory={_MEMORY_MB} Gres=gpu:{_GPUS} State=UNKNOWN"
        for name in cluster.node_names
    )
    names = ",".join(cluster.node_names)
    extra = "\n".join(options.slurm_options)
    return f"""\
ClusterName={cluster.name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={cluster.port("slurmctld")}
CommunicationParameters=NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={cluster.munge_socket}

StateSaveLocation={cluster.state}/slurmctld
SlurmdSpoolDir={cluster.state}/spool/%n
SlurmctldPidFile={cluster.run}/slurmctld.own.pid
SlurmdPidFile={cluster.run}/%n.own.pid
SlurmctldLogFile={cluster.log}/slurmctld.log
SlurmdLogFile={cluster.log}/%n.log

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
DefMemPerCPU={_DEFAULT_MEMORY_MB_A_CPU}
GresTypes=gpu
Licenses=solver:10,mesher:2
ReturnToService=2
SlurmdTimeout=60
SrunPortRange=0
# A job starts as soon as it can: people and tests wait for it.
SchedulerParameters=batch_sched_delay=0

MaxJobCount=60000
MaxArraySize=60001
MinJobAge={options.min_job_age}
KillWait={options.kill_wait}
{storage}

{nodes}
PartitionName=all Nodes={names} Default=YES State=UP OverSubscribe=NO
PartitionName=debug Nodes={names} State=UP MaxTime=30
{extra}
"""


def prepare(cluster: Cluster) -> None:
    """Write the configuration and make the folders of Munge and Slurm."""
    key = cluster.etc / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    cluster.slurm_conf.write_text(render_slurm_conf(cluster))
    # What stands for the devices is never opened: GPUs are counted here, not used.
    for number in range(_GPUS):
        (cluster.etc / f"gpu{number}").touch()
    (cluster.etc / "gres.conf").write_text(f"Name=gpu File={cluster.etc}/gpu[0-{_GPUS - 1}]\n")
    (cluster.state / "slurmctld").mkdir(mode=0o755)
    (cluster.state / "spool").mkdir(mode=0o755)
    for name in cluster.node_names:
        (cluster.state / "spool" / name).mkdir(mode=0o755)


def munge_part(cluster: Cluster) -> Part:
    """munged, with the cluster's own key and socket."""
    return Part(
        name="munged",
        argv=(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={cluster.etc}/munge.key",
            f"--socket={cluster.munge_socket}",
            f"--pid-file={cluster.run}/munged.own.pid",
            f"--seed-file={cluster.run}/munged.seed",
            "--num-threads=2",
        ),
        answers=partial(_munge_answers, cluster),
    )


def controller_part(cluster: Cluster) -> Part:
    """slurmctld."""
    return Part(
        name="slurmctld",
        argv=("slurmctld", "-D"),
        answers=partial(_controller_answers, cluster),
    )


def node_part(cluster: Cluster, name: str) -> Part:
    """One compute node's slurmd; its jobs' slurmstepds outlive it, as they do on a cluster."""
    return Part(
        name=name,
        argv=("slurmd", "-D", "-N", name),
        answers=partial(accepts, cluster.node_address(name), cluster.port(name)),
    )


def node_states(cluster: Cluster) -> dict[str, str]:
    """What Slurm says of each node; empty when slurmctld does not answer."""
    lines = _ask(cluster, "sinfo", "-h", "-N", "-p", "all", "-o", "%N %T").splitlines()
    return dict(line.split(maxsplit=1) for line in lines if " " in line)


def usable(state: str) -> bool:
    """Whether a node of such a state (sinfo(1), %T) has registered and answers.

    A mark behind the word, as in `idle*`, says that the node does not answer.
    """
    return state in {"idle", "mixed", "allocated", "completing", "planned", "reserved"} | {
        "draining",
        "drained",
    }


def _controller_answers(cluster: Cluster) -> bool:
    return " is UP" in _ask(cluster, "scontrol", "ping")


def _munge_answers(cluster: Cluster) -> bool:
    return bool(_ask(cluster, "munge", "-n", "-S", str(cluster.munge_socket)))


def _ask(cluster: Cluster, *argv: str) -> str:
    """A command's stdout, empty when it failed or took too long."""
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=processes.environment(cluster),
            timeout=5,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired:
        return ""
