"""The check of a cluster's requirements: what it asks, and what it makes of silence."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from jarvice_slurmd.errors import (
    ForwardingRefusedError,
    LinkLostError,
    NotConnectedError,
    TunnelConnectError,
)
from jarvice_slurmd.interfaces import CommandResult, ITunnelOpener
from jarvice_slurmd.report import render_requirements
from jarvice_slurmd.requirements import PROBE_SECONDS, RequirementsCheck
from jarvice_slurmd.slurm.findings import Finding, Verdict
from test.fakes import SETTINGS, Outcome, ScriptedShell
from test.slurm.test_requirements import COMPUTE, CONFIGURATION, FOLDER, LOGIN, TOOL, without

NODE = "node=n1\naddress=10.0.0.1\nport=6818\n"

#: A word of each probe's script, and what a good cluster says.
GOOD = {
    "sbatch --version": LOGIN,
    "MinJobAge": CONFIGURATION,
    "squeue --noheader": "jobs=0\n",
    "exec sacct": "",
    "df -Pk": FOLDER,
    "exec /bin/bash": TOOL,
    "sinfo": NODE,
    'echo "begin=': "connection=a\nbegin=1\nend=2\n",
    "sbatch --parsable": COMPUTE,
}


@implementer(ITunnelOpener)
class ScriptedTunnels:
    """Opens what it is told to."""

    def __init__(self, outcome: Exception | Deferred[IProtocol] | None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.transport = StringTransport()
        self._outcome = outcome

    def open(self, host: str, port: int, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `ITunnelOpener.open`."""
        self.asked.append((host, port))
        if isinstance(self._outcome, Deferred):
            return self._outcome
        if self._outcome is not None:
            return fail(self._outcome)
        protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
        assert protocol is not None
        protocol.makeConnection(self.transport)
        return succeed(protocol)


