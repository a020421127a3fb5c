# A desktop as an interactive job: TigerVNC, and noVNC through websockify, which serve at `/`.
# shellcheck shell=bash
cd "$JARVICE_JOB_DIR" && mkdir -p home || exit 1
export HOME=$JARVICE_JOB_DIR/home

mkfifo display
Xtigervnc -displayfd 9 -geometry 960x480 -depth 24 -SecurityTypes None -rfbport 0 \
    -rfbunixpath "$JARVICE_JOB_DIR/vnc.socket" -desktop "A job" 9>display &
read -r number <display
export DISPLAY=:$number

xclock -geometry 180x180+765+40 -update 1 &
xeyes -geometry 180x120+765+250 &
xterm -geometry 80x24+75+40 -fa Monospace -fs 10 -bg '#1d2733' -fg '#dfe5ec' -e bash --norc &

echo "https://%PUBLICADDR%:5902/vnc.html?autoconnect=true&resize=remote&path=%BASEURL%/websockify" >url.txt
exec websockify --web=/usr/share/novnc --unix-target="$JARVICE_JOB_DIR/vnc.socket" \
    "$JARVICE_SERVICE_PORT"
