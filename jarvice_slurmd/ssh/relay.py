"""The relay that stands in for forwarding: shell text that connects stdin and stdout to a port.

It runs on the login node with what is there, the best first: python3, socat, nc, or bash's
/dev/tcp. Each says on stderr when it has connected, and that the far end has ended before stdout
ends: an end that was not said is a break. sshd holds an end of stdout back while stderr is open, so
that what is said comes first, and so that nobody may keep either of them. Pure: text only.
"""

from __future__ import annotations

import re
import shlex

# The status with which the relay says that the login node has none of the programs.
NO_PROGRAM = 96

# What each program says when it has connected: ours, socat's, and three kinds of nc.
_CONNECTED = re.compile(
    rb"jarvice-connected|starting data transfer loop|succeeded!|Connected to|\) open"
)
# That the far end ended its data, rather than being lost.
_ENDED = b"jarvice-ended"

# Two directions: a thread takes stdin to the socket and then its end, which is a half-close. The
# other also watches for stdout's reader to go away: with nobody there what remains of stdin is
# still delivered, and then it ends. After the far end's end it watches for a reset.
_PYTHON = """\
import os, select, socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
s.settimeout(None)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
os.write(2, b"jarvice-connected\\n")
def send():
    try:
        while True:
            data = os.read(0, 65536)
            if not data:
                break
            s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    except OSError:
        os._exit(1)
t = threading.Thread(target=send)
t.start()
p = select.poll()
p.register(s, select.POLLIN)
p.register(1, 0)
try:
    while True:
        if 1 in dict(p.poll()):
            break
        data = s.recv(65536)
        if not data:
            os.write(2, b"jarvice-ended\\n")
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 2)
            os.dup2(null, 1)
            p.unregister(1)
            p.modify(s, 0)
            p.poll()
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                os._exit(1)
            break
        view = memoryview(data)
        while view:
            view = view[os.write(1, view):]
except OSError:
    os._exit(1)
t.join()
"""

# End process $1 when nobody reads its stdout any longer, which GNU tail sees by its own.
_LINGER = """\
linger() {
    timeout "$2" tail -f --pid="$1" /dev/null >"/proc/$1/fd/1"
    case $? in 124|141) kill "$1";; esac
}
"""

# No half-close here: bash can't shut down one direction of a socket. After the end of stdin the far
# end gets a while to say its last words, if somebody is there to read them; it can't be told that
# there is nothing more to come. Who ends as the leader has its stdin closed by sshd.
_BASH = (
    _LINGER
    + """\
exec 3<>"/dev/tcp/$0/$1" || exit 1
echo jarvice-connected >&2
exec 4<&0 </dev/null
cat <&3 2>/dev/null 3>&- 4<&- &
reader=$!
{
    cat <&4 >&3 || exit 1
    exec 3>&- 4<&-
    linger "$reader" 30
} >/dev/null 2>&1 &
writer=$!
exec >/dev/null 3>&- 4<&-
wait "$reader" || exit 1
echo jarvice-ended >&2
exec 2>/dev/null
wait "$writer"
"""
)

# OpenBSD's nc does not tell the end of the far end's data, and ends when it is reset as when all is
# well. It does end when its stdin has ended too: so a `cat` feeds it, and is killed when the kernel
# has the socket in CLOSE_WAIT (08). What is sent after that is lost, for it is the last resort.
# Their own lines begin with a line end: nc writes its message in pieces, and they may come between.
_FEEDER = """\
exec 5<&0
cat <&5 2>/dev/null 5<&- &
printf '\\nfeeder %s\\n' "$!" >&2
exec </dev/null >/dev/null 5<&-
wait "$!" && printf '\\nfed\\n' >&2
"""
_NC = """\
exec 5<&0
nc -v -N "$0" "$1" <&5 5<&- &
nc=$!
inode=
printf '\\nnc %s\\n' "$nc" >&2
exec </dev/null >/dev/null 5<&-
{
    while sleep 1 && kill -0 "$nc" 2>/dev/null; do
        for fd in /proc/"$nc"/fd/*; do
            [ "$inode" ] && break
            inode=$(readlink "$fd")
            case $inode in
            socket:*) inode=${inode#*:?} inode=${inode%?};;
            *) inode=;;
            esac
        done
        address='[0-9A-F]*:[0-9A-F]*'
        rest="[^ ]* [^ ]* [^ ]*  *[0-9]*  *[0-9]* $inode "
        case $(grep -hs "^ *[0-9]*: $address $address [0-9A-F]* $rest" /proc/net/tcp*) in
        *' 08 '*) printf '\\nfin\\n' >&2; break;;
        '') inode=;;
        esac
    done
} &
wait "$nc"
printf '\\nended\\n' >&2
"""

