"""What runs on the login node: the one place where text that reaches a shell is built.

Every function returns POSIX shell text for `/bin/sh`; what comes from outside is quoted here and
nowhere else. The `root` argument is the shell word of the `.jarvice` folder, as `render_root`
makes it. Exit statuses of our own stand in `Status`; every other one is the command's.
"""

from __future__ import annotations

from shlex import quote
from typing import Final

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.slurm.output import NAME_PREFIX, is_jobid


class Status:
    """Exit statuses by which our own scripts say what went wrong (sysexits(3), where one fits)."""

    OTHER_JOB: Final = 65
    NO_OUTPUT: Final = 66
    NO_ANSWER: Final = 69
    NO_FOLDER: Final = 74
    LOCKED: Final = 75
    NOT_LISTABLE: Final = 77


#: The user's own settings must not change what our commands print; SBATCH_* are left alone, for a
#: site may set its defaults there.
NEUTRAL: Final = (
    "LC_ALL=C; export LC_ALL\n"
    "unset SLURM_TIME_FORMAT SQUEUE_ACCOUNT SQUEUE_FORMAT SQUEUE_FORMAT2 SQUEUE_LICENSES"
    " SQUEUE_NAMES SQUEUE_PARTITION SQUEUE_QOS SQUEUE_SORT SQUEUE_STATES SQUEUE_USERS"
    " SACCT_FORMAT SACCT_STATE SCANCEL_STATE SCANCEL_NAME SCANCEL_PARTITION\n"
)

_QUEUE_FORMAT: Final = "%i|%t|%M|%N|%r|%j"


def render_root(scratch_dir: str | None) -> str:
    """The shell word of the `.jarvice` folder: in the scratch folder, or in the user's home."""
    return '"$HOME"/.jarvice' if scratch_dir is None else quote(f"{scratch_dir}.jarvice")


def render_folder_check(root: str) -> str:
    """Set `$root`, and end with `Status.NO_FOLDER` where the file system is not there.

    An unmounted file system is no empty one: its mount point is not there, or not ours to write to.
    Nor are folders empty that can't be entered.
    """
    return f"""root={root}
if [ ! -d "${{root%/.jarvice}}" ]; then
    echo "the folder ${{root%/.jarvice}} is not there on $(hostname)" >&2
    exit {Status.NO_FOLDER}
elif [ ! -d "$root" ] && [ ! -w "${{root%/.jarvice}}" ]; then
    echo "the folder ${{root%/.jarvice}} on $(hostname) holds no .jarvice and can't be written" \\
        "to: is its file system mounted?" >&2
    exit {Status.NO_FOLDER}
fi
for folder in "$root" "$root/submit" "$root/jobs" "$root/numbers"; do
    [ ! -d "$folder" ] || [ -x "$folder" ] || {{
        echo "the folder $folder on $(hostname) can't be entered" >&2
        exit {Status.NO_FOLDER}
    }}
done
"""


def render_write_check(*, root: str) -> str:
    """Whether our folder, once there is one, can be written to; leaves nothing behind."""
    return f"""umask 077
{render_folder_check(root)}[ -d "$root" ] || exit 0
date >"$root/.writable"
status=$?
rm -f "$root/.writable"
[ $status = 0 ] || exit {Status.NO_FOLDER}
"""


def _checked_jobid(jobid: str) -> str:
    if not is_jobid(jobid):
        raise InvalidArgumentsError(f"jobid {jobid[:50]!r} is not one of Slurm's job ids")
    return jobid


def render_queue(mark: str = "") -> str:
    """All jobs of the user, the ended ones that Slurm still knows included.

    Each record begins with `mark`, without which lines in a job's name could pass for records.
    """
    fields = quote(mark + _QUEUE_FORMAT)
    return f'{NEUTRAL}exec squeue --noheader --states=all --user="$(id -un)" --format={fields}\n'


