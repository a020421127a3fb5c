"""How a command in a container is told to end, and what it may still do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from test.cluster.containers import ContainerTestCase
from test.cluster.daemon import Job


class EndTests(ContainerTestCase):
    """Time limit, shutdown and abort reach the command."""

    async def start(self, command: object | None = None, *, nodes: int = 1) -> tuple[Job, Path]:
        """A job that traps SIGTERM, saves its work to the file and says farewell; it runs."""
        saved = self.cluster.scratch / f"saved-{os.urandom(4).hex()}"
        command = command or ["farewell", str(saved)]
        job = await self.submit_job(self.job(command, image="farewell"), nodes=nodes)
        await self.until_printed(job, "farewell: ready", "container up after")
        return job, saved

    async def test_shutdown(self) -> None:
        """SIGTERM, once, and the time to save its work."""
        job, saved = await self.start(nodes=2)
        await self.client.post(f"/request/{job.path}/shutdown", {})
        result = await self.result(job)
        self.assertEqual(result.return_code, -15, result)
        self.assertIn("termination state: CANCELLED ", result.verdict)
        self.assertEqual(result.output.count("\nfarewell\n"), 1, result)
        self.assertTrue(saved.exists(), result)

    async def test_time_limit(self) -> None:
        """The same, and the job ends as TIMEOUT."""
        job, saved = await self.start()
        self.cluster.slurm("scontrol", "update", f"JobId={job.jobid}", "EndTime=now+1seconds")
        result = await self.result(job)
        self.assertEqual(result.return_code, -9, result)
        self.assertIn("termination state: TIMEOUT ", result.verdict)
        self.assertEqual(result.output.count("\nfarewell\n"), 1, result)
        self.assertTrue(saved.exists(), result)

    async def test_abort(self) -> None:
        """SIGKILL: nothing is saved, and nothing is left."""
        job, saved = await self.start(nodes=2)
        await self.client.post(f"/request/{job.path}/abort", {})
        result = await self.result(job)
        self.assertEqual(result.return_code, -15, result)
        self.assertNotIn("\nfarewell\n", result.output)
        self.assertFalse(saved.exists())
        self.assert_no_shell_text(result.output)
        await self.until_no_files(job)

    async def test_abort_before_the_container_is_up(self) -> None:
        """The disk that is being made and the command's text go too."""
        # The second node is kept from starting its container: the first waits, its disk made.
        site = self.cluster.scratch / ".jarvice_custom_env"
        gate = self.cluster.scratch / f"gate-{os.urandom(4).hex()}"
        site.write_text(f'[ "$PROCESS_PROCID" = 0 ] || until [ -e {gate} ]; do sleep 0.2; done\n')
        site.chmod(0o644)
        self.addCleanup(site.unlink)
        job = await self.submit_job(self.job("echo ran"), nodes=2)
        await self.until_printed(job, "overlay of ")
        self.assertTrue((self.job_folder(job) / "node.0" / "overlay.img").exists())
        await self.client.post(f"/request/{job.path}/abort", {})
        result = await self.result(job)
        self.assertEqual(result.return_code, -15, result)
        self.assertNotIn("\nran\n", result.output)
        await self.until_no_files(job)

    async def until_no_files(self, job: Job) -> None:
        """Wait until the nodes' own files are gone."""

        async def are_gone() -> bool:
            return not list(self.job_folder(job).glob("node.*"))

        await self.until(are_gone)

    async def test_terminate(self) -> None:
        """Upstream's /terminate is a shutdown."""
        job, saved = await self.start()
        await self.client.post("/terminate", job.ref)
        result = await self.result(job)
        self.assertEqual(result.return_code, -15, result)
        self.assertEqual(result.output.count("\nfarewell\n"), 1, result)
        self.assertTrue(saved.exists(), result)

    async def test_behind_a_shell(self) -> None:
        """A program that a shell waits for may save its work though the shell dies at once."""
        saved = self.cluster.scratch / f"saved-{os.urandom(4).hex()}"
        job, _ = await self.start(f"cd /tmp && farewell {saved} && true")
        await self.client.post(f"/request/{job.path}/shutdown", {})
        result = await self.result(job)
        self.assertEqual(result.output.count("\nfarewell\n"), 1, result)
        self.assertTrue(saved.exists(), result)

    async def start_detached(self) -> Job:
        """A job whose command waits for SIGTERM, and until a process that left it got its own."""
        told = self.cluster.scratch / f"told-{os.urandom(4).hex()}"
        daemon = f'trap "echo told >>{told}" TERM; echo farewell: ready; '
        daemon += f"until [ -s {told} ]; do sleep 0.1; done; sleep 1"
        ending = f"until [ -s {told} ]; do sleep 0.1; done; sleep 2; wc -l <{told}; exit 4"
        command = f"(setsid sh -c '{daemon}' &)\ntrap '{ending}' TERM; while :; do sleep 0.1; done"
        job, _ = await self.start(command)
        return job

    async def test_detached(self) -> None:
        """What has detached itself in the container is told, too: once."""
        job = await self.start_detached()
        await self.client.post(f"/request/{job.path}/shutdown", {})
        result = await self.result(job)
        self.assertRegex(result.output, r"\n *1\n", result)

    async def test_detached_by_cgroup(self) -> None:
        """Also where Slurm tells only the step's first process, as with proctrack/cgroup."""
        job = await self.start_detached()
        first = self.find_first(job)
        self.assertEqual(len(first), 1)
        os.kill(first[0], signal.SIGTERM)
        result = await self.result(job)
        self.assertRegex(result.output, r"\n *1\n", result)
        self.assertEqual(result.status, 4, result)

    def find_first(self, job: Job) -> list[int]:
        """What slurmstepd itself started for the job's step, on each node."""
        return [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if self.is_first_of_step(job, process)
        ]

    def is_first_of_step(self, job: Job, process: Path) -> bool:
        """Whether a process is what slurmstepd itself started for the job on a node."""
        try:
            if not self.is_of(job, (process / "environ").read_bytes()):
                return False
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            stepd = b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes()
            return stepd and b"jarvice_text" in (process / "cmdline").read_bytes()
        except OSError:
            return False

    async def test_deaf(self) -> None:
        """A command that ignores SIGTERM is killed after KillWait."""
        job, _ = await self.start("trap '' TERM; echo farewell: ready; while :; do sleep 1; done")
        await self.client.post(f"/request/{job.path}/shutdown", {})
        result = await self.result(job)
        self.assertEqual(result.return_code, -15, result)
        self.assert_no_shell_text(result.output)

    def assert_no_shell_text(self, output: str) -> None:
        """What bash says of a process that is killed is not in the output: it shows our text."""
        self.assertNotRegex(output, r"line \d+:|executor_|\bjarvice_|\bSLURM_", output)

    async def test_during_the_pull(self) -> None:
        """A job that is ended while it waits for its image runs nothing any more."""
        image = f"slow-{os.urandom(4).hex()}"
        self.push(image, image)
        held = self.hold_conversions()
        job = await self.submit_job(self.job("echo ran", image=image), nodes=2)
        await self.until(held.has_begun)
        await self.client.post(f"/request/{job.path}/shutdown", {})
        result = await self.result(job)
        self.assertEqual(result.return_code, -15, result)
        self.assertIn("told to end", result.output)
        self.assertNotIn("\nran\n", result.output)
