"""What is run to find out what a cluster offers; `requirements` and `compute_node` read it.

Like `commands`: every function returns POSIX shell text for `/bin/sh`, what comes from outside is
quoted here, `root` is the shell word of the `.jarvice` folder. Each prints lines `name=value`.
"""

from __future__ import annotations

from importlib.resources import files
from shlex import quote
from typing import Final

from jarvice_slurmd.slurm.commands import NEUTRAL, Status

#: What our scripts call on the login node; sacct is looked for too, but can be done without.
SLURM_COMMANDS: Final = ("sbatch", "squeue", "scancel", "scontrol", "srun")

#: The parts of slurm.conf(5) that are looked at.
CONFIGURATION: Final = (
    "AccountingStorageType",
    "MinJobAge",
    "PrivateData",
    "SelectType",
    "SelectTypeParameters",
    "SLURM_VERSION",
)

#: Slurm lists it as a job of the account, but not as one of JARVICE's: it lacks their prefix.
CHECK_JOB_NAME: Final = "slurmd-check"


def render_login_probe() -> str:
    """Who we are, which of Slurm's commands are in the PATH, their version, and the clock."""
    commands = " ".join((*SLURM_COMMANDS, "sacct"))
    return f"""{NEUTRAL}echo "user_id=$(id -u)"
echo "user=$(id -un)"
echo "path=$PATH"
for command in {commands}; do echo "$command=$(command -v $command)"; done
echo "version=$(sbatch --version 2>&1 | tail -n 1)"
echo "clock=$(date +%s.%N)"
"""


def render_configuration_probe() -> str:
    """Slurm's configuration as its controller has it: `name=value` for `CONFIGURATION`."""
    names = "|".join(CONFIGURATION)
    return f"""{NEUTRAL}said=$(scontrol show config) || exit
printf '%s\\n' "$said" | sed -nE 's/^({names}) *= */\\1=/p'
"""


def render_queue_probe() -> str:
    """Whether we may see our own jobs: the queue, as `commands.render_queue` asks for it."""
    return f"""{NEUTRAL}user=$(id -un)
said=$(squeue --noheader --states=all --user="$user" --format=%i) || exit
echo "jobs=$(printf '%s' "$said" | grep -c .)"
"""


def render_accounting_probe() -> str:
    """Whether accounting answers: the account's jobs that began in the last minute."""
    return f"{NEUTRAL}exec sacct -nXP --starttime=now-1minute --format=JobID\n"


def render_node_probe() -> str:
    """A compute node that is up, its address and its slurmd's port, none where they are hidden.

    `ssh_port` is the port of the login node's own sshd.
    """
    return f"""{NEUTRAL}echo "ssh_port=${{SSH_CONNECTION##* }}"
node=$(sinfo --noheader --Node --format=%N --responding | head -n 1)
[ -n "$node" ] || exit 0
port=$(scontrol show config | sed -nE 's/^SlurmdPort *= *([0-9]+).*/\\1/p')
said=$(scontrol -o show node "$node") || exit
echo "node=$node"
printf '%s\\n' "$said" | sed -nE 's/.* NodeAddr=([^ ]*).*/address=\\1/p'
own=$(printf '%s\\n' "$said" | sed -nE 's/.* Port=([0-9]+).*/\\1/p')
echo "port=${{own:-${{port:-6818}}}}"
"""


def render_folder_probe(*, root: str) -> str:
    """Whether the jobs' folder can be written, whether locks work in it, and its free space.

    `lock` is what flock(1) says of a lock that is held: 1 means that it is kept.
    """
    return f"""{NEUTRAL}{_make_work(root)}trap 'rm -rf "$work"' EXIT
echo written >"$work/lock" && [ "$(cat "$work/lock")" = written ] || exit {Status.NO_FOLDER}
command -v flock >/dev/null && echo "flock=yes"
(flock -n 9 && {{ flock -n "$work/lock" true; echo "lock=$?"; }}) 9>>"$work/lock"
echo "type=$(stat -f -c %T "$work")"
echo "free=$(df -Pk "$work" | awk 'NR == 2 {{ print $4 }}')"
exit 0
"""


