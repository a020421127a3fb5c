# What a job submitted as `job` runs, once on each of its nodes, as the job's owner: the command in
# the image's container on the first node, and a container that waits on every other node.
# docs/executor.md describes it for the administrator of the cluster.
#
# bash runs this text from memory (there is no file of it on the node, and no $0). Before it stand
#   PROCESS_*, JOB_*, JARVICE_*, SV…   what every job's text is given (PROTOCOL §2)
#   executor_command   shell text for the container on the first node
#   executor_worker    shell text for the containers on the other nodes; empty: they wait
#   executor_cores     cores a node
#   executor_gpus      GPUs a node, 0 for none
#   executor_init      true: the init image runs before the application
# shellcheck shell=bash
# shellcheck disable=SC2154  # these are set before this text
# shellcheck disable=SC2016  # text for the container expands in the container
# shellcheck disable=SC2317  # traps call what seems unreachable

umask 077
executor_start=$(date +%s%3N)
executor_rank=${PROCESS_PROCID:-0}
executor_host=${PROCESS_NODENAME:-$(hostname)}
executor_job=${JARVICE_JOB_SCRATCH_DIR}.jarvice/jobs/$JOB_JOBID
executor_images=${JARVICE_JOB_SCRATCH_DIR}.jarvice/images
executor_node=          # this node's own folder in the job's folder
executor_ending=        # Slurm has told us to end
executor_puller=        # the process group that pulls
executor_boot=          # the container's first process
executor_mounts=        # its mount namespace, which tells the container's processes from others
executor_canary=        # dies of SIGTERM when Slurm sends it to every process, not to us alone
executor_others=()      # the numbers of the other nodes

say() { printf 'jarvice %s: %s\n' "$executor_host" "$*"; }
say_more() { [ "${SV:-}" != true ] || say "$@"; }
now() { date +%s%3N; }
since() {
    local tenths=$((($(now) - $1) / 100))
    echo "$((tenths / 10)).$((tenths % 10)) s"
}
megabytes() { du -Lm "$1" 2>/dev/null | cut -f1; }
free_space() { df -Pm "$1" 2>/dev/null | awk 'NR == 2 { print $4 " MB free in " $6 }'; }

fail() {
    printf 'jarvice %s: error: %s\n' "$executor_host" "$*" >&2
    [ ! -d "$executor_job" ] || echo "$executor_host: $*" >"$executor_job/failed.$executor_rank"
    exit 1
}

# A pause that SIGTERM cuts short.
pause() {
    sleep "$1" >/dev/null 2>&1 &
    wait $!
}

# --- Before anything is started ---------------------------------------------------------------

[ "$(id -u)" != 0 ] || fail "jobs do not run as root: the daemon must log in as an ordinary user"

for executor_file in "$JARVICE_JOB_SCRATCH_DIR.jarvice_custom_env" "$HOME/.jarvice_custom_env"; do
    if [ -r "$executor_file" ]; then
        # shellcheck source=/dev/null
        . "$executor_file"
        say_more "sourced $executor_file"
        break
    fi
done

find_tool() {
    executor_tool=$(command -v apptainer || command -v singularity) ||
        fail "neither apptainer nor singularity is in the PATH ($PATH); .jarvice_custom_env may load it"
    executor_version=$("$executor_tool" --version) || fail "$executor_tool does not start"
    case $executor_version in
    apptainer*) executor_prefix=APPTAINER ;;
    *) executor_prefix=SINGULARITY ;;
    esac
    [ "${SV_FLAG:-}" ] || SV_FLAG=-s
}

# Overlay size 0 asks for a tmpfs, which ordinary users get from 3.11.3 on.
check_tmpfs() {
    local number
    [ "$executor_prefix" = SINGULARITY ] || return 0
    number=$(sed -E 's/.*version //; s/^([0-9]+\.[0-9]+)-/\1./' <<<"$executor_version")
    [ "$(printf '%s\n' 3.11.3 "$number" | sort -V | head -n 1)" = 3.11.3 ] ||
        fail "overlay size 0 needs Singularity 3.11.3 or newer, and this is $executor_version;" \
            "set an overlay size in MB (device overlay=, or JARVICE_SLURM_OVERLAY_SIZE)"
}

