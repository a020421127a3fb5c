"""Submitting a job once: the text that does it on the login node, whatever happened before.

What makes it once:

- A submission has a folder, named as the job is, and everything happens under its lock.
- `intent` says that sbatch was or is about to be called, `jobid` what came of it. Where there is
  an intent and no job id, the outcome of an earlier attempt is unknown, and the job is looked for
  in the queue and in accounting before sbatch is called again.
- The first to note a job id wins, whether that is the attempt that called sbatch or the job itself
  as it begins (jobs/batch.sh). slurmctld may make a job of an attempt that nobody waits for any
  longer, even after a later attempt has looked: such a second job ends without having done
  anything, or is cancelled before.
"""

from __future__ import annotations

from shlex import quote

from jarvice_slurmd.slurm.commands import NEUTRAL, Status, render_folder_check
from jarvice_slurmd.slurm.output import NAME_PREFIX

#: Seconds that an attempt waits for another one of the same job to end; less than a command may
#: take (Settings.command_timeout), so that this is what is answered.
LOCK_SECONDS = 15


def render_submit(
    *,
    root: str,
    name: str,
    number: int,
    attempt: str,
    options: tuple[str, ...],
    node_script_bytes: int,
    batch_script_bytes: int,
    interactive_bytes: int = 0,
) -> str:
    """Submit a job once; prints its job id.

    stdin is the node script, then what any replica must know of an interactive job, then the
    batch script, as long as they are said to be: of a text that was cut off nothing is submitted.
    `attempt` is a word that no other call has. A submission that was made already is answered
    with its job id.
    """
    texts = {
        "node.sh": node_script_bytes,
        "interactive": interactive_bytes,
        "batch.sh": batch_script_bytes,
    }
    take = " &&\n    ".join(
        f"take {file} {size}" for file, size in texts.items() if size or file != "interactive"
    )
    return f"""{NEUTRAL}umask 077
{render_folder_check(root)}submission=$root/submit/{quote(name)}
mkdir -p "$root/jobs" "$root/numbers" "$submission" && cd "$submission" || exit {Status.NO_FOLDER}
command exec 9>lock || exit {Status.NO_FOLDER}
flock -w {LOCK_SECONDS} 9 || {{
    echo "an earlier attempt to submit this job has not ended" >&2
    exit {Status.LOCKED}
}}
if [ -s number ]; then
    known=$(cat number) || exit {Status.NO_FOLDER}
    if [ "$known" != {number} ]; then
        echo "a job of this name and number $known was submitted before" >&2
        exit {Status.OTHER_JOB}
    fi
fi
note() {{
    echo "$1" >jobid.new || return
    ln jobid.new jobid 2>/dev/null || [ -s jobid ] || mv -f jobid.new jobid
    rm -f jobid.new
}}
if [ ! -s jobid ] && [ -e intent ]; then
    found=$(squeue --noheader --states=all --user="$(id -un)" --name={quote(NAME_PREFIX + name)} \\
        --format=%i) || exit {Status.NO_ANSWER}
    read -r since _ <intent
    [ -n "$found" ] ||
        found=$(sacct -nXP --user="$(id -un)" --name={quote(NAME_PREFIX + name)} \\
            --starttime="$since" --format=JobIDRaw 2>/dev/null)
    found=$(printf '%s\\n' "$found" | sort -n | head -n 1)
    [ -z "$found" ] || note "$found"
fi
if [ -s jobid ]; then
    cat jobid
    exit 0
fi
take() {{
    head -c "$2" >"$1.new" && [ "$(wc -c <"$1.new")" -eq "$2" ] && mv -f "$1.new" "$1"
}}
if ! {{ {take} &&
    echo {number} >number.new && mv -f number.new number &&
    printf '%s\\n' {quote(name)} >"$root/numbers/{number}.{attempt}" &&
    mv -f "$root/numbers/{number}.{attempt}" "$root/numbers/{number}" &&
    echo "$(date -d '1 day ago' +%Y-%m-%dT%H:%M:%S) {attempt}" >intent.new &&
    mv -f intent.new intent; }}; then
    rm -f node.sh.new batch.sh batch.sh.new interactive.new "$root/numbers/{number}.{attempt}"
    [ -e intent ] || rm -f node.sh interactive number
    echo "the job's text did not arrive whole, or can't be written to $submission" >&2
    exit {Status.NO_FOLDER}
fi
said=$(sbatch {" ".join(options)} <batch.sh 9>&-)
status=$?
rm -f batch.sh
[ "$status" -eq 0 ] || exit "$status"
said=$(printf '%s\\n' "$said" | tail -n 1)
said=${{said%%;*}}
case $said in '' | *[!0-9]*) echo "$said"; exit 0 ;; esac
note "$said"
jobid=$(cat jobid 2>/dev/null)
echo "${{jobid:-$said}}"
# Another attempt's job has begun meanwhile: it is the one.
[ "${{jobid:-$said}}" = "$said" ] || scancel --quiet "$said" >/dev/null 2>&1 9>&-
exit 0
"""


def render_forget_submission(*, root: str, name: str, attempt: str) -> str:
    """Remove what an attempt left that Slurm refused, once Slurm says that there is no such job.

    Nothing is removed when another attempt has been made since.
    """
    return f"""{NEUTRAL}{render_folder_check(root)}cd "$root"/submit/{quote(name)} || exit 0
command exec 9>lock && flock -w 5 9 || exit 0
[ ! -s jobid ] && read -r _ made <intent 2>/dev/null && [ "$made" = {quote(attempt)} ] || exit 0
found=$(squeue --noheader --states=all --user="$(id -un)" --name={quote(NAME_PREFIX + name)} \\
    --format=%i 9>&-) || exit 0
[ -n "$found" ] || rm -f intent node.sh number interactive
exit 0
"""
