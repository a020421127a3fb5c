"""What any replica must know of an interactive job: how it is written, asked for and read."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Final

from attrs import frozen

from jarvice_slurmd.jobs.model import Interactive
from jarvice_slurmd.slurm.output import is_jobid

#: Bytes of each file that are read: a help page is the largest.
MAX_RECORD_BYTES: Final = 65_536

#: In the submission's folder; then those in the job's folder (jobs/batch.sh, jobs/executor.sh).
_OF_SUBMISSION: Final = ("number", "jobid", "interactive")
_OF_JOB: Final = ("service", "prefix", "url.txt", "help.html", "password", "random128")

_SERVICE = re.compile(r"(\d{1,5}) ([A-Za-z0-9._-]{1,255}) ([A-Za-z0-9._:-]{1,255})\Z", re.ASCII)


@frozen(kw_only=True)
class ServiceAddress:
    """Where a job's service listens: a port, its node's name, and the node's address in Slurm."""

    port: int
    node: str
    address: str


@frozen(kw_only=True)
class InteractiveRecord:
    """All that the cluster knows of an interactive job's service.

    `service` is None before the job has chosen its port; `strip_prefix` is None until it has been
    settled; `url` and `help` are the templates, the application's own before the image's.
    """

    name: str
    number: int
    jobid: str
    about: Interactive
    service: ServiceAddress | None
    strip_prefix: bool | None
    url: str
    help: str
    password: str
    random: str


def render_interactive(about: Interactive) -> bytes:
    """What a submission notes of an interactive job: one line of JSON."""
    noted = {
        "url": about.url,
        "help": about.help,
        "about": about.about,
        "wants_prefix": about.wants_prefix,
    }
    return json.dumps(noted).encode("ascii") + b"\n"


def render_find_interactive(*, root: str, number: int) -> str:
    """Print what is known of the interactive job of a number: `<file>=<base64>` lines.

    Nothing is printed for a number that no submission noted.
    """
    return f"""root={root}
name=$(cat "$root/numbers/{int(number)}" 2>/dev/null) || exit 0
case $name in '' | .* | */*) exit 0 ;; esac
tell() {{
    [ ! -f "$2" ] || {{
        printf '%s=' "$1"
        head -c {MAX_RECORD_BYTES} <"$2" | base64 | tr -d '\\n'
        echo
    }}
}}
printf 'name=%s\\n' "$(printf %s "$name" | base64 | tr -d '\\n')"
for file in {" ".join(_OF_SUBMISSION)}; do tell "$file" "$root/submit/$name/$file"; done
jobid=$(cat "$root/submit/$name/jobid" 2>/dev/null)
case $jobid in '' | *[!0-9_+]*) exit 0 ;; esac
for file in {" ".join(_OF_JOB)}; do tell "$file" "$root/jobs/$jobid/$file"; done
exit 0
"""


def render_settle_prefix(*, root: str, jobid: str, strip: bool) -> str:
    """Note whether the service serves at `/`; prints what is noted, by whoever came first."""
    word = "strip" if strip else "keep"
    return f"""root={root}
cd "$root/jobs/{jobid if is_jobid(jobid) else ""}" || exit 1
echo {word} >".prefix.$$" && ln ".prefix.$$" prefix 2>/dev/null
rm -f ".prefix.$$"
exec cat prefix
"""


def parse_interactive_record(stdout: bytes) -> InteractiveRecord | None:
    """Read what `render_find_interactive` printed; None when there is no such interactive job.

    Never raises: what can't be read is as if it were not there.
    """
    files: dict[str, str] = {}
    for line in stdout.decode("utf-8", "replace").split("\n"):
        key, _, encoded = line.partition("=")
        try:
            files[key] = base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            continue
    name, number, jobid = (files.get(key, "").strip() for key in ("name", "number", "jobid"))
    about = _parse_about(files.get("interactive", ""))
    if about is None or not name or not number.isdigit() or not is_jobid(jobid):
        return None
    return InteractiveRecord(
        name=name,
        number=int(number),
        jobid=jobid,
        about=about,
        service=_parse_service(files.get("service", "").strip()),
        strip_prefix=parse_prefix(files.get("prefix", "")),
        url=(about.url or files.get("url.txt", "")).strip(),
        help=about.help or files.get("help.html", ""),
        password=files.get("password", "").strip(),
        random=files.get("random128", "").strip(),
    )


def parse_prefix(text: str) -> bool | None:
    """What `render_settle_prefix` noted: whether the prefix is taken off."""
    return {"strip": True, "keep": False}.get(text.strip())


def _parse_service(text: str) -> ServiceAddress | None:
    match = _SERVICE.match(text)
    if match is None or not 0 < int(match[1]) < 65536:
        return None
    return ServiceAddress(port=int(match[1]), node=match[2], address=match[3])


def _parse_about(text: str) -> Interactive | None:
    try:
        noted = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(noted, dict):
        return None
    words = {key: noted.get(key) for key in ("url", "help", "about")}
    wants_prefix = noted.get("wants_prefix")
    return Interactive(
        **{key: word for key, word in words.items() if isinstance(word, str)},
        wants_prefix=wants_prefix if isinstance(wants_prefix, bool) else None,
    )