class RequirementsTests(SynchronousTestCase):
    """`RequirementsCheck`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.shell = ScriptedShell()
        self.relays = False
        for word, text in GOOD.items():
            self.shell.answer(word, text.encode())
        self.settings = evolve(SETTINGS, ssh_known_hosts="known", ssh_max_sessions=3)

    def check(self, tunnels: ITunnelOpener | None = None) -> RequirementsCheck:
        """The check, with tunnels that open unless others are given."""
        opener = tunnels or ScriptedTunnels(None)
        return RequirementsCheck(
            shell=self.shell,
            tunnels=opener,
            relays=lambda: self.relays,
            settings=self.settings,
            clock=self.clock,
            now=self.clock.seconds,
        )

    def quick(self, tunnels: ITunnelOpener | None = None) -> dict[str, Finding]:
        """The quick findings, by name."""
        asking = Deferred.fromCoroutine(self.check(tunnels).quick())
        return {finding.name: finding for finding in self.successResultOf(asking)}

    def whole(self, *, on_compute_node: bool) -> dict[str, Finding]:
        """All findings, by name."""
        asking = Deferred.fromCoroutine(self.check().whole(on_compute_node=on_compute_node))
        return {finding.name: finding for finding in self.successResultOf(asking)}

    def test_good(self) -> None:
        """A good cluster: all ok, in words for the init report too."""
        self.shell.answer('echo "begin=', self.sessions((1, 2), (1, 2), (1, 2)))
        findings = self.whole(on_compute_node=True)
        for finding in findings.values():
            self.assertIs(finding.verdict, Verdict.OK, finding)
        lines = list(render_requirements(list(findings.values())))
        self.assertIn(f"{len(findings)} ok, 0 warning, 0 failed, 0 unknown", lines[0])
        self.assertTrue(all(line.startswith("|") for line in lines))

    def sessions(self, *times: tuple[float, float]) -> Callable[[], Outcome]:
        """What sessions of one connection tell, one after the other."""
        left = iter(times)

        def answer() -> Outcome:
            begin, end = next(left)
            return f"connection=a\nbegin={begin}\nend={end}\n".encode()

        return answer

    def test_nobody_answers(self) -> None:
        """Every check is made, and unknown, whatever the shell raises."""
        for error in (NotConnectedError("no link"), LinkLostError("link lost")):
            for word in GOOD:
                self.shell.answer(word, error)
            findings = self.whole(on_compute_node=True)
            del findings["host key"]
            self.assertEqual({finding.verdict for finding in findings.values()}, {Verdict.UNKNOWN})

    def test_one_probe_fails(self) -> None:
        """What one probe would have told is unknown; the others tell."""
        self.shell.answer("df -Pk", LinkLostError("it hung"))
        findings = self.quick()
        unknown = {f.name for f in findings.values() if f.verdict is Verdict.UNKNOWN}
        self.assertEqual(unknown, {"folder", "flock on the login node", "free space"})

    def test_bounded(self) -> None:
        """Every quick question has its own bound, and they are asked side by side."""
        waiting: Deferred[CommandResult] = Deferred()
        self.shell.answer("df -Pk", waiting)
        asking = Deferred.fromCoroutine(self.check().quick())
        self.assertNoResult(asking)
        self.assertEqual({c.timeout for c in self.shell.commands}, {PROBE_SECONDS})
        self.assertEqual(len(self.shell.commands), 7)
        waiting.errback(LinkLostError("late"))
        self.successResultOf(asking)

    def test_no_compute_node(self) -> None:
        """Without leave no job is submitted, and what it would tell is unknown."""
        findings = self.whole(on_compute_node=False)
        self.assertEqual(self.shell.asked("sbatch --parsable"), [])
        self.assertIs(findings["flock across nodes"].verdict, Verdict.UNKNOWN)
        self.assertIn("--on-compute-node", findings["overlay"].found)

    def test_compute_nodes_tool_counts(self) -> None:
        """The container tool of the compute node, not the login node's, is judged."""
        old = without(COMPUTE, "tool_version", "singularity version 3.8.0")
        self.shell.answer("sbatch --parsable", old.encode())
        self.settings = evolve(self.settings, overlay_size=0)
        finding = self.whole(on_compute_node=True)["container tool"]
        self.assertIs(finding.verdict, Verdict.FAILED)
        self.assertIn("3.8.0", finding.found)

    def test_sessions(self) -> None:
        """As many sessions count as were held at the same moment on one connection."""
        self.shell.answer('echo "begin=', self.sessions((1, 4), (1.5, 4.5), (4.5, 7.5)))
        finding = self.whole(on_compute_node=False)["MaxSessions"]
        self.assertIs(finding.verdict, Verdict.WARNING)
        self.assertIn("2 sessions at once", finding.found)
        self.assertEqual(len(self.shell.asked('echo "begin=')), 3)

    def test_forwarding(self) -> None:
        """A compute node's slurmd is asked for, and let go."""
        tunnels = ScriptedTunnels(None)
        self.assertIs(self.quick(tunnels)["forwarding"].verdict, Verdict.OK)
        self.assertEqual(tunnels.asked, [("10.0.0.1", 6818)])
        self.assertTrue(tunnels.transport.disconnecting)

    def test_forwarding_refused(self) -> None:
        """It fails where interactive jobs are wanted, and warns elsewhere."""
        refused = ScriptedTunnels(ForwardingRefusedError("administratively prohibited"))
        self.assertIs(self.quick(refused)["forwarding"].verdict, Verdict.WARNING)
        self.settings = evolve(self.settings, jobs_domain="jobs.example.org")
        finding = self.quick(refused)["forwarding"]
        self.assertIs(finding.verdict, Verdict.FAILED)
        self.assertIn("AllowTcpForwarding", finding.fix)

    def test_forwarding_relayed(self) -> None:
        """Where tunnels go around sshd's refusal, it is told all the same."""
        self.relays = True
        finding = self.quick()["forwarding"]
        self.assertIs(finding.verdict, Verdict.WARNING)
        self.assertIn("forbids", finding.found)
        self.assertIn("AllowTcpForwarding", finding.fix)

    def test_forwarding_unknown(self) -> None:
        """A node that does not answer, a lost link, and no address at all."""
        silent = ScriptedTunnels(TunnelConnectError("connection refused"))
        self.assertIs(self.quick(silent)["forwarding"].verdict, Verdict.WARNING)
        lost = ScriptedTunnels(NotConnectedError("no link"))
        self.assertIs(self.quick(lost)["forwarding"].verdict, Verdict.UNKNOWN)
        self.shell.answer("sinfo", b"")
        tunnels = ScriptedTunnels(None)
        self.assertIs(self.quick(tunnels)["forwarding"].verdict, Verdict.UNKNOWN)
        self.assertEqual(tunnels.asked, [])

    def test_forwarding_without_a_node(self) -> None:
        """Where no node's address is told, the login node's own sshd proves nothing of them."""
        result = CommandResult(status=1, stdout=b"ssh_port=2222\n", stderr=b"Access denied")
        self.shell.answer("sinfo", result)
        tunnels = ScriptedTunnels(None)
        finding = self.quick(tunnels)["forwarding"]
        self.assertIs(finding.verdict, Verdict.UNKNOWN)
        self.assertIn("the login node itself (127.0.0.1:2222) was forwarded", finding.found)
        self.assertIn("no address was told: Access denied", finding.found)
        self.assertIn("PrivateData", finding.fix)
        self.assertEqual(tunnels.asked, [("127.0.0.1", 2222)])
        self.shell.answer("sinfo", b"ssh_port=2222\n")
        self.assertIn("none answers, or none may be seen", self.quick(tunnels)["forwarding"].found)
        silent = ScriptedTunnels(TunnelConnectError("connection refused"))
        self.assertIs(self.quick(silent)["forwarding"].verdict, Verdict.UNKNOWN)
        refused = ScriptedTunnels(ForwardingRefusedError("administratively prohibited"))
        self.assertIs(self.quick(refused)["forwarding"].verdict, Verdict.WARNING)
        self.relays = True
        finding = self.quick(tunnels)["forwarding"]
        self.assertIs(finding.verdict, Verdict.WARNING)
        self.assertIn("sshd forbids it", finding.found)

    def test_forwarding_hangs(self) -> None:
        """A node that never answers does not hold up the report."""
        asking = Deferred.fromCoroutine(self.check(ScriptedTunnels(Deferred())).quick())
        self.assertNoResult(asking)
        self.clock.advance(PROBE_SECONDS)
        (finding,) = [f for f in self.successResultOf(asking) if f.name == "forwarding"]
        self.assertIs(finding.verdict, Verdict.UNKNOWN)

    def test_host_key(self) -> None:
        """A key that was trusted unseen is a warning that says what to do."""
        self.settings = evolve(self.settings, ssh_known_hosts=None)
        finding = self.quick()["host key"]
        self.assertIs(finding.verdict, Verdict.WARNING)
        self.assertIn("ssh-keyscan -p 22 login.example.org", finding.fix)
