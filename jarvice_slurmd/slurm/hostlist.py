"""Slurm's compressed host lists, expanded. Pure; raises nothing but `SlurmOutputError`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final

from jarvice_slurmd.errors import SlurmOutputError

#: More nodes than any cluster has: a bracket that expands to more is nonsense, not a host list.
MAX_HOSTS: Final = 100_000

_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?\Z", re.ASCII)


def parse_hostlist(text: str) -> tuple[str, ...]:
    """Slurm's compressed host list, expanded: ``n[1-2],c[01-04,07]`` is six names.

    Leading zeros are kept, and several brackets in one name multiply, as `scontrol show hostnames`
    does. Raises `SlurmOutputError` for brackets that don't match or hold no range.
    """
    hosts: list[str] = []
    for item in _split_outside_brackets(text.strip()):
        hosts.extend(_expand_item(item, MAX_HOSTS - len(hosts)))
    return tuple(hosts)


def _split_outside_brackets(text: str) -> Iterator[str]:
    depth = start = 0
    for at, char in enumerate(text):
        if char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
        elif char == "," and depth == 0:
            if at > start:
                yield text[start:at]
            start = at + 1
        if depth not in (0, 1):
            raise SlurmOutputError(f"host list {text!r} has brackets that don't match")
    if depth:
        raise SlurmOutputError(f"host list {text!r} has brackets that don't match")
    if start < len(text):
        yield text[start:]


def _expand_item(item: str, most: int) -> Iterable[str]:
    parts: list[list[str]] = []
    size = 1
    for at, piece in enumerate(re.split(r"\[([^\]]*)\]", item)):
        choices = [piece] if at % 2 == 0 else _expand_ranges(piece, item, most)
        size *= len(choices)
        if size > most:
            raise SlurmOutputError(f"host list item {item[:200]!r} names over {MAX_HOSTS} hosts")
        parts.append(choices)
    return ("".join(chosen) for chosen in product(*parts))


def _expand_ranges(ranges: str, item: str, most: int) -> list[str]:
    numbers: list[str] = []
    for part in ranges.split(","):
        match = _RANGE.match(part)
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if int(last) < int(first) or int(last) - int(first) >= most - len(numbers):
            raise SlurmOutputError(f"host list item {item[:200]!r} holds a wrong range")
        width = len(first)
        numbers.extend(f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    return numbers
