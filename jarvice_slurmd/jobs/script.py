"""hpc_script in, batch script out (PROTOCOL §2): what a job's text says, and what is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from shlex import quote
from typing import Final

from attrs import field, frozen

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.devices import Devices, parse_devices
from jarvice_slurmd.jobs.masking import MASK as MASK
from jarvice_slurmd.jobs.masking import mask_described, mask_secrets
from jarvice_slurmd.jobs.model import BatchJob, Interactive, JobRequest, Submission
from jarvice_slurmd.slurm.output import NAME_PREFIX

PARAMETERS_FIELD: Final = "{DOWNSTREAM_PARAMETERS}"

_BRACES = re.compile(r"\{\{|\}\}|\{DOWNSTREAM_PARAMETERS\}|[{}]")
_UNDOUBLED: Final = {"{{": "{", "}}": "}"}
_KEYS: Final = (
    "JOBOBJ_INTERACTIVE",
    "JOBOBJ_APPDEFVERSION",
    "JOBOBJ_ARCH",
    "JOBOBJ_NAE",
    "JOBOBJ_REPO",
    "JOBOBJ_CTRSECRET",
    "JOBOBJ_USER",
    "JOBOBJ_DOCKER_SECRET",
    "JOBOBJ_DEVICES",
    "JOBOBJ_GPUS",
    "JOBOBJ_RAM",
    "JOBOBJ_LICENSES",
    "JOBOBJ_WALLTIME",
    "JARVICE_CPU_CORES",
    "JARVICE_CMD",
)
_HEAD = re.compile(r"^(" + "|".join(_KEYS) + r")=(.*)$", re.MULTILINE)


@frozen(kw_only=True)
class JobText:
    """What the head of a job's text says (PROTOCOL §2); None or the default where it is unset."""

    appdefversion: int
    request: JobRequest
    arch: str | None = None
    nae: str | None = None
    repo: str | None = None
    user: str | None = None
    command: str = field(default="", repr=False)
    container_secret: str | None = field(default=None, repr=False)
    docker_secret: str | None = field(default=None, repr=False)


def parse_job_text(text: str) -> JobText:
    """Read the head of a job's text; raises `InvalidArgumentsError` naming what is wrong."""
    values: dict[str, str] = {}
    for match in _HEAD.finditer(text):
        values.setdefault(match[1], match[2].rstrip("\r"))
    # Python's None is how upstream's template says unset.
    said = {key: value for key, value in values.items() if value not in ("", "None")}
    version = _whole_number(said, "JOBOBJ_APPDEFVERSION", 2)
    if version < 2:
        raise InvalidArgumentsError(
            f"JOBOBJ_APPDEFVERSION is {version}; "
            "only applications of version 2 or later can run on this cluster"
        )
    return JobText(
        appdefversion=version,
        request=JobRequest(
            cores=_whole_number(said, "JARVICE_CPU_CORES", 1, least=1),
            ram=_whole_number(said, "JOBOBJ_RAM", 0),
            gpus=_whole_number(said, "JOBOBJ_GPUS", 0),
            walltime=said.get("JOBOBJ_WALLTIME"),
            licenses=said.get("JOBOBJ_LICENSES"),
            devices=_string_list(said, "JOBOBJ_DEVICES"),
            interactive=said.get("JOBOBJ_INTERACTIVE") != "False",
        ),
        arch=said.get("JOBOBJ_ARCH"),
        nae=said.get("JOBOBJ_NAE"),
        repo=said.get("JOBOBJ_REPO"),
        user=said.get("JOBOBJ_USER"),
        command=said.get("JARVICE_CMD", ""),
        container_secret=said.get("JOBOBJ_CTRSECRET"),
        docker_secret=said.get("JOBOBJ_DOCKER_SECRET"),
    )


def _whole_number(values: dict[str, str], key: str, default: int, *, least: int = 0) -> int:
    text = values.get(key)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least:
        return int(text)
    raise InvalidArgumentsError(f"{key} is {text[:100]!r}; it must be a whole number")


