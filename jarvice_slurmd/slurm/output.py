"""What Slurm's commands print, parsed. Pure; raises nothing but `SlurmOutputError`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from attrs import frozen

from jarvice_slurmd.errors import (
    SlurmOutputError,
    SlurmRefusedError,
    SlurmUnavailableError,
)
from jarvice_slurmd.slurm.states import JobState, parse_state

#: Every job of ours carries this before its name (PROTOCOL, sbatch).
NAME_PREFIX: Final = "jarvice_"

_JOBID = re.compile(r"[0-9]{1,10}(?:[_+][0-9]{1,10})?\Z", re.ASCII)
_ELAPSED = re.compile(r"(?:(?:(\d{1,9})-)?(\d{1,9}):)?(\d{1,9}):(\d{1,9})(?:\.\d+)?\Z", re.ASCII)


@frozen(kw_only=True)
class QueueEntry:
    """One job of the queue, as `squeue` told it.

    `name` is without the prefix; `elapsed` is in seconds; `hostlist` is Slurm's compressed form,
    empty while no nodes are allocated; `reason` is why a job waits, or how it ended.
    """

    jobid: str
    name: str
    state: JobState
    elapsed: int
    hostlist: str
    reason: str


def is_jobid(text: str) -> bool:
    """Whether this is a job id in one of Slurm's forms: 12, 12_3 (array) or 12+3 (het job)."""
    return _JOBID.match(text) is not None


def parse_queue_line(line: str) -> QueueEntry | None:
    """One line of `squeue -o` in the format that `commands.render_queue` asks for.

    None for a job that is not ours (its name lacks the prefix) and for a line that is no record:
    fields are not escaped, so a line feed in a name makes such lines. The name stands last, so a
    separator in it does no harm.
    """
    fields = line.split("|", 5)
    if len(fields) != 6 or not fields[5].startswith(NAME_PREFIX) or not is_jobid(fields[0]):
        return None
    jobid, state, elapsed, hostlist, reason, name = fields
    return QueueEntry(
        jobid=jobid,
        name=name[len(NAME_PREFIX) :],
        state=parse_state(state),
        elapsed=parse_elapsed(elapsed),
        hostlist=hostlist,
        reason=reason,
    )


def iter_queue(text: str, mark: str = "") -> Iterator[QueueEntry | None]:
    """The lines that `squeue` printed, one at a time, so that a caller can yield: jobs of ours.

    None for any other line; those that don't begin with `mark` (`commands.render_queue`) are parts
    of a job's name.
    """
    for line in text.split("\n"):
        yield parse_queue_line(line[len(mark) :]) if line.startswith(mark) else None


