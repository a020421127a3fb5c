"""The init report, line for line (PROTOCOL §6)."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd import report
from test.fakes import SETTINGS


class ReportTests(SynchronousTestCase):
    """What an administrator reads at start."""

    def test_lines(self) -> None:
        """The box, one value a line."""
        settings = evolve(
            SETTINGS,
            ssh_port=2222,
            scratch_dir="/scratch/",
            http_proxy="http://p:3128",
            https_proxy="http://s:3128",
            no_proxy="a,b",
            singularity_tmpdir="/var/tmp",
            singularity_verbose=True,
            overlay_size=5,
            server_key="user:hush",
        )
        self.assertEqual(
            list(report.render_init_report(settings)),
            [
                "+----- Slurm Scheduler init report -----+",
                "|-- SSH connection to target cluster:",
                "|     host: login.example.org",
                "|     port: 2222",
                "|     user: jarvice",
                "|-- Script environment:",
                "|     scratch dir: /scratch/",
                "|     http_proxy: http://p:3128",
                "|     https_proxy: http://s:3128",
                "|     no_proxy: a,b",
                "|-- Singularity environment:",
                "|     tmp work dir: /var/tmp",
                "|     verbose mode: true",
                "|     overlay size: 5",
                "+---------------------------------------+",
                "",
            ],
        )
        self.assertEqual(report.TESTING, "Now testing connectivity to target cluster...")
        self.assertEqual(report.DONE, "Init done. Entering main loop.")

    def test_no_key(self) -> None:
        """Without a server key it warns in plain words, and only then."""
        lines = list(report.render_init_report(SETTINGS))
        self.assertEqual(len(lines), 17)
        self.assertIn("JARVICE_SCHED_SERVER_KEY is not set", lines[-1])

    def test_no_secret(self) -> None:
        """Passwords of proxies are masked, wherever in them an odd character stands."""
        for proxy, shown in {
            "http://joe:hush@p:3128": "http://********@p:3128",
            "joe:hush@p:3128": "********@p:3128",
            "http://joe:hu//sh@p": "http://********@p",
            "http://joe:hu://sh@p": "http://********@p",
            "http://joe:hu@sh@p": "http://********@p",
            "http://p:3128/a": "http://p:3128/a",
            "http://@p:3128": "http://@p:3128",
            "": "",
        }.items():
            settings = evolve(SETTINGS, http_proxy=proxy, https_proxy=proxy, server_key="a:hush")
            lines = list(report.render_init_report(settings))
            self.assertIn(f"|     http_proxy: {shown}", lines)
            self.assertIn(f"|     https_proxy: {shown}", lines)
            self.assertNotIn("hush", "\n".join(lines))

    def test_connected(self) -> None:
        """What the server says it is, without its comment."""
        self.assertEqual(
            list(report.render_connected("2.0", "OpenSSH_9.2 Debian-2")),
            [
                "Connected (version 2.0, client OpenSSH_9.2)",
                "Authentication (publickey) successful!",
            ],
        )

    def test_not_connected(self) -> None:
        """The reason between PROTOCOL §6's sentences."""
        self.assertEqual(
            list(report.render_not_connected("Connection refused")),
            [
                "Could not connect to remote cluster!",
                "Connection refused",
                "Please check ssh parameters.",
            ],
        )
