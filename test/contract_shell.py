# mypy: allow-untyped-calls
"""What every `IRemoteShell` must do: run by the real one, and by the fake that stands in for it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from jarvice_slurmd.errors import CommandTimedOutError, OutputTooLargeError
from jarvice_slurmd.interfaces import CommandResult, IRemoteShell

if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


class RemoteShellContract(_Base):
    """Mix in before `TestCase`, and say what to test in `make_shell`."""

    async def make_shell(self) -> IRemoteShell:
        """A shell that runs commands on this machine, ready to use; clean up after it."""
        raise NotImplementedError

    async def check(
        self, script: str, stdin: bytes = b"", *, stdout: bytes = b"", stderr: bytes = b""
    ) -> None:
        """The script succeeds and prints exactly this."""
        result = await (await self.make_shell()).run(script, stdin)
        self.assertEqual(result, CommandResult(status=0, stdout=stdout, stderr=stderr))

    async def until(self, path: Path) -> None:
        """Come back when the file is there."""
        while not path.exists():  # noqa: ASYNC240  # a local file, in a test
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]

    def folder(self) -> Path:
        """A folder of this test's own."""
        folder = tempfile.TemporaryDirectory(prefix="jarvice-shell-")
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    async def test_interface(self) -> None:
        """It provides what it says it does."""
        self.assertTrue(verifyObject(IRemoteShell, await self.make_shell()))

    async def test_output(self) -> None:
        """Stdout and stderr are told apart, and nothing is added to either."""
        await self.check("printf out; printf err >&2", stdout=b"out", stderr=b"err")

    async def test_empty(self) -> None:
        """A script of nothing succeeds."""
        await self.check("")

    async def test_status(self) -> None:
        """A failure is a result, not an error."""
        shell = await self.make_shell()
        for status in (1, 7, 126, 127, 255):
            result = await shell.run(f"echo out; exit {status}")
            self.assertEqual(result, CommandResult(status=status, stdout=b"out\n", stderr=b""))

    async def test_signal(self) -> None:
        """A script ended by a signal has the status 128 and the signal's number."""
        shell = await self.make_shell()
        for name, status in (("TERM", 143), ("KILL", 137)):
            self.assertEqual((await shell.run(f"kill -{name} $$")).status, status)

    async def test_posix_shell(self) -> None:
        """It is /bin/sh that reads the script."""
        await self.check('x=; echo "$0 $# ${x:-default}"', stdout=b"/bin/sh 0 default\n")

    async def test_awkward_text(self) -> None:
        """Quotes, dollars, braces, backslashes, UTF-8 and line ends are read as written."""
        text = "'\"`$HOME ${x} !! \\n \\' {{}} # % äöü → *\n\n ~ \\"
        await self.check(f"cat <<'END'\n{text}\nEND", stdout=f"{text}\n".encode())

    async def test_stdin(self) -> None:
        """Commands read exactly the bytes given, whatever they are; by default none."""
        every = bytes(range(256))
        await self.check("cat", every, stdout=every)
        await self.check("cat")

    async def test_unread_stdin(self) -> None:
        """A script need not read its stdin."""
        await self.check("echo done", b"x" * 3_000_000, stdout=b"done\n")

    async def test_megabytes(self) -> None:
        """Script, stdin and output of several megabytes each."""
        padding = "# padding ' \" #\n" * 150_000
        stdin = bytes(range(256)) * 12_000
        await self.check(f"{padding}cat", stdin, stdout=stdin)

    async def test_many_at_once(self) -> None:
        """As many as anybody likes; each gets its own answer."""
        shell = await self.make_shell()
        runs: list[Deferred[CommandResult]] = [
            shell.run(f"cat; echo {n}", b"%d " % n) for n in range(30)
        ]
        results = await gatherResults(runs)
        self.assertEqual([r.stdout for r in results], [b"%d %d\n" % (n, n) for n in range(30)])

    async def test_timeout(self) -> None:
        """A command that does not end in time is an error, and is ended."""
        shell = await self.make_shell()
        folder = self.folder()
        script = f"trap 'touch {folder}/ended; exit' TERM; touch {folder}/began; sleep 60 & wait"
        run = shell.run(script, timeout=5)
        with self.assertRaises(CommandTimedOutError):
            await run
        self.assertTrue((folder / "began").exists())
        await self.until(folder / "ended")

    async def test_cancel(self) -> None:
        """Cancelling ends the command."""
        shell = await self.make_shell()
        folder = self.folder()
        run = shell.run(
            f"trap 'touch {folder}/ended; exit' TERM; touch {folder}/began; sleep 60 & wait",
            # An sshd that takes no signals (for root, or before 7.9) leaves it to this bound.
            timeout=8,
        )
        await self.until(folder / "began")
        run.cancel()
        with self.assertRaises(CancelledError):
            await run
        await self.until(folder / "ended")

    async def test_output_bound(self) -> None:
        """Stdout and stderr together may have `max_output` bytes and not one more."""
        shell = await self.make_shell()
        script = "head -c 600 /dev/zero; head -c 400 /dev/zero >&2"
        result = await shell.run(script, max_output=1000)
        self.assertEqual((len(result.stdout), len(result.stderr)), (600, 400))
        with self.assertRaises(OutputTooLargeError):
            await shell.run(script, max_output=999)
        with self.assertRaises(OutputTooLargeError):
            await shell.run("yes", max_output=100_000)

    async def test_nul(self) -> None:
        """A script with a NUL can't be run by any shell: the caller's mistake."""
        shell = await self.make_shell()
        with self.assertRaises(ValueError):
            await shell.run("a\0b")
