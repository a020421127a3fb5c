"""A job's URL and help, made of its application's templates (PROTOCOL §3). Pure."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from jarvice_slurmd.interactive.routing import JobsDomain
from jarvice_slurmd.jobs.parameters import render_ingress_path
from jarvice_slurmd.slurm.interactive import InteractiveRecord

#: JARVICE's user inside every container.
CONTAINER_USER = "nimbix"

_FIELD = re.compile(r"%([A-Z]+[0-9]*)%")

# A template's host and port: behind a scheme, or the field itself where there is no scheme.
_AUTHORITY = re.compile(r"\A(?:[A-Za-z][A-Za-z0-9+.-]*:)?(?://[^/?#]*|%PUBLICADDR%[^/?#]*)")


def render_url(domain: JobsDomain, record: InteractiveRecord) -> str:
    """The address that a browser opens.

    The host and port of a template are the application's own idea of them, so they give way to the
    job's public address; its path and query stay.
    """
    path, query, fragment = _rest(domain, record)
    return f"{domain.url(record.number)}{path}{query}{fragment}"


def service_path(domain: JobsDomain, record: InteractiveRecord) -> str:
    """The path of the job's URL behind its address, without a leading slash: what it opens with."""
    return _rest(domain, record)[0]


def names_its_prefix(record: InteractiveRecord) -> bool:
    """Whether an application's URL holds its prefix: then it serves under it."""
    return "%BASEURL%" in re.split("[?#]", record.url)[0]


def render_help(domain: JobsDomain, record: InteractiveRecord) -> str:
    """The application's help, its fields filled in; %CONNECTURL% is the job's URL."""
    values = {**_values(domain, record), "CONNECTURL": render_url(domain, record)}
    return _FIELD.sub(lambda found: values.get(found[1], found[0]), record.help)


def _rest(domain: JobsDomain, record: InteractiveRecord) -> tuple[str, str, str]:
    """Path, query and fragment of an application's URL, behind its job's address."""
    values = _values(domain, record)
    filled = _FIELD.sub(
        lambda found: quote(values[found[1]], safe=":/") if found[1] in values else found[0],
        _AUTHORITY.sub("", record.url, count=1),
    )
    before, hash_sign, fragment = filled.partition("#")
    path, question_mark, query = before.partition("?")
    path = path.lstrip("/")
    prefix = render_ingress_path(domain.path, record.number)
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path[len(prefix) :].lstrip("/")
    return _printable(path), _printable(question_mark + query), _printable(hash_sign + fragment)


def _printable(text: str) -> str:
    # A blank or a line feed in a URL ends it, and a character of another script is not yet quoted.
    return quote(text, safe="".join(map(chr, range(0x21, 0x7F))))


def _values(domain: JobsDomain, record: InteractiveRecord) -> dict[str, str]:
    random = {f"RANDOM{size}": record.random[:size] for size in (16, 32, 64, 128)}
    return {
        "PUBLICADDR": urlsplit(domain.url(record.number)).netloc,
        "NIMBIXPASSWD": record.password,
        "NIMBIXUSER": CONTAINER_USER,
        "JOBNAME": record.name,
        "BASEURL": render_ingress_path(domain.path, record.number),
        **random,
    }
