# The rest of the short job that says what a compute node is like, as lines `name=value`.
# Before it stand container_tool.sh, and
#   jarvice_path    the PATH that Slurm gives jobs, before .jarvice_custom_env was sourced
#   jarvice_work    the check's folder, which the login node has made and holds a lock in
#   jarvice_tmpdir  where images are unpacked
# shellcheck shell=bash
# shellcheck disable=SC2154  # these are set before this text

echo "host=${SLURMD_NODENAME:-$(hostname)}"
echo "user_id=$(id -u)"

# The login node holds this lock: whoever gets it here has no lock at all.
flock -n "$jarvice_work/lock" true
echo "lock=$?"

# What every job calls (jobs/batch.sh), and what executor.sh does after .jarvice_custom_env.
for jarvice_name in ps awk grep sed srun scontrol; do
    (PATH=$jarvice_path; command -v "$jarvice_name") >/dev/null ||
        jarvice_missing="$jarvice_missing $jarvice_name"
done
for jarvice_name in find flock sha256sum; do
    command -v "$jarvice_name" >/dev/null || jarvice_missing="$jarvice_missing $jarvice_name"
done
echo "missing=$jarvice_missing"

if mkdir -p "$jarvice_tmpdir" && jarvice_room=$(mktemp -d "$jarvice_tmpdir/jarvice-check.XXXXXX"); then
    trap 'rm -rf "$jarvice_room"' EXIT
    echo "tmp_free=$(df -Pk "$jarvice_room" | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)"
else
    echo "tmp_free="
fi

# try <name> <words...>: says `<name>=0`, or the last thing that was said when it failed.
try() {
    local name=$1 said
    shift
    if said=$(timeout 120 "$@" 2>&1 </dev/null); then
        echo "$name=0"
    else
        echo "$name=$(tail -n 1 <<<"${said:-it said nothing}" | tr -d '\r' | head -c 300)"
        return 1
    fi
}

# An image of empty folders, and the node's own programs in it: nothing has to be pulled.
if [ -n "$jarvice_tool" ] && [ -n "$jarvice_room" ]; then
    jarvice_binds=()
    umask 022  # in the image all of it is root's
    mkdir -p "$jarvice_room/root"/{dev,etc,home,proc,root,sys,tmp,usr,var/tmp}
    for jarvice_name in bin sbin lib lib32 lib64 libx32; do
        if [ -L "/$jarvice_name" ]; then
            ln -s "$(readlink "/$jarvice_name")" "$jarvice_room/root/$jarvice_name"
        elif [ -d "/$jarvice_name" ]; then
            mkdir "$jarvice_room/root/$jarvice_name"
            jarvice_binds+=(-B "/$jarvice_name")
        fi
    done
    jarvice_write='echo yes >/jarvice-written && read -r found </jarvice-written && [ "$found" = yes ]'
    export APPTAINER_TMPDIR=$jarvice_room SINGULARITY_TMPDIR=$jarvice_room
    try image "$jarvice_tool" build "$jarvice_room/image.sif" "$jarvice_room/root"
    try overlay_file "$jarvice_tool" overlay create --size 64 "$jarvice_work/overlay.img" &&
        try overlay "$jarvice_tool" exec -B /usr "${jarvice_binds[@]}" \
            --overlay "$jarvice_work/overlay.img" "$jarvice_room/image.sif" /bin/sh -c "$jarvice_write"
    rm -f "$jarvice_work/overlay.img"
    try tmpfs "$jarvice_tool" exec -B /usr "${jarvice_binds[@]}" \
        --writable-tmpfs "$jarvice_room/image.sif" /bin/sh -c "$jarvice_write"
fi
[ -z "$jarvice_room" ] || rm -rf "$jarvice_room"

# Last, the clock. It can be compared only where the login node knows a moment before: that is when
# it sees that we ask, and says so.
if : >"$jarvice_work/asks"; then
    for _ in {1..150}; do
        ls "$jarvice_work" >/dev/null || break
        if [ -e "$jarvice_work/seen" ]; then
            echo "clock=$(date +%s.%N)"
            break
        fi
        sleep 0.2
    done
fi