_SHELL = """\
# Run a program whose stderr $1 reads, which ends with the status that counts. Nothing of sshd's
# remains here: the program has stdin and stdout, and the watcher stderr. (They are closed by exec:
# a function's own redirections would be kept aside to be undone.)
launch() {
    watch=$1
    shift
    exec 3<&0 4>&1
    { exec "$@" <&3 2>&1 >&4 3<&- 4>&-; } | { exec >/dev/null 3<&- 4>&-; "$watch"; } &
    watcher=$!
    exec </dev/null >/dev/null 2>&1 3<&- 4>&-
    wait "$watcher"
    exit $?
}
watch_socat() {
    status=1
    while IFS= read -r line; do
        pid=${line#*'socat['}
        pid=${pid%%']'*}
        case $line in
        *' socket 2 to socket 1 is in error'*) kill "$pid"; exit 1;;
        *' socket 2 '*'at EOF'*) echo jarvice-ended >&2; exec 2>/dev/null;;
        *' socket 1 '*'at EOF'*) ( exec </dev/null 2>/dev/null; linger "$pid" 600 ) &;;
        *' exiting with status 0'*) status=0;;
        *) printf '%s\\n' "$line" >&2;;
        esac
    done
    exit $status
}
watch_nc() {
    ended= feeder= fed= fin=
    while [ ! "$ended" ] || [ ! "$feeder" ]; do
        IFS= read -r line || break
        case $line in
        '') ;;
        'nc '*) pid=${line#* };;
        'feeder '*) feeder=${line#* }; [ ! "$fin" ] || kill "$feeder";;
        fed) fed=1; ( exec </dev/null 2>/dev/null; linger "$pid" 600 ) &;;
        fin) fin=1; [ "$fed" ] || [ ! "$feeder" ] || kill "$feeder";;
        ended) ended=1;;
        *) printf '%s\\n' "$line" >&2;;
        esac
    done
    [ "$fed$fin" ] || { kill "$feeder"; exit 1; }
    echo jarvice-ended >&2
}
# Of others it can't be told how they end, unless they say so.
watch_other() {
    status=1
    while IFS= read -r line; do
        [ $status = 0 ] || printf '%s\\n' "$line" >&2
        case $line in
        *'succeeded!'*|*'Connected to'*|*') open'*)
            status=0
            echo jarvice-ended >&2
            exec 2>/dev/null;;
        *' reset '*|*[Bb]'roken pipe'*) status=1;;
        esac
    done
    exit $status
}
if python3 -c 'import select, socket, threading' </dev/null >/dev/null 2>&1; then
    exec python3 -c "$python" "$host" "$port"
fi
if command -v socat >/dev/null 2>&1; then
    case $host in *:*) host="[$host]";; esac
    launch watch_socat socat -d -d -t 600 STDIO,shut-close "TCP:$host:$port,nodelay"
fi
if command -v nc >/dev/null 2>&1; then
    if nc -h 2>&1 | grep -q -e '-N.*[Ss]hutdown'; then
        exec 3<&0 4>&1
        {
            /bin/sh -c "$feeding" <&3 3<&- 4>&- |
                /bin/sh -c "$netcat" "$host" "$port" >&4 3<&- 4>&-
        } 2>&1 >/dev/null </dev/null | { exec 3<&- 4>&-; watch_nc; }
        exit $?
    fi
    launch watch_other nc -v "$host" "$port"
fi
if command -v bash >/dev/null 2>&1; then
    exec bash -c "$bash" "$host" "$port"
fi
"""


def render_relay(host: str, port: int) -> str:
    """The shell text that relays to TCP `port` of `host`."""
    programs = {"python": _PYTHON, "feeding": _FEEDER, "netcat": _NC, "bash": _BASH}
    words = {"host": host, "port": str(port), **programs}
    assignments = "".join(f"{name}={shlex.quote(word)}\n" for name, word in words.items())
    return f"{assignments}{_LINGER}{_SHELL}exit {NO_PROGRAM}\n"


def parse_connected(stderr: bytes) -> bool:
    """Whether what a relay has printed so far says that it has connected."""
    return _CONNECTED.search(stderr) is not None


def parse_ended(stderr: bytes) -> bool:
    """Whether what a relay has printed so far says that the far end ended in order."""
    return _ENDED in stderr


def parse_reason(stderr: bytes) -> str:
    """Why a relay failed: socat's error where there is one, else the last line printed."""
    text = stderr.decode("utf-8", "replace")
    errors = re.findall(r"socat\[\d+\] E (.*)", text)
    lines = errors or [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
