# mypy: allow-untyped-calls
"""An `IRemoteShell` without SSH, for tests: scripts run on this machine, and faults on demand.

It passes the same contract as the real one (test/contract_shell.py), so a test may believe it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from jarvice_slurmd.errors import CommandTimedOutError, OutputTooLargeError
from jarvice_slurmd.interfaces import CommandResult, IRemoteShell
from jarvice_slurmd.ssh.shell import (
    Invocation,
    PreambleFilter,
    encode_script,
    make_nonce,
    render_invocation,
)


@frozen
class Call:
    """What `run` was asked."""

    script: str
    stdin: bytes


@implementer(IRemoteShell)
@define(eq=False)
class LocalShell:
    """Runs scripts as children of this process, with `env` added to the environment.

    `calls` remembers what was asked. `fail_next` makes calls fail as the real shell can: before
    the script ran (`NotConnectedError`) or after it did (`LinkLostError`).
    """

    _reactor: Any
    env: Mapping[str, str] = field(factory=dict)
    command_timeout: float = 30.0
    max_output: int = 16 * 1024 * 1024
    calls: list[Call] = field(factory=list, init=False)
    _faults: list[tuple[Exception, bool]] = field(factory=list, init=False)
    _processes: set[_Process] = field(factory=set, init=False)

    def fail_next(self, error: Exception, *, after_running: bool = False) -> None:
        """One call more, after those already told so, fails with `error`."""
        self._faults.append((error, after_running))

    async def ended(self) -> None:
        """Come back when nothing runs any longer; for a test's clean-up."""
        for process in self._processes:
            if not process.has_ended:
                waiter: Deferred[None] = Deferred()
                process.waiters.append(waiter)
                await waiter
        self._processes.clear()

    def run(
        self,
        script: str,
        stdin: bytes = b"",
        *,
        timeout: float | None = None,
        max_output: int | None = None,
    ) -> Deferred[CommandResult]:
        """See `IRemoteShell.run`."""
        try:
            text = encode_script(script)
        except ValueError as e:
            return fail(e)
        self.calls.append(Call(script, stdin))
        error, after_running = self._faults.pop(0) if self._faults else (None, False)
        if error is not None and not after_running:
            return fail(error)
        bound = self.command_timeout if timeout is None else timeout
        call = render_invocation(text, nonce=make_nonce(), seconds=math.ceil(bound) + 5)
        process = _Process(call, stdin, self.max_output if max_output is None else max_output)
        self._processes.add(process)
        self._reactor.spawnProcess(
            process,
            "/bin/sh",
            ["/bin/sh", "-c", call.exec_line],
            env={**os.environ, **self.env},
        )
        late = self._reactor.callLater(
            bound, process.end, CommandTimedOutError(f"the command did not end within {bound:g} s")
        )

        def ended(result: CommandResult | Failure) -> CommandResult | Failure:
            if late.active():
                late.cancel()
            return Failure(error) if error is not None else result

        return process.result.addBoth(ended)


class _Process(ProcessProtocol):
    """A script that runs, and what it has printed so far."""

    transport: IProcessTransport

    def __init__(self, call: Invocation, stdin: bytes, max_output: int) -> None:
        self.result: Deferred[CommandResult] = Deferred(lambda _: self.end(CancelledError()))
        self.has_ended = False
        self.waiters: list[Deferred[None]] = []
        self._is_settled = False
        self._stdin = call.text + stdin
        self._room = max_output
        self._preambles = {fd: PreambleFilter(call.nonce) for fd in (1, 2)}
        self._outputs = {fd: bytearray() for fd in (1, 2)}

    def connectionMade(self) -> None:
        """The shell runs: give it the script."""
        self.transport.writeToChild(0, self._stdin)
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Some output."""
        data = self._preambles[childFD].feed(data)
        self._room -= len(data)
        if self._room < 0:
            self.end(OutputTooLargeError("the command wrote more than is allowed"))
        elif not self._is_settled:
            self._outputs[childFD] += data

    def processEnded(self, reason: Failure) -> None:
        """The script has ended, and so have its outputs."""
        self.has_ended = True
        for waiter in self.waiters:
            waiter.callback(None)
        if self._is_settled:
            return
        self._is_settled = True
        end = reason.value
        assert isinstance(end, ProcessTerminated | ProcessDone)
        self.result.callback(
            CommandResult(
                status=128 + end.signal if end.signal is not None else end.exitCode or 0,
                stdout=bytes(self._outputs[1]),
                stderr=bytes(self._outputs[2]),
            )
        )

    def end(self, error: Exception) -> None:
        """Fail with `error`, and end the script."""
        if self._is_settled:
            return
        self._is_settled = True
        with contextlib.suppress(ProcessExitedAlready):
            # `timeout` is what runs, and passes it on to the script's process group.
            self.transport.signalProcess("TERM")
        self.result.errback(error)
