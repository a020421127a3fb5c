"""The records of interactive jobs on the cluster: one question at a time, for all who ask."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from jarvice_slurmd.errors import StorageError
from jarvice_slurmd.interfaces import IRemoteShell
from jarvice_slurmd.shared import tell
from jarvice_slurmd.slurm.interactive import (
    MAX_ANSWER_BYTES,
    MAX_NUMBERS,
    InteractiveRecord,
    parse_interactive_records,
    render_find_interactive,
)

#: Seconds from one question's answer to the next question: strangers may ask for any number.
PAUSE_SECONDS = 0.1


class RecordFinder:
    """Reads the records of the jobs that are asked for, however many ask, in one command at a time.

    `root` is the shell word of the `.jarvice` folder. Who asks while a command runs is answered by
    the next; what is remembered is only who waits.
    """

    def __init__(self, shell: IRemoteShell, root: str, clock: IReactorTime) -> None:
        self._shell = shell
        self._root = root
        self._clock = clock
        self._asking = False
        self._not_before = clock.seconds()
        self._timer: IDelayedCall | None = None
        self._waiting: dict[int, list[Deferred[InteractiveRecord | None]]] = {}

    def find(self, number: int) -> Deferred[InteractiveRecord | None]:
        """The job's record as it is from now on; None when there is no interactive job of it.

        Errors back as `IRemoteShell.run`, or with `StorageError`.
        """

        def leave(waiting: Deferred[InteractiveRecord | None]) -> None:
            others = self._waiting.get(number, [])
            if waiting in others:
                others.remove(waiting)
                if not others:
                    del self._waiting[number]
                    self._ask()

        waiting: Deferred[InteractiveRecord | None] = Deferred(leave)
        self._waiting.setdefault(number, []).append(waiting)
        self._ask()
        return waiting

    def _ask(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking or not self._waiting:
            return
        pause = self._not_before - self._clock.seconds()
        if pause > 0:
            self._timer = self._clock.callLater(pause, self._timed)
            return
        self._asking = True
        numbers = list(self._waiting)[:MAX_NUMBERS]
        waiting = [(number, self._waiting.pop(number)) for number in numbers]
        Deferred.fromCoroutine(self._answer(waiting))

    def _timed(self) -> None:
        self._timer = None
        self._ask()

    async def _answer(
        self, waiting: list[tuple[int, list[Deferred[InteractiveRecord | None]]]]
    ) -> None:
        found: Mapping[int, InteractiveRecord] | Failure
        try:
            found = await self._read([number for number, _ in waiting])
        except Exception:  # whatever it is, it is for those who asked
            found = Failure()
        self._asking = False
        self._not_before = self._clock.seconds() + PAUSE_SECONDS
        for number, callers in waiting:
            tell(callers, found if isinstance(found, Failure) else found.get(number))
        self._ask()

    async def _read(self, numbers: list[int]) -> Mapping[int, InteractiveRecord]:
        result = await self._shell.run(
            render_find_interactive(root=self._root, numbers=numbers),
            max_output=MAX_ANSWER_BYTES,
        )
        if result.status != 0:
            said = result.stderr.decode("utf-8", "replace").strip()
            raise StorageError(f"the jobs' folder can't be read: {said}")
        return parse_interactive_records(result.stdout)
