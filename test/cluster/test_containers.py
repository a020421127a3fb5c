"""Jobs in real containers, from an image registry that asks for a password."""

from __future__ import annotations

import os

from test.cluster.containers import ContainerTestCase

#: What upstream puts around a command (PROTOCOL §2).
VERDICT = " && /bin/echo JARVICE_CMD_SUCCESS || /bin/echo JARVICE_CMD_FAILURE"


class ContainerTests(ContainerTestCase):
    """`job`: the built-in executor."""

    async def test_exit_status(self) -> None:
        """The command's own exit status is the job's, signals included."""
        commands = {
            "exit 0": (0, "COMPLETED", 0),
            "exit 3": (1, "FAILED", 3),
            "kill -9 $$": (1, "FAILED", 137),
        }
        jobs = {
            await self.submit_job(self.job(f"echo ran; sh -c '{command}'")): end
            for command, end in commands.items()
        }
        for job, (return_code, state, status) in jobs.items():
            result = await self.result(job)
            self.assertIn("\nran\n", result.output)
            self.assertEqual(result.return_code, return_code, result)
            self.assertIn(f"termination state: {state} ", result.verdict)
            self.assertEqual(result.status, status, result)

    async def test_disks(self) -> None:
        """An overlay of the size asked for, or a tmpfs; neither is left behind."""
        write = "echo written >/opt-file && cat /opt-file && df -m / | tail -n 1"
        jobs = {
            size: await self.submit_job(
                self.job(write, devices=["exclusive=False", f"overlay={size}"])
            )
            for size in (96, 0)
        }
        for size, job in jobs.items():
            result = await self.result(job)
            self.assertEqual(result.return_code, 0, result)
            self.assertIn("\nwritten\n", result.output)
            told = "overlay of 96 MB" if size else "writable tmpfs"
            self.assertIn(told, result.output)

    async def test_no_profile(self) -> None:
        """An image without a shell profile, or anything in /etc of its own."""
        job = self.job("echo fine; [ ! -e /etc/profile ]", image="no-profile")
        result = await self.run_job(job)
        self.assertEqual(result.return_code, 0, result)
        self.assertIn("\nfine\n", result.output)

    async def test_two_nodes(self) -> None:
        """The command runs on the first node, with a container up on each."""
        command = "cat /etc/JARVICE/nodes /etc/JARVICE/cores; echo on $SLURMD_NODENAME"
        worker = "echo worker on $SLURMD_NODENAME"
        job = self.job(command, worker_command=worker, cores=2)
        result = await self.run_job(job, nodes=2)
        self.assertEqual(result.return_code, 0, result)
        self.assertIn("\nn1\nn2\nn1\nn1\nn2\nn2\non n1\n", result.output)
        self.assertEqual(result.output.count("container up"), 2)
        self.assertIn("worker on n2", result.output)
        self.assertNotIn("worker on n1", result.output)

    async def test_environment(self) -> None:
        """Slurm's variables and the job's own are set, and the cluster's files are there."""
        mark = self.cluster.scratch / "mark"
        mark.write_text("here\n")
        mark.chmod(0o644)
        quoted = """it's "quoted" $HOME"""
        job = self.job(
            f'cat {mark} /data{mark}; echo "$SLURM_JOB_ID" "$OWN"; . /etc/JARVICE/jobinfo.sh;'
            ' echo "$JOB_NAME"; env | grep -c DOCKER_PASSWORD',
            environment={"OWN": quoted},
        )
        submitted = await self.submit_job(job)
        result = await self.result(submitted)
        self.assertIn("\nhere\nhere\n", result.output)
        self.assertIn(f"\n{submitted.jobid} {quoted}\n{submitted.name}\n0\n", result.output)

    async def test_words(self) -> None:
        """A command that is a list of words reaches its program as it is."""
        words = ["printf", "<%s>\n", "a b", "$HOME", "it's", "*", ""]
        result = await self.run_job(self.job(words))
        self.assertIn("\n<a b>\n<$HOME>\n<it's>\n<*>\n<>\n", result.output)

    async def test_left_in_the_background(self) -> None:
        """What the command leaves running ends with the job."""
        job = self.job("sleep 1000 & setsid sleep 1001 >/dev/null 2>&1 & echo fine")
        result = await self.run_job(job)
        self.assertEqual(result.return_code, 0, result)
        self.assertIn("\nfine\n", result.output)

    async def test_init_image(self) -> None:
        """The platform's init image runs first, pulled with the platform's own credentials."""
        result = await self.run_job(self.job("echo ran", init=True))
        self.assertEqual(result.return_code, 0, result)
        self.assertIn("init image:", result.output)
        self.assertLess(result.output.index("init image:"), result.output.index("\nran\n"))

    async def test_gpus(self) -> None:
        """A job with GPUs asks for them, and starts where there is no driver to bring in."""
        job = await self.submit_job(self.job("echo $SLURM_GPUS_ON_NODE", gpus=2))
        shown = self.cluster.slurm("scontrol", "show", "job", job.jobid)
        self.assertIn("gres:gpu:2", shown.replace("gres/gpu", "gres:gpu"))
        result = await self.result(job)
        self.assertEqual(result.return_code, 0, result)


class UpstreamTextTests(ContainerTestCase):
    """`hpc_script`: upstream's own text, unchanged."""

    async def test_two_nodes(self) -> None:
        """A text that pulls its images itself, on both nodes at once, and writes to its disk."""
        image = f"script-{os.urandom(4).hex()}"
        self.push(image, "of the test")
        command = "cat /etc/mark /etc/JARVICE/nodes && echo written >/file && cat /file" + VERDICT
        job = await self.submit(self.hpc_script(command, image=image), nodes=2)
        result = await self.result(job)
        self.assertEqual(result.return_code, 0, result)
        self.assertIn("of the test\nn1\nn2\nwritten\nJARVICE_CMD_SUCCESS\n", result.output)
        self.assertEqual(result.output.count(f"pulled docker://{self.registry}/apps"), 1)

    async def test_credentials_in_a_docker_config(self) -> None:
        """The credentials may come with `auths` (JOBOBJ_CTRSECRET); the disk may be a tmpfs."""
        command = "echo written >/file && cat /file && false" + VERDICT
        text = self.hpc_script(command, image="no-profile", overlay=0, in_config=True)
        result = await self.result(await self.submit(text))
        self.assertIn("written\nJARVICE_CMD_FAILURE\n", result.output)
        self.assertEqual(result.return_code, 1, result)
