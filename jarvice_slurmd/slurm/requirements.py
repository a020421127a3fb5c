"""What a cluster must offer, judged from what the probes found on its login node. Pure.

Each function takes the answer of one probe of `probes` and yields a finding for each requirement.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from jarvice_slurmd.errors import SlurmRefusedError
from jarvice_slurmd.slurm.findings import Answer, Finding, Verdict, parse_facts, parse_version
from jarvice_slurmd.slurm.output import refusal
from jarvice_slurmd.slurm.probes import SLURM_COMMANDS

#: sbatch --gpus-per-node and select/cons_tres came with 19.05.
OLDEST_SLURM: Final = (19, 5, 0)

#: An ordinary user gets --writable-tmpfs from this Singularity on.
OLDEST_TMPFS: Final = (3, 11, 3)

#: Plugins that give out single cores of a node; cray_aries does it through one of the others.
_SHARING_PLUGINS: Final = ("select/cons_tres", "select/cons_res")
_NODE_PLUGINS: Final = ("select/linear", "select/alps", "select/serial")

#: Upstream asks every 5 s and may miss some rounds; so long Slurm should remember a job's end.
_SHORT_MEMORY: Final = 60

#: Munge refuses credentials that are older (munged(8), --ttl), and with them every command.
_MUNGE_SECONDS: Final = 300.0
_CLOCK_SECONDS: Final = 5.0

#: Free space below which the first image may not fit, and below which few do, in MB.
LEAST_SPACE: Final = 1_000
GOOD_SPACE: Final = 10_000


def judge_login(answer: Answer, asked: float, answered: float) -> Iterator[Finding]:
    """Slurm's commands and version, the account, and the login node's clock.

    `asked` and `answered` are seconds since 1970, by our clock.
    """
    facts = parse_facts(answer.stdout)
    yield _judge_commands(answer, facts)
    yield _judge_version(answer, facts)
    user_id = facts.get("user_id", "")
    needed = "an ordinary user"
    if not user_id:
        yield _unknown("account", answer, needed)
    elif user_id == "0":
        yield Finding(
            name="account",
            verdict=Verdict.FAILED,
            found=f"{facts.get('user')} is root",
            needed=needed,
            fix="set JARVICE_SLURM_SSH_USER to an account without privileges: jobs refuse to run"
            " as root",
        )
    else:
        found = f"{facts.get('user')}, user id {user_id}"
        yield Finding(name="account", verdict=Verdict.OK, found=found, needed=needed)
    yield judge_clock("clock of the login node", facts.get("clock", ""), asked, answered)


def _judge_commands(answer: Answer, facts: dict[str, str]) -> Finding:
    name, needed = "Slurm's commands", f"{', '.join(SLURM_COMMANDS)} and sacct in a login's PATH"
    if "user_id" not in facts:
        return _unknown(name, answer, needed)
    missing = [command for command in SLURM_COMMANDS if not facts.get(command)]
    fix = (
        "add Slurm's folder to the PATH that `ssh login-node env` shows: in .bashrc before its"
        " exit for non-interactive shells, or in /etc/environment"
    )
    path = f"in the PATH {facts.get('path')}"
    if missing:
        found = f"no {', '.join(missing)} {path}"
        return Finding(name=name, verdict=Verdict.FAILED, found=found, needed=needed, fix=fix)
    if not facts.get("sacct"):
        found = f"no sacct {path}"
        return Finding(name=name, verdict=Verdict.WARNING, found=found, needed=needed, fix=fix)
    found = f"all there, {facts['sbatch']}"
    return Finding(name=name, verdict=Verdict.OK, found=found, needed=needed)


def _judge_version(answer: Answer, facts: dict[str, str]) -> Finding:
    name, needed = "Slurm's version", "19.05 or newer"
    said = facts.get("version", "")
    version = parse_version(said)
    if answer.status is None:
        return _unknown(name, answer, needed)
    if version is None:
        found = f"sbatch --version says {said or 'nothing'}"
        return Finding(name=name, verdict=Verdict.UNKNOWN, found=found, needed=needed)
    verdict = Verdict.OK if version >= OLDEST_SLURM else Verdict.FAILED
    return Finding(name=name, verdict=verdict, found=said, needed=needed, fix="update Slurm")


def judge_configuration(answer: Answer) -> Iterator[Finding]:
    """Whether slurmctld answers, and the SelectType and MinJobAge that it says."""
    facts = parse_facts(answer.stdout) if answer.status == 0 else {}
    needed = "it answers on the login node"
    if answer.status is None:
        yield _unknown("Slurm's controller", answer, needed)
    else:
        yield Finding(
            name="Slurm's controller",
            verdict=Verdict.FAILED if answer.status else Verdict.OK,
            found=answer.trouble if answer.status else "it answers",
            needed=needed,
            fix="have `scontrol ping` say that it is up, run as this account on the login node",
        )
    yield _judge_select_type(answer, facts)
    age = facts.get("MinJobAge", "").split(" ")[0]
    needed = f"{_SHORT_MEMORY} s or more"
    if not age.isdigit():
        yield _unknown("MinJobAge", answer, needed)
        return
    short = 0 < int(age) < _SHORT_MEMORY
    yield Finding(
        name="MinJobAge",
        verdict=Verdict.WARNING if short else Verdict.OK,
        found=f"{age} s" if int(age) else "0, jobs are never forgotten",
        needed=needed,
        fix="raise MinJobAge in slurm.conf; until then accounting, or what a job left in its"
        " folder, must answer for jobs that have just ended",
    )


def _judge_select_type(answer: Answer, facts: dict[str, str]) -> Finding:
    name, needed = "SelectType", "select/cons_tres or select/cons_res"
    plugin = facts.get("SelectType", "")
    parameters = facts.get("SelectTypeParameters", "")
    if not plugin:
        return _unknown(name, answer, needed)
    shares = plugin in _SHARING_PLUGINS or "OTHER_CONS" in parameters.upper()
    verdict = Verdict.OK if shares else Verdict.UNKNOWN
    found = f"{plugin} ({parameters})"
    if not shares and plugin in _NODE_PLUGINS:
        verdict = Verdict.FAILED
    elif not shares:
        found += ", which this check does not know"
    return Finding(
        name=name,
        verdict=verdict,
        found=found,
        needed=needed,
        fix="set SelectType=select/cons_tres in slurm.conf: jobs ask for cores, memory and GPUs",
    )


def judge_queue(answer: Answer, configuration: Answer) -> Iterator[Finding]:
    """Whether we may see our jobs and their nodes, whatever PrivateData hides."""
    facts = parse_facts(configuration.stdout) if configuration.status == 0 else {}
    private = facts.get("PrivateData", "")
    hidden = {word.strip() for word in private.lower().split(",")}
    needed = "the account sees its own jobs and their nodes' addresses"
    if answer.status != 0:
        refused = isinstance(refusal(answer.stderr.encode()), SlurmRefusedError)
        verdict = Verdict.FAILED if answer.status is not None and refused else Verdict.UNKNOWN
        found = f"squeue: {answer.trouble}"
    elif not private:
        verdict = Verdict.UNKNOWN
        found = f"our jobs are seen; PrivateData is not known: {configuration.trouble}"
    elif "nodes" in hidden:
        verdict = Verdict.WARNING
        found = f"PrivateData={private}: our jobs are seen, addresses of nodes may be hidden"
    else:
        verdict = Verdict.OK
        seen = parse_facts(answer.stdout).get("jobs", "0")
        found = f"PrivateData={private}; {seen} jobs of this account in the queue"
    yield Finding(
        name="PrivateData",
        verdict=verdict,
        found=found,
        needed=needed,
        fix="interactive jobs need `scontrol show node`: remove `nodes` from PrivateData in"
        " slurm.conf, or let the login node resolve nodes' names"
        if verdict is Verdict.WARNING
        else "run squeue as this account on the login node, and have Slurm answer it",
    )


def judge_accounting(answer: Answer, configuration: Answer) -> Iterator[Finding]:
    """Whether accounting can tell how a job ended that slurmctld has forgotten."""
    facts = parse_facts(configuration.stdout) if configuration.status == 0 else {}
    storage = facts.get("AccountingStorageType", "")
    name, needed = "accounting", "slurmdbd, and sacct that answers"
    fix = (
        "set AccountingStorageType=accounting_storage/slurmdbd in slurm.conf; without it only what"
        " a job left in its folder tells how it ended once Slurm has forgotten it"
    )
    disabled = "accounting storage is disabled" in (answer.stdout + answer.stderr).lower()
    if answer.status == 0 and storage.endswith("/slurmdbd"):
        verdict, found = Verdict.OK, f"{storage}; sacct answers"
    elif disabled or storage == "accounting_storage/none" or storage == "(null)":
        verdict, found = Verdict.WARNING, f"{storage or 'none'}: accounting is disabled"
    elif answer.status is None or not storage:
        reason = answer.trouble if answer.status is None else configuration.trouble
        verdict, found = Verdict.UNKNOWN, reason
    elif answer.status == 0:
        verdict, found = Verdict.OK, f"{storage}; sacct answers"
    else:
        verdict, found = Verdict.FAILED, f"{storage}, but sacct: {answer.trouble}"
        fix = "have slurmdbd answer sacct on the login node for this account"
    yield Finding(name=name, verdict=verdict, found=found, needed=needed, fix=fix)


def judge_folder(answer: Answer) -> Iterator[Finding]:
    """The jobs' folder on the login node: written to, locked in, and with room for images."""
    facts = parse_facts(answer.stdout)
    folder = facts.get("folder", "")
    needed = "home or JARVICE_SLURM_SCRATCH_DIR writable"
    if answer.status != 0:
        yield Finding(
            name="folder",
            verdict=Verdict.UNKNOWN if answer.status is None else Verdict.FAILED,
            found=f"{folder} {answer.trouble}".strip(),
            needed=needed,
            fix="make it, owned by the account, or set JARVICE_SLURM_SCRATCH_DIR to one that is",
        )
    else:
        found = f"{folder}, {facts.get('type', 'unknown')}"
        yield Finding(name="folder", verdict=Verdict.OK, found=found, needed=needed)
    yield _judge_lock(answer, facts)
    yield judge_space("free space", facts.get("free", ""), answer)


