"""The state table, whole: every state that squeue(1) and sacct(1) name.

PROTOCOL §1 sorts the states into running, queued and ended, and gives the ended ones a return
code. A state that stands nowhere here is `UNKNOWN`: it is neither running, queued nor ended, so
nothing is concluded from it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import frozen


class Phase(Enum):
    """What upstream takes a state for."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@frozen
class JobState:
    """One of Slurm's job states: its compact code, its name, and what it means to upstream.

    `return_code` is exitstatus's `rc` (PROTOCOL, exitstatus); None unless the job has ended.
    """

    code: str
    name: str
    phase: Phase
    return_code: int | None = None


_COMPLETED, _FAILED, _CANCELLED, _OTHER = 0, 1, -15, -9

#: PROTOCOL §1 (running, queued, exitstatus); squeue(1), "JOB STATE CODES", of 22.05 to 25.05.
STATES: Final = (
    JobState("R", "RUNNING", Phase.RUNNING),
    JobState("RH", "REQUEUE_HOLD", Phase.RUNNING),
    JobState("RS", "RESIZING", Phase.RUNNING),
    JobState("SI", "SIGNALING", Phase.RUNNING),
    JobState("ST", "STOPPED", Phase.RUNNING),
    JobState("S", "SUSPENDED", Phase.RUNNING),
    JobState("CG", "COMPLETING", Phase.RUNNING),
    JobState("SO", "STAGE_OUT", Phase.RUNNING),
    JobState("CF", "CONFIGURING", Phase.QUEUED),
    JobState("PD", "PENDING", Phase.QUEUED),
    JobState("RD", "RESV_DEL_HOLD", Phase.QUEUED),
    JobState("RF", "REQUEUE_FED", Phase.QUEUED),
    JobState("RQ", "REQUEUED", Phase.QUEUED),
    JobState("CD", "COMPLETED", Phase.ENDED, _COMPLETED),
    JobState("F", "FAILED", Phase.ENDED, _FAILED),
    JobState("NF", "NODE_FAIL", Phase.ENDED, _FAILED),
    JobState("OOM", "OUT_OF_MEMORY", Phase.ENDED, _FAILED),
    JobState("CA", "CANCELLED", Phase.ENDED, _CANCELLED),
    JobState("DL", "DEADLINE", Phase.ENDED, _CANCELLED),
    JobState("PR", "PREEMPTED", Phase.ENDED, _CANCELLED),
    JobState("BF", "BOOT_FAIL", Phase.ENDED, _OTHER),
    JobState("LF", "LAUNCH_FAILED", Phase.ENDED, _OTHER),
    JobState("RV", "REVOKED", Phase.ENDED, _OTHER),
    JobState("SE", "SPECIAL_EXIT", Phase.ENDED, _OTHER),
    JobState("TO", "TIMEOUT", Phase.ENDED, _OTHER),
)

_BY_WORD: Final = {word: state for state in STATES for word in (state.code, state.name)}

PENDING: Final = _BY_WORD["PENDING"]
COMPLETED: Final = _BY_WORD["COMPLETED"]
FAILED: Final = _BY_WORD["FAILED"]
CANCELLED: Final = _BY_WORD["CANCELLED"]
TIMEOUT: Final = _BY_WORD["TIMEOUT"]
#: The job began, nothing recorded its end, and Slurm has forgotten it.
LOST: Final = JobState("?", "UNKNOWN", Phase.ENDED, _OTHER)


def parse_state(text: str) -> JobState:
    """Slurm's word for a state, compact or long, as a `JobState`.

    sacct says more than the state (``CANCELLED by 1001``) and cuts what is too long for its
    column (``OUT_OF_ME+``); both are understood. Never raises: an unheard-of word becomes a
    state of that name in `Phase.UNKNOWN`.
    """
    words = text.split()
    word = words[0].upper() if words else ""
    known = _BY_WORD.get(word)
    if known is not None:
        return known
    if word.endswith("+") and len(word) > 3:
        whole = [state for state in STATES if state.name.startswith(word[:-1])]
        if len(whole) == 1:
            return whole[0]
        if not whole and word[:-1] in _BY_WORD:
            return _BY_WORD[word[:-1]]
    return JobState("?", word or "(empty)", Phase.UNKNOWN)
