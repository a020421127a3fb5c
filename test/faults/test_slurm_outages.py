"""Slurm is down, slow, or lies: told, not guessed, and over when it is over."""

from __future__ import annotations

import os
from itertools import count
from typing import ClassVar

from test.cluster.daemon import job_text
from test.faults.outage_case import OutageTestCase
from test.faults.replica import SLURM
from test.faults.stage import pause

_numbers = count(8500)


class ControllerTests(OutageTestCase):
    """slurmctld."""

    timeout = 240

    async def test_down(self) -> None:
        """It was stopped: "Unable to contact slurm controller"."""
        self.replica.lines.clear()
        await self.stop_part("slurmctld")
        await self.assert_told(
            *SLURM,
            told="(told once until it is over)",
            over="works again after",
            mend=lambda: self.start_part("slurmctld"),
            rounds=1,
        )

    async def test_frozen(self) -> None:
        """It accepts connections and answers none: 504 in time."""
        self.freeze("slurmctld")
        await self.assert_told(
            *SLURM,
            told="(told once until it is over)",
            over="works again after",
            mend=lambda: self.thawed("slurmctld"),
            rounds=1,
        )


class SqueueTests(OutageTestCase):
    """squeue itself."""

    async def test_misses_a_job(self) -> None:
        """A job that squeue does not list is not gone while Slurm knows it."""
        held = await self.submit(job_text("echo released"), held=True, number=next(_numbers))
        # Old enough for the clean-up to look at them.
        root = self.cluster.scratch / ".jarvice"
        for path in (root / "submit" / held.name, root / "submit" / held.name / "node.sh"):
            os.utime(path, (1, 1))
        self.wrap("squeue", "exit 0")
        await pause(1.2)
        for _ in range(3):
            answer = await self.client.post("/runstatus", self.jobs.running.ref)
            self.assertEqual(answer.code, 503, answer.body)
            answer = await self.client.post("/exitstatus", self.jobs.running.ref)
            self.assertEqual(answer.code, 409, answer.body)
            answer = await self.client.post("/exitstatus", self.jobs.held.ref)
            self.assertEqual(answer.code, 409, answer.body)
            answer = await self.client.post("/events", self.jobs.running.ref)
            self.assertIn(f"JobId={self.jobs.running.jobid} ", answer.json)
        self.assertEqual((await self.client.get("/gc")).code, 200)
        self.assertTrue((root / "submit" / held.name / "node.sh").exists())
        self.assertEqual((await self.client.post("/release", held.ref)).code, 200)
        self.unwrap("squeue")
        self.assertEqual((await self.end_of(held))[2][0], "released\n")
        await self.assert_works_again()

    async def test_misses_once(self) -> None:
        """One squeue that lacks a job is not believed."""
        await pause(1.2)
        self.wrap("squeue", '[ -e "$begun" ] || { touch "$begun"; exit 0; }; exec "$real" "$@"')
        answer = await self.client.post("/runstatus", self.jobs.running.ref)
        self.assertEqual(answer.code, 200, answer.body)
        self.assertEqual(answer.json[2], self.jobs.running.path)

    async def test_prints_half(self) -> None:
        """It dies in the middle of its answer: that is no answer."""
        self.wrap("squeue", '"$real" "$@" | head -c 20; kill -9 $$')
        await pause(1.2)
        for path in ("/running", "/queued"):
            answer = await self.client.get(path)
            self.assertIn(answer.code, (502, 503), answer.body)


class DefaultBoundsTests(OutageTestCase):
    """With the timeouts that a site has when it sets none."""

    settings: ClassVar = {}

    async def test_everything_hangs(self) -> None:
        """squeue and its like never end: 504 within 25 s, and they are ended there too."""
        commands = ("squeue", "scontrol", "scancel", "sbatch")
        for command in commands:
            self.wrap(command, "exec sleep 1234567")
        await self.assert_told(
            *SLURM,
            told="(told once until it is over)",
            over="works again after",
            mend=lambda: self.unwrapped(*commands),
            rounds=1,
        )
        left = self.cluster.ssh("ps -u $(id -u) -o args=").stdout.decode()
        self.assertNotIn("1234567", left)
