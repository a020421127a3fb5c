"""What finished jobs left, removed: only inside the `.jarvice` folder, and only what is a job's.

Slurm is asked first what it still knows. Where it does not answer, only jobs go that have noted
their own end. What its queue does not list it is asked for once more, by itself, before anything
goes for that reason.

Ten thousand jobs are ordinary, and a program costs the login node a millisecond: what stays is told
from what may go by a few programs for all, and programs for one job run only where something goes.
"""

from __future__ import annotations

from typing import Final

from jarvice_slurmd.slurm.commands import NEUTRAL, render_folder_check
from jarvice_slurmd.slurm.output import NAME_PREFIX

#: Jobs of a kind that one call removes at most: seconds, on a login node that is busy.
MOST: Final = 500

#: What is printed where a kind had more.
MORE: Final = "more"


def render_collect_garbage(
    *, root: str, answered_minutes: int, unasked_days: int, slurm_seconds: int, most: int = MOST
) -> str:
    """Remove what is of no use any more; a job that Slurm knows keeps all that it needs.

    `answered_minutes` after their exit status was answered go a job's output, records and
    submission; `unasked_days` after its end what nobody ever asked about. A submission that Slurm
    refused, or never made a job of, goes after `answered_minutes`, and so does the text of a job
    that is gone without having begun, which may hold passwords. A job that waits and that a second
    attempt to submit has made for nothing is cancelled. Slurm may take `slurm_seconds` to say what
    it knows; the rest is done without it. Prints `MORE` where there is more than `most` of a kind.
    """
    return f"""{NEUTRAL}{render_folder_check(root)}cd "$root" 2>/dev/null || exit 0
mine=$(id -un)
slurm_seconds={slurm_seconds}
prefix={NAME_PREFIX}
answered_minutes={answered_minutes}
unasked_days={unasked_days}
most={most}
more='{MORE}'
{_TEXT}"""