def _string_list(values: dict[str, str], key: str) -> tuple[str, ...]:
    text = values.get(key)
    if text is None:
        return ()
    try:
        items = load_json(text)
    except ValueError:
        items = None
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return tuple(items)
    raise InvalidArgumentsError(f"{key} is {text[:100]!r}; it must be a JSON list of strings")


def load_json(text: str) -> object:
    """JSON in the head of a job's text, where braces may be doubled; raises ValueError."""
    for candidate in (text, text.replace("{{", "{").replace("}}", "}")):
        try:
            value: object = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        return value
    raise ValueError("this is not JSON, whether its braces are doubled or not")


def fill_parameters(text: str, parameters: str) -> str:
    """Put the parameters into a job's text.

    Doubled braces become single only where every brace of the text is doubled or the one field:
    then the text is a `str.format` template. Else its braces are shell, and stay.
    """
    tokens = {match[0] for match in _BRACES.finditer(text)}
    if "{" in tokens or "}" in tokens:
        return text.replace(PARAMETERS_FIELD, parameters)
    return _BRACES.sub(lambda brace: _UNDOUBLED.get(brace[0], parameters), text)


def render_sbatch_options(
    submission: Submission, request: JobRequest, devices: Devices, root: str
) -> tuple[str, ...]:
    """sbatch's options for a job, each one word for a shell (PROTOCOL, sbatch).

    `root` is the shell word of the `.jarvice` folder.
    """
    # sbatch replaces %x patterns in a file name, and %% by %.
    output = f"{root.replace('%', '%%')}/{quote(submission.name.replace('%', '%%'))}.out"
    options = [
        "--parsable",
        "-J",
        quote(f"{NAME_PREFIX}{submission.name}"),
        "-o",
        output,
        "-N",
        str(submission.nodes),
        "-n",
        str(request.cores * submission.nodes),
    ]
    if devices.partition is not None:
        options += ["-p", quote(devices.partition)]
    if request.ram:
        options.append(f"--mem={request.ram}G")
    if request.gpus:
        options.append(f"--gpus-per-node={request.gpus}")
    if devices.exclusive or request.interactive or request.gpus:
        options.append("--exclusive")
    if request.walltime is not None:
        options.append(quote(f"--time={request.walltime}"))
    if submission.held:
        options.append("-H")
    if request.licenses is not None:
        options += ["-L", quote(request.licenses)]
    options += [quote(f"--{name}={value}") for name, value in devices.options]
    return tuple(options)


def render_batch_script(name: str, root: str) -> str:
    """The script that sbatch reads: constant but for the job's name and the folder; no secrets."""
    template = files("jarvice_slurmd.jobs").joinpath("batch.sh").read_text("utf-8")
    return template.replace("@ROOT@", root).replace("@NAME@", quote(name))


def render_batch_job(
    submission: Submission,
    request: JobRequest,
    *,
    node_script: str,
    root: str,
    interactive: Interactive | None = None,
    secrets: tuple[str, ...] = (),
) -> BatchJob:
    """Make a submission ready for sbatch.

    `node_script` is the text that runs on every node, `root` the shell word of the `.jarvice`
    folder, `secrets` what the shown script must not hold.
    """
    if "\x00" in node_script:
        raise InvalidArgumentsError("the job's text holds a NUL byte; shell text can't")
    options = render_sbatch_options(submission, request, parse_devices(request.devices), root)
    batch_script = render_batch_script(submission.name, root)
    shown = "\n".join(
        [
            f"# sbatch {' '.join(options)}",
            batch_script,
            "# What runs on every node, its secrets masked:",
            _without_secrets(submission, node_script, secrets),
        ]
    )
    return BatchJob(
        name=submission.name,
        number=submission.number,
        options=options,
        interactive=interactive,
        batch_script=batch_script,
        node_script=node_script,
        shown_script=shown,
    )


def _without_secrets(submission: Submission, node_script: str, secrets: tuple[str, ...]) -> str:
    if isinstance(submission.content, str):
        return mask_secrets(node_script, secrets)
    environment = submission.content.get("environment")
    return mask_described(
        node_script, environment if isinstance(environment, Mapping) else {}, secrets
    )
