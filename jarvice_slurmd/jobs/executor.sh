# What a job submitted as `job` runs, once on each of its nodes, as the job's owner: its command, in
# a container of its image, on the first node; on every other node a container that stays up for it.
# docs/executor.md describes this for the administrator of the cluster.
#
# "The job", at the end, is what happens, in order; the functions before it stand in about that order.
#
# bash runs this text from memory (there is no file of it on the node, and no $0). Before it stand
#   PROCESS_*, JOB_*, JARVICE_*, SV…   what every job's text is given (PROTOCOL §2)
#   executor_command   shell text for the container on the first node
#   executor_worker    shell text for the containers on the other nodes; empty: they wait
#   executor_cores     cores a node
#   executor_gpus      GPUs a node, 0 for none
#   executor_init      true: the init image runs before the application
#
# What it leaves in the job's folder is what the nodes tell each other:
#   image, init_image   the paths of the images' files, once the first node has them
#   up.<n>              the container of node n, which is not the first, is up
#   failed.<n>          node n can't go on, and why: then no node goes on
#   done                the command's exit status
#   url.txt, help.html  what the image says of an interactive application, for the daemon
#   node.<n>/           a node's own files; removed at its end, after SIGKILL by batch.sh
#
# shellcheck shell=bash
# shellcheck disable=SC2154  # these are set before this text
# shellcheck disable=SC2016  # text for the container expands in the container
# shellcheck disable=SC2317  # traps call what seems unreachable

# --- Before anything else: no password for whom we start, not as root, the site's environment ----

# They are variables of this shell from here on: only the pull itself gets them, and it alone.
export -n JARVICE_DOCKER_USERNAME JARVICE_DOCKER_PASSWORD
export -n JARVICE_INIT_DOCKER_USERNAME JARVICE_INIT_DOCKER_PASSWORD

if [ "$(id -u)" = 0 ]; then
    echo "jarvice ${PROCESS_NODENAME:-$(hostname)}: error: jobs do not run as root;" \
        "the daemon must log in as an ordinary user" >&2
    exit 1
fi

# The path of a file by which the site prepares its jobs: in the scratch folder, else in the home.
site_file() {
    local file
    for file in "$JARVICE_JOB_SCRATCH_DIR$1" "$HOME/$1"; do
        [ ! -r "$file" ] || { echo "$file"; return; }
    done
    return 1
}

# What a trap says when such a file ends the shell that sources it: by exit, or by set -e or -u.
site_file_ended() {
    set -- "$1" "$?" "${JARVICE_JOB_SCRATCH_DIR}.jarvice/jobs/$JOB_JOBID"
    set +eu
    set -- "$1 ended the job with exit status $2; it is sourced, so it must not exit" "$3"
    echo "jarvice ${PROCESS_NODENAME:-$(hostname)}: error: $1" >&2
    [ ! -d "$2" ] || echo "${PROCESS_NODENAME:-$(hostname)}: $1" >"$2/failed.${PROCESS_PROCID:-0}"
}

# Sourced here and not in a function, where what it declares would be lost. The options that it sets
# for its own lines don't stay.
executor_options=$(set +o; shopt -p)
if executor_custom_env=$(site_file .jarvice_custom_env); then
    trap 'site_file_ended "$executor_custom_env"; exit 1' EXIT
    # shellcheck source=/dev/null
    . "$executor_custom_env"
    trap - EXIT
    eval "$executor_options"
fi

# --- What is known, and what comes to be ------------------------------------------------------

umask 077
executor_start=$(date +%s%3N)
executor_self=$BASHPID
executor_rank=${PROCESS_PROCID:-0}
executor_host=${PROCESS_NODENAME:-$(hostname)}
executor_tmpdir=${JARVICE_SINGULARITY_TMPDIR:-/tmp}
executor_overlay_size=${JARVICE_SINGULARITY_OVERLAY_SIZE:-0}
executor_images_folder=${JARVICE_JOB_SCRATCH_DIR}.jarvice/images
executor_job_folder=${JARVICE_JOB_SCRATCH_DIR}.jarvice/jobs/$JOB_JOBID
executor_node_folder=   # this node's own folder in the job's folder, once it is made
executor_work_folder=   # and this job's own in the work folder, which is the node's
executor_tool=          # apptainer or singularity, and
executor_version=       #     what it calls itself, and
executor_prefix=        #     how the variables begin that it reads
executor_ending=        # Slurm has told us to end
executor_canary=        # dies of SIGTERM when Slurm sends it to every process, not to us alone
executor_far_canary=    #     and this one when it finds those too that left us, as daemons do
executor_apart=         # the process group that pulls, or whatever else comes before the command
executor_container=     # the process that runs the container tool, and
executor_first=         #     the container's first process, and
executor_mounts=        #     its mount namespace, which tells the container's processes from others
executor_code=          # the container's exit status