# A name holds no slash and no line feed; where one does, it is none of ours.
_TEXT: Final = r"""
# One at a time, whichever replica began: two would ask Slurm twice and remove the same.
if command exec 8>.collecting; then
    flock -w "$slurm_seconds" 8 || exit 0
fi 2>/dev/null
queue() {
    timeout -k 1 "$slurm_seconds" squeue --noheader --states=all --user="$mine" "$@" 2>/dev/null
}
known=$(queue --format='%i %t %j') && slurm_answered=yes || slurm_answered=
known_jobids=$(printf '%s\n' "$known" | cut -d ' ' -f 1)
known_names=$(printf '%s\n' "$known" | cut -d ' ' -f 3- | sed -n "s/^$prefix//p")

is_jobid() { case $1 in '' | *[!0-9_+]*) return 1 ;; esac; }
is_name() { case $1 in '' | .* | */*) return 1 ;; esac; }
# Set `first` to the first line of a file; not of a FIFO, which would never end.
first_line() {
    first=
    [ ! -f "$1" ] || IFS= read -r first <"$1" 2>/dev/null || :
}
# Of the lines of stdin those that are not among the lines of $1: neither list fits in arguments.
unlisted() {
    { printf '%s\n' "$1"; echo /; cat; } |
        awk '!all && $0 == "/" { all = 1; next }
            !all { listed[$0]; next }
            $0 != "" && !($0 in listed)'
}
# The lines of stdin, as far as one call does the work.
some() {
    awk -v most="$most" -v more="$more" 'NR > most { print more >"/dev/fd/3"; exit } { print }' 3>&4
}
exec 4>&1

# Whether Slurm, asked for this one job, says that there is none of that id, or it is another's.
is_gone() {
    [ "$slurm_answered" ] || return 1
    if said=$(timeout -k 1 "$slurm_seconds" scontrol -o show job "$1" 2>&1); then
        case $said in
        "JobId=$1 JobName=$prefix$2 "*) return 1 ;;
        "JobId=$1 JobName="*) [ "$2" ] ;;
        *) return 1 ;;
        esac
    else
        case $said in
        *[Ii]"nvalid job id"*) ;;
        *) return 1 ;;
        esac
    fi
}
# Whether Slurm, asked once more, has no job of a name.
is_unheard_of() {
    [ "$slurm_answered" ] && again=$(queue --name="$prefix$1" --format=%i) && [ -z "$again" ]
}

drop_submission() {
    is_name "$1" && [ -d "./submit/$1" ] || return 0
    first_line "./submit/$1/number"
    number=$first
    case $number in
    '' | *[!0-9]*) ;;
    *)
        first_line "numbers/$number"
        [ "$first" != "$1" ] || rm -f "numbers/$number"
        ;;
    esac
    [ ! -e "./submit/$1/lock" ] || [ -f "./submit/$1/lock" ] || return 0
    # Not while an attempt to submit holds the lock.
    (flock -n 9 && rm -rf -- "./submit/$1") 9>"./submit/$1/lock"
}
drop_job() {
    is_jobid "$1" || return 0
    first_line "jobs/$1/name"
    name=$first
    # What a question with a wrong job id left here has no say over the job of that name.
    if [ -d "submit/$name" ]; then
        first_line "submit/$name/jobid"
        [ "$first" = "$1" ] || name=
    fi
    if is_name "$name"; then
        drop_submission "$name"
        rm -f -- "./$name.out"
    fi
    rm -rf -- "./jobs/$1"
}

# A line feed in a name would make two names of it; ours have none.
odd='*
*'
with_record() {
    find jobs -mindepth 2 -maxdepth 2 ! -path "$odd" -name "$@" 2>/dev/null |
        sed -e 's,^jobs/,,' -e 's,/[^/]*$,,' | sort -u
}
# The folders of submissions that find's other words choose.
submissions() {
    find submit -mindepth 1 -maxdepth 1 ! -path "$odd" -type d "$@" 2>/dev/null | sed 's,^submit/,,'
}
# "<name>/<job id>" of every submission that has one.
noted_jobids() {
    find submit -mindepth 2 -maxdepth 2 ! -path "$odd" -name jobid -type f \
        -exec grep -a -H -m 1 -e '^[0-9_+][0-9_+]*$' {} + 2>/dev/null |
        sed -n 's,^submit/\([^/]*\)/jobid:\([0-9_+]*\)$,\1/\2,p'
}

with_record answer -mmin "+$answered_minutes" | some | while IFS= read -r jobid; do
    drop_job "$jobid"
done
with_record exit -mtime "+$unasked_days" | some | while IFS= read -r jobid; do
    drop_job "$jobid"
done
[ "$slurm_answered" ] || exit 0

# A job whose end nobody noted: its node died, or it was cancelled before it began.
with_record name -mtime "+$unasked_days" | unlisted "$known_jobids" | some |
    while IFS= read -r jobid; do
        is_jobid "$jobid" || continue
        first_line "jobs/$jobid/name"
        ! is_gone "$jobid" "$first" || drop_job "$jobid"
    done

# Submissions whose job is gone without having begun: the text at least, which may hold passwords.
jobs=$(ls jobs 2>/dev/null)
noted=$(noted_jobids)
old=$(submissions -mmin "+$answered_minutes")
unasked=$(submissions -mtime "+$unasked_days")
# Of the lines "<name>/<job id>" of stdin those whose job id is in neither list.
without_job() {
    awk -F / -v OFS=/ '{ print $2, $1 }' | { printf '%s\n' "$jobs" "$known_jobids" /; cat; } |
        awk -F / '!all && $0 == "/" { all = 1; next } !all { known[$0]; next } !($1 in known)'
}
# Of the lines "<job id>/<name>" of stdin those whose name is a line of $1.
of_those() {
    { printf '%s\n' "$1" /; cat; } |
        awk -F / '!all && $0 == "/" { all = 1; next } !all { chosen[$0]; next } $2 in chosen'
}
lost=$(printf '%s\n' "$noted" | without_job)
printf '%s\n' "$lost" | of_those "$unasked" | some | while IFS=/ read -r jobid name; do
    ! is_name "$name" || ! is_gone "$jobid" "$name" || drop_submission "$name"
done
with_text=$(find submit -mindepth 2 -maxdepth 2 ! -path "$odd" -name node.sh 2>/dev/null |
    sed -n 's,^submit/\([^/]*\)/node\.sh$,\1,p')
printf '%s\n' "$lost" | of_those "$old" | of_those "$with_text" | some |
    while IFS=/ read -r jobid name; do
        ! is_name "$name" || ! is_gone "$jobid" "$name" || rm -f -- "./submit/$name/node.sh"
    done
# Those that Slurm has refused, or never made a job of.
printf '%s\n' "$old" | unlisted "$(printf '%s\n' "$noted" | sed 's,/.*,,')" |
    unlisted "$known_names" | some | while IFS= read -r name; do
        ! is_name "$name" || ! is_unheard_of "$name" || drop_submission "$name"
    done

# Output whose job could not even make its folder, and numbers that lead nowhere.
all=$(submissions)
find . -mindepth 1 -maxdepth 1 ! -path "$odd" -type f -name '*.out' -mtime "+$unasked_days" |
    sed -e 's,^\./,,' -e 's,\.out$,,' | unlisted "$all" | unlisted "$known_names" | some |
    while IFS= read -r name; do
        ! is_name "$name" || ! is_unheard_of "$name" || rm -f -- "./$name.out"
    done
find numbers -mindepth 1 -maxdepth 1 ! -path "$odd" -type f -mtime "+$unasked_days" \
    -exec grep -a -H -m 1 -e '' {} + 2>/dev/null | sed -n 's,^numbers/\([^/:]*\):,\1/,p' |
    { printf '%s\n' "$all" /; cat; } |
    awk -F / '!all && $0 == "/" { all = 1; next } !all { there[$0]; next }
        !(substr($0, length($1) + 2) in there) { print $1 }' | some |
    while IFS= read -r number; do rm -f -- "./numbers/$number"; done
find numbers -mindepth 1 -maxdepth 1 ! -path "$odd" -type f -size 0 -mtime "+$unasked_days" \
    -exec rm -f {} + 2>/dev/null

# What an attempt that nobody waits for became after another one (slurm/submission.py): jobs that
# wait under a name whose submission has noted another job id.
printf '%s\n' "$known" | sed -n "s/^\([0-9_+]*\) PD $prefix/\1\//p" |
    { printf '%s\n' "$noted"; echo; cat; } |
    awk -F / '!all && $0 == "" { all = 1; next } !all { noted[$1] = $2; next }
        $2 in noted && noted[$2] != $1' | some |
    while IFS=/ read -r jobid name; do
        ! is_name "$name" ||
            scancel --quiet --user="$mine" --name="$prefix$name" "$jobid" </dev/null >/dev/null 2>&1
    done
exit 0
"""