find_tool
executor_overlay_size=${JARVICE_SINGULARITY_OVERLAY_SIZE:-0}
[ "$executor_overlay_size" != 0 ] || check_tmpfs
case $executor_job$JARVICE_SINGULARITY_TMPDIR in
*[:,]*) fail "folders with ':' or ',' in their names can't be bound into a container: $executor_job" ;;
esac
executor_tmpdir=${JARVICE_SINGULARITY_TMPDIR:-/tmp}
mkdir -p "$executor_tmpdir" || fail "the work folder $executor_tmpdir can't be made"
export "${executor_prefix}_TMPDIR=$executor_tmpdir"

say "job $JOB_JOBID as $(id -un), node $((executor_rank + 1)) of ${JOB_NNODES:-1}," \
    "kernel $(uname -r), $executor_version, Slurm ${SLURM_CLUSTER_NAME:-} $(srun --version 2>/dev/null)"
say "image $JARVICE_APP_IMAGE"
say "$(free_space "$executor_job") (scratch), $(free_space "$executor_tmpdir") (work)"
if [ "${SV:-}" = true ]; then
    say "$executor_tool in PATH $PATH"
    env | grep -E '^(SLURM|JOB|PROCESS)_' | sort
    ulimit -a
fi

# --- Ending -----------------------------------------------------------------------------------

# The container's processes, but for the first, which only waits for the others.
container_processes() {
    local process
    for process in /proc/[0-9]*; do
        [ "${process#/proc/}" != "$executor_boot" ] || continue
        [ "$(readlink "$process/ns/mnt" 2>/dev/null)" = "$executor_mounts" ] || continue
        # A namespace's number may have been given away again: the job's must stand there too.
        { tr '\0' '\n' <"$process/environ" | grep -qx "JOB_JOBID=$JOB_JOBID"; } 2>/dev/null || continue
        echo "${process#/proc/}"
    done
}

# Fails when there was none to send it to.
signal_container() {
    local process found=
    [ -n "$executor_mounts" ] || return 1
    for process in $(container_processes); do
        kill "-$1" "$process" 2>/dev/null && found=yes
    done
    [ "$found" ]
}

# With proctrack/cgroup SIGTERM reaches only the step's first process, with proctrack/linuxproc
# every process; the command is to get it once.
tell_container() {
    : >"$executor_node/JARVICE/.ending"
    sleep 0.5
    if kill -0 "$executor_canary" 2>/dev/null; then signal_container TERM; fi
}

on_term() {
    [ -z "$executor_ending" ] || return 0
    executor_ending=yes
    say "told to end after $(since "$executor_start"); the command has until Slurm's KillWait"
    [ -z "$executor_puller" ] || kill -TERM -- "-$executor_puller" 2>/dev/null
    [ -z "$executor_boot" ] || tell_container
}

on_exit() {
    local status=$? tries=0
    trap '' TERM
    [ -z "$executor_puller" ] || kill -TERM -- "-$executor_puller" 2>/dev/null
    # What the command left running ends with it.
    while signal_container TERM && [ $((tries += 1)) -le 20 ]; do sleep 0.1; done
    signal_container KILL
    [ -z "$executor_canary" ] || kill -KILL "$executor_canary" 2>/dev/null
    [ -z "$executor_node" ] || rm -rf -- "$executor_node" 2>/dev/null
    exit "$status"
}
trap on_term TERM
trap on_exit EXIT
sleep infinity >/dev/null 2>&1 &
executor_canary=$!
disown "$executor_canary"

# Wait until a file stands in the job's folder. Listing the folder makes an NFS client look anew.
wait_for() {
    local failed
    until ls "$executor_job" >/dev/null && [ -e "$executor_job/$1" ]; do
        for failed in "$executor_job"/failed.*; do [ ! -e "$failed" ] || exit 1; done
        [ -z "$executor_ending" ] || exit 143
        pause 0.5
    done
}

# Write a file of the job's folder so that other nodes see all of it or none.
leave() {
    printf '%s\n' "$2" >"$executor_job/.$1.$$" && mv -f "$executor_job/.$1.$$" "$executor_job/$1"
}

# --- Images -----------------------------------------------------------------------------------