# --- Saying things ----------------------------------------------------------------------------

# bash tells of a process that was killed by showing the command that started it: our text, which has
# no place in the user's output. So what may take long is waited for with 2>/dev/null, and the job's
# own standard error is 8.
exec 8>&2

say() { printf 'jarvice %s: %s\n' "$executor_host" "$*"; }
say_more() { [ "${SV:-}" != true ] || say "$@"; }

fail() {
    printf 'jarvice %s: error: %s\n' "$executor_host" "$*" >&8
    [ ! -d "$executor_job_folder" ] ||
        echo "$executor_host: $*" >"$executor_job_folder/failed.$executor_rank"
    exit 1
}

now() { date +%s%3N; }
since() {
    local tenths=$((($(now) - $1) / 100))
    echo "$((tenths / 10)).$((tenths % 10)) s"
}
megabytes() { du -Lm "$1" 2>/dev/null | cut -f1; }
free_space() { df -Pm "$1" 2>/dev/null | awk 'NR == 2 { print $4 " MB free in " $6 }'; }

# Where the job runs, on what, and of what; with JARVICE_SINGULARITY_VERBOSE everything else.
introduce() {
    say "job $JOB_JOBID as $(id -un), node $((executor_rank + 1)) of ${JOB_NNODES:-1}," \
        "kernel $(uname -r), $executor_version," \
        "Slurm ${SLURM_CLUSTER_NAME:-} $(srun --version 2>/dev/null)"
    say "image $JARVICE_APP_IMAGE"
    say "$(free_space "$executor_job_folder") (scratch), $(free_space "$executor_tmpdir") (work)"
    if [ "${SV:-}" = true ]; then
        say "$executor_tool in PATH $PATH"
        say "sourced ${executor_custom_env:-nothing}"
        env | grep -E '^(SLURM|JOB|PROCESS)_' | sort
        ulimit -a
    fi
}

# --- Waiting, and telling the other nodes -----------------------------------------------------

# A pause that SIGTERM cuts short.
pause() {
    {
        sleep "$1" >/dev/null &
        wait $!
    } 2>/dev/null
}

# Until a process of ours has ended. A signal that a trap catches interrupts wait, not this.
wait_for_end() {
    {
        while kill -0 "$1"; do wait "$1"; done
        wait "$1"
    } 2>/dev/null
}

# Run what may take long in a process group of its own: when the job is told to end, that ends.
apart() {
    local status
    [ -z "$executor_ending" ] || exit 143
    set -m
    (
        set +m
        trap - TERM EXIT
        "$@"
    ) </dev/null &
    executor_apart=$!
    set +m
    wait_for_end "$executor_apart"
    status=$?
    if [ -n "$executor_ending" ]; then
        # It may have started something just as it was told.
        kill -KILL -- "-$executor_apart" 2>/dev/null
        exit 143
    fi
    executor_apart=
    return "$status"
}

# Until a file stands in the job's folder. Listing the folder makes an NFS client look anew.
wait_for_file() {
    local failed
    until ls "$executor_job_folder" >/dev/null && [ -e "$executor_job_folder/$1" ]; do
        for failed in "$executor_job_folder"/failed.*; do [ ! -e "$failed" ] || exit 1; done
        [ -z "$executor_ending" ] || exit 143
        pause 0.5
    done
}

# Write a file of the job's folder so that other nodes see all of it or none.
leave() {
    printf '%s\n' "$2" >"$executor_job_folder/.$1.$$" &&
        mv -f "$executor_job_folder/.$1.$$" "$executor_job_folder/$1"
}

# --- The container tool -----------------------------------------------------------------------