def render_container_probe(*, root: str) -> str:
    """Which container tool the account finds on the login node, and how it is installed."""
    text = (
        f"jarvice_root={root}\njarvice_top=${{jarvice_root%/.jarvice}}\n{_read('container_tool')}"
    )
    return f"exec /bin/bash -c {quote(text)}\n"


def render_session_probe(seconds: int) -> str:
    """Which connection we are on, and from when to when: other sessions run beside this one."""
    return f"""echo "connection=$SSH_CONNECTION"
echo "begin=$(date +%s.%N)"
sleep {seconds}
echo "end=$(date +%s.%N)"
"""


def render_compute_probe(*, root: str, tmpdir: str, partition: str | None, seconds: int) -> str:
    """Run a short job on a compute node and print what it found; the job is gone afterwards.

    The login node holds a lock meanwhile, which the compute node must not get. Prints `job`,
    `state` (Slurm's, empty once forgotten), `reason`, `seen` and `read` (the login node's clock
    before the compute node reads its own, where that was seen to wait for it, and after), then,
    when the job has left it in the folder, what `container_tool.sh` and `compute_node.sh` say.
    """
    chosen = "" if partition is None else f"-p {quote(partition)} "
    return f"""{NEUTRAL}{_make_work(root)}jobid=
end() {{
    trap '' HUP INT TERM
    [ -z "$jobid" ] || [ -n "$over" ] || scancel --quiet "$jobid"
    rm -rf "$work"
}}
trap end EXIT
trap 'exit 143' HUP INT TERM
exec 9>"$work/lock" && flock -n 9 || exit {Status.NO_FOLDER}
cat >"$work/job" <<'JARVICE_END_OF_JOB'
#!/bin/bash
jarvice_work=$1
jarvice_path=$PATH
jarvice_tmpdir={quote(tmpdir)}
jarvice_top=$2
{{
{_read("container_tool")}
{_read("compute_node")}
}} >"$jarvice_work/found.new"
mv -f "$jarvice_work/found.new" "$jarvice_work/found"
JARVICE_END_OF_JOB
jobid=$(sbatch --parsable -J {CHECK_JOB_NAME} -N 1 -n 1 --time=5 {chosen}\\
    -o "$(printf '%s' "$work/output" | sed 's/%/%%/g')" "$work/job" "$work" "$top" \\
    9>&-) || exit
jobid=${{jobid%%;*}}
echo "job=$jobid"
deadline=$(($(date +%s) + {seconds}))
over=
late=0
seen=
while ls "$work" >/dev/null && [ ! -e "$work/found" ] && [ "$(date +%s)" -lt "$deadline" ]; do
    if [ -z "$seen" ] && [ -e "$work/asks" ]; then
        seen=$(date +%s.%N)
        echo "seen=$seen"
        : >"$work/seen"
        sleep 1
        continue
    fi
    if [ -n "$over" ]; then
        # Another node's files may take a while to be seen here.
        late=$((late + 1))
        [ "$late" -le 10 ] || break
    fi
    sleep 1
    said=$(squeue --noheader --states=all --jobs="$jobid" --format='%T|%r' 2>&1)
    case $said in
    PENDING* | CONFIGURING* | RUNNING* | COMPLETING*) ;;
    [A-Z_]*'|'* | *'Invalid job id'*) over=yes ;;
    esac
done
echo "read=$(date +%s.%N)"
case $said in *'|'*) echo "state=${{said%%|*}}"; echo "reason=${{said#*|}}" ;; esac
[ ! -e "$work/output" ] || echo "output=$(tail -n 1 "$work/output" | head -c 300)"
[ ! -e "$work/found" ] || {{ over=yes; echo "shared=yes"; cat "$work/found"; }}
exit 0
"""


def _make_work(root: str) -> str:
    # In .jarvice where that is there, and it is not made: to others it means that jobs were here.
    return f"""root={root}
top=${{root%/.jarvice}}
echo "folder=$top"
[ -d "$top" ] || {{ echo "$top is not there on $(hostname)" >&2; exit {Status.NO_FOLDER}; }}
umask 077
base=$root
[ -d "$root" ] || base=$top
work=$(mktemp -d "$base/.jarvice-check.XXXXXX") || exit {Status.NO_FOLDER}
"""


def _read(name: str) -> str:
    return files("jarvice_slurmd.slurm").joinpath(f"{name}.sh").read_text("utf-8")
