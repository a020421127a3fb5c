"""Secrets stay secret: hunted for wherever somebody else could read them.

The daemon is the deployed one, started by twistd, with its log at level 0; the password is one that
works; jobs tell everything (JARVICE_SINGULARITY_VERBOSE).
"""

from __future__ import annotations

import base64
import json
import pwd
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent

from deploy.demo.processes import Daemon, free_port
from deploy.devcluster import registry
from deploy.devcluster.layout import TEST_USER
from test.cluster.containers import ContainerTestCase
from test.cluster.daemon import DaemonClient, Job

#: A user's token (PROTOCOL §1, bearer): three parts, as a JWT has.
BEARER = ".".join(
    base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
    for part in ({"alg": "HS256"}, {"email": "jane@example.org"}, ["signature", 27182818])
)

#: Files of the registry itself, which of course knows its password.
_REGISTRYS_OWN = ("registry.login", "registry.auth.json", "registry.htpasswd")


@define(eq=False)
class ArgumentWatch:
    """Reads the arguments of all processes again and again, in a thread, until it is stopped."""

    secrets: Sequence[bytes]
    found: set[bytes] = field(factory=set)
    rounds: int = 0
    _stop: Event = field(factory=Event)

    def run(self) -> None:
        """Watch until `stop`."""
        while not self._stop.wait(0.02):
            self.rounds += 1
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    words = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                if any(secret in words for secret in self.secrets):
                    self.found.add(words[:500])

    def stop(self) -> None:
        """End it."""
        self._stop.set()


