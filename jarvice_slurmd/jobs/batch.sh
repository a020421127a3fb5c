#!/bin/bash
#SBATCH --no-requeue
#SBATCH --open-mode=append
# What Slurm runs for a JARVICE job, on the job's first node.
#
# The text that runs on every node may hold registry passwords, so it is not in this script (which
# slurmctld and slurmd keep in their spools): it waits, readable by the job's owner alone, in the
# submission's folder, and is removed as soon as every node has read it. That is why the job is not
# requeued: there would be nothing left to run.
#
# An attempt to submit whose answer was lost is made again, and Slurm may make a job of both. The
# first to note its id in the submission's folder, here or as sbatch answers, is the job
# (slurm/submission.py); another one ends at once and leaves nothing, its output file untouched.
#
# In the job's folder, <scratch>.jarvice/jobs/<jobid>/, it leaves what answers for the job after
# Slurm has forgotten it:
#   name       the job's name
#   start      when it began (seconds since 1970)
#   read.<n>   node n has read the text
#   watched    the first node's output has ended
#   verdict    JARVICE_CMD_SUCCESS or JARVICE_CMD_FAILURE, as the first node's text printed it; a
#              text that begins with "# no verdict" has none
#   random128  128 random letters and digits, and
#   password   16 of them, for an interactive job's application and its address
#   service    port, node and node address of an interactive job's service
#   code.<n>   the exit status of the text on node n
#   code       that of the first node, once its verdict is known too
#   exit       how it ended: "<state> <exit status> <start> <end>"
# The built-in executor's own files, in node.<n>, are removed here if an abort left them.
#
# bash tells of a process that was killed by showing the command that started it: text of ours, which
# has no place in the user's output. Where a process is waited for bash speaks to nobody (2>/dev/null),
# and what has to be said goes to 8, the job's own standard error.
jarvice_root=@ROOT@
jarvice_name=@NAME@

exec 8>&2
umask 077
job=$jarvice_root/jobs/$SLURM_JOB_ID
submission=$jarvice_root/submit/$jarvice_name
printf -v begun '%(%s)T' -1

# Write a file of the job's folder so that a reader sees all of it or none. Slurm's SIGTERM may end mv,
# too; it comes once.
leave() {
    printf '%s\n' "$2" 2>&8 >"$job/.$1.$$" || return
    mv -f "$job/.$1.$$" "$job/$1" 2>/dev/null || [ ! -e "$job/.$1.$$" ] ||
        mv -f "$job/.$1.$$" "$job/$1" 2>&8
}

# "<state> <exit status>": what Slurm will call the end that is coming.
finish() {
    local now
    printf -v now '%(%s)T' -1
    leave exit "$1 $2 $begun $now"
}

fail() {
    echo "jarvice-slurmd: $1" >&2
    finish FAILED 1
    exit 1
}

claim=$submission/jobid.$SLURM_JOB_ID
if [ ! -s "$submission/jobid" ] && printf '%s\n' "$SLURM_JOB_ID" 2>/dev/null >"$claim"; then
    ln "$claim" "$submission/jobid" 2>/dev/null || [ -s "$submission/jobid" ] ||
        mv -f "$claim" "$submission/jobid"
    rm -f "$claim"
fi
chosen=$(cat "$submission/jobid" 2>/dev/null)
[ "${chosen:-$SLURM_JOB_ID}" = "$SLURM_JOB_ID" ] || exit 0

# Slurm may have given out this id before: another job's records don't answer for this one.
if [ -e "$job/name" ] && [ "$(cat "$job/name")" != "$jarvice_name" ]; then
    rm -rf "$jarvice_root/jobs/${SLURM_JOB_ID:?}"
fi
mkdir -p "$job" || {
    echo "jarvice-slurmd: the job's folder $job can't be made on $(hostname); is it shared with the login node?" >&2
    exit 1
}
leave name "$jarvice_name"
leave start "$begun"
[ -r "$submission/node.sh" ] ||
    fail "the job's text $submission/node.sh is not there on $(hostname): the folder is not shared with the login node, or the job was started before"
mv -f "$submission/node.sh" "$job/node.sh" || fail "the job's text can't be moved to $job"

JOB_JOBID=$SLURM_JOB_ID
JOB_JOB_NODELIST=$SLURM_JOB_NODELIST
JOB_JOB_FORMATED_NODELIST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tr '\n' ' ')
JOB_JOB_FORMATED_NODELIST=${JOB_JOB_FORMATED_NODELIST% }
JOB_NNODES=$SLURM_NNODES
JOB_NTASKS=$SLURM_NTASKS
JOB_SUBMIT_DIR=$SLURM_SUBMIT_DIR
JOB_GPUS_PER_NODE=$SLURM_GPUS_PER_NODE
JARVICE_JOB_DIR=$job
export JOB_JOBID JOB_JOB_NODELIST JOB_JOB_FORMATED_NODELIST JOB_NNODES JOB_NTASKS JOB_SUBMIT_DIR
export JOB_GPUS_PER_NODE JARVICE_JOB_DIR