find_tool() {
    executor_tool=$(command -v apptainer || command -v singularity) ||
        fail "neither apptainer nor singularity is in the PATH ($PATH); .jarvice_custom_env may load it"
    executor_version=$("$executor_tool" --version) || fail "$executor_tool does not start"
    case $executor_version in
    apptainer*) executor_prefix=APPTAINER ;;
    *) executor_prefix=SINGULARITY ;;
    esac
}

# Run the container tool.
tool() {
    { "$executor_tool" "${SV_FLAG:--s}" "$@" 2>&8 8>&-; } 2>/dev/null
}

# Overlay size 0 asks for a tmpfs, which ordinary users get from Singularity 3.11.3 on.
check_tmpfs() {
    local number
    [ "$executor_prefix" = SINGULARITY ] || return 0
    number=$(sed -E 's/.*version //; s/^([0-9]+\.[0-9]+)-/\1./' <<<"$executor_version")
    [ "$(printf '%s\n' 3.11.3 "$number" | sort -V | head -n 1)" = 3.11.3 ] ||
        fail "overlay size 0 needs Singularity 3.11.3 or newer, and this is $executor_version;" \
            "set an overlay size in MB (device overlay=, or JARVICE_SLURM_OVERLAY_SIZE)"
}

check_folders() {
    local folder
    for folder in "$executor_job_folder" "$executor_tmpdir"; do
        case $folder in
        *[:,]*) fail "the container tool takes no folder with ':' or ',' in its name: $folder" ;;
        esac
    done
    mkdir -p "$executor_tmpdir" || fail "the work folder $executor_tmpdir can't be made"
}

# --- The node's own files ---------------------------------------------------------------------

# A word for a shell.
quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }

# The node's folder, and in it /etc/JARVICE as JARVICE's applications expect it. Two FIFOs there are
# between us and the container: .hold keeps its first process waiting until we write to it (we keep
# it open, as 5), .alive is held open by each process of the command.
make_node_folder() {
    local etc node core name value
    executor_node_folder=$executor_job_folder/node.$executor_rank
    etc=$executor_node_folder/JARVICE
    mkdir -p "$etc" || fail "the node's folder $executor_node_folder can't be made"
    # What a container tool that is killed leaves while it converts an image goes with a folder of the
    # job's own: on the first node batch.sh knows by this file where that is.
    executor_work_folder=$(mktemp -d "$executor_tmpdir/jarvice-$JOB_JOBID.XXXXXX") ||
        fail "no folder can be made in the work folder $executor_tmpdir"
    echo "$executor_work_folder" >"$executor_node_folder/work"
    export "${executor_prefix}_TMPDIR=$executor_work_folder"
    for node in $JOB_JOB_FORMATED_NODELIST; do
        echo "$node" >>"$etc/nodes"
        for ((core = 0; core < executor_cores; core++)); do echo "$node"; done >>"$etc/cores"
    done
    printf 'JOB_NAME=%s\n' "$(quoted "${SLURM_JOB_NAME#jarvice_}")" >"$etc/jobinfo.sh"
    for name in JOB_PUBLICADDR JARVICE_SERVICE_PORT JARVICE_SSH_PORT JARVICE_INGRESSPATH; do
        value=APPTAINERENV_$name
        printf '%s=%s\n' "$name" "$(quoted "${!value-${!name-}}")" >>"$etc/jobinfo.sh"
    done
    mkfifo "$etc/.alive" "$etc/.hold" || fail "no FIFO can be made in $etc"
    exec 5<>"$etc/.hold"
}

# --- Images -----------------------------------------------------------------------------------

# The first node pulls for all, and leaves the paths to the others.
get_images() {
    if [ "$executor_rank" = 0 ]; then
        if [ "$executor_init" = true ]; then
            [ -n "$JARVICE_INIT_IMAGE" ] ||
                fail "the platform names no init image (JARVICE_SYSTEM_REGISTRY is not set)"
            pull "$JARVICE_INIT_IMAGE" "${JARVICE_INIT_DOCKER_USERNAME:-}" \
                "${JARVICE_INIT_DOCKER_PASSWORD:-}" init_image
        fi
        pull "$JARVICE_APP_IMAGE" "${JARVICE_DOCKER_USERNAME:-}" "${JARVICE_DOCKER_PASSWORD:-}" image
    fi
    forget_credentials
    wait_for_file image
}

forget_credentials() {
    unset JARVICE_DOCKER_USERNAME JARVICE_DOCKER_PASSWORD
    unset JARVICE_INIT_DOCKER_USERNAME JARVICE_INIT_DOCKER_PASSWORD
}

# pull <image> <user, base64> <password, base64> <name>: leaves the path of the image's file under
# that name in the job's folder.
pull() {
    local image=$1 file=$1 began found=$executor_node_folder/$4
    began=$(now)
    if [ "${image#/}" != "$image" ]; then
        [ -r "$image" ] || fail "the image $image is not there on $executor_host"
    else
        apart pull_locked "$@"
        [ -s "$found" ] || fail "the image $image can't be had: the reason stands above" \
            "(as user '$(base64 -d <<<"$2")', http proxy '${SCHTTP_PROXY##*@}', https proxy '${SCHTTPS_PROXY##*@}')"
        file=$(cat "$found")
        say "image $(megabytes "$file") MB, ready after $(since "$began"): $file"
    fi
    leave "$4" "$file"
}

# prepare_pull <image> <user, base64> <password, base64>: the environment of the container tool when
# it pulls, proxies and credentials.
prepare_pull() {
    local user password
    [ -z "${SCHTTP_PROXY:-}" ] || export http_proxy=$SCHTTP_PROXY HTTP_PROXY=$SCHTTP_PROXY
    [ -z "${SCHTTPS_PROXY:-}" ] || export https_proxy=$SCHTTPS_PROXY HTTPS_PROXY=$SCHTTPS_PROXY
    [ -z "${SCNO_PROXY:-}" ] || export no_proxy=$SCNO_PROXY NO_PROXY=$SCNO_PROXY
    if [ -n "$2" ]; then
        user=$(base64 -d <<<"$2") password=$(base64 -d <<<"$3")
        export "${executor_prefix}_DOCKER_USERNAME=$user" "${executor_prefix}_DOCKER_PASSWORD=$password"
    fi
    # A registry proxy on the node itself (JARVICE_REGISTRY_PROXY_PORT) needs no TLS, as with docker.
    case $1 in
    docker://localhost[:/]*) export "${executor_prefix}_NOHTTPS=1" ;;
    esac
}

# pull_locked, given the same: ask the registry what the image's name stands for now and, unless that
# has been converted before, pull and convert it; note the file's path in the node's folder.
#
# The container tool's own cache does it: it writes beside, renames when it is done, and knows an
# image by its digest. So a changed tag is a new file, and nobody gets an image that his own
# credentials do not open. One folder an image, whose lock makes the others wait.
pull_locked() {
    local image=$1 folder path begun=$executor_node_folder/begun
    folder=${image#docker://}
    folder=${folder//[^A-Za-z0-9._-]/_}-$(sha256sum <<<"$image" | cut -c 1-12)
    folder=$executor_images_folder/$folder
    : >"$begun"
    mkdir -p "$folder" || return 1
    exec 9>>"$folder/lock" || return 1
    if ! flock -n 9; then
        say "waits for another job that pulls $image" >&8
        flock 9 || return 1
    fi
    # Whoever wrote these was killed: he would hold the lock.
    rm -rf -- "$folder"/cache/oci-tmp/tmp_*
    export "${executor_prefix}_CACHEDIR=$folder"
    path=$(
        prepare_pull "$@"
        tool exec --cleanenv "$image" /bin/sh -c 'echo "$SINGULARITY_CONTAINER"' 9>&-
    )
    path=${path##*$'\n'}
    [ -f "$path" ] || return 1
    if [ "$(find "$path" -newer "$begun")" ]; then
        tool cache clean --force --type blob >/dev/null 8>/dev/null 9>&-
        forget_images
    fi
    # So that what is used stays young: see forget_images.
    touch "$folder" "$path"
    echo "$path" >"$executor_node_folder/$4"
}

# Remove images that nobody has used for a season; called after space was taken.
forget_images() {
    local days=${JARVICE_IMAGE_DAYS:-90} folder
    [ "$days" != 0 ] || return 0
    for folder in "$executor_images_folder"/*/; do
        if [ -e "$folder/lock" ] && [ "$(find "$folder" -maxdepth 0 -mtime "+$days")" ]; then
            (flock -n 7 && rm -rf -- "$folder") 7>>"$folder/lock"
        fi
    done
}

# --- The container ----------------------------------------------------------------------------

# The container's disk. It has no name any more once the container is up: then it is gone with the
# container, whatever becomes of us.
make_overlay() {
    local size=$executor_overlay_size began free
    began=$(now)
    executor_disk=(--writable-tmpfs)
    if [ "$size" = 0 ]; then
        say "writable tmpfs"
        return
    fi
    # The container tool makes none that is smaller.
    [ "$size" -ge 64 ] || size=64
    # The scratch folder is everybody's: what does not fit must not fill it first.
    free=$(free_space "$executor_node_folder")
    case $free in
    [0-9]*) [ "$size" -lt "${free%% *}" ] || fail "no overlay of $size MB can be made: $free" ;;
    esac
    apart tool overlay create --size "$size" "$executor_node_folder/overlay.img" ||
        fail "no overlay of $size MB can be made: $(free_space "$executor_node_folder")"
    executor_disk=(--overlay "$executor_node_folder/overlay.img")
    say "overlay of $size MB, made in $(since "$began")"
}

# Without setuid the container's disks are served by FUSE processes, and where Slurm sends SIGTERM
# to every process these would be the first to go, and the command lose its disk while it saves its
# work. FUSE leaves a signal that is ignored alone (libfuse, fuse_signals.c).
shield_fuse() {
    local helper path wrappers=$executor_node_folder/fuse
    mkdir -p "$wrappers"
    for helper in squashfuse_ll squashfuse fuse2fs fuse-overlayfs; do
        path=$(PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$helper") || continue
        printf '#!/bin/sh\ntrap "" TERM\nexec %s "$@"\n' "$(quoted "$path")" >"$wrappers/$helper"
    done
    printf '#!/bin/sh\n' >"$wrappers/check"
    chmod 700 "$wrappers"/*
    executor_path=$wrappers:$PATH
    if ! "$wrappers/check" 2>/dev/null; then
        say_more "scratch is mounted noexec: FUSE is not shielded from SIGTERM"
        executor_path=$PATH
    fi
}

# What every container of the job sees of the cluster, and of this node.
choose_binds() {
    executor_binds=(-B "$executor_node_folder/JARVICE:/etc/JARVICE")
    executor_binds+=(-B "$JARVICE_JOB_SCRATCH_DIR" -B /:/data)
    [ ! -d "${JARVICE_JOB_GLOBAL_SCRATCH_DIR:-}" ] ||
        executor_binds+=(-B "$JARVICE_JOB_GLOBAL_SCRATCH_DIR")
}

# Whether Slurm has given the job GPUs on this node, by whatever option they were asked for.
has_gpus() {
    local count
    # SLURM_JOB_GPUS lists their numbers, of which one is 0.
    for count in "$executor_gpus" "${JOB_GPUS_PER_NODE:-0}" \
        "${SLURM_GPUS_ON_NODE:-${SLURM_JOB_GPUS:+some}}"; do
        [ "${count:-0}" = 0 ] || return 0
    done
    return 1
}

run_init_image() {
    mkdir -p "$executor_node_folder/opt"
    executor_binds+=(-B "$executor_node_folder/opt:/opt/JARVICE")
    apart tool run "${executor_binds[@]}" "$(cat "$executor_job_folder/init_image")" ||
        fail "the init image ended with exit status $?"
}

# The container's first process. It starts the command when we have seen that the container is up.
# The command has a shell of its own, so that $$ is its own, too; the text comes through a pipe, as it
# may be too long for an argument. This process outlives SIGTERM, which is the command's; and when the
# command was a shell that died of it, waits for what the shell had started: that may be saving its
# work.
executor_first_text='
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
exec 8>&2 2>/dev/null
printf "%s\n" "$jarvice_text" | (
    [ -z "$jarvice_ending" ] || : >/etc/JARVICE/.ending
    exec 6<&- 9<&0 </dev/null 2>&8 8>&-
    exec /bin/sh -c "jarvice_text=\$(cat <&9); exec 9<&-; eval \"\$jarvice_text\""
)
jarvice_code=$?
exec 7>&-
[ "$jarvice_code" != 143 ] || sleep 1
if [ "$jarvice_ending" ] || [ -e /etc/JARVICE/.ending ]; then cat <&6 >/dev/null; fi
exit "$jarvice_code"
'

# On the first node: what was told to end before it began does not begin.
executor_begin_text='if [ -e /etc/JARVICE/.ending ]; then exit 143; fi'

# On the other nodes: up until the first node is done, whatever Slurm sends.
executor_hold_text='trap "" TERM; read -r jarvice_line </etc/JARVICE/.hold'

write_command() {
    if [ "$executor_rank" = 0 ]; then
        printf '%s\n' "$executor_begin_text" "$executor_command"
    else
        [ -z "$executor_worker" ] || printf '(%s\n) &\n' "$executor_worker"
        printf '%s\n' "$executor_hold_text"
    fi >"$executor_node_folder/JARVICE/.command"
}

# Start the container, and when it is up, what is to run in it.
start_container() {
    local began image
    began=$(now)
    image=$(cat "$executor_job_folder/image")
    write_command
    [ -z "$executor_ending" ] || exit 143
    # A process group of its own: "kill 0" is the container's affair, and SIGINT is not ignored there.
    set -m
    (
        set +m
        trap : TERM
        trap - EXIT
        PATH=$executor_path tool exec "${executor_nv[@]}" "${executor_disk[@]}" \
            "${executor_binds[@]}" "$image" /bin/sh -c "$executor_first_text" </dev/null
        echo $? >"$executor_node_folder/code"
    ) </dev/null &
    executor_container=$!
    set +m
    until_up 2>/dev/null
    executor_first=$(cat "$executor_node_folder/JARVICE/.pid")
    executor_mounts=$(readlink "/proc/$executor_first/ns/mnt")
    # Where the site gives containers their own process numbers, that was somebody else.
    [ "$executor_mounts" != "$(readlink /proc/self/ns/mnt)" ] || executor_mounts=
    # From now on batch.sh leaves it to us to tell the container's processes.
    [ -z "$executor_mounts" ] || : >"$executor_node_folder/tells"
    # Neither the disk nor the command's text (it may hold secrets) need a name any longer.
    rm -f "$executor_node_folder/overlay.img" "$executor_node_folder/JARVICE/.command"
    [ "$executor_rank" != 0 ] || leave_words
    say "container up after $(since "$began"), $(since "$executor_start") after the start"
    [ -z "$executor_ending" ] || tell_container
    echo go >&5
}

until_up() {
    until [ -e "$executor_node_folder/JARVICE/.up" ]; do
        if ! kill -0 "$executor_container"; then
            [ -z "$executor_ending" ] || exit 143
            fail "the container did not start (exit status $(cat "$executor_node_folder/code")):" \
                "the reason stands above"
        fi
        pause 0.1
    done
}

# What the image says of an interactive application's address and help: the daemon reads it.
leave_words() {
    local file
    for file in url.txt help.html; do
        [ ! -f "$executor_node_folder/JARVICE/.$file" ] ||
            mv -f "$executor_node_folder/JARVICE/.$file" "$executor_job_folder/$file"
    done
}

wait_for_container() {
    wait_for_end "$executor_container"
    executor_code=$(cat "$executor_node_folder/code" 2>/dev/null || echo 137)
}

# On the other nodes: until the first has left how the command ended.
wait_for_first_node() {
    until ls "$executor_job_folder" >/dev/null && [ -e "$executor_job_folder/done" ]; do
        kill -0 "$executor_container" || fail "the container ended before the job"
        pause 1
    done
}

# --- Ending -----------------------------------------------------------------------------------

# SIGTERM, from Slurm: the command is told, and what has not begun does not begin. We stay.
on_term() {
    [ -z "$executor_ending" ] || return 0
    executor_ending=yes
    say "told to end after $(since "$executor_start"); the command has until Slurm's KillWait"
    [ -z "$executor_apart" ] || kill -TERM -- "-$executor_apart" 2>/dev/null
    [ -z "$executor_first" ] || tell_container
}

# With proctrack/cgroup SIGTERM reaches only the step's first process; with proctrack/linuxproc every
# descendant, but none that has left its parent for a session of its own. Each is to get it once.
tell_container() {
    local detached
    # At once: who loses his parent by SIGTERM has been told.
    detached=$(detached_processes)
    : >"$executor_node_folder/JARVICE/.ending"
    sleep 0.5
    if kill -0 "$executor_canary" 2>/dev/null; then
        signal_container TERM
    elif kill -0 "$executor_far_canary" 2>/dev/null; then
        # shellcheck disable=SC2086  # a word each
        [ -z "$detached" ] || kill -TERM $detached 2>/dev/null
    fi
}

# Fails when there was no process to send it to.
signal_container() {
    local process found=
    for process in $(container_processes); do
        kill "-$1" "$process" 2>/dev/null && found=yes
    done
    [ "$found" ]
}

# The container's processes that are in sessions of their own, and no descendants of ours.
detached_processes() {
    container_processes | awk -v ours="$executor_self" '
        NR == FNR { them[$1]; next }
        { parent[$1] = $2; session[$1] = $3 }
        END {
            for (one in them) {
                up = one
                while (up in parent && up != ours) up = parent[up]
                if (up != ours && session[one] != session[ours]) print one
            }
        }' - <(ps -e -o pid= -o ppid= -o sess=)
}

# The container's processes, but for the first, which only waits for the others.
container_processes() {
    local process
    [ -n "$executor_mounts" ] || return 0
    for process in /proc/[0-9]*; do
        [ "${process#/proc/}" != "$executor_first" ] || continue
        [ "$(readlink "$process/ns/mnt" 2>/dev/null)" = "$executor_mounts" ] || continue
        # A namespace's number may have been given away again: the job's must stand there too.
        { tr '\0' '\n' <"$process/environ" | grep -qx "JOB_JOBID=$JOB_JOBID"; } 2>/dev/null || continue
        echo "${process#/proc/}"
    done
}

# However we end, short of SIGKILL: what the command left running ends with it, and our files go.
# After SIGKILL Slurm ends the one, and batch.sh removes the other.
on_exit() {
    local status=$? tries=0 folder
    trap '' TERM
    [ -z "$executor_apart" ] || kill -TERM -- "-$executor_apart" 2>/dev/null
    while signal_container TERM && [ $((tries += 1)) -le 20 ]; do sleep 0.1; done
    signal_container KILL
    [ -z "$executor_container" ] || kill -KILL -- "-$executor_container" 2>/dev/null
    [ -z "$executor_canary" ] || kill -KILL "$executor_canary" "$executor_far_canary" 2>/dev/null
    for folder in "$executor_work_folder" "$executor_node_folder"; do
        [ -z "$folder" ] || rm -rf -- "$folder" 2>/dev/null
    done
    exit "$status"
}

# --- The job ----------------------------------------------------------------------------------

trap on_term TERM
trap on_exit EXIT
sleep infinity >/dev/null 2>&1 8>&- &
executor_canary=$!
disown "$executor_canary"
executor_far_canary=$(
    setsid sh -c 'echo $$; exec tail --pid="$1" -f /dev/null >/dev/null 2>&1' sh "$executor_self" \
        </dev/null 8>&- &
)

find_tool
[ "$executor_overlay_size" != 0 ] || check_tmpfs
check_folders
introduce

make_node_folder
get_images
make_overlay
shield_fuse
choose_binds
executor_nv=()
if has_gpus; then
    if executor_cuda_env=$(site_file .jarvice_cuda_env); then
        trap 'site_file_ended "$executor_cuda_env" 2>&8; (exit 1); on_exit' EXIT
        # shellcheck source=/dev/null
        . "$executor_cuda_env"
        trap on_exit EXIT
        eval "$executor_options"
        say_more "sourced $executor_cuda_env"
    fi
    executor_nv=(--nv)
fi
[ "$executor_init" != true ] || run_init_image

if [ "$executor_rank" = 0 ]; then
    for ((executor_other = 1; executor_other < ${JOB_NNODES:-1}; executor_other++)); do
        wait_for_file "up.$executor_other"
    done
    executor_began=$(now)
    start_container
    wait_for_container
    leave "done" "$executor_code"
    say "the command ended with exit status $executor_code after $(since "$executor_began")"
    exit "$executor_code"
fi

start_container
leave "up.$executor_rank" "$executor_first"
wait_for_first_node 2>/dev/null
echo end >&5
wait_for_container
say "ended with the job after $(since "$executor_start")"
exit 0