class SecretsTests(ContainerTestCase):
    """From submission to the end, for both ways to submit."""

    settings: ClassVar[Mapping[str, str]] = {
        "JARVICE_SLURM_OVERLAY_SIZE": "64",
        "JARVICE_SLURM_SCHED_LOGLEVEL": "0",
        "JARVICE_SINGULARITY_VERBOSE": "true",
    }

    async def setUp(self) -> None:  # type: ignore[override]
        """Put the deployed daemon in the place of the one in this process."""
        await super().setUp()
        self.log: list[str] = []
        port = free_port()
        deployed = Daemon.start(
            reactor,
            {**self.cluster.env(), **self.settings},
            ["--http", f"tcp:{port}:interface=127.0.0.1"],
            self.log.append,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(deployed.stop()))
        self.client = DaemonClient(f"http://127.0.0.1:{port}", Agent(reactor))

        async def answers() -> bool:
            try:
                return await self.is_ready()
            except Exception:  # it does not listen yet
                return False

        await self.until(answers)
        user, password = registry.credentials(self.layout)
        self.secrets = [
            password.encode(),
            base64.b64encode(password.encode()),
            base64.b64encode(f"{user}:{password}".encode()),
            self.docker_config().encode(),
            BEARER.encode(),
            BEARER.split(".")[2].encode(),
        ]
        self.watch = ArgumentWatch(self.secrets)
        watching = deferToThread(self.watch.run)
        self.addCleanup(lambda: watching)
        self.addCleanup(self.watch.stop)

    def holds_secret(self, data: bytes) -> bool:
        """Whether one of the secrets stands there."""
        return any(secret in data for secret in self.secrets)

    def find_files(self) -> list[Path]:
        """The files that hold a secret: Slurm's, the login node's, the scratch folder's, homes."""
        found = []
        home = Path(pwd.getpwnam(TEST_USER).pw_dir)
        for folder in (self.cluster.state, home, Path("/tmp")):
            for path in folder.glob("*" if folder == Path("/tmp") else "**/*"):
                if path.parent == self.layout.etc and path.name in _REGISTRYS_OWN:
                    continue
                try:
                    own = path.is_file() and not path.is_symlink()
                    if own and self.holds_secret(path.read_bytes()):
                        found.append(path)
                except OSError:
                    continue  # removed meanwhile
        return found

    def find_environments(self, job: Job) -> list[str]:
        """The processes of a job that have a secret in their environment."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environ = (process / "environ").read_bytes()
                if self.is_of(job, environ) and self.holds_secret(environ):
                    found.append(f"{process}: {(process / 'cmdline').read_bytes()[:200]!r}")
            except OSError:
                continue
        return found

    async def find_told(self, job: Job) -> list[str]:
        """Who tells a secret when asked: Slurm, the daemon, its log."""
        found = []
        for words in (
            ("scontrol", "show", "job", job.jobid),
            ("scontrol", "write", "batch_script", job.jobid, "-"),
            ("squeue", "--noheader", "--states=all", "--format=%all"),
        ):
            shown = await deferToThread(self.cluster.slurm, *words)
            if self.holds_secret(shown.encode()):
                found.append(" ".join(words))
        for path in ("events", "runstatus"):
            response = await self.client.post(f"/{path}", job.ref)
            if self.holds_secret(response.body):
                found.append(path)
        tail = await self.client.post(f"/request/{job.path}/tail", {"qs": {"lines": ["0"]}})
        if self.holds_secret(tail.body):
            found.append("tail")
        if self.holds_secret("\n".join(self.log).encode()):
            found.append("the daemon's log")
        return found

    async def hunt(self, content: Mapping[str, Any], gate: Path) -> str:
        """Follow a job on two nodes that runs until the gate is there; returns its output."""
        job, script = await self.submit_args(content, nodes=2, held=True, bearer=BEARER)
        self.assertFalse(self.holds_secret(script.encode()), script)

        # While it waits the text is on the shared home, for its owner alone.
        self.assertEqual(await self.find_told(job), [])
        waiting = await deferToThread(self.find_files)
        submission = self.cluster.scratch / ".jarvice" / "submit" / job.name
        self.assertEqual(waiting, [submission / "node.sh"])
        self.assertEqual(waiting[0].stat().st_mode & 0o777, 0o600)
        self.assertEqual(submission.stat().st_mode & 0o077, 0)

        # Once it has started nothing of that is left.
        await self.client.post("/release", job.ref)
        await self.until_printed(job, "the gate is closed")
        self.assertEqual(await deferToThread(self.find_files), [])
        self.assertEqual(await self.find_told(job), [])
        if "job" in content:  # upstream's text exports what it does
            self.assertEqual(await deferToThread(self.find_environments, job), [])

        await deferToThread(gate.touch)
        result = await self.result(job)
        self.assertEqual(result.return_code, 0, result)
        self.assertFalse(self.holds_secret(result.output.encode()), result.output)
        self.assertEqual(await deferToThread(self.find_files), [])
        self.assertEqual(await self.find_told(job), [])
        self.assertEqual(self.watch.found, set())
        self.assertGreater(self.watch.rounds, 10)
        self.assertTrue(any(job.jobid in line for line in self.log), "the log says nothing")
        return result.output

    def command(self) -> tuple[str, Path]:
        """Shell text that runs until the file is there."""
        gate = self.cluster.scratch / f"gate-{time.monotonic_ns()}"
        return f"echo the gate is closed; until [ -e {gate} ]; do sleep 0.2; done", gate

    async def test_job(self) -> None:
        """The built-in executor, its credentials in both forms."""
        command, gate = self.command()
        job = self.job(command, docker_config=self.docker_config(), init=True)
        output = await self.hunt({"job": job}, gate)
        self.assertEqual(output.count("container up"), 2)

    async def test_hpc_script(self) -> None:
        """Upstream's text, its credentials as a docker secret and as a docker configuration."""
        for in_config in (False, True):
            command, gate = self.command()
            text = self.hpc_script(f"{command}; echo JARVICE_CMD_SUCCESS", in_config=in_config)
            encoded = base64.b64encode(text.encode()).decode()
            await self.hunt({"hpc_script": {"singularity": encoded}}, gate)

    async def test_the_hunt_finds(self) -> None:
        """A job that tells its secret is found out: in its output, its arguments and files."""
        command, gate = self.command()
        password = registry.credentials(self.layout)[1]
        left = self.cluster.scratch / "left"
        tell = f"echo {password} >{left}; echo {password}; X={password} sleep 20 & {command}"
        tell = f"(: {password}; sleep 20) & {tell}"
        job, _ = await self.submit_args({"job": self.job(["sh", "-c", tell])})
        await self.until_printed(job, "the gate is closed")
        self.assertIn(left, await deferToThread(self.find_files))
        self.assertIn("tail", await self.find_told(job))
        self.assertNotEqual(await deferToThread(self.find_environments, job), [])
        self.assertNotEqual(self.watch.found, set())
        await deferToThread(gate.touch)
        await self.result(job)
        left.unlink()
        (self.cluster.scratch / ".jarvice" / f"{job.name}.out").unlink()