def parse_elapsed(text: str) -> int:
    """Slurm's elapsed time, ``[days-][hours:]minutes:seconds``, in seconds.

    0 for what is no time (``INVALID``, ``N/A``, ``UNLIMITED``, nothing).
    """
    match = _ELAPSED.match(text.strip())
    if match is None:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def render_elapsed(seconds: int) -> str:
    """Seconds as HH:MM:SS, days counted as hours (PROTOCOL, runstatus)."""
    minutes, second = divmod(max(0, seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}"


@frozen(kw_only=True)
class PostMortem:
    """What `commands.render_post_mortem` found of a job; None where there is nothing.

    `name` is the job's own name; `start` and `cancelled` are seconds since 1970; `exit` is the
    state, exit status, start and end that the job's own script noted; `answer` is the state and
    elapsed seconds that exitstatus answered before. `accounting` is sacct's state, elapsed seconds
    and job name; `accounting_error` is what sacct said instead, unless accounting is disabled.
    `is_known` is whether Slurm, asked for this one job, knows it though its queue lacked it.
    """

    name: str | None
    start: int | None
    cancelled: int | None
    exit: tuple[JobState, int, int, int] | None
    answer: tuple[JobState, int] | None
    accounting: tuple[JobState, int, str] | None
    accounting_error: str | None
    output: bytes
    is_known: bool = False


def parse_post_mortem(stdout: bytes) -> PostMortem:
    """Read what `commands.render_post_mortem` printed; a record that makes no sense is none."""
    head, separator, output = stdout.partition(b"\noutput\n")
    if not separator:
        raise SlurmOutputError("the login node's answer about the job is incomplete")
    records = dict(line.partition("=")[::2] for line in head.decode("utf-8", "replace").split("\n"))
    accounting, accounting_error = _parse_accounting(records.get("sacct", ""))
    exit_words = records.get("exit", "").split()
    answer_words = records.get("answer", "").split()
    return PostMortem(
        name=records.get("name") or None,
        start=_number(records.get("start", "")),
        cancelled=_number(records.get("cancelled", "")),
        exit=(
            (parse_state(exit_words[0]), *(int(word) for word in exit_words[1:4]))  # type: ignore[arg-type]
            if len(exit_words) == 4 and all(_number(word) is not None for word in exit_words[1:])
            else None
        ),
        answer=(
            (parse_state(answer_words[0]), int(answer_words[1]))
            if len(answer_words) == 2 and _number(answer_words[1]) is not None
            else None
        ),
        accounting=accounting,
        accounting_error=accounting_error,
        output=output,
        is_known=parse_doubt(records.get("slurm", "").encode()),
    )


def parse_doubt(stdout: bytes) -> bool:
    """Whether Slurm knows the job, in what `commands.render_doubt` printed.

    Raises `SlurmUnavailableError` or `SlurmRefusedError` when Slurm did not say.
    """
    line = stdout.decode("utf-8", "replace").strip().removeprefix("slurm=")
    status, _, said = line.partition(" ")
    if status in ("", "0"):
        return status == "0"
    if "invalid job id" in said.lower():
        return False
    raise refusal(said.encode(), _number(status) or 1)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _parse_accounting(text: str) -> tuple[tuple[JobState, int, str] | None, str | None]:
    status, _, said = text.partition(" ")
    if status == "0" and said.count("|") >= 2:
        state, elapsed, name = said.split("|", 2)
        return (parse_state(state), _number(elapsed) or 0, name), None
    if status in ("", "0") or "accounting storage is disabled" in said.lower():
        return None, None
    return None, said or f"sacct ended with status {status}"


def parse_submitted(stdout: bytes) -> str:
    """The job id in what `sbatch --parsable` printed: ``jobid`` or ``jobid;cluster``."""
    lines = stdout.decode("utf-8", "replace").split()
    jobid = lines[-1].split(";")[0] if lines else ""
    if not is_jobid(jobid):
        raise SlurmOutputError(f"sbatch printed no job id but {stdout[:200]!r}")
    return jobid


#: What Slurm's commands say when slurmctld did not answer, as against having refused. The exit
#: status is 1 for both, so the words must decide between "no" and "no answer" (slurm_errno.h).
_UNREACHABLE: Final = (
    "unable to contact slurm controller",
    "unable to contact slurm database",
    "socket timed out",
    "connection refused",
    "connection timed out",
    "connection reset",
    "broken pipe",
    "transport endpoint is not connected",
    "no route to host",
    "network is unreachable",
    "missing socket error",
    "slurm_msg_sendto",
    "slurm_receive_msg",
    "communication connection failure",
    "communication shutdown failure",
    "message receive failure",
    "message send failure",
    "unexpected message received",
    "zero bytes were transmitted",
    "in standby mode",
    "slurm temporarily unable to accept job",
    "unable to establish controller machine",
    "unable to establish configuration source",
    "resource temporarily unavailable",
    "plugin initialization failed",
    "protocol authentication error",
    "authentication credential",
    "munge encode failed",
    "unspecified error",
)


def first_words(stderr: bytes, limit: int = 500) -> str:
    """What a command said on stderr, in one line for a sentence."""
    words = " ".join(stderr.decode("utf-8", "replace").split())
    return words[:limit] or "(it said nothing)"


#: timeout(1)'s exit status when it has ended a command, a shell's where a command can't be run or
#: is not there, and those where a signal ended it. sbatch ends with 255 where it is called wrongly.
CUT_OFF: Final = frozenset({124, 126, 127, *range(129, 255)})


def refusal(stderr: bytes, status: int = 1) -> SlurmRefusedError | SlurmUnavailableError:
    """What a Slurm command's failure means: it was refused, or slurmctld was not there to ask.

    A command that did not run to its end has asked nobody, whatever its words.
    """
    words = first_words(stderr)
    if status in CUT_OFF:
        return SlurmUnavailableError(
            f"Slurm's command did not run to its end (exit status {status}): {words}"
        )
    if any(sign in words.lower() for sign in _UNREACHABLE):
        return SlurmUnavailableError(f"Slurm's controller did not answer: {words}")
    return SlurmRefusedError(f"Slurm refused: {words}")
