"""The login node can't be reached, is frozen, or does not let us in."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from deploy.devcluster import processes
from test.cluster.daemon import DaemonClient
from test.faults.outage_case import BOUND, OutageTestCase
from test.faults.replica import FOLDERS, SLURM, Replica
from test.faults.stage import pause
from test.faults.wire import Wire

T = TypeVar("T")


class LoginNodeTests(OutageTestCase):
    """sshd, its keys and ours."""

    async def test_sshd_down(self) -> None:
        """Nobody listens: 503 at once, and /ready tells why."""
        await self.stop_part("sshd", kill=True)
        await self.until_not_ready(words="refused")
        await self.assert_told(
            *SLURM,
            *FOLDERS,
            told="is back after",
            over="is back after",
            mend=lambda: self.start_part("sshd"),
            rounds=1,
        )
        lost = [line for line in self.replica.told() if "Lost the SSH link" in line]
        self.assertEqual(len(lost), 1, lost)

    async def test_key_revoked(self) -> None:
        """Our key is not accepted any longer: an error that says which, until it is."""
        authorized = self.cluster.state / "ssh" / "authorized_keys"
        keys = authorized.read_text()
        self.addCleanup(authorized.write_text, keys)
        authorized.write_text("")
        before = len(self.replica.lines)
        self.cut_link()
        reason = await self.until_not_ready(words="does not accept the key SHA256:")
        self.assertNotIn("PRIVATE", reason)

        async def mend() -> None:
            authorized.write_text(keys)

        await self.assert_told(
            *SLURM, *FOLDERS, told="is back after", over="is back after", mend=mend, rounds=1
        )
        refused = [line for line in self.replica.told(before) if "does not accept" in line]
        self.assertEqual(len(refused), 1, refused)

    async def test_host_key_changed(self) -> None:
        """Another host key is refused, loudly, and nothing is sent to whoever shows it."""
        names = ("ed25519", "ecdsa", "rsa")
        files = [
            self.cluster.state / "ssh" / f"host_{kind}{end}"
            for kind in names
            for end in ("", ".pub")
        ]
        kept = {path: path.read_bytes() for path in files}
        before = len(self.replica.lines)
        await self.stop_part("sshd", kill=True)
        self.addCleanup(self.write, kept)
        other = {path: self.other_key(path) for path in files}
        self.write(other)
        await self.start_part("sshd")
        await self.until_not_ready(words="the host key of")

        async def mend() -> None:
            await deferToThread(self.cluster.stop, "sshd", kill=True)
            self.write(kept)
            await self.start_part("sshd")

        await self.assert_told(
            *SLURM, *FOLDERS, told="is back after", over="is back after", mend=mend, rounds=1
        )
        refused = [line for line in self.replica.told(before) if "HOST KEY REFUSED" in line]
        self.assertEqual(len(refused), 1, refused)

    def other_key(self, path: Path) -> bytes:
        """A key of the same kind that the daemon does not know: the user's, on the wrong side."""
        return path.with_name(path.name.replace("host_", "user_")).read_bytes()

    def write(self, files: dict[Path, bytes]) -> None:
        for path, content in files.items():
            path.write_bytes(content)

    async def test_cut(self) -> None:
        """A cut link is back by itself; what was asked meanwhile waits for it or is told."""
        before = len(self.replica.lines)
        asking = Deferred.fromCoroutine(self.ask())
        await pause(0.02)
        self.assertGreater(self.cut_link(), 0)
        for endpoint, asked in (await asking).items():
            said = (endpoint, asked.code, asked.response.body[:200])
            self.assertIn(asked.code, (200, 500, 502, 503), said)
        await self.assert_works_again()
        lines = self.replica.told(before)
        self.assertEqual(len([line for line in lines if "Lost the SSH link" in line]), 1, lines)
        self.assertEqual(len([line for line in lines if "is back after" in line]), 1, lines)


