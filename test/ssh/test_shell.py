"""Shell text through every login shell there is here, as sshd would start it."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.ssh.shell import PreambleFilter, encode_script, make_nonce, render_invocation

# Each with a start-up file that `SHELL -c` reads, where the shell has one.
_SHELLS = ("sh", "dash", "bash", "tcsh", "zsh", "fish")


def _run(
    shell: str, script: str, stdin: bytes = b"", *, cut: int = 0, home: str | None = None
) -> tuple[int, bytes, bytes]:
    """Run as sshd does: the status, and stdout and stderr without their preamble."""
    call = render_invocation(encode_script(script), nonce=make_nonce(), seconds=30)
    env = {"PATH": "/usr/bin:/bin", "HOME": home or "/nonexistent"}
    if home is not None:
        env["BASH_ENV"] = f"{home}/.bashrc"
    done = subprocess.run(
        [shell, "-c", call.exec_line.decode()],
        input=(call.text + stdin)[: -cut or None],
        capture_output=True,
        env=env,
        check=False,
        timeout=60,
    )
    out, err = PreambleFilter(call.nonce), PreambleFilter(call.nonce)
    return done.returncode, out.feed(done.stdout), err.feed(done.stderr)


def _installed() -> list[str]:
    return [path for path in map(shutil.which, _SHELLS) if path is not None]


class LoginShellTests(SynchronousTestCase):
    """`render_invocation` under sh, bash, tcsh, zsh and fish."""

    def test_tested_shells(self) -> None:
        """At least sh, bash and tcsh are here: the packages of the tests have them."""
        self.assertTrue({"sh", "bash", "tcsh"} <= {Path(p).name for p in _installed()})

    def test_result(self) -> None:
        """Exit status, stdout and stderr come through; nothing else does."""
        script = "printf '%s' out; printf '%s' err >&2; exit 7"
        for shell in _installed():
            self.assertEqual(_run(shell, script), (7, b"out", b"err"), shell)

    def test_stdin_is_the_callers(self) -> None:
        """The script's commands read exactly the caller's bytes, whatever they are."""
        stdin = bytes(range(256)) * 4096
        for shell in _installed():
            self.assertEqual(_run(shell, "cat", stdin), (0, stdin, b""), shell)

    def test_awkward_text(self) -> None:
        """Quotes, braces, dollars, history marks, UTF-8, comments: read as they were written."""
        text = "'\"`$HOME ${x} !! \\n \\' {{}} #  % äöü → *\n  ~"
        script = "cat <<'END'\n" + text + "\nEND\n# the last line is a comment \\"
        for shell in _installed():
            self.assertEqual(_run(shell, script)[:2], (0, text.encode() + b"\n"), shell)

    def test_megabytes(self) -> None:
        """A script far beyond the limit of one argument, full of the guard's first character."""
        script = "cat <<'END' | wc -c\n" + "#" * 100 + "\n"
        script += ("# " * 50 + "\n") * 40_000 + "END\n"
        for shell in _installed():
            status, out, _ = _run(shell, script, b"x" * 100)
            self.assertEqual((status, int(out)), (0, 40_000 * 101 + 101), shell)

    def test_banner(self) -> None:
        """What start-up files print, without a line end too, is no part of the result."""
        banner = "echo 'Welcome!'; printf 'no line end'; printf oops >&2\n"
        with TemporaryDirectory() as home:
            for name in (".bashrc", ".zshenv", ".tcshrc"):
                Path(home, name).write_text(
                    banner.replace("printf oops >&2", "") if "tcsh" in name else banner
                )
            for shell in _installed():
                result = _run(shell, "echo 1", home=home)
                self.assertEqual(result, (0, b"1\n", b""), shell)

    def test_eaten(self) -> None:
        """A start-up file that reads stdin makes the text incomplete: nothing of it runs."""
        with TemporaryDirectory() as home:
            Path(home, ".bashrc").write_text("read line\n")
            status, out, _ = _run("/bin/bash", "echo ran", b"y" * 100, home=home)
            self.assertEqual((status, out), (126, b""))

    def test_cut_off(self) -> None:
        """Text whose end never came is not run, not even its first lines."""
        script = "echo ran\n" * 1000
        for cut in (1, 10, 100, 5000):
            self.assertEqual(_run("/bin/sh", script, cut=cut), (126, b"", b""))

    def test_last_backslash(self) -> None:
        """A backslash at the very end joins nothing of ours to the last command."""
        self.assertEqual(_run("/bin/sh", "echo a\\"), (0, b"a\n", b""))

    def test_signal(self) -> None:
        """A script that a signal ends passes the signal on."""
        self.assertEqual(_run("/bin/bash", "kill -TERM $$")[0], -15)

    def test_nul(self) -> None:
        """A NUL would end the text early in some shells: refused here."""
        self.assertRaises(ValueError, encode_script, "a\0b")

    def test_bytes(self) -> None:
        """Bytes that are no UTF-8 get through text that was decoded with surrogateescape."""
        script = b"printf '\xff\xc3\xa4'".decode("utf-8", "surrogateescape")
        self.assertEqual(_run("/bin/sh", script), (0, b"\xff\xc3\xa4", b""))
        self.assertRaises(ValueError, encode_script, "\ud800")

    def test_line_is_short(self) -> None:
        """The exec line does not grow with the script, and holds nothing of it."""
        line = render_invocation(b"secret" * 100_000, nonce=make_nonce(), seconds=3600).exec_line
        self.assertLess(len(line), 400)
        self.assertNotIn(b"secret", line)


class PreambleFilterTests(SynchronousTestCase):
    """`PreambleFilter`."""

    @given(
        preamble=st.binary(max_size=200),
        output=st.binary(max_size=200),
        cuts=st.lists(st.integers(0, 440)),
    )
    def test_split_anywhere(self, preamble: bytes, output: bytes, cuts: list[int]) -> None:
        """However the stream is split, what follows the nonce comes out, and nothing else."""
        stream = preamble + b"jarvice-0123\n" + output
        edges = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})
        found = PreambleFilter(b"jarvice-0123")
        pieces = [found.feed(stream[a:b]) for a, b in pairwise(edges)]
        self.assertEqual(b"".join(pieces), output)
        self.assertTrue(found.started)

    def test_repeated_nonce(self) -> None:
        """Only the first nonce is the boundary."""
        self.assertEqual(PreambleFilter(b"n").feed(b"xn\nyn\n"), b"yn\n")

    def test_no_nonce(self) -> None:
        """Without a nonce nothing comes out, little is kept, and the first line can be told."""
        found = PreambleFilter(b"nonce")
        self.assertEqual(found.feed(b"\n  This account is disabled.\r\nBye"), b"")
        for _ in range(1000):
            self.assertEqual(found.feed(b"z" * 1000), b"")
        self.assertFalse(found.started)
        self.assertEqual(found.first_line, "This account is disabled.")
        self.assertGreater(found.dropped, 1_000_000)
        self.assertLess(len(found._head) + len(found._tail), 2000)
