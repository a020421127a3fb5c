# mypy: allow-untyped-calls
"""The fake shell keeps the contract, and fails as it is told."""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from jarvice_slurmd.errors import LinkLostError, NotConnectedError
from jarvice_slurmd.interfaces import IRemoteShell
from test.contract_shell import RemoteShellContract
from test.local_shell import Call, LocalShell


class LocalShellContractTests(RemoteShellContract, TestCase):
    """`LocalShell` is an `IRemoteShell`."""

    async def make_shell(self) -> IRemoteShell:
        """A new one."""
        shell = LocalShell(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(shell.ended()))
        return shell


class LocalShellTests(TestCase):
    """What `LocalShell` has beyond the contract."""

    async def test_faults(self) -> None:
        """Before running, after running, and then none."""
        shell = LocalShell(reactor)
        path = self.mktemp()
        shell.fail_next(NotConnectedError("no"))
        shell.fail_next(LinkLostError("lost"), after_running=True)
        with self.assertRaises(NotConnectedError):
            await shell.run(f"echo 1 >> {path}")
        with self.assertRaises(LinkLostError):
            await shell.run(f"echo 2 >> {path}")
        result = await shell.run(f"cat {path}", b"in")
        self.assertEqual(result.stdout, b"2\n")
        self.assertEqual(shell.calls[-1], Call(f"cat {path}", b"in"))
        self.assertEqual(len(shell.calls), 3)

    async def test_environment(self) -> None:
        """Programs of a test's own come first in the PATH it gives."""
        shell = LocalShell(reactor, env={"MINE": sys.executable})
        self.assertEqual((await shell.run('echo "$MINE"')).stdout, f"{sys.executable}\n".encode())
