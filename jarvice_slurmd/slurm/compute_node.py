"""What containers and compute nodes must offer, judged from what the probes found. Pure.

The container tool is looked for where jobs look for it (jobs/executor.sh): on the login node at
any time, on a compute node by a short job, which alone can tell whether containers start there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from jarvice_slurmd.slurm.findings import Answer, Finding, Verdict, parse_facts, parse_version
from jarvice_slurmd.slurm.requirements import OLDEST_TMPFS, judge_clock, judge_space

Facts = Mapping[str, str]

_NOT_ASKED: Final = "only a compute node can tell; it was not asked (--on-compute-node)"

#: What each finding of the compute node needs, by its name, in the order of the report.
_NEEDED: Final = {
    "folder on the compute node": "shared with the login node",
    "flock across nodes": "the login node's lock is kept on a compute node",
    "commands on the compute node": "ps, awk, grep, sed, find, flock, coreutils, srun, scontrol",
    "containers on the compute node": "an image is converted and a container starts",
    "overlay": "a container writes to an overlay of its own",
    "writable tmpfs": "a container writes to a tmpfs",
    "work folder": "JARVICE_SINGULARITY_TMPDIR writable",
    "clock of the compute node": "within 5 s of the login node's",
}


def judge_container(answer: Answer, *, overlay_size: int, where: str) -> Iterator[Finding]:
    """The container tool: its version, and how it gets its rights.

    `overlay_size` is in MB, 0 meaning a writable tmpfs; `where` is in words.
    """
    needed = "Apptainer or Singularity"
    if overlay_size == 0:
        needed += f", 3.11.3 or newer where overlay size is 0 (Singularity), on {where}"
    facts = parse_facts(answer.stdout)
    tool, said = facts.get("tool", ""), facts.get("tool_version", "")
    if answer.status is None or "tool" not in facts:
        for name in ("container tool", "setuid"):
            yield Finding(name=name, verdict=Verdict.UNKNOWN, found=answer.trouble, needed=needed)
        return
    if not tool:
        fix = "install it on the compute nodes, or load it in .jarvice_custom_env"
        # Login nodes may do without: jobs need it on compute nodes.
        verdict = Verdict.UNKNOWN if where == "the login node" else Verdict.FAILED
        found = f"none in the PATH on {where}"
        yield Finding(name="container tool", verdict=verdict, found=found, needed=needed, fix=fix)
        yield Finding(name="setuid", verdict=Verdict.UNKNOWN, found=found, needed=needed)
        return
    yield _judge_tool(facts, said, needed, overlay_size, where)
    yield _judge_rights(facts, where)


def _judge_tool(facts: Facts, said: str, needed: str, overlay_size: int, where: str) -> Finding:
    version = parse_version(said)
    verdict, fix = Verdict.OK, ""
    found = f"{said}, {facts['tool']} on {where}"
    if version is None:
        verdict, fix = Verdict.FAILED, f"have {facts['tool']} --version say its version"
    elif overlay_size == 0 and not said.startswith("apptainer") and version < OLDEST_TMPFS:
        verdict = Verdict.FAILED
        fix = "set JARVICE_SLURM_OVERLAY_SIZE to a size in MB, or update Singularity"
    elif not facts.get("singularity"):
        verdict = Verdict.WARNING
        found += ", but no command `singularity`"
        fix = "JARVICE's own scripts call singularity: link it to apptainer"
    return Finding(name="container tool", verdict=verdict, found=found, needed=needed, fix=fix)


def _judge_rights(facts: Facts, where: str) -> Finding:
    name, needed = "setuid", "setuid, or user namespaces"
    spaces = facts.get("user_namespaces") == "yes"
    suid = facts.get("setuid") == "yes"
    found = (
        f"{'setuid' if suid else 'not setuid'}; user namespaces {'work' if spaces else 'are off'}"
        f" on {where}"
    )
    verdict = Verdict.OK if suid or spaces else Verdict.FAILED
    fix = "enable user namespaces (sysctl user.max_user_namespaces), or install it setuid"
    return Finding(name=name, verdict=verdict, found=found, needed=needed, fix=fix)


def compute_node_not_asked(reason: str = _NOT_ASKED) -> Iterator[Finding]:
    """The findings that need a compute node, where none was asked."""
    for name, needed in _NEEDED.items():
        yield Finding(name=name, verdict=Verdict.UNKNOWN, found=reason, needed=needed)


def judge_compute_node(answer: Answer, *, overlay_size: int) -> Iterator[Finding]:
    """What the short job found, or why it found nothing."""
    facts = parse_facts(answer.stdout)
    if answer.status != 0 or "job" not in facts:
        yield from compute_node_not_asked(f"no job could be submitted: {answer.trouble}")
        return
    job = f"job {facts['job']}"
    if facts.get("shared") != "yes":
        yield from _judge_silence(facts, job)
        return
    host = facts.get("host", "?")
    yield _finding("folder on the compute node", Verdict.OK, f"{host} ({job}) wrote to it")
    yield _judge_lock(facts, host)
    missing = facts.get("missing", "?")
    yield _finding(
        "commands on the compute node",
        Verdict.FAILED if missing else Verdict.OK,
        f"no {missing} on {host}" if missing else f"all on {host}",
        "install them there, in the PATH that Slurm gives jobs (docs/requirements.md)",
    )
    yield from _judge_disks(facts, overlay_size)
    free = facts.get("tmp_free", "")
    if free:
        yield judge_space("work folder", free, answer)
    else:
        yield _finding(
            "work folder",
            Verdict.FAILED,
            f"it can't be written on {host}",
            "set JARVICE_SINGULARITY_TMPDIR to a folder that every compute node has",
        )
    seen, read = facts.get("seen", ""), facts.get("read", "")
    yield judge_clock(
        "clock of the compute node",
        facts.get("clock", ""),
        float(seen) if _is_number(seen) else float("-inf"),
        float(read) if _is_number(read) else float("inf"),
    )


def _judge_silence(facts: Facts, job: str) -> Iterator[Finding]:
    """The job left nothing where it should have: it never ran, or wrote to another folder."""
    state, reason = facts.get("state", ""), facts.get("reason", "")
    if state in ("PENDING", "CONFIGURING", "RUNNING"):
        yield from compute_node_not_asked(
            f"{job} was {state} ({reason}) and did not end in time; it was cancelled"
        )
        return
    words = f"{job} ended ({state or 'forgotten by Slurm'}"
    words += f", {reason})" if reason not in ("", "None") else ")"
    said = facts.get("output")
    yield _finding(
        "folder on the compute node",
        Verdict.FAILED,
        f"{words} and left nothing in the folder" + (f"; it said: {said}" if said else ""),
        "mount the folder on every node at the same path, or set JARVICE_SLURM_SCRATCH_DIR to one"
        " that is; slurmd's log on the node says more",
    )
    for finding in compute_node_not_asked("the compute node's answer did not arrive"):
        if finding.name != "folder on the compute node":
            yield finding


def _judge_lock(facts: Facts, host: str) -> Finding:
    lock = facts.get("lock", "")
    fix = "mount the file system with locks across nodes (Lustre: -o flock, not -o localflock)"
    if lock == "1":
        return _finding("flock across nodes", Verdict.OK, f"it is kept on {host}")
    if lock == "0":
        found = f"{host} got the lock that the login node held"
    else:
        found = f"no lock can be made on {host} (flock: {lock or 'no answer'})"
    return _finding("flock across nodes", Verdict.FAILED, found, fix)


def _judge_disks(facts: Facts, overlay_size: int) -> Iterator[Finding]:
    image = facts.get("image", "")
    if image != "0":
        for name in ("containers on the compute node", "overlay", "writable tmpfs"):
            verdict = Verdict.FAILED if image and name.startswith("cont") else Verdict.UNKNOWN
            found = image or "there is no container tool, or no work folder"
            yield _finding(name, verdict, found, "docs/executor.md, When a job fails")
        return
    disks = {
        "overlay": facts.get("overlay") or facts.get("overlay_file", ""),
        "writable tmpfs": facts.get("tmpfs", ""),
    }
    started = any(said == "0" for said in disks.values())
    yield _finding(
        "containers on the compute node",
        Verdict.OK if started else Verdict.FAILED,
        "they start" if started else f"none started: {disks['writable tmpfs']}",
        "docs/executor.md, When a job fails",
    )
    wanted = "writable tmpfs" if overlay_size == 0 else "overlay"
    for name, said in disks.items():
        failed = Verdict.FAILED if name == wanted else Verdict.WARNING
        verdict = Verdict.OK if said == "0" else failed if said else Verdict.UNKNOWN
        other = "overlay size 0" if name == "overlay" else "an overlay size"
        yield _finding(
            name,
            verdict,
            "it works" if said == "0" else said or "it was not told",
            f"use {other}, or see docs/executor.md, When a job fails",
        )


def _finding(name: str, verdict: Verdict, found: str, fix: str = "") -> Finding:
    return Finding(name=name, verdict=verdict, found=found, needed=_NEEDED[name], fix=fix)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