# A TCP port that no socket of this node is bound to; other than the one given.
free_port() {
    local port hex
    for _ in {1..500}; do
        port=$((20000 + RANDOM % 12000))
        printf -v hex '%04X' "$port"
        [ "$port" = "$1" ] && continue
        grep -Eqs "^ *[0-9]+: [0-9A-F]+:$hex " /proc/net/tcp /proc/net/tcp6 && continue
        echo "$port"
        return
    done
    fail "no port is free on $(hostname)"
}

# An interactive job's service listens where it is free; the daemon's replicas read it here.
if [ -s "$submission/interactive" ]; then
    JARVICE_SERVICE_PORT=$(free_port 0) || exit 1
    JARVICE_SSH_PORT=$(free_port "$JARVICE_SERVICE_PORT") || exit 1
    export JARVICE_SERVICE_PORT JARVICE_SSH_PORT
    # For the application's own secrets in its address (PROTOCOL §3, %RANDOM…%, %NIMBIXPASSWD%).
    random=$(head -c 512 /dev/urandom | base64 | tr -dc 'A-Za-z0-9')
    leave random128 "${random:0:128}"
    leave password "${random:128:16}"
    address=$(scontrol -o show node "$SLURMD_NODENAME" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    leave service "$JARVICE_SERVICE_PORT $SLURMD_NODENAME ${address:-$SLURMD_NODENAME}"
fi

# Runs on every node: reads the text into memory, then runs it. At SIGTERM (a time limit, a
# cancellation) this one stays, to note how the text ended. Where Slurm tracks processes by cgroup
# it tells only this first process; elsewhere every process. The canary tells which: the text's
# processes get the signal once, from Slurm or from here.
# shellcheck disable=SC2016  # it expands on the node
on_node='
export PROCESS_PROCID=$SLURM_PROCID PROCESS_NODENAME=$SLURMD_NODENAME
jarvice_text=$(cat "$JARVICE_JOB_DIR/node.sh") || exit 1
: >"$JARVICE_JOB_DIR/read.$SLURM_PROCID"
exec 8>&2 2>/dev/null
jarvice_shell=""
jarvice_told=""
jarvice_on_term() {
    jarvice_told=yes
    # The text is told as soon as we know which process it is.
    [ "$jarvice_shell" ] || return
    sleep 0.2
    kill -0 "$jarvice_canary" 2>/dev/null || return
    # The executor itself tells what runs in its container, also what is no descendant any longer.
    jarvice_depth=1000000
    [ ! -e "$JARVICE_JOB_DIR/node.$SLURM_PROCID/tells" ] || jarvice_depth=1
    kill -TERM "$jarvice_shell" $(ps -e -o pid= -o ppid= |
        awk -v root="$jarvice_shell" -v depth="$jarvice_depth" "
        { parent[\$1] = \$2 }
        END {
            for (one in parent) {
                up = one
                steps = 0
                while (up in parent && up != root) { up = parent[up]; steps++ }
                if (up == root && one != root && steps <= depth) print one
            }
        }") 2>/dev/null
}
jarvice_run_text() {
    sleep 2147483647 >/dev/null 3>&- 4>&- 8>&- &
    jarvice_canary=$!
    disown "$jarvice_canary"
    # With job control the text is not made deaf to SIGINT, which notebooks need.
    set -m
    (
        # What wait says of a text that a signal interrupts is not to be relied on.
        trap : TERM
        (trap - TERM; exec 2>&8 8>&-; eval "$jarvice_text")
        echo "$?" 2>&8 >"$JARVICE_JOB_DIR/code.$SLURM_PROCID"
    ) <&0 3>&- 4>&- &
    jarvice_shell=$!
    set +m
    [ -z "$jarvice_told" ] || jarvice_on_term
    while kill -0 "$jarvice_shell" 2>/dev/null; do wait "$jarvice_shell"; done
    kill -9 "$jarvice_canary" 2>/dev/null
    jarvice_code=137
    [ ! -s "$JARVICE_JOB_DIR/code.$SLURM_PROCID" ] ||
        read -r jarvice_code <"$JARVICE_JOB_DIR/code.$SLURM_PROCID"
}
trap jarvice_on_term TERM
jarvice_end() {
    printf "%s\n" "$jarvice_code" 2>&8 >"$JARVICE_JOB_DIR/.code" &&
        mv -f "$JARVICE_JOB_DIR/.code" "$JARVICE_JOB_DIR/code" 2>&8
    exit "$jarvice_code"
}
if [ "$SLURM_PROCID" != 0 ]; then
    jarvice_run_text
    exit "$jarvice_code"
fi
# Markers are of the text that JARVICE sends; a job of the executor may print what it likes.
case $jarvice_text in
"# no verdict"*)
    jarvice_run_text
    jarvice_end
    ;;
esac
# The first node prints the verdict: a line of its own. What it prints is passed on as it comes.
exec 3>&1
# The watch inherits that it ignores them: a SIGTERM that comes just now must not end it.
trap "" TERM PIPE
coproc JARVICE_WATCH {
    exec 9> >(
        # A line without end would be held whole: past this bound there is no verdict in it.
        ulimit -v 262144
        grep -a -xE --line-buffered "JARVICE_CMD_(SUCCESS|FAILURE)[[:space:]]*" \
            >"$JARVICE_JOB_DIR/verdict" 3>&-
        : >"$JARVICE_JOB_DIR/watched"
    )
    exec tee /dev/fd/9 >&3 3>&-
}
trap jarvice_on_term TERM
trap - PIPE
jarvice_watch=$JARVICE_WATCH_PID
exec 4>&"${JARVICE_WATCH[1]}"
eval "exec ${JARVICE_WATCH[0]}<&- ${JARVICE_WATCH[1]}>&-"
jarvice_run_text >&4 8>&4
exec 4>&-
# What the text left in the background may hold the pipe open; the job does not wait for it.
(
    trap "" TERM
    # A read of what is never written: a sleep that is no process, which would be left behind.
    read -r -t 5 <> <(:)
    [ "$?" -gt 128 ] || sleep 5
    kill -9 "$jarvice_watch"
) >/dev/null 3>&- 8>&- &
jarvice_guard=$!
disown "$jarvice_guard"
while kill -0 "$jarvice_watch" 2>/dev/null; do wait "$jarvice_watch"; done
kill -9 "$jarvice_guard" 2>/dev/null
for _ in {1..20}; do
    [ -e "$JARVICE_JOB_DIR/watched" ] && break
    sleep 0.1
done
jarvice_end
'

# The text is removed once every node has it, or when the step is over.
forget_text() {
    local reads
    while [ -e "$job/node.sh" ]; do
        reads=("$job"/read.*)
        [ -e "${reads[0]}" ] && [ "${#reads[@]}" -ge "$SLURM_NNODES" ] && rm -f "$job/node.sh"
        sleep 0.2
    done
}

ending=
# shellcheck disable=SC2317  # called by the trap
on_term() {
    # Slurm tells the reason only while it still knows the job.
    case $(scontrol -o show job "$SLURM_JOB_ID" 2>/dev/null) in
    *"Reason=TimeLimit"*) ending=TIMEOUT ;;
    *) ending=CANCELLED ;;
    esac
    finish "$ending" 143
}
exec 2>/dev/null
trap on_term TERM

