# mypy: allow-untyped-calls
"""The SSH link against a real OpenSSH server."""

from __future__ import annotations

from signal import SIGCONT, SIGSTOP
from typing import Any

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import TestCase

from jarvice_slurmd.errors import LinkLostError, LoginShellError, NotConnectedError
from jarvice_slurmd.interfaces import IRemoteShell
from jarvice_slurmd.ssh.host_keys import HostKeyPolicy, parse_known_hosts
from jarvice_slurmd.ssh.keys import load_private_key
from jarvice_slurmd.ssh.link import SSHLink
from jarvice_slurmd.ssh.transport import PacketTransport
from test.contract_shell import RemoteShellContract
from test.ssh.sshd import PATIENT, PrivateKey, Sshd, private_pem, public_line

_KEY = ed25519.Ed25519PrivateKey.generate()


class _SSHTests(TestCase):
    """A link and a server of this test's own."""

    def start_sshd(self, config: str = "", keys: list[PrivateKey] | None = None) -> Sshd:
        """An sshd that ends with the test."""
        sshd = Sshd(keys or [_KEY], config)
        self.addCleanup(sshd.stop)
        sshd.start()
        return sshd

    def link_to(self, sshd: Sshd, key: PrivateKey = _KEY, **options: Any) -> SSHLink:
        """A started link that ends before the server does."""
        known = parse_known_hosts(f"[127.0.0.1]:{sshd.port} {public_line(sshd.host_key)}\n")
        link = SSHLink(
            reactor,
            sshd.destination.host,
            sshd.destination.port,
            sshd.destination.user,
            load_private_key(private_pem(key)),
            HostKeyPolicy(known),
            evolve(PATIENT, **options),
        )
        link.startService()
        self.addCleanup(link.stopService)
        return link

    async def connected_to(self, sshd: Sshd, key: PrivateKey = _KEY, **options: Any) -> SSHLink:
        """A started link that has connected."""
        link = self.link_to(sshd, key, **options)
        self.assertIsNone(await link.first_attempt())
        return link

    async def until(self, condition: Any) -> None:
        """Come back when it is so."""
        while not condition():
            await deferLater(reactor, 0.02)  # type: ignore[arg-type]


class SSHLinkContractTests(RemoteShellContract, _SSHTests):
    """`SSHLink` is an `IRemoteShell`."""

    async def make_shell(self) -> IRemoteShell:
        """A link to an sshd with default limits."""
        return await self.connected_to(self.start_sshd())


