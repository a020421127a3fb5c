"""What finished jobs left, removed: only inside the `.jarvice` folder, and only what is a job's.

Slurm is asked first what it still knows. Where it does not answer, only jobs go that have noted
their own end.
"""

from __future__ import annotations

from jarvice_slurmd.slurm.commands import NEUTRAL, render_folder_check
from jarvice_slurmd.slurm.output import NAME_PREFIX


def render_collect_garbage(
    *, root: str, answered_minutes: int, unasked_days: int, slurm_seconds: int
) -> str:
    """Remove what is of no use any more; a job that Slurm knows keeps all that it needs.

    `answered_minutes` after their exit status was answered go a job's output, records and
    submission; `unasked_days` after its end what nobody ever asked about. A submission that Slurm
    refused, or never made a job of, goes after `answered_minutes`, and so does the text of a job
    that is gone without having begun, which may hold passwords. A job that waits and that a second
    attempt to submit has made for nothing is cancelled. Slurm may take `slurm_seconds` to say what
    it knows; the rest is done without it.
    """
    return f"""{NEUTRAL}{render_folder_check(root)}cd "$root" 2>/dev/null || exit 0
known=$(timeout -k 1 {slurm_seconds} squeue --noheader --states=all --user="$(id -un)" \\
    --format='%i %t %j' 2>/dev/null) && slurm_answered=yes || slurm_answered=
known_jobids=$(printf '%s\\n' "$known" | cut -d ' ' -f 1)
known_names=$(printf '%s\\n' "$known" | cut -d ' ' -f 3-)
is_known_jobid() {{ printf '%s\\n' "$known_jobids" | grep -qxF -e "$1"; }}
is_known_name() {{ printf '%s\\n' "$known_names" | grep -qxF -e "{NAME_PREFIX}$1"; }}
is_jobid() {{ case $1 in '' | *[!0-9_+]*) return 1 ;; esac; }}
# Only of a file: a job may have put a FIFO there, which would never end.
first_line() {{ [ -f "$1" ] && head -n 1 "$1" 2>/dev/null; }}
is_name() {{ case $1 in '' | .* | */*) return 1 ;; esac; }}

drop_submission() {{
    is_name "$1" && [ -d "./submit/$1" ] || return 0
    number=$(first_line "./submit/$1/number")
    case $number in
    '' | *[!0-9]*) ;;
    *) [ "$(first_line "numbers/$number")" != "$1" ] || rm -f "numbers/$number" ;;
    esac
    [ ! -e "./submit/$1/lock" ] || [ -f "./submit/$1/lock" ] || return 0
    # Not while an attempt to submit holds the lock.
    (flock -n 9 && rm -rf -- "./submit/$1") 9>"./submit/$1/lock"
}}
drop_job() {{
    is_jobid "$1" || return 0
    name=$(first_line "jobs/$1/name")
    # What a question with a wrong job id left here has no say over the job of that name.
    [ ! -d "submit/$name" ] || [ "$(first_line "submit/$name/jobid")" = "$1" ] || name=
    if is_name "$name"; then
        drop_submission "$name"
        rm -f -- "./$name.out"
    fi
    rm -rf -- "./jobs/$1"
}}
# A line feed in a name would make two names of it; ours have none.
odd='*
*'
with_record() {{
    find jobs -mindepth 2 -maxdepth 2 ! -path "$odd" -name "$@" 2>/dev/null |
        sed -e 's,^jobs/,,' -e 's,/[^/]*$,,' | sort -u
}}

with_record answer -mmin +{answered_minutes} | while IFS= read -r jobid; do drop_job "$jobid"; done
with_record exit -mtime +{unasked_days} | while IFS= read -r jobid; do drop_job "$jobid"; done
[ "$slurm_answered" ] || exit 0

# A job whose end nobody noted: its node died, or it was cancelled before it began.
with_record name -mtime +{unasked_days} | while IFS= read -r jobid; do
    is_known_jobid "$jobid" || drop_job "$jobid"
done
find submit -mindepth 1 -maxdepth 1 ! -path "$odd" -type d -mmin +{answered_minutes} 2>/dev/null |
    while IFS= read -r folder; do
        name=${{folder#submit/}}
        is_name "$name" || continue
        jobid=$(first_line "submit/$name/jobid")
        if [ -z "$jobid" ]; then
            is_known_name "$name" || drop_submission "$name"
        elif is_jobid "$jobid" && ! is_known_jobid "$jobid" && [ ! -d "jobs/$jobid" ]; then
            if [ "$(find "submit/$name" -maxdepth 0 -mtime +{unasked_days})" ]; then
                drop_submission "$name"
            else
                rm -f -- "./submit/$name/node.sh"
            fi
        fi
    done
find . -mindepth 1 -maxdepth 1 ! -path "$odd" -type f -name '*.out' -mtime +{unasked_days} |
    while IFS= read -r file; do
        name=${{file#./}}
        name=${{name%.out}}
        is_name "$name" && [ ! -d "submit/$name" ] && ! is_known_name "$name" || continue
        rm -f -- "./$name.out"
    done
find numbers -mindepth 1 -maxdepth 1 ! -path "$odd" -type f -mtime +{unasked_days} 2>/dev/null |
    while IFS= read -r file; do
        name=$(first_line "$file")
        [ "$name" ] && [ -d "submit/$name" ] || rm -f -- "./$file"
    done

# What an attempt that nobody waits for became after another one (slurm/submission.py).
printf '%s\\n' "$known" | while IFS= read -r line; do
    jobid=${{line%% *}}
    line=${{line#* }}
    state=${{line%% *}}
    name=${{line#* {NAME_PREFIX}}}
    [ "$state" = PD ] && is_jobid "$jobid" && is_name "$name" || continue
    noted=$(first_line "submit/$name/jobid")
    [ -z "$noted" ] || [ "$noted" = "$jobid" ] ||
        scancel --quiet --user="$(id -un)" --name="{NAME_PREFIX}$name" "$jobid" </dev/null 2>&1
done >/dev/null
exit 0
"""