srun -K1 --export=ALL -N "$SLURM_NNODES" -n "$SLURM_NNODES" --ntasks-per-node=1 \
    /bin/bash -c "$on_node" 2>&8 8>&- &
step=$!
forget_text &
forgetter=$!
while :; do
    wait "$step"
    code=$?
    kill -0 "$step" 2>/dev/null || break
done
kill "$forgetter" 2>/dev/null
# Nothing of the text stays; what an attempt to submit put there again while this job began neither,
# nor what an abort left of the built-in executor's files (executor.sh): overlays, the command, on this
# node half an image. Slurm's SIGTERM may come just now, and would end rm; it comes once.
work=
if [ -f "$job/node.0/work" ]; then read -r work <"$job/node.0/work"; fi
case $work in
/*/../*) work= ;;
/*/"jarvice-$SLURM_JOB_ID".??????) ;;
*) work= ;;
esac
for _ in 1 2; do
    (
        trap "" TERM
        exec rm -rf -- "$job/node.sh" "$submission/node.sh" ${work:+"$work"} "$job"/node.*
    ) && break
done

# The first node decides (PROTOCOL §2): its verdict, else the exit status of its text.
if [ -s "$job/code" ]; then
    read -r code <"$job/code"
elif [ "$code" = 0 ]; then
    code=1
fi
if grep -q FAILURE "$job/verdict" 2>/dev/null && [ "$code" = 0 ]; then
    code=1
fi
if [ -z "$ending" ]; then
    ending=FAILED
    [ "$code" = 0 ] && ending=COMPLETED
fi
finish "$ending" "$code"
exit "$code"
