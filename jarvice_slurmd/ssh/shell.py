"""How POSIX shell text is run on the login node, whatever the account's login shell is.

sshd hands an exec request to the login shell as `SHELL -c LINE` (sshd(8)), after start-up files
that may print anything. So the line is short, of constant shape and means the same to sh, csh, zsh
and fish; the text itself comes on stdin, where no argument length limits it (Linux allows 128 KiB
an argument), and what precedes a nonce that the text prints first is dropped from stdout and
stderr. Pure: no I/O.
"""

from __future__ import annotations

import secrets

from attrs import define, field, frozen

# What a login shell's start-up files may print before the nonce, in bytes.
MAX_PREAMBLE = 256 * 1024

# What is kept of the preamble, to say what the login shell printed instead.
_HEAD = 1024

# `timeout` kills what has not ended so long after its SIGTERM, in seconds.
_KILL_AFTER = 5

# Single quotes, and neither backslashes nor exclamation marks nor line ends, so that csh and fish
# read the same as sh. GNU head takes no byte more than it is asked for: the rest of stdin is the
# script's own. Text that lacks its first or last line (eaten by a start-up file that reads stdin,
# or cut off with the link) is not run, not even in part.
_EXEC_LINE = (
    "exec {timeout}/bin/sh -c '"
    "_jarvice_text=$(head -c {length});"
    ' case $_jarvice_text in "#{nonce}"*"#{nonce}") eval "$_jarvice_text";; *) exit 126;; esac\''
)


@frozen(kw_only=True)
class Invocation:
    """A script made ready for an exec channel.

    `exec_line` is the exec request's command, `text` goes to its stdin before the caller's own
    bytes, and `nonce` is the line that ends the preamble of stdout and of stderr.
    """

    exec_line: bytes
    text: bytes = field(repr=False)
    nonce: bytes


def make_nonce() -> str:
    """A fresh nonce: letters, digits and hyphens that nothing else prints."""
    return f"jarvice-{secrets.token_hex(16)}"


def encode_script(script: str) -> bytes:
    """The bytes of shell text; raises `ValueError` for a NUL, which no shell can read.

    Bytes that were no UTF-8 when the text was decoded (surrogateescape) are themselves again.
    """
    if "\0" in script:
        raise ValueError("a shell script can't hold a NUL character")
    return script.encode("utf-8", "surrogateescape")


def render_invocation(script: bytes, *, nonce: str, seconds: int | None) -> Invocation:
    """Make `script` ready to run for at most `seconds` on the login node, link or no link.

    None sets no bound there.
    """
    mark = nonce.encode("ascii")
    start = b"#%b\nprintf '%%s\\n' %b; printf '%%s\\n' %b >&2\n" % (mark, mark, mark)
    text = b"".join((start, script, b"\n\n#", mark))
    timeout = "" if seconds is None else f"timeout -k {_KILL_AFTER} {max(1, seconds)} "
    line = _EXEC_LINE.format(timeout=timeout, length=len(text), nonce=nonce)
    return Invocation(exec_line=line.encode("ascii"), text=text, nonce=mark)


def _line(nonce: bytes) -> bytes:
    return nonce + b"\n"


@define
class PreambleFilter:
    """Drops everything of a stream up to and including the nonce's line, however it is split.

    `feed` gives back what follows the nonce. Before the nonce has come only the first and the last
    few bytes are kept; `dropped` counts them all.
    """

    _nonce: bytes = field(converter=_line)
    started: bool = False
    dropped: int = 0
    _head: bytes = b""
    _tail: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """Take the stream's next bytes, give those that belong to the script's output."""
        if self.started:
            return data
        pending = self._tail + data
        at = pending.find(self._nonce)
        if at >= 0:
            self.started = True
            self._head = self._tail = b""
            return pending[at + len(self._nonce) :]
        self.dropped += len(data)
        if len(self._head) < _HEAD:
            self._head += data[: _HEAD - len(self._head)]
        self._tail = pending[-len(self._nonce) + 1 :]
        return b""

    @property
    def first_line(self) -> str:
        """The first line that is not blank of what came instead of the nonce."""
        lines = self._head.decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in lines if line.strip()), "")