class LoadTests(_SSHTests):
    """Many commands at once, and what sshd's limits make of them."""

    async def run_all(self, link: SSHLink, count: int, script: str = "cat") -> None:
        """So many commands at once all succeed."""
        runs = [link.run(script, b"%d" % n) for n in range(count)]
        results = await gatherResults(runs)
        self.assertEqual([r.stdout for r in results], [b"%d" % n for n in range(count)])

    async def test_eleven(self) -> None:
        """One more than MaxSessions: the eleventh waits, none is refused."""
        sshd = self.start_sshd("LogLevel VERBOSE")
        link = await self.connected_to(sshd, max_connections=1)
        await self.run_all(link, 11, "sleep 0.2; cat")
        self.assertEqual(sshd.log().count("Accepted publickey"), 1)
        self.assertNotIn("no more sessions", sshd.log())

    async def test_hundred(self) -> None:
        """A hundred at once, with further connections, against default limits: none fails."""
        sshd = self.start_sshd("LogLevel VERBOSE")
        link = await self.connected_to(sshd, queue_patience=0.05)
        await self.run_all(link, 100, "sleep 0.1; cat")
        self.assertEqual(sshd.log().count("Accepted publickey"), 3)
        self.assertNotIn("no more sessions", sshd.log())
        self.assertNotIn("MaxStartups", sshd.log())

    async def test_few_sessions(self) -> None:
        """A server that allows two sessions gets two at a time once it has refused more."""
        sshd = self.start_sshd("MaxSessions 2")
        link = await self.connected_to(sshd, max_connections=1)
        await self.run_all(link, 11)
        refused = sshd.log().count("no more sessions")
        await self.run_all(link, 11)
        self.assertEqual(sshd.log().count("no more sessions"), refused)

    async def test_idle_connections_are_closed(self) -> None:
        """Further connections end when they are no longer needed; the first one stays."""
        sshd = self.start_sshd()
        link = await self.connected_to(sshd, queue_patience=0.0, idle_timeout=0.2)
        await self.run_all(link, 30, "sleep 0.2; cat")
        await self.until(lambda: link.connections == 1)
        await self.run_all(link, 1)

    async def test_rekey(self) -> None:
        """Keys are exchanged again and again while megabytes go both ways, with every cipher."""
        data = bytes(range(256)) * 20_000
        for cipher in PacketTransport.supportedCiphers:
            sshd = self.start_sshd(
                f"RekeyLimit 1M\nLogLevel DEBUG1\nCiphers {cipher.decode('ascii')}"
            )
            link = await self.connected_to(sshd)
            runs = [link.run("cat", data, timeout=100) for _ in range(3)]
            for result in await gatherResults(runs):
                self.assertEqual(result.stdout, data)
            self.assertGreater(sshd.log().count("NEWKEYS sent"), 5)

    async def test_hardened_server(self) -> None:
        """A server with AES-GCM, and no MAC that we know, will do."""
        sshd = self.start_sshd(
            "Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com\n"
            "MACs hmac-sha2-512-etm@openssh.com\nKexAlgorithms curve25519-sha256\n"
            "HostKeyAlgorithms ssh-ed25519\nPubkeyAcceptedAlgorithms ssh-ed25519"
        )
        await self.run_all(await self.connected_to(sshd), 3)

    async def test_keys(self) -> None:
        """Commands run whatever kind the user's key is."""
        keys: list[PrivateKey] = [
            _KEY,
            ec.generate_private_key(ec.SECP256R1()),
            rsa.generate_private_key(65537, 2048),
        ]
        sshd = self.start_sshd(keys=keys)
        for key in keys:
            await self.run_all(await self.connected_to(sshd, key), 1)


