"""The relay that stands in for forwarding: shell text that connects stdin and stdout to a port.

It runs on the login node with what is there, the best first: python3, socat, nc, or bash's
/dev/tcp. Each says on stderr when it has connected. Pure: text only.
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

# Two directions: a thread takes stdin to the socket and then its end, which is a half-close. The
# other also watches for stdout's reader to go away: with nobody there what remains of stdin is
# still delivered, and then it ends.
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
        events = dict(p.poll())
        if 1 in events:
            break
        data = s.recv(65536)
        if not data:
            os.close(1)
            break
        view = memoryview(data)
        while view:
            view = view[os.write(1, view):]
except OSError:
    os._exit(1)
t.join()
"""

_SHELL = """\
host={host}
port={port}
if python3 -c 'import select, socket, threading' </dev/null >/dev/null 2>&1; then
    exec python3 -c {python} "$host" "$port"
fi
if command -v socat >/dev/null 2>&1; then
    case $host in *:*) host="[$host]";; esac
    exec socat -d -d -t 600 - "TCP:$host:$port,nodelay"
fi
if command -v nc >/dev/null 2>&1; then
    if nc -h 2>&1 | grep -q -e '-N.*[Ss]hutdown'; then
        exec nc -v -N "$host" "$port"
    fi
    exec nc -v "$host" "$port"
fi
if command -v bash >/dev/null 2>&1; then
    exec bash -c {bash} "$host" "$port"
fi
exit {no_program}
"""

# No half-close here: bash can't shut down one direction of a socket. After the end of stdin the far
# end gets a while to say its last words; it can't be told that there is nothing more to come.
_BASH = """\
exec 3<>"/dev/tcp/$0/$1" || exit 1
echo jarvice-connected >&2
cat <&3 &
reader=$!
cat >&3
exec 3>&-
(sleep 30; kill "$reader") </dev/null >/dev/null 2>&1 &
wait "$reader"
"""


def render_relay(host: str, port: int) -> str:
    """The shell text that relays to TCP `port` of `host`."""
    return _SHELL.format(
        host=shlex.quote(host),
        port=port,
        python=shlex.quote(_PYTHON),
        bash=shlex.quote(_BASH),
        no_program=NO_PROGRAM,
    )


def parse_connected(stderr: bytes) -> bool:
    """Whether what a relay has printed so far says that it has connected."""
    return _CONNECTED.search(stderr) is not None


def parse_reason(stderr: bytes) -> str:
    """Why a relay failed: socat's error where there is one, else the last line printed."""
    text = stderr.decode("utf-8", "replace")
    errors = re.findall(r"socat\[\d+\] E (.*)", text)
    lines = errors or [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