class WireTestCase(OutageTestCase):
    """A daemon whose packets take a real way, through two network stacks."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Put the wire between the daemon and the login node."""
        self.cluster = self.make_cluster()
        self.wire = Wire(int(self.cluster.env()["JARVICE_SLURM_CLUSTER_PORT"]))
        self.addCleanup(self.wire.close)
        await super().setUp()

    def environ(self) -> dict[str, str]:
        """The login node is at the wire's far end."""
        environ = super().environ()
        known_hosts = environ["JARVICE_SLURM_SSH_KNOWN_HOSTS"]
        return {
            **environ,
            "JARVICE_SLURM_CLUSTER_ADDR": self.wire.host,
            "JARVICE_SLURM_SSH_KNOWN_HOSTS": known_hosts.replace(
                "[127.0.0.1]", f"[{self.wire.host}]"
            ),
        }


class LatePacketsTests(WireTestCase):
    """Packets that are late or lost."""

    async def test_slow(self) -> None:
        """A tenth of a second each way: everything works, and nothing is told."""
        self.wire.set(delay=0.1)
        before = len(self.replica.lines)
        for _ in range(2):
            answers = await self.ask()
            self.assert_honest(answers)
            self.assertEqual(answers["ready"].code, 200)
        self.assertEqual(self.replica.told(before), [])

    async def test_lossy(self) -> None:
        """One packet in ten is lost: right answers, or an honest error in time, no job doubled."""
        self.wire.set(loss=0.1, delay=0.01)
        for _ in range(3):
            for endpoint, asked in (await self.ask()).items():
                said = (endpoint, asked.code, asked.response.body[:200])
                self.assertLess(asked.seconds, BOUND, said)
                if asked.code == 200 and endpoint != "ready":
                    self.assert_right(endpoint, asked)
                else:
                    self.assertIn(asked.code, (200, 500, 502, 503, 504), said)
        _, lost = self.wire.counts()
        self.assertGreater(lost, 0)
        self.wire.set()
        await self.assert_works_again()


class SilenceTests(WireTestCase):
    """Nothing comes back any longer, though every connection seems to be up."""

    async def test_cut_and_frozen(self) -> None:
        """Every packet is lost on the way of one daemon, while sshd itself hangs for another.

        Both notice by themselves, tell it, and work again within 15 s of the fault's end.
        """
        others = self.cluster.env()
        direct = await self.start_replica(
            JARVICE_SLURM_CLUSTER_ADDR=others["JARVICE_SLURM_CLUSTER_ADDR"],
            JARVICE_SLURM_SSH_KNOWN_HOSTS=others["JARVICE_SLURM_SSH_KNOWN_HOSTS"],
        )
        replicas = (self.replica, direct)
        before = [len(replica.lines) for replica in replicas]
        port = int(others["JARVICE_SLURM_CLUSTER_PORT"])
        frozen = processes.holding(port) - {os.getpid(), direct.pid, self.wire.pid}
        self.wire.set(loss=1.0)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        self.addCleanup(self.let_go, frozen)
        await pause(1.2)
        for _ in range(2):
            for answers in await self.of_both(replicas, self.ask):
                self.assert_honest(answers, *SLURM, *FOLDERS)
            await self.of_both(replicas, self.until_the_link_is_lost)
        self.wire.set()
        self.let_go(frozen)
        await self.of_both(replicas, self.assert_works_again)
        for replica, since in zip(replicas, before, strict=True):
            lines = replica.told(since)
            for words in ("Lost the SSH link", "is back after"):
                self.assertEqual(len([line for line in lines if words in line]), 1, lines)

    async def until_the_link_is_lost(self, client: DaemonClient) -> None:
        """It is noticed on the link that was up, and told of the next one that is tried."""
        await self.until_not_ready(client, "has not answered|no answer from the login node")

    async def of_both(
        self, replicas: Iterable[Replica], ask: Callable[[DaemonClient], Awaitable[T]]
    ) -> list[T]:
        """The same of both daemons at once."""
        asked = [Deferred.fromCoroutine(_await(ask(replica.client))) for replica in replicas]
        return await gatherResults(asked)

    def let_go(self, pids: set[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def _await(asking: Awaitable[T]) -> T:
    return await asking