def _judge_lock(answer: Answer, facts: dict[str, str]) -> Finding:
    name, needed = "flock on the login node", "a lock that is held is kept from others"
    fix = "mount the file system with locks (Lustre: -o flock; NFS: without nolock)"
    if answer.status != 0:
        return _unknown(name, answer, needed)
    if "flock" not in facts:
        found, fix = "flock is not in the PATH", "install util-linux on the login node"
    elif facts.get("lock") == "1":
        return Finding(name=name, verdict=Verdict.OK, found="it is kept", needed=needed)
    elif facts.get("lock") == "0":
        found = "two had the lock at once"
    else:
        found = f"no lock can be made there: {answer.trouble}"
    return Finding(name=name, verdict=Verdict.FAILED, found=found, needed=needed, fix=fix)


def judge_space(name: str, kilobytes: str, answer: Answer) -> Finding:
    """Free space, from df's kilobytes; quotas are not in it."""
    needed = f"{GOOD_SPACE // 1000} GB for images and overlays"
    if not kilobytes.isdigit():
        return _unknown(name, answer, needed)
    megabytes = int(kilobytes) // 1024
    verdict = Verdict.OK
    if megabytes < GOOD_SPACE:
        verdict = Verdict.WARNING if megabytes >= LEAST_SPACE else Verdict.FAILED
    fix = "make room there, or choose another folder"
    found = f"{megabytes} MB"
    return Finding(name=name, verdict=verdict, found=found, needed=needed, fix=fix)


