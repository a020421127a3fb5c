"""From a request's form and JSON to value objects, and back (PROTOCOL §1)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar
from urllib.parse import parse_qs, unquote_to_bytes

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.model import (
    ExitReport,
    JobInfo,
    JobRef,
    JobSummary,
    RunStatus,
    Submission,
    check_name,
)
from jarvice_slurmd.slurm.output import is_jobid, render_elapsed

T = TypeVar("T")

#: Numbers of jobs and nodes are sane below this; Slurm's own are 32 bits wide.
_MOST: Final = 2**31 - 1

#: Escaped characters in a form, and separators in its JSON: what costs time and memory out of
#: proportion to a body's size. A job's text of 10 MB has 300,000 escapes and a dozen separators.
_MAX_ESCAPES: Final = 1_000_000
_MAX_SEPARATORS: Final = 250_000

Args = Mapping[str, object]


def parse_args(content_type: str | None, body: bytes) -> Args:
    """The JSON object in a form's field `args`."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise InvalidArgumentsError(
            f"the body is {kind or 'of no type'}; it must be application/x-www-form-urlencoded "
            "with one field, args, that holds a JSON object"
        )
    if body.count(b"%") > _MAX_ESCAPES:
        raise InvalidArgumentsError(f"the form has over {_MAX_ESCAPES} escaped characters")
    try:
        fields = parse_qs(body, max_num_fields=100, keep_blank_values=True)
    except ValueError as error:
        raise InvalidArgumentsError(f"the form with args can't be read: {_short(error)}") from None
    values = fields.get(b"args", [])
    if len(values) != 1:
        raise InvalidArgumentsError(f"the form has {len(values)} fields named args; it needs one")
    if sum(map(values[0].count, (b",", b":", b"[", b"{"))) > _MAX_SEPARATORS:
        raise InvalidArgumentsError(f"args has over {_MAX_SEPARATORS} values or separators")
    try:
        args = json.loads(values[0].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentsError(f"args is not JSON in UTF-8: {_short(error)}") from None
    if not isinstance(args, dict):
        raise InvalidArgumentsError(f"args is {_kind(args)}; it must be a JSON object")
    return args


def parse_submission(args: Args, executor: str) -> Submission:
    """The arguments of /submit; `executor` is the key of hpc_script whose text is taken."""
    _check_bearer(args)
    job = args.get("job")
    described = job.get("nodes") if isinstance(job, dict) else None
    outer = args.get("nodes") is not None or described is None
    nodes = _number(args if outer else {"nodes": described}, "nodes", least=1)
    if isinstance(described, int) and described != nodes:
        raise InvalidArgumentsError(
            f"nodes is {nodes} and job.nodes is {described}; they must be the same, or one absent"
        )
    return Submission(
        name=_name(args),
        number=_number(args, "number", least=0),
        nodes=nodes,
        content=_job_content(args, executor),
        held=_boolean(args, "held"),
    )


def parse_ref(args: Args) -> JobRef:
    """The arguments by which upstream names a job."""
    jobid = _required(args, "jobid")
    if isinstance(jobid, int) and not isinstance(jobid, bool):
        jobid = str(jobid)
    if not isinstance(jobid, str) or not is_jobid(jobid):
        raise InvalidArgumentsError(f"jobid is {_shown(jobid)}; it must be one of Slurm's job ids")
    return JobRef(name=_name(args), number=_number(args, "number", least=0), jobid=jobid)


def parse_job_path(segments: Sequence[bytes]) -> tuple[str, str, str, str]:
    """Name, number, job id and method, of a path below /request; empty what is not there.

    What has more behind it is no method that we know. What is not UTF-8 is in no name of a job.
    """
    words = [unquote_to_bytes(segment).decode("utf-8", "surrogateescape") for segment in segments]
    name, number, jobid, *method = [*words, "", "", ""][: max(3, len(words))]
    return name, number, jobid, "/".join(method).rstrip("/")


def check_online(args: Args) -> None:
    """Raise where the arguments of /online can't be right; nobody reads them."""
    for key in ("host", "status", "comment"):
        value = args.get(key)
        if value is not None and not isinstance(value, str | bool | int):
            raise InvalidArgumentsError(f"{key} is {_kind(value)}; it must be a string")
    _required(args, "host")


def check_nodes(args: Args) -> None:
    """Raise where the argument nodes of /terminate can't be right; Slurm knows the job's nodes."""
    value = args.get("nodes")
    if isinstance(value, dict | bool | float):
        raise InvalidArgumentsError(f"nodes is {_kind(value)}; it must be a number or a list")


def parse_force(args: Args) -> bool:
    """The argument force of /terminate."""
    return _boolean(args, "force")


def parse_query(args: Args, key: str, convert: Callable[[str], T], default: T) -> T:
    """One value of `qs`, `{"key": ["value", …]}`: the first, converted; the default when absent."""
    qs = args.get("qs")
    if qs is None:
        return default
    if not isinstance(qs, dict):
        raise InvalidArgumentsError(f"qs is {_kind(qs)}; it must be a JSON object")
    values = qs.get(key, [])
    if isinstance(values, str | int):
        values = [values]
    if not isinstance(values, list):
        raise InvalidArgumentsError(f"qs.{key} is {_kind(values)}; it must be a list of strings")
    if not values:
        return default
    if not isinstance(values[0], str | int):
        raise InvalidArgumentsError(f"qs.{key} holds {_kind(values[0])}; it must hold strings")
    return convert(str(values[0]))


def line_count(text: str) -> int:
    """The argument lines of tail."""
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidArgumentsError(
            f"lines is {_shown(text)}; it must be a whole number, 0 for all"
        )
    return int(text)


def truth(text: str) -> bool:
    """The argument details of pvcls."""
    return text.strip().lower() in ("true", "1", "yes", "on")


def absolute_path(text: str) -> str:
    """The argument path of pvcls."""
    if not text.startswith("/"):
        raise InvalidArgumentsError(f"path is {_shown(text)}; it must be an absolute path")
    if any(ord(char) < 32 or 0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise InvalidArgumentsError("path holds control characters or is not valid UTF-8")
    if ".." in text.split("/"):
        raise InvalidArgumentsError("path holds '..'; it must name the folder itself")
    return text


def render_summaries(jobs: Iterable[JobSummary]) -> list[list[str]]:
    """The answer of /running and /queued."""
    return [[job.name, job.jobid] for job in jobs]


def render_run_status(ref: JobRef, status: RunStatus | None) -> list[object]:
    """The answer of /runstatus."""
    if status is None:
        return [None, None, None, None]
    path = f"{ref.name}/{ref.number}/{ref.jobid}"
    return [list(status.nodes), render_elapsed(status.elapsed), path, None]


def render_exit(report: ExitReport | None, max_bytes: int) -> list[object]:
    """The answer of /exitstatus; of an output that JSON makes too long the beginning goes."""
    if report is None:
        return [-9, "00:00:00", []]
    return_code = -9 if report.state.return_code is None else report.state.return_code
    verdict = f"<< termination state: {report.state.name} -- see STDOUT for job errors >>"
    output = render_output(report.output, max_bytes, json.dumps)
    return [return_code, render_elapsed(report.elapsed), [output, verdict]]


def render_output(output: bytes, max_bytes: int, render: Callable[[str], str] = str) -> str:
    """The end of a job's output as text, undecodable bytes replaced.

    What is rendered of it has at most `max_bytes` bytes: a byte that is no UTF-8 becomes three, and
    in JSON six.
    """
    text = output.decode("utf-8", "replace")
    while (size := len(render(text).encode("utf-8"))) > max_bytes:
        # By so much, and a little more: its end may be less even than its beginning.
        text = text[len(text) - int(len(text) * max_bytes / size * 0.98) :]
    return text


def render_info(info: JobInfo | None) -> dict[str, object]:
    """The answer of /request/…/info; all of it empty for a job without a web service."""
    about, help_, url = ("", "", "") if info is None else (info.about, info.help, info.url)
    return {"about": about, "help": help_, "url": url, "actions": {}}


def _required(args: Args, key: str) -> object:
    if args.get(key) is None:
        raise InvalidArgumentsError(f"{key} is missing from args")
    return args[key]


def _name(args: Args) -> str:
    name = _required(args, "name")
    if not isinstance(name, str):
        raise InvalidArgumentsError(f"name is {_kind(name)}; it must be a string")
    return check_name(name)


def _number(args: Args, key: str, *, least: int) -> int:
    value = _required(args, key)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
        raise InvalidArgumentsError(
            f"{key} is {_shown(value)}; it must be a whole number from {least} to {_MOST}"
        )
    return value


def _boolean(args: Args, key: str) -> bool:
    value = args.get(key)
    if isinstance(value, str) and value.lower() in ("true", "false", ""):
        value = value.lower() == "true"
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidArgumentsError(f"{key} is {_shown(value)}; it must be true or false")


def _check_bearer(args: Args) -> None:
    # What upstream says of its user (PROTOCOL §1); Slurm knows one user here, so it stays unread.
    bearer = args.get("bearer")
    if bearer is not None and not isinstance(bearer, str):
        raise InvalidArgumentsError(f"bearer is {_kind(bearer)}; it must be a JWT, or absent")


def _job_content(args: Args, executor: str) -> str | Mapping[str, object]:
    job = args.get("job")
    if job is None:
        return _job_text(args, executor)
    if args.get("hpc_script") is not None:
        raise InvalidArgumentsError("args holds both hpc_script and job; a job is one of them")
    if not isinstance(job, dict):
        raise InvalidArgumentsError(f"job is {_kind(job)}; it must be an object")
    return job


def _job_text(args: Args, executor: str) -> str:
    hpc_script = _required(args, "hpc_script")
    if not isinstance(hpc_script, dict):
        raise InvalidArgumentsError(f"hpc_script is {_kind(hpc_script)}; it must be an object")
    encoded = hpc_script.get(executor)
    if not isinstance(encoded, str) or not encoded:
        known = ", ".join(sorted(str(key)[:40] for key in hpc_script))[:200] or "nothing"
        raise InvalidArgumentsError(
            f"hpc_script has no text for the executor {executor!r} of this cluster, but {known}"
        )
    try:
        return base64.b64decode("".join(encoded.split()), validate=True).decode("utf-8")
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentsError(
            f"hpc_script.{executor} is not base64 of UTF-8 text: {_short(error)}"
        ) from None


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def _shown(value: object) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | bool) else _kind(value)


def _short(error: BaseException) -> str:
    return str(error).split("\n")[0][:150] or type(error).__name__
