"""What any replica must know of an interactive job: how it is written, asked for and read."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from shlex import quote
from typing import Final

from attrs import frozen

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.model import Interactive
from jarvice_slurmd.slurm.commands import NEUTRAL, Status, render_folder_check
from jarvice_slurmd.slurm.output import is_jobid

#: In the submission's folder, and the bytes of each that are read.
_OF_SUBMISSION: Final = {"number": 100, "jobid": 100, "interactive": 100_000}

#: In the job's folder (jobs/batch.sh, jobs/executor.sh); a help page is the largest.
_OF_JOB: Final = {
    "service": 1000,
    "prefix": 100,
    "url.txt": 4096,
    "help.html": 65_536,
    "password": 1000,
    "random128": 1000,
}

#: How many jobs one question may be about...
MAX_NUMBERS: Final = 50

#: ...and what its answer may come to, in bytes; base64 makes four of three.
MAX_ANSWER_BYTES: Final = (
    MAX_NUMBERS * 4 // 3 * (sum(_OF_SUBMISSION.values()) + sum(_OF_JOB.values()) + 4096)
)

#: The longest that an application's own words may be, in characters: all fit into a record.
MAX_WORDS: Final = {"url": 2000, "help": 10_000, "about": 2000}

_NUMBER = re.compile(r"\d{1,18}\Z", re.ASCII)
_SERVICE = re.compile(r"(\d{1,5}) ([A-Za-z0-9][A-Za-z0-9._-]{0,254})(?: |\Z)", re.ASCII)
_NODE_ADDRESS = re.compile(r"(?:^|\s)NodeAddr=([A-Za-z0-9.:-]{1,255})(?=\s|$)")

#: A job may not say that its service is one of its node's own.
_FIRST_PORT: Final = 1024


@frozen(kw_only=True)
class ServiceAddress:
    """Where a job says that its service listens: a port of the node of that name.

    A job says it, and could say anything: that the node is its own has to be asked of Slurm.
    """

    port: int
    node: str


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
    """What a submission notes of an interactive job: one line of JSON.

    Whatever refused longer words before, no more than `MAX_WORDS` of them is noted.
    """
    words = {"url": about.url, "help": about.help, "about": about.about}
    noted = {
        **{key: text and text[: MAX_WORDS[key]] for key, text in words.items()},
        "wants_prefix": about.wants_prefix,
    }
    return json.dumps(noted, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def render_find_interactive(*, root: str, numbers: Iterable[int]) -> str:
    """Print what is known of the interactive jobs of these numbers: `<file>=<base64>` lines.

    Each job's begin with its `name`; nothing is printed for a number that no submission noted.
    At most `MAX_ANSWER_BYTES` for `MAX_NUMBERS`.
    """
    of_submission = " ".join(f"{file}:{size}" for file, size in _OF_SUBMISSION.items())
    of_job = " ".join(f"{file}:{size}" for file, size in _OF_JOB.items())
    return f"""{render_folder_check(root)}tell() {{
    for file; do
        [ ! -f "$folder/${{file%:*}}" ] || {{
            printf '%s=' "${{file%:*}}"
            head -c "${{file#*:}}" <"$folder/${{file%:*}}" | base64 | tr -d '\\n'
            echo
        }}
    done
}}
for number in {" ".join(str(int(number)) for number in numbers)}; do
    [ -e "$root/numbers/$number" ] || continue
    name=$(cat "$root/numbers/$number") || exit {Status.NO_FOLDER}
    case $name in '' | .* | */*) continue ;; esac
    printf 'name=%s\\n' "$(printf %s "$name" | base64 | tr -d '\\n')"
    folder=$root/submit/$name
    tell {of_submission}
    jobid=$(cat "$folder/jobid" 2>/dev/null)
    case $jobid in '' | *[!0-9_+]*) continue ;; esac
    folder=$root/jobs/$jobid
    tell {of_job}
done
exit 0
"""


def render_settle_prefix(*, root: str, jobid: str, strip: bool) -> str:
    """Note whether the service serves at `/`; prints what is noted, by whoever came first."""
    if not is_jobid(jobid):
        raise InvalidArgumentsError(f"jobid {jobid[:50]!r} is not one of Slurm's job ids")
    word = "strip" if strip else "keep"
    return f"""umask 077
{render_folder_check(root)}cd "$root/jobs/{jobid}" || exit {Status.NO_FOLDER}
echo {word} >".prefix.$$" && ln ".prefix.$$" prefix 2>/dev/null
rm -f ".prefix.$$"
exec cat prefix
"""


def render_node(node: str) -> str:
    """What Slurm's controller knows of a node."""
    return f"{NEUTRAL}exec scontrol -o show node {quote(node)}\n"


def parse_node_address(stdout: bytes) -> str | None:
    """The node's NodeAddr: how Slurm itself reaches it (slurm.conf(5)); None when it isn't told."""
    match = _NODE_ADDRESS.search(stdout.decode("utf-8", "replace"))
    return match and match[1]


def parse_interactive_records(stdout: bytes) -> Mapping[int, InteractiveRecord]:
    """Read what `render_find_interactive` printed: the interactive jobs among those asked for.

    Never raises: what can't be read is as if it were not there.
    """
    jobs: list[dict[str, str]] = []
    for line in stdout.decode("utf-8", "replace").split("\n"):
        file, _, encoded = line.partition("=")
        try:
            content = base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            continue
        if file == "name":
            jobs.append({})
        if jobs:
            jobs[-1][file] = content
    records = [record for files in jobs if (record := _parse_record(files)) is not None]
    return {record.number: record for record in records}


def _parse_record(files: Mapping[str, str]) -> InteractiveRecord | None:
    name = files.get("name", "")
    number, jobid = (files.get(key, "").strip() for key in ("number", "jobid"))
    about = _parse_about(files.get("interactive", ""))
    if about is None or not name or not _NUMBER.match(number) or not is_jobid(jobid):
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
    # What stands behind the node's name is for people to read.
    match = _SERVICE.match(text)
    if match is None or not _FIRST_PORT <= int(match[1]) < 65536:
        return None
    return ServiceAddress(port=int(match[1]), node=match[2])


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