def render_cancel(*, root: str, name: str, jobid: str, force: bool) -> str:
    """Cancel a job of that id and name, after noting that it was cancelled, when it is ours.

    Storage that does not work keeps nobody from cancelling his job.

    Without `force` Slurm sends SIGTERM and, KillWait seconds later, SIGKILL; with it every process
    of the job's step is killed first.
    """
    job_name = quote(NAME_PREFIX + name)
    filters = f'--user="$(id -un)" --name={job_name}'
    # Cancelled as a whole a job always gets KillWait; its step, which is all of it, can be killed.
    kill = f"scancel --quiet --signal=KILL {filters} {jobid}.0\n" if force else ""
    return f"""{NEUTRAL}umask 077
root={root}
if {_is_noted(name, jobid)}; then
    {_forget_others(name, jobid)}
    # What is no file could keep us here.
    for record in "$root/jobs/{jobid}/name" "$root/jobs/{jobid}/cancelled"; do
        [ ! -e "$record" ] || [ -f "$record" ] || rm -rf "$record"
    done
    mkdir -p "$root/jobs/{jobid}" &&
        printf '%s\\n' {quote(name)} >"$root/jobs/{jobid}/name" &&
        date +%s >"$root/jobs/{jobid}/cancelled"
fi
{kill}exec scancel {filters} {_checked_jobid(jobid)}
"""


def _is_noted(name: str, jobid: str) -> str:
    """A condition: the folders say that the job of that id is the one of that name.

    Only files are read: a job may have put a FIFO there, which would never end.
    """
    submitted = f'"$root"/submit/{quote(name)}/jobid'
    begun = f'"$root/jobs/{_checked_jobid(jobid)}/name"'
    return f"""{{ {{ [ -f {submitted} ] && [ "$(cat {submitted} 2>/dev/null)" = {jobid} ]; }} ||
        {{ [ -f {begun} ] && [ "$(head -n 1 {begun} 2>/dev/null)" = {quote(name)} ]; }}; }}"""


def _forget_others(name: str, jobid: str) -> str:
    """Remove what another job of that id left: Slurm has given it out again (jobs/batch.sh)."""
    begun = f'"$root/jobs/{_checked_jobid(jobid)}/name"'
    return (
        f'[ ! -f {begun} ] || [ "$(head -n 1 {begun})" = {quote(name)} ] ||'
        f' rm -rf "$root/jobs/{jobid}"'
    )


def render_release(*, jobid: str) -> str:
    """Let a held job go on."""
    return f"{NEUTRAL}exec scontrol release {_checked_jobid(jobid)}\n"


def render_events(*, jobid: str) -> str:
    """What Slurm's controller knows of the job."""
    return f"{NEUTRAL}exec scontrol show job {_checked_jobid(jobid)}\n"


#: The files of a job's folder that tell how it ended (jobs/batch.sh, `render_cancel`, and
#: `render_mark_answered`), in the order in which `render_post_mortem` prints them.
RECORDS: Final = ("name", "start", "exit", "cancelled", "answer")


def render_doubt(*, root: str, name: str, jobid: str) -> str:
    """Whether Slurm knows a job that was missing from its queue: prints `slurm=<status> <words>`.

    Slurm is asked for that one job, unless the folders say that it has ended or know nothing of it:
    then nothing is printed.
    """
    return f"{NEUTRAL}{render_folder_check(root)}{_READ}{_doubt(name, jobid)}exit 0\n"


#: Set `said` to the first line of a file, if it is one; what can't be read is no file that is not
#: there.
_READ: Final = f"""first_line() {{
    said=
    [ -f "$1" ] || return 0
    said=$(head -c 1000 "$1") || exit {Status.NO_FOLDER}
    said=${{said%%
*}}
}}
"""


def _doubt(name: str, jobid: str) -> str:
    ours = quote(f"JobId={_checked_jobid(jobid)} JobName={NAME_PREFIX}{name} ")
    folder = f'"$root/jobs/{jobid}"'
    return f"""first_line {folder}/name
name=$said
first_line "$root"/submit/{quote(name)}/jobid
if {{ [ "$name" = {quote(name)} ] || [ "$said" = {jobid} ]; }} &&
    {{ [ "${{name:-{quote(name)}}}" != {quote(name)} ] ||
        {{ [ ! -e {folder}/exit ] && [ ! -e {folder}/answer ]; }}; }}; then
    said=$(scontrol -o show job {jobid} 2>&1)
    status=$?
    case "$status $said" in
    "0 "{ours}*) echo "slurm=0" ;;
    "0 "*) echo "slurm=1 Invalid job id: it is another job's" ;;
    *) printf 'slurm=%s\\n' "$status $said" | head -n 1 ;;
    esac
fi
"""


