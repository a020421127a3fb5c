"""`job` in, the text that runs on every node out: the built-in executor.

A job is described by a JSON object instead of by JARVICE's own text. What runs is executor.sh, with
a few variables before it; docs/executor.md says what it does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from shlex import quote
from typing import Any, Final, TypeVar

from attrs import field, frozen

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.credentials import (
    Secret,
    container_secrets_from,
    docker_secret_from,
    parse_container_secret,
)
from jarvice_slurmd.jobs.devices import parse_devices
from jarvice_slurmd.jobs.images import check_reference
from jarvice_slurmd.jobs.model import JobRequest

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
# sbatch(1), --time.
_WALLTIME = re.compile(r"\d+|\d+(:\d+){1,2}|\d+-\d+(:\d+){0,2}", re.ASCII)
_LICENSES = re.compile(r"[^\x00-\x20\x7f-]\S*\Z")
_MAX_NUMBER: Final = 10**6

#: Where the shell text finds what it is given; executor.sh describes each.
_TEXT: Final = "executor.sh"
#: How a text begins whose output holds no verdict (batch.sh; PROTOCOL §2 is of hpc_script).
_NO_VERDICT: Final = "# no verdict"

T = TypeVar("T")


@frozen(kw_only=True)
class JobDescription:
    """A job as its `job` object describes it.

    `command` and `worker_command` are shell text (a list has been quoted), for the container on
    the first node and for those on the others, where "" means that they only wait. `nodes` is
    None where the object does not say. `url`, `help` and `about` are an interactive
    application's templates (PROTOCOL §3), `wants_prefix` whether it serves under its prefix,
    None when that is to be found out.
    """

    request: JobRequest
    image: str
    nodes: int | None = None
    nae: str | None = None
    command: str = field(repr=False)
    worker_command: str = field(default="", repr=False)
    environment: Mapping[str, str] = field(factory=dict, repr=False)
    init: bool = False
    url: str | None = None
    help: str | None = None
    about: str | None = None
    wants_prefix: bool | None = None
    docker_secret: Secret | None = None
    container_secrets: tuple[Secret, ...] = ()


def parse_job(value: object) -> JobDescription:
    """Read a `job` object; raises `InvalidArgumentsError` naming the field that is wrong."""
    if not isinstance(value, dict):
        raise InvalidArgumentsError("job must be a JSON object")
    read = _Fields(value)
    description = JobDescription(
        image=read.required("image", _image),
        command=read.required("command", _command),
        worker_command=read.optional("worker_command", _command, ""),
        environment=read.optional("environment", _environment, {}),
        nodes=read.optional("nodes", _positive, None),
        nae=read.optional("nae", _text, None),
        init=read.optional("init", _boolean, False),
        url=read.optional("url", _text, None),
        help=read.optional("help", _text, None),
        about=read.optional("about", _text, None),
        wants_prefix=read.optional("wants_prefix", _boolean, None),
        docker_secret=read.optional("docker_secret", _docker_secret, None),
        container_secrets=read.optional("docker_config", _docker_config, ()),
        request=JobRequest(
            cores=read.optional("cores", _positive, 1),
            ram=read.optional("ram", _number, 0),
            gpus=read.optional("gpus", _number, 0),
            walltime=read.optional("walltime", _walltime, None),
            licenses=read.optional("licenses", _licenses, None),
            devices=read.optional("devices", _devices, ()),
            interactive=read.optional("interactive", _boolean, False),
        ),
    )
    read.refuse_others()
    if not description.request.interactive:
        for name in ("url", "wants_prefix"):
            if getattr(description, name) is not None:
                raise InvalidArgumentsError(f"job.{name} needs job.interactive to be true")
    return description


def render_node_script(job: JobDescription, parameters: str) -> str:
    """The text that runs once on every node: the parameters (PROTOCOL §2), then executor.sh.

    Its first line tells batch.sh that the command's exit status alone is the job's.
    """
    exports = "".join(f"export {name}={quote(value)}\n" for name, value in job.environment.items())
    worker = exports + job.worker_command if job.worker_command else ""
    variables = {
        "executor_command": exports + job.command,
        "executor_worker": worker,
        "executor_cores": str(job.request.cores),
        "executor_gpus": str(job.request.gpus),
        "executor_init": "true" if job.init else "false",
    }
    lines = [f"{name}={quote(value)}" for name, value in variables.items()]
    return "\n".join([_NO_VERDICT, parameters, *lines, read_executor_text()])


def read_executor_text() -> str:
    """executor.sh, as the package holds it."""
    return files("jarvice_slurmd.jobs").joinpath(_TEXT).read_text("utf-8")


class _Fields:
    """Reads the fields of an object, each once; a null is as good as absent."""

    def __init__(self, value: Mapping[Any, Any]) -> None:
        self._left = dict(value)

    def required(self, name: str, read: Callable[[str, Any], T]) -> T:
        value = self._left.pop(name, None)
        if value is None:
            raise InvalidArgumentsError(f"job.{name} is missing")
        return read(f"job.{name}", value)

    def optional(self, name: str, read: Callable[[str, Any], T], default: T) -> T:
        value = self._left.pop(name, None)
        return default if value is None else read(f"job.{name}", value)

    def refuse_others(self) -> None:
        if self._left:
            raise InvalidArgumentsError(f"job.{next(iter(self._left))!s:.100} is not a known field")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgumentsError(f"{name} must be a text, and not an empty one")
    return _without_nul(name, value)


def _without_nul(name: str, value: str) -> str:
    if "\0" in value:
        raise InvalidArgumentsError(f"{name} holds a NUL byte")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidArgumentsError(f"{name} holds half of a surrogate pair")
    return value


def _image(name: str, value: object) -> str:
    return check_reference(_text(name, value), name)


def _command(name: str, value: object) -> str:
    if isinstance(value, str) and value.strip():
        return _without_nul(name, value)
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        if not value[0] or value[0].startswith("-"):
            raise InvalidArgumentsError(f"{name} begins with {value[0]!r}, which is no program")
        # The command takes the shell's place: its signals and its exit status are the job's.
        return f"exec {' '.join(quote(_without_nul(name, word)) for word in value)}"
    raise InvalidArgumentsError(f"{name} must be shell text or a list of words, and not empty")


def _environment(name: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise InvalidArgumentsError(f"{name} must be an object of names and values")
    found: dict[str, str] = {}
    for key, word in value.items():
        if not _NAME.match(key):
            raise InvalidArgumentsError(f"{name}.{key!s:.100} is not a name of a variable")
        if isinstance(word, bool) or not isinstance(word, str | int | float):
            raise InvalidArgumentsError(f"{name}.{key} must be a text or a number")
        found[key] = _without_nul(f"{name}.{key}", str(word))
    return found


def _number(name: str, value: object, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_NUMBER:
        raise InvalidArgumentsError(f"{name} must be a whole number from {least} to {_MAX_NUMBER}")
    return value


def _positive(name: str, value: object) -> int:
    return _number(name, value, 1)


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgumentsError(f"{name} must be true or false")
    return value


def _walltime(name: str, value: object) -> str:
    if isinstance(value, str) and len(value) <= 32 and _WALLTIME.fullmatch(value):
        return value
    raise InvalidArgumentsError(
        f"{name} must be a time as Slurm writes it: minutes, HH:MM:SS or days-HH:MM:SS"
    )


def _licenses(name: str, value: object) -> str:
    if isinstance(value, str) and _LICENSES.match(value):
        return _without_nul(name, value)
    raise InvalidArgumentsError(f"{name} must be licenses as sbatch -L takes them")


def _devices(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidArgumentsError(f"{name} must be a list of texts, each key=value")
    try:
        parse_devices(value)
    except InvalidArgumentsError as error:
        raise InvalidArgumentsError(f"{name}: {error}") from None
    return tuple(value)


def _docker_secret(name: str, value: object) -> Secret | None:
    if isinstance(value, dict):
        try:
            return docker_secret_from(value)
        except InvalidArgumentsError:
            pass
    raise InvalidArgumentsError(
        f"{name} must be an object of the texts server, username and password"
    )


def _docker_config(name: str, value: object) -> tuple[Secret, ...]:
    try:
        if isinstance(value, str):
            return parse_container_secret(value)
        return container_secrets_from(value)
    except InvalidArgumentsError:
        raise InvalidArgumentsError(
            f"{name} must be a docker configuration (an object, or its base64) whose auths "
            "hold auth, or username and password, for each registry"
        ) from None
