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

What makes it quick: a program costs the login node about as much as all of the shell's own work, so
a first attempt starts three beside sbatch. What ends stdin is compared instead of sizes. As long as
there is no intent there is no job that could read what is written, and after it none but the
attempt's own that could note a job id: so a first attempt writes where the files belong. A later
one makes them in `new/`, brings them to their places at once, and links its job id. sbatch reads
its script not from a file but from this text, which the link runs whole or not at all.
"""

from __future__ import annotations

from shlex import quote

from attrs import field, frozen

from jarvice_slurmd.slurm.commands import NEUTRAL, Status, render_folder_check
from jarvice_slurmd.slurm.output import NAME_PREFIX

#: Seconds that an attempt waits for another one of the same job to end; less than a command may
#: take (Settings.command_timeout), so that this is what is answered.
LOCK_SECONDS = 15

#: How long before an attempt accounting is searched from, in seconds: a job's times are those of
#: Slurm's controller, an attempt's that of the folder, and the two clocks need not agree.
_CLOCKS_APART = 86_400


@frozen(kw_only=True)
class SubmitCall:
    """What submits a job: shell text, and the bytes that it takes from stdin."""

    script: str = field(repr=False)
    stdin: bytes = field(repr=False)


def render_submit(
    *,
    root: str,
    name: str,
    number: int,
    attempt: str,
    options: tuple[str, ...],
    node_script: bytes,
    batch_script: str,
    interactive: bytes = b"",
) -> SubmitCall:
    """Submit a job once; prints its job id. One that was submitted already has its job id printed.

    `attempt` is a word that no other call has; `interactive` is what any replica must know of an
    interactive job. `node_script`, which may hold passwords, and `interactive` come on stdin, and
    the attempt's word as a line behind them: of texts that it does not follow nothing is submitted.
    `batch_script`, a text of whole lines that holds no secret, stands in the script itself.
    """
    texts = {"node.sh": node_script, "interactive": interactive}
    if not interactive:
        del texts["interactive"]
    take = " &&\n    ".join(
        f'head -c {len(content)} >"${{made}}{file}"' for file, content in texts.items()
    )
    made = " ".join(f"new/{file}" for file in (*texts, "number", "intent"))
    job_name = quote(NAME_PREFIX + name)
    # The line that the last one ends with is the here-document's.
    text = quote(batch_script.removesuffix("\n"))
    script = f"""{NEUTRAL}umask 077
{render_folder_check(root)}submission=$root/submit/{quote(name)}
mkdir -p "$root/jobs" "$root/numbers" "$submission" && cd "$submission" ||
    exit {Status.NO_FOLDER}
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
# Write a file that is not there.
create() {{
    set -C
    printf '%s\\n' "$2" 2>/dev/null >"$1"
    set -- "$?"
    set +C
    return "$1"
}}
# The linked file has a name of its own: it is the job id then, and not to be written again.
note() {{
    [ "$made" ] || ! create jobid "$1" || return 0
    echo "$1" >jobid.{attempt} || return
    ln jobid.{attempt} jobid 2>/dev/null || [ -s jobid ] || mv -f jobid.{attempt} jobid
}}
# Of lines "<job id>|<name>" the ids of those of our very name: what --name finds may differ in
# case, in accounting also in accents and in blanks at its end.
of_this_name() {{
    while IFS= read -r line; do
        [ "${{line#*|}}" != {job_name} ] || echo "${{line%%|*}}"
    done
}}
made=
if [ ! -s jobid ] && [ -e intent ]; then
    made=new/
    found=$(squeue --noheader --states=all --user="$(id -un)" --name={job_name} \\
        --format='%i|%j') || exit {Status.NO_ANSWER}
    found=$(printf '%s\\n' "$found" | of_this_name)
    if [ -z "$found" ]; then
        since=$(($(date -r intent +%s) - {_CLOCKS_APART}))
        found=$(sacct -nXP --user="$(id -un)" --name={job_name} \\
            --starttime="$(date -d "@$since" +%Y-%m-%dT%H:%M:%S)" --format=JobIDRaw,JobName \\
            2>/dev/null | of_this_name)
    fi
    found=$(printf '%s\\n' "$found" | sort -n | head -n 1)
    [ -z "$found" ] || note "$found"
fi
if [ -s jobid ]; then
    [ ! -e new ] || rm -rf new
    cat jobid
    exit 0
fi
# The number leads to the name: made where it leads nowhere, else replaced in one step.
lead() {{
    create "$root/numbers/{number}" {quote(name)} && return
    printf '%s\\n' {quote(name)} >"$root/numbers/{number}.{attempt}" &&
        mv -f "$root/numbers/{number}.{attempt}" "$root/numbers/{number}"
}}
if ! {{ {{ [ ! "$made" ] || mkdir -p new; }} &&
    {take} &&
    read -r mark && [ "$mark" = {attempt} ] &&
    echo {number} >"${{made}}number" && lead && echo {attempt} >"${{made}}intent" &&
    {{ [ ! "$made" ] || mv -f {made} .; }}; }}; then
    rm -rf new "$root/numbers/{number}.{attempt}"
    [ "$made" ] || rm -f node.sh interactive number intent
    echo "the job's text did not arrive whole, or can't be written to $submission" >&2
    exit {Status.NO_FOLDER}
fi
batch_script={text}
# A job starts where sbatch is called: in the folder around ours, which is the user's own.
said=$(cd "${{root%/.jarvice}}" && sbatch {" ".join(options)} 9>&- <<END
$batch_script
END
)
status=$?
[ "$status" -eq 0 ] || exit "$status"
said=${{said##*
}}
said=${{said%%;*}}
case $said in '' | *[!0-9]*) echo "$said"; exit 0 ;; esac
note "$said"
jobid=
[ ! -s jobid ] || read -r jobid <jobid
echo "${{jobid:-$said}}"
# Another attempt's job has begun meanwhile: it is the one.
[ "${{jobid:-$said}}" = "$said" ] || scancel --quiet "$said" >/dev/null 2>&1 9>&-
exit 0
"""
    return SubmitCall(script=script, stdin=b"".join([*texts.values(), f"{attempt}\n".encode()]))


def render_forget_submission(*, root: str, name: str, attempt: str) -> str:
    """Remove what an attempt left that Slurm refused, once Slurm says that there is no such job.

    Nothing is removed when another attempt has been made since.
    """
    return f"""{NEUTRAL}{render_folder_check(root)}cd "$root"/submit/{quote(name)} || exit 0
command exec 9>lock && flock -w 5 9 || exit 0
[ ! -s jobid ] && read -r made <intent 2>/dev/null && [ "$made" = {quote(attempt)} ] || exit 0
found=$(squeue --noheader --states=all --user="$(id -un)" --name={quote(NAME_PREFIX + name)} \\
    --format=%i 9>&-) || exit 0
[ -n "$found" ] || rm -f intent node.sh number interactive
exit 0
"""