class FaultTests(_SSHTests):
    """What happens to the link and to commands when something breaks."""

    async def test_killed_while_running(self) -> None:
        """A command under way has an unknown outcome; the next one finds the link back."""
        sshd = self.start_sshd()
        link = await self.connected_to(sshd)
        with capturedLogs() as logs:
            run = link.run("echo begun; sleep 60")
            started = link.run("true")
            await started
            sshd.kill_sessions()
            with self.assertRaises(LinkLostError):
                await run
            self.assertFalse(link.connected)
            self.assertIn("connection", link.last_error or "")
            self.assertEqual((await link.run("echo back")).stdout, b"back\n")
        self.assertTrue(link.connected)
        self.assertIsNone(link.last_error)
        told = [e for e in logs if e["log_level"] >= LogLevel.warn]
        self.assertEqual(len(told), 2)

    async def test_restarted(self) -> None:
        """Commands wait for a server that comes back in time."""
        sshd = self.start_sshd()
        link = await self.connected_to(sshd)
        sshd.kill_sessions()
        sshd.stop_listening()
        await self.until(lambda: not link.connected)
        run = link.run("echo back")
        sshd.start()
        self.assertEqual((await run).stdout, b"back\n")

    async def test_down(self) -> None:
        """Commands fail with the reason, soon at first and at once when it is known."""
        sshd = self.start_sshd()
        link = await self.connected_to(sshd, down_patience=0.3, backoff_max=0.1)
        sshd.kill_sessions()
        sshd.stop_listening()
        await self.until(lambda: not link.connected)
        with self.assertRaises(NotConnectedError):
            await link.run("true")
        await self.until(lambda: "refused" in (link.last_error or ""))
        failure = self.failureResultOf(link.run("true"), NotConnectedError)
        self.assertIn("Connection was refused", failure.getErrorMessage())

    async def test_frozen_server(self) -> None:
        """A peer that says nothing any longer is noticed by keep-alives."""
        sshd = self.start_sshd()
        link = await self.connected_to(sshd, keepalive_interval=1.0)
        run = link.run("sleep 60", timeout=50)
        await link.run("true")
        sshd.kill_sessions(SIGSTOP)
        self.addCleanup(sshd.kill_sessions, SIGCONT)
        with self.assertRaises(LinkLostError) as caught:
            await run
        self.assertIn("not answered", str(caught.exception))
        self.assertEqual((await link.run("echo back")).stdout, b"back\n")

    async def test_changed_host_key(self) -> None:
        """A server that comes back with another key is refused, loudly and once."""
        sshd = self.start_sshd()
        link = await self.connected_to(sshd, backoff_max=0.1, down_patience=0.1)
        sshd.kill_sessions()
        sshd.stop_listening()
        sshd.host_key = ed25519.Ed25519PrivateKey.generate()
        with capturedLogs() as logs:
            sshd.start()
            await self.until(lambda: "host key" in (link.last_error or ""))
            with self.assertRaises(NotConnectedError) as caught:
                await link.run("true")
        self.assertIn("SHA256:", str(caught.exception))
        self.assertEqual(len([e for e in logs if e["log_level"] == LogLevel.error]), 1)

    async def test_no_login(self) -> None:
        """A key that nobody knows: the first attempt says so."""
        sshd = self.start_sshd(keys=[ed25519.Ed25519PrivateKey.generate()])
        with capturedLogs():
            link = self.link_to(sshd)
            reason = await link.first_attempt()
        self.assertIn("does not accept the key SHA256:", reason or "")
        self.assertEqual(link.last_error, reason)

    async def test_forced_command(self) -> None:
        """An account that runs something else instead of our line did not run the command."""
        sshd = self.start_sshd("ForceCommand echo This account is disabled.; exit 3")
        link = await self.connected_to(sshd)
        with self.assertRaises(LoginShellError) as caught:
            await link.run("true")
        self.assertIn("This account is disabled.", str(caught.exception))
        self.assertIn("status 3", str(caught.exception))

    async def test_banner(self) -> None:
        """What the login shell's start-up file prints is no part of any answer."""
        sshd = self.start_sshd()
        (sshd.path / ".bashrc").write_text("echo 'Welcome to the cluster!'; echo oops >&2\n")
        link = await self.connected_to(sshd)
        result = await link.run("echo 1; echo 2 >&2")
        self.assertEqual((result.stdout, result.stderr), (b"1\n", b"2\n"))

    async def test_stop(self) -> None:
        """Stopping lets what runs end, then closes the connection in order."""
        sshd = self.start_sshd()
        link = await self.connected_to(sshd)
        run = link.run("sleep 0.3; echo done")
        await link.stopService()
        self.assertEqual(self.successResultOf(run).stdout, b"done\n")
        self.assertFalse(link.connected)
        self.failureResultOf(link.run("true"), NotConnectedError)
        await self.until(lambda: "closed by this daemon" in sshd.log())

    async def test_survives_the_link(self) -> None:
        """A command on the login node ends in time although our request to end it never came."""
        sshd = self.start_sshd()
        link = await self.connected_to(sshd)
        began, ended = sshd.path / "began", sshd.path / "ended"
        script = f"trap 'touch {ended}; exit' TERM; touch {began}; sleep 60 & wait"
        run = link.run(script, timeout=4)
        await self.until(began.exists)
        sshd.kill_sessions()
        with self.assertRaises(LinkLostError):
            await run
        await self.until(ended.exists)