def judge_clock(name: str, clock: str, earliest: float, latest: float) -> Finding:
    """A clock that was read between two moments of ours, all in seconds since 1970.

    Moments too far apart can show a difference, but not that there is none.
    """
    needed = f"within {_CLOCK_SECONDS:.0f} s"
    try:
        read = float(clock)
    except ValueError:
        found = "it was not told"
        return Finding(name=name, verdict=Verdict.UNKNOWN, found=found, needed=needed)
    difference = min(0.0, read - earliest) or max(0.0, read - latest)
    verdict = Verdict.OK
    if abs(difference) > _CLOCK_SECONDS:
        verdict = Verdict.FAILED if abs(difference) > _MUNGE_SECONDS else Verdict.WARNING
    found = f"{abs(difference):.1f} s {'behind' if difference < 0 else 'ahead'}"
    if not difference:
        found = "no difference seen"
    span = latest - earliest
    if verdict is Verdict.OK and span > _CLOCK_SECONDS:
        verdict = Verdict.UNKNOWN
        found = f"it was read at some moment of {span:.0f} s, which is too vague to compare"
        if span == float("inf"):
            found = "it is not known when it was read"
    fix = "synchronise it (chrony, ntpd): Munge refuses what is over 300 s old"
    return Finding(name=name, verdict=verdict, found=found, needed=needed, fix=fix)


def _unknown(name: str, answer: Answer, needed: str) -> Finding:
    return Finding(name=name, verdict=Verdict.UNKNOWN, found=answer.trouble, needed=needed)
