# mypy: allow-untyped-calls
"""What the relay's programs say, read."""

from __future__ import annotations

import shutil
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.ssh import relay
from jarvice_slurmd.ssh.relay import parse_connected, parse_ended, parse_reason, render_relay


class ParseTests(SynchronousTestCase):
    """`parse_connected` and `parse_reason`."""

    def test_connected(self) -> None:
        """Ours, socat's, and those of three kinds of nc."""
        for line in (
            b"jarvice-connected\n",
            b"2026/11/23 06:53:31 socat[1] N starting data transfer loop with FDs [0,1] and [5,5]",
            b"Connection to 127.0.0.1 80 port [tcp/http] succeeded!\n",
            b"Ncat: Version 7.93 ( https://nmap.org/ncat )\nNcat: Connected to 127.0.0.1:80.\n",
            b"localhost [127.0.0.1] 80 (http) open\n",
        ):
            self.assertTrue(parse_connected(line), line)

    def test_not_connected(self) -> None:
        """Failures, and what is said before."""
        for line in (
            b"",
            b"2026/11/23 06:53:31 socat[1] N opening connection to AF=2 127.0.0.1:80\n",
            b"nc: connect to 127.0.0.1 port 80 (tcp) failed: Connection refused\n",
            b"Ncat: Connection refused.\n",
            b"bash: connect: Connection refused\n",
        ):
            self.assertFalse(parse_connected(line), line)

    def test_ended(self) -> None:
        """What every program's watcher says, and nothing else."""
        self.assertTrue(parse_ended(b"x) open\njarvice-ended\n"))
        self.assertFalse(parse_ended(b"socat[1] N socket 2 (fd 5) is at EOF\n"))

    def test_reason(self) -> None:
        """The last line, or socat's error, which is not its last line."""
        self.assertEqual(parse_reason(b""), "no reason given")
        self.assertEqual(parse_reason(b"Traceback\n  x\nError: refused\n\n"), "Error: refused")
        said = b"d socat[7] E connect(5): Connection refused\nd socat[7] N exit(1)\n"
        self.assertEqual(parse_reason(said), "connect(5): Connection refused")


class RenderTests(SynchronousTestCase):
    """`render_relay`."""

    def test_shells_accept_it(self) -> None:
        """Every POSIX shell here can read the text."""
        for shell in ("sh", "dash", "bash"):
            path = shutil.which(shell)
            if path is None:
                self.fail(f"{shell} is not installed")
            checked = subprocess.run(
                [path, "-n"], input=render_relay("n1", 80).encode(), capture_output=True, check=True
            )
            self.assertEqual(checked.stderr, b"")

    def test_programs(self) -> None:
        """The text of each program can be read by what is to run it."""
        compile(relay._PYTHON, "relay", "exec")
        for shell, text in (
            ("bash", relay._BASH),
            ("sh", relay._FEEDER),
            ("sh", relay._NC),
        ):
            checked = subprocess.run([shell, "-n"], input=text.encode(), capture_output=True)
            self.assertEqual((checked.returncode, checked.stderr), (0, b""))

    def test_quoted(self) -> None:
        """Host names are data, whatever they hold."""
        self.assertIn("host='$(reboot)'\n", render_relay("$(reboot)", 80))