# Runs with the credentials in its environment: asks the registry what the name stands for now,
# and unless that has been converted before, pulls and converts it. Prints the file's path.
#
# The container tool's own cache does it: it writes beside, renames when it is done, and knows an
# image by its digest. So a changed tag is a new file, and nobody gets an image that his own
# credentials do not open. One folder an image, whose lock makes the others wait.
pull_locked() {
    local folder=$1 image=$2 path
    mkdir -p "$folder" || return 1
    exec 9>>"$folder/lock" || return 1
    if ! flock -n 9; then
        say "waits for another job that pulls $image" >&2
        flock 9 || return 1
    fi
    export "${executor_prefix}_CACHEDIR=$folder"
    path=$("$executor_tool" "$SV_FLAG" exec --cleanenv "$image" \
        /bin/sh -c 'echo "$SINGULARITY_CONTAINER"' 9>&- </dev/null | tail -n 1)
    [ -f "$path" ] || return 1
    if [ "$(find "$path" -newer "$executor_node/begun")" ]; then
        "$executor_tool" "$SV_FLAG" cache clean --force --type blob >/dev/null 2>&1 9>&-
        forget_images
    fi
    # So that what is used stays young: see forget_images.
    touch "$folder" "$path"
    echo "$path"
}

# Remove images that nobody has used for a season; called after space was taken.
forget_images() {
    local days=${JARVICE_IMAGE_DAYS:-90} folder
    [ "$days" != 0 ] || return 0
    for folder in "$executor_images"/*/; do
        if [ -e "$folder/lock" ] && [ "$(find "$folder" -maxdepth 0 -mtime "+$days")" ]; then
            (flock -n 8 && rm -rf -- "$folder") 8>>"$folder/lock"
        fi
    done
}

# pull <image> <user, base64> <password, base64> <result>: the result is the path of a file.
pull() {
    local image=$1 name began
    began=$(now)
    if [ "${image#/}" != "$image" ]; then
        [ -r "$image" ] || fail "the image $image is not there on $executor_host"
        printf '%s\n' "$image" >"$4"
        return
    fi
    name=${image#docker://}
    name=${name//[^A-Za-z0-9._-]/_}-$(sha256sum <<<"$image" | cut -c 1-12)
    : >"$executor_node/begun"
    # A process group of its own, to be ended as one.
    set -m
    (
        set +m
        trap - TERM EXIT
        [ -z "${SCHTTP_PROXY:-}" ] || export http_proxy=$SCHTTP_PROXY HTTP_PROXY=$SCHTTP_PROXY
        [ -z "${SCHTTPS_PROXY:-}" ] || export https_proxy=$SCHTTPS_PROXY HTTPS_PROXY=$SCHTTPS_PROXY
        [ -z "${SCNO_PROXY:-}" ] || export no_proxy=$SCNO_PROXY NO_PROXY=$SCNO_PROXY
        if [ -n "$2" ]; then
            export "${executor_prefix}_DOCKER_USERNAME=$(base64 -d <<<"$2")"
            export "${executor_prefix}_DOCKER_PASSWORD=$(base64 -d <<<"$3")"
        fi
        unset JARVICE_DOCKER_USERNAME JARVICE_DOCKER_PASSWORD
        unset JARVICE_INIT_DOCKER_USERNAME JARVICE_INIT_DOCKER_PASSWORD
        pull_locked "$executor_images/$name" "$image"
    ) >"$4" </dev/null &
    executor_puller=$!
    set +m
    while kill -0 "$executor_puller" 2>/dev/null; do wait "$executor_puller"; done
    executor_puller=
    [ -z "$executor_ending" ] || exit 143
    [ -s "$4" ] || fail "the image $image can't be had: the reason stands above" \
        "(as user '$(base64 -d <<<"$2")', http proxy '${SCHTTP_PROXY##*@}', https proxy '${SCHTTPS_PROXY##*@}')"
    say "image $(megabytes "$(cat "$4")") MB, ready after $(since "$began"): $(cat "$4")"
}

# The first node pulls for all, and leaves the paths to the others.
get_images() {
    if [ "$executor_rank" = 0 ]; then
        if [ "$executor_init" = true ]; then
            pull "$JARVICE_INIT_IMAGE" "${JARVICE_INIT_DOCKER_USERNAME:-}" \
                "${JARVICE_INIT_DOCKER_PASSWORD:-}" "$executor_node/init"
            leave init_image "$(cat "$executor_node/init")"
        fi
        pull "$JARVICE_APP_IMAGE" "${JARVICE_DOCKER_USERNAME:-}" \
            "${JARVICE_DOCKER_PASSWORD:-}" "$executor_node/app"
        leave image "$(cat "$executor_node/app")"
    fi
    unset JARVICE_DOCKER_USERNAME JARVICE_DOCKER_PASSWORD
    unset JARVICE_INIT_DOCKER_USERNAME JARVICE_INIT_DOCKER_PASSWORD
    wait_for image
    executor_image=$(cat "$executor_job/image")
}

# --- The container ----------------------------------------------------------------------------

quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }

# /etc/JARVICE, as JARVICE's applications expect it.
make_etc() {
    local etc=$executor_node/JARVICE node core name value
    mkdir -p "$etc" || fail "the node's folder $executor_node can't be made"
    for node in $JOB_JOB_FORMATED_NODELIST; do
        echo "$node" >>"$etc/nodes"
        for ((core = 0; core < executor_cores; core++)); do echo "$node"; done >>"$etc/cores"
    done
    printf 'JOB_NAME=%s\n' "$(quoted "${SLURM_JOB_NAME#jarvice_}")" >"$etc/jobinfo.sh"
    for name in JOB_LABEL JOB_PUBLICADDR JARVICE_SERVICE_PORT JARVICE_SSH_PORT JARVICE_INGRESSPATH; do
        value=APPTAINERENV_$name
        printf '%s=%s\n' "$name" "$(quoted "${!value-${!name-}}")" >>"$etc/jobinfo.sh"
    done
    mkfifo "$etc/.alive" "$etc/.hold" || fail "no FIFO can be made in $etc"
}

# The container's disk. It has no name any more once the container is up: then it is gone with the
# container, whatever becomes of us.
make_overlay() {
    local size=$executor_overlay_size began
    began=$(now)
    executor_disk=(--writable-tmpfs)
    if [ "$size" = 0 ]; then
        say "writable tmpfs"
        return
    fi
    [ "$size" -ge 64 ] || size=64
    "$executor_tool" "$SV_FLAG" overlay create --size "$size" "$executor_node/overlay.img" ||
        fail "no overlay of $size MB can be made: $(free_space "$executor_node")"
    executor_disk=(--overlay "$executor_node/overlay.img")
    say "overlay of $size MB, made in $(since "$began")"
}

# Without setuid the container's disks are served by FUSE processes, and where Slurm sends SIGTERM
# to every process these would be the first to go, and the command lose its disk while it saves its
# work. FUSE leaves a signal that is ignored alone (libfuse, fuse_signals.c).
shield_fuse() {
    local helper path
    mkdir -p "$executor_node/fuse"
    for helper in squashfuse_ll squashfuse fuse2fs fuse-overlayfs; do
        path=$(PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$helper") || continue
        printf '#!/bin/sh\ntrap "" TERM\nexec %s "$@"\n' "$(quoted "$path")" \
            >"$executor_node/fuse/$helper"
    done
    printf '#!/bin/sh\n' >"$executor_node/fuse/check"
    chmod 700 "$executor_node/fuse"/*
    if "$executor_node/fuse/check" 2>/dev/null; then
        executor_path=$executor_node/fuse:$PATH
    else
        say_more "scratch is mounted noexec: FUSE is not shielded from SIGTERM"
        executor_path=$PATH
    fi
}

# The container's first process. It starts the command when we have seen that the container is up.
# It outlives SIGTERM, which is the command's; and when the command was a shell that died of it,
# waits for what the shell had started: that may be saving its work.
executor_boot_text='
exec 7<>/etc/JARVICE/.alive 6</etc/JARVICE/.alive
jarvice_text=$(cat /etc/JARVICE/.command) || exit 125
jarvice_ending=
trap jarvice_ending=yes TERM
for jarvice_file in url.txt help.html; do
    [ ! -r "/etc/NAE/$jarvice_file" ] || cat "/etc/NAE/$jarvice_file" >"/etc/JARVICE/.$jarvice_file"
done
echo $$ >/etc/JARVICE/.pid
: >/etc/JARVICE/.up
read -r jarvice_line </etc/JARVICE/.hold
(exec 6<&-; eval "$jarvice_text")
jarvice_code=$?
exec 7>&-
[ "$jarvice_code" != 143 ] || sleep 1
if [ "$jarvice_ending" ] || [ -e /etc/JARVICE/.ending ]; then cat <&6 >/dev/null; fi
exit "$jarvice_code"
'

# What was told to end before it began does not begin.
executor_begin_text='if [ "$jarvice_ending" ] || [ -e /etc/JARVICE/.ending ]; then exit 143; fi'

# On the other nodes: up until the first node is done, whatever Slurm sends.
executor_hold_text='trap "" TERM; read -r jarvice_line </etc/JARVICE/.hold'

start_container() {
    local gpu=() binds began
    began=$(now)
    binds=(-B "$executor_node/JARVICE:/etc/JARVICE" -B "$JARVICE_JOB_SCRATCH_DIR" -B /:/data)
    [ ! -d "${JARVICE_JOB_GLOBAL_SCRATCH_DIR:-}" ] || binds+=(-B "$JARVICE_JOB_GLOBAL_SCRATCH_DIR")
    if [ "$executor_gpus" != 0 ] || [ "${JOB_GPUS_PER_NODE:-0}" != 0 ]; then
        if [ -r "$HOME/.jarvice_cuda_env" ]; then
            # shellcheck source=/dev/null
            . "$HOME/.jarvice_cuda_env"
        fi
        gpu=(--nv)
    fi
    if [ "$executor_init" = true ]; then
        mkdir -p "$executor_node/opt"
        binds+=(-B "$executor_node/opt:/opt/JARVICE")
        "$executor_tool" "$SV_FLAG" run "${binds[@]}" "$(cat "$executor_job/init_image")" ||
            fail "the init image ended with exit status $?"
    fi
    if [ "$executor_rank" = 0 ]; then
        printf '%s\n' "$executor_begin_text" "$executor_command"
    else
        [ -z "$executor_worker" ] || printf '(%s\n) &\n' "$executor_worker"
        printf '%s\n' "$executor_hold_text"
    fi >"$executor_node/JARVICE/.command"
    [ -z "$executor_ending" ] || exit 143
    (
        trap : TERM
        trap - EXIT
        # bash has something to say of a process that is killed; its exit status is enough.
        exec 8>&2 2>/dev/null
        PATH=$executor_path "$executor_tool" "$SV_FLAG" exec "${gpu[@]}" "${executor_disk[@]}" \
            "${binds[@]}" "$executor_image" /bin/sh -c "$executor_boot_text" </dev/null 2>&8 8>&-
        echo $? >"$executor_node/code"
    ) &
    executor_container=$!
    until [ -e "$executor_node/JARVICE/.up" ]; do
        if ! kill -0 "$executor_container" 2>/dev/null; then
            [ -z "$executor_ending" ] || exit 143
            fail "the container did not start (exit status $(cat "$executor_node/code")):" \
                "the reason stands above"
        fi
        pause 0.1
    done
    executor_boot=$(cat "$executor_node/JARVICE/.pid")
    executor_mounts=$(readlink "/proc/$executor_boot/ns/mnt")
    # Where the site gives containers their own process numbers, that was somebody else.
    [ "$executor_mounts" != "$(readlink /proc/self/ns/mnt)" ] || executor_mounts=
    # Neither the disk nor the command's text (it may hold secrets) need a name any longer.
    rm -f "$executor_node/overlay.img" "$executor_node/JARVICE/.command"
    [ "$executor_rank" != 0 ] || leave_words
    say "container up after $(since "$began"), $(since "$executor_start") after the start"
    [ -z "$executor_ending" ] || tell_container
    echo go >&5
}

# What the image says of an interactive application's address and help: the daemon reads it.
leave_words() {
    local file
    for file in url.txt help.html; do
        [ ! -f "$executor_node/JARVICE/.$file" ] ||
            mv -f "$executor_node/JARVICE/.$file" "$executor_job/$file"
    done
}

# Until the container has ended; leaves its exit status in executor_code.
wait_for_container() {
    while kill -0 "$executor_container" 2>/dev/null; do wait "$executor_container"; done
    executor_code=$(cat "$executor_node/code" 2>/dev/null || echo 137)
}

# --- The job ----------------------------------------------------------------------------------

executor_node=$executor_job/node.$executor_rank
make_etc
exec 5<>"$executor_node/JARVICE/.hold"
get_images
make_overlay
shield_fuse

if [ "$executor_rank" = 0 ]; then
    for ((executor_other = 1; executor_other < ${JOB_NNODES:-1}; executor_other++)); do
        executor_others+=("$executor_other")
    done
    for executor_other in "${executor_others[@]}"; do wait_for "up.$executor_other"; done
    executor_began=$(now)
    start_container
    wait_for_container
    leave "done" "$executor_code"
    say "the command ended with exit status $executor_code after $(since "$executor_began")"
    exit "$executor_code"
fi

start_container
leave "up.$executor_rank" "$executor_boot"
until ls "$executor_job" >/dev/null && [ -e "$executor_job/done" ]; do
    kill -0 "$executor_container" 2>/dev/null || fail "the container ended before the job"
    pause 1
done
echo end >&5
wait_for_container
say "ended with the job after $(since "$executor_start")"
exit 0
