#!/bin/bash
# Stands for apptainer in executor_run: starts no container, but what would run in one, with
# /etc/JARVICE where it is on the host; "pulls" into its cache and takes as long as $FAKE_GATE says.
# What it is asked, and with which environment, is appended to $FAKE_LOG.
[ "$1" != --version ] || { echo "${FAKE_VERSION:-apptainer version 1.4.5}"; exit; }
flag=$1
shift
{
    echo "ARGV $flag $*"
    env | grep -E 'DOCKER|_proxy|TMPDIR|NOHTTPS|CUDA|CUSTOM' | sed "s/^/ENV $1 /"
} >>"$FAKE_LOG"
case $1 in
overlay)
    [ -z "$FAKE_OVERLAY_GATE" ] || cat "$FAKE_OVERLAY_GATE" >/dev/null
    : >"${*: -1}"
    ;;
run)
    [ -z "$FAKE_RUN_GATE" ] || cat "$FAKE_RUN_GATE" >/dev/null
    ;;
exec)
    for word; do
        case $word in
        docker://*)
            if [ "$FAKE_REFUSAL" ]; then
                echo "FATAL: $FAKE_REFUSAL" >&2
                exit 255
            fi
            image=${APPTAINER_CACHEDIR:-$SINGULARITY_CACHEDIR}/image
            if [ ! -e "$image" ]; then
                echo "CONVERTED $word" >>"$FAKE_LOG"
                [ -z "$FAKE_GATE" ] || cat "$FAKE_GATE" >/dev/null
                echo image >"$image.partial" && mv "$image.partial" "$image"
            fi
            echo "$image"
            exit
            ;;
        *:/etc/JARVICE) folder=${word%:/etc/JARVICE} ;;
        esac
    done
    [ -z "$FAKE_NO_START" ] || { echo "FATAL: $FAKE_NO_START" >&2; exit 255; }
    text=${*: -1}
    sed -i "s|/etc/JARVICE|$folder|g" "$folder/.command"
    trap : TERM
    /bin/sh -c "${text//\/etc\/JARVICE/$folder}" <&0
    exit
    ;;
esac
