"""A job's URL and help, made of its application's templates (PROTOCOL §3). Pure."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from jarvice_slurmd.interactive.routing import JobsDomain
from jarvice_slurmd.slurm.interactive import InteractiveRecord

#: JARVICE's user inside every container.
CONTAINER_USER = "nimbix"

_FIELD = re.compile(r"%([A-Z]+[0-9]*)%")


def render_url(domain: JobsDomain, record: InteractiveRecord) -> str:
    """The address that a browser opens.

    The host and port of a template are the application's own idea of them, so they give way to the
    job's public address; its path and query stay.
    """
    base = domain.url(record.number)
    if not record.url:
        return base
    values = _values(domain, record)
    filled = _FIELD.sub(
        lambda found: quote(values[found[1]], safe=":/") if found[1] in values else found[0],
        record.url,
    )
    parts = urlsplit(filled)
    path = parts.path.lstrip("/")
    prefix = ingress_path(domain, record.number)
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path[len(prefix) :].lstrip("/")
    query = f"?{parts.query}" if parts.query else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{base}{path}{query}{fragment}"


def render_help(domain: JobsDomain, record: InteractiveRecord) -> str:
    """The application's help, its fields filled in; %CONNECTURL% is the job's URL."""
    values = {**_values(domain, record), "CONNECTURL": render_url(domain, record)}
    return _FIELD.sub(lambda found: values.get(found[1], found[0]), record.help)


def ingress_path(domain: JobsDomain, number: int) -> str:
    """The path of a job's address without its slashes; empty by host."""
    return domain.path.strip("/").replace("$", str(number))


def _values(domain: JobsDomain, record: InteractiveRecord) -> dict[str, str]:
    random = {f"RANDOM{size}": record.random[:size] for size in (16, 32, 64, 128)}
    return {
        "PUBLICADDR": urlsplit(domain.url(record.number)).netloc,
        "NIMBIXPASSWD": record.password,
        "NIMBIXUSER": CONTAINER_USER,
        "JOBNAME": record.name,
        "BASEURL": ingress_path(domain, record.number),
        **random,
    }
