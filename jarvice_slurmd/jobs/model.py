"""Value objects: what upstream asks for and what it is told."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import field, frozen

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.slurm.states import JobState

#: A file name component on the cluster and a Slurm job name; 255 bytes less our suffixes.
MAX_NAME_BYTES = 200

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_name(name: str) -> str:
    """The name, when it can be both a Slurm job name and a file name; else says why it can't."""
    if not name:
        raise InvalidArgumentsError("name is empty; a job needs a name")
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise InvalidArgumentsError(f"name is longer than {MAX_NAME_BYTES} bytes")
    if _CONTROL.search(name) or "/" in name or "\\" in name or name.startswith("."):
        raise InvalidArgumentsError(
            "name can't be a file name on the cluster: it must not begin with '.' nor hold "
            "slashes, backslashes, line feeds or other control characters"
        )
    # squeue(1): --name takes a list, so a name with a comma could not be looked for.
    if "," in name:
        raise InvalidArgumentsError("name holds a comma, by which Slurm separates names")
    return name


@frozen(kw_only=True)
class JobRef:
    """How upstream names a job: its own name and number, and the job id that Slurm gave it."""

    name: str
    number: int
    jobid: str


@frozen(kw_only=True)
class JobSummary:
    """One line of /running or /queued; `name` is without the prefix `jarvice_`."""

    name: str
    jobid: str


@frozen(kw_only=True)
class RunStatus:
    """Where a job runs and for how long: node names, and seconds."""

    nodes: tuple[str, ...]
    elapsed: int


@frozen(kw_only=True)
class ExitReport:
    """How a job ended: Slurm's state, elapsed seconds, and the end of its output."""

    state: JobState
    elapsed: int
    output: bytes = field(repr=lambda output: f"<{len(output)} bytes>")


@frozen(kw_only=True)
class Submitted:
    """What a submission came to: Slurm's job id, and the script without its secrets."""

    jobid: str
    script: str = field(repr=False)


@frozen(kw_only=True)
class JobRequest:
    """What a job asks of Slurm, as read from its text or its description (PROTOCOL §2, §3).

    `cores` is per node; `ram` is in GB per node, 0 unset; `gpus` is per node, 0 none; `walltime`
    and `licenses` are Slurm's own forms, None unset; `devices` are the platform administrator's
    `key=value` strings.
    """

    cores: int = 1
    ram: int = 0
    gpus: int = 0
    walltime: str | None = None
    licenses: str | None = None
    devices: tuple[str, ...] = ()
    interactive: bool = False


@frozen(kw_only=True)
class Submission:
    """A job to submit, as upstream gave it.

    `content` is either the decoded text of hpc_script (PROTOCOL §2), or the object `job` that
    describes a job for the built-in executor, as JSON gave it. Both may hold secrets.
    """

    name: str
    number: int
    nodes: int
    content: str | Mapping[str, object] = field(repr=False)
    held: bool = False


@frozen(kw_only=True)
class JobInfo:
    """What a user is told of an interactive job: about it, its help and its URL, or empty."""

    about: str
    help: str
    url: str


@frozen(kw_only=True)
class Interactive:
    """What an interactive application says of itself (PROTOCOL §3); None where it does not say.

    `url` and `help` are templates; `wants_prefix` is whether it serves under its address's path.
    """

    url: str | None = None
    help: str | None = None
    about: str | None = None
    wants_prefix: bool | None = None


@frozen(kw_only=True)
class BatchJob:
    """A submission made ready: what sbatch is told, and what runs.

    `options` are sbatch's, one word each; `batch_script` is what sbatch reads, without secrets;
    `node_script` runs once on every node and may hold secrets; `shown_script` is both for the
    administrator's eyes, secrets masked. `interactive` is None for a batch job.
    """

    name: str
    number: int
    options: tuple[str, ...]
    interactive: Interactive | None = None
    batch_script: str = field(repr=False)
    node_script: str = field(repr=False)
    shown_script: str = field(repr=False)