def render_post_mortem(
    *, root: str, name: str, jobid: str, lines: int, limit: int, accounting: bool
) -> str:
    """All that is left of a job: its records, accounting when asked for, the end of its output.

    Prints a line `<record>=<content>` for each of `RECORDS`, with `accounting` what `render_doubt`
    prints, and `sacct=<status>` and what sacct said in one line, then `output` and, behind it, at
    most `lines` lines and `limit` bytes of the output. What is there and can't be read is
    `Status.NO_FOLDER`: neither a record nor an output that is not there.
    """
    records = " ".join(RECORDS)
    sacct = (
        _doubt(name, jobid) + f'said=$(sacct -nXP --user="$(id -un)" -j {_checked_jobid(jobid)}'
        " --format=State,ElapsedRaw,JobName 2>&1)\n"
        "printf 'sacct=%s %s\\n' $? \"$(printf '%s\\n' \"$said\" | tail -n 1)\"\n"
        if accounting
        else ""
    )
    check = render_folder_check(root)
    return f"""{NEUTRAL}{check}if [ -e "$root" ] && ! ls "$root/jobs" >/dev/null; then
    echo "$root/jobs can't be read" >&2
    exit {Status.NO_FOLDER}
fi
{_READ}for record in {records}; do
    first_line "$root/jobs/{_checked_jobid(jobid)}/$record"
    printf '%s=%s\n' "$record" "$said"
done
{sacct}echo output
{_tail(quote(name), lines, limit)}
exit 0
"""


def _tail(quoted_name: str, lines: int, limit: int) -> str:
    """Print the end of the output, if there is any; `Status.NO_FOLDER` where it can't be read."""
    # Bytes first: reading stays bounded whatever the lines' length.
    end = f'tail -c {limit} "$root"/{quoted_name}.out'
    if lines:
        # The status of the first, not of the last.
        end = f"status=$({{ {{ {end}; echo $? >&3; }} | tail -n {lines} >&4; }} 3>&1) 4>&1"
        end = f'exec 4>&1\n    {end.removesuffix(" 4>&1")}\n    [ "$status" = 0 ]'
    return f"""if [ -f "$root"/{quoted_name}.out ]; then
    {end} || exit {Status.NO_FOLDER}
fi"""


def render_mark_answered(*, root: str, name: str, jobid: str, state: str, elapsed: int) -> str:
    """Note what exitstatus answered, so that asked again the answer is the same (PROTOCOL §4).

    Whoever calls this knows that the id is this job's: another job's records are of no use then.
    The text of a job that ended without having begun is removed: it may hold passwords.
    """
    folder = f'"$root/jobs/{_checked_jobid(jobid)}"'
    return f"""umask 077
{render_folder_check(root)}{_forget_others(name, jobid)}
mkdir -p {folder} && cd {folder} &&
    {{ [ -e name ] || printf '%s\\n' {quote(name)} >name; }} &&
    {{ [ -e answer ] ||
        {{ printf '%s %s\\n' {quote(state)} {elapsed} >.answer && mv -f .answer answer; }}; }} ||
    exit {Status.NO_FOLDER}
cd "$root"/submit/{quote(name)} 2>/dev/null && [ "$(cat jobid 2>/dev/null)" = {jobid} ] &&
    rm -f node.sh
exit 0
"""


def render_tail(*, root: str, name: str, lines: int, limit: int) -> str:
    """The last lines of a job's output, at most `limit` bytes; 0 lines means all of those bytes."""
    check = render_folder_check(root)
    output = f'"$root"/{quote(name)}.out'
    return f"""{check}[ -f {output} ] && [ -s {output} ] || exit {Status.NO_OUTPUT}
{_tail(quote(name), lines, limit)}
"""
