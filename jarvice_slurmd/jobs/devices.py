"""JOBOBJ_DEVICES: the platform administrator's `key=value` strings for a job (PROTOCOL, sbatch)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from attrs import field, frozen

from jarvice_slurmd.errors import InvalidArgumentsError

_OPTION = re.compile(r"[a-z][a-z0-9-]*\Z", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

#: sbatch options that are ours to set, that would run something else than the job, or run it where
#: we don't see it or more than once, or that would change what sbatch prints or how long it stays.
#: getopt_long takes any unambiguous beginning of a long option, so beginnings of these are refused
#: too, unless they are an option themselves.
_REFUSED: Final = (
    "array",
    "chdir",
    "clusters",
    "error",
    "export-file",
    "get-user-env",
    "gid",
    "help",
    "hold",
    "input",
    "job-name",
    "nodes",
    "ntasks",
    "output",
    "parsable",
    "requeue",
    "test-only",
    "uid",
    "usage",
    "version",
    "wait",
    "wrap",
)
_NOT_REFUSED: Final = frozenset({"export"})


@frozen(kw_only=True)
class Devices:
    """What a job's devices ask for.

    `overlay` is in MB, None when the platform's setting holds; `options` are sbatch's long
    options as (name, value).
    """

    partition: str | None = None
    exclusive: bool = True
    overlay: int | None = None
    options: tuple[tuple[str, str], ...] = field(default=())


def parse_devices(devices: Iterable[str]) -> Devices:
    """Read the devices of one job; raises `InvalidArgumentsError` naming the one that is wrong."""
    partition: str | None = None
    exclusive = True
    overlay: int | None = None
    options: list[tuple[str, str]] = []
    for device in devices:
        key, equals, value = device.partition("=")
        if not equals:
            raise InvalidArgumentsError(f"device {device!r} is malformed: it must be key=value")
        if _CONTROL.search(device):
            raise InvalidArgumentsError(f"device {device!r} holds a control character")
        if key == "partition":
            if not value:
                raise InvalidArgumentsError("device 'partition=' names no partition")
            partition = value
        elif key == "exclusive":
            exclusive = _parse_boolean(device, value)
        elif key == "overlay":
            overlay = _parse_megabytes(device, value)
        elif key.startswith("sbatch_"):
            options.append((_parse_option(device, key.removeprefix("sbatch_")), value))
        else:
            raise InvalidArgumentsError(
                f"device {device!r} is unknown; known are partition=, exclusive=, overlay= and "
                "sbatch_<option>="
            )
    return Devices(
        partition=partition, exclusive=exclusive, overlay=overlay, options=tuple(options)
    )


def _parse_boolean(device: str, value: str) -> bool:
    try:
        return _BOOLEANS[value.lower()]
    except KeyError:
        raise InvalidArgumentsError(f"device {device!r} must be True or False") from None


def _parse_megabytes(device: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise InvalidArgumentsError(f"device {device!r} must be a whole number of MB")
    return int(value)


def _parse_option(device: str, option: str) -> str:
    if not _OPTION.match(option):
        raise InvalidArgumentsError(f"device {device!r} does not name a long option of sbatch")
    refused = any(refused.startswith(option) for refused in _REFUSED)
    if refused and option not in _NOT_REFUSED:
        raise InvalidArgumentsError(
            f"device {device!r} sets an option that the scheduler keeps to itself"
        )
    return option
