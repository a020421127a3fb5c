"""The daemon as it is deployed: started by twistd, configured by its environment, ended by TERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent

from deploy.demo.processes import Daemon, free_port
from test.cluster.harness import shared_cluster

PROJECT = Path(__file__).parents[2]
PREFIX = re.compile(r"\A\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[\d+\] (DEBUG|INFO|WARNING|ERROR) ")


class TwistdTests(TestCase):
    """`twistd jarvice-slurmd`."""

    timeout = 120

    def start(self, **changes: str) -> None:
        """Start the daemon before the shared cluster, its log in `self.lines`."""
        self.lines: list[str] = []
        self.port = free_port()
        self.daemon = Daemon.start(
            reactor,
            {**shared_cluster().env(), **changes},
            ["--http", f"tcp:{self.port}:interface=127.0.0.1"],
            self.lines.append,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(self.daemon.stop()))

    async def until_logged(self, text: str) -> None:
        """Wait until the log holds a text."""
        while not any(text in line for line in self.lines):
            self.assertFalse(self.daemon.ended.called, self.lines)
            await deferLater(reactor, 0.05)

    def messages(self) -> list[str]:
        """The log's messages, every line of it checked for its form."""
        for line in self.lines:
            self.assertRegex(line, PREFIX)
        return [PREFIX.sub("", line) for line in self.lines]

    async def test_init_report(self) -> None:
        """The log begins as PROTOCOL §6 says, whatever the log level."""
        self.start(JARVICE_SLURM_SCHED_LOGLEVEL="50")
        await self.until_logged("Entering main loop")
        messages = self.messages()
        environ = shared_cluster().env()
        self.assertEqual(
            messages[:16],
            [
                "+----- Slurm Scheduler init report -----+",
                "|-- SSH connection to target cluster:",
                "|     host: 127.0.0.1",
                f"|     port: {environ['JARVICE_SLURM_CLUSTER_PORT']}",
                "|     user: jarvice-dev",
                "|-- Script environment:",
                f"|     scratch dir: {environ['JARVICE_SLURM_SCRATCH_DIR']}",
                "|     http_proxy: ",
                "|     https_proxy: ",
                "|     no_proxy: ",
                "|-- Singularity environment:",
                "|     tmp work dir: /tmp",
                "|     verbose mode: false",
                "|     overlay size: 640",
                "+---------------------------------------+",
                "",
            ],
        )
        connected = messages.index("Now testing connectivity to target cluster...")
        self.assertRegex(messages[connected + 1], r"\AConnected \(version 2\.0, client OpenSSH_")
        self.assertEqual(messages[connected + 2], "Authentication (publickey) successful!")
        self.assertRegex(messages[connected + 3], r"Requirements of the cluster: \d+ ok, ")
        for name in ("SelectType", "folder", "host key", "account"):
            self.assertTrue(any(f"[ok]      {name}: " in line for line in messages), messages)
        for line in messages[connected + 3 : -1]:
            self.assertTrue(line.startswith("|"), line)
        self.assertEqual(messages[-1], "Init done. Entering main loop.")

    async def test_no_login_node(self) -> None:
        """A login node that does not answer is told, and the daemon goes on trying."""
        environ = shared_cluster().env()
        port, nobody = environ["JARVICE_SLURM_CLUSTER_PORT"], str(free_port())
        known = environ["JARVICE_SLURM_SSH_KNOWN_HOSTS"].replace(f":{port} ", f":{nobody} ")
        self.start(JARVICE_SLURM_CLUSTER_PORT=nobody, JARVICE_SLURM_SSH_KNOWN_HOSTS=known)
        await self.until_logged("Entering main loop")
        messages = self.messages()
        said = messages.index("Could not connect to remote cluster!")
        self.assertIn("refused", messages[said + 1])
        self.assertEqual(messages[said + 2], "Please check ssh parameters.")
        agent = Agent(reactor)
        ready = await treq.get(f"http://127.0.0.1:{self.port}/ready", agent=agent, persistent=False)
        self.assertEqual(ready.code, 503)
        self.assertIn("refused", (await ready.json())["reason"])

    async def test_term(self) -> None:
        """SIGTERM: a request in flight is answered, then the process ends as twistd does, by it."""
        self.start()
        await self.until_logged("Entering main loop")
        agent = Agent(reactor)
        url = f"http://127.0.0.1:{self.port}/exitstatus"
        form = {"args": '{"name": "never", "number": 1, "jobid": "999999"}'}
        # Slurm is asked twice, a second apart, before a job counts as unknown.
        asking = treq.post(url, data=form, agent=agent, persistent=False)
        await deferLater(reactor, 0.3)
        self.daemon.transport.signalProcess(signal.SIGTERM)  # type: ignore[union-attr]
        response = await asking
        self.assertEqual((response.code, await response.json()), (200, [-9, "00:00:00", []]))
        self.assertEqual(await self.daemon.ended, -signal.SIGTERM)

    def test_wrong_configuration(self) -> None:
        """Every problem is told at once, and nothing is started."""
        twistd = Path(sys.executable).parent / "twistd"
        environ = {
            "PATH": os.environ["PATH"],
            "JARVICE_SLURM_CLUSTER_PORT": "99999",
            "JARVICE_SLURM_SSH_PKEY": "not a key",
            "JARVICE_SLURM_SCRATCH_DIR": "relative/path",
        }
        done = subprocess.run(
            [str(twistd), "--nodaemon", "--pidfile=", "jarvice-slurmd", "--http", "nonsense:1"],
            env=environ,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertNotEqual(done.returncode, 0)
        for variable in (
            "JARVICE_SLURM_CLUSTER_ADDR",
            "JARVICE_SLURM_CLUSTER_PORT",
            "JARVICE_SLURM_SSH_USER",
            "JARVICE_SLURM_SSH_PKEY",
            "JARVICE_SLURM_SCRATCH_DIR",
            "nonsense:1",
        ):
            self.assertIn(variable, done.stdout + done.stderr)

    async def test_secrets_are_not_logged(self) -> None:
        """Neither the key nor the server's password stands in the log, at any level."""
        secret = "upstream:correct-horse-battery"
        self.start(JARVICE_SLURM_SCHED_LOGLEVEL="0", JARVICE_SCHED_SERVER_KEY=secret)
        await self.until_logged("Entering main loop")
        url = f"http://127.0.0.1:{self.port}/running"
        user, _, password = secret.partition(":")
        agent = Agent(reactor)
        denied = await treq.get(url, agent=agent, persistent=False)
        self.assertEqual(denied.code, 401)
        allowed = await treq.get(url, agent=agent, persistent=False, auth=(user, password))
        self.assertEqual(allowed.code, 200)
        log = "\n".join(self.lines)
        self.assertNotIn(password, log)
        body = shared_cluster().private_key("ed25519").splitlines()[1]
        self.assertNotIn(body, log)
