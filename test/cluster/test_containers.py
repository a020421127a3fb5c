"""Jobs in real containers, from an image registry that asks for a password."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

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
            "kill -TERM $$": (1, "FAILED", 143),
            "kill -9 0": (1, "FAILED", 137),
        }
        jobs = {
            await self.submit_job(self.job(f"echo ran; {command}")): end
            for command, end in commands.items()
        }
        for job, (return_code, state, status) in jobs.items():
            result = await self.result(job)
            self.assertIn("\nran\n", result.output)
            self.assertEqual(result.return_code, return_code, result)
            self.assertIn(f"termination state: {state} ", result.verdict)
            self.assertEqual(result.status, status, result)
            self.assertIn(f"the command ended with exit status {status} ", result.output)

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


class SiteTests(ContainerTestCase):
    """What a site puts around its jobs: `.jarvice_custom_env`, `.jarvice_cuda_env`, a proxy.

    Jobs get a home of their own (`sbatch --export`): the account's is every cluster's.
    """

    settings: ClassVar = {
        "JARVICE_SLURM_OVERLAY_SIZE": "0",
        "JARVICE_SINGULARITY_VERBOSE": "true",
    }

    async def setUp(self) -> None:  # type: ignore[override]
        """Make the home."""
        await super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="home-", dir=self.cluster.scratch)
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name)
        self.home.chmod(0o777)

    def put(self, folder: Path, kind: str, text: str) -> None:
        """Put a site's file there for this test."""
        path = folder / f".jarvice_{kind}_env"
        path.write_text(text)
        path.chmod(0o644)
        self.addCleanup(path.unlink)

    def site_job(self, command: str, **fields: Any) -> dict[str, object]:
        """A job with the home of this test."""
        devices = ["exclusive=False", f"sbatch_export=ALL,HOME={self.home}"]
        return self.job(command, devices=devices, **fields)

    async def test_custom_environment(self) -> None:
        """That of the scratch folder, else that of the home, before anything else is done."""
        tool = self.layout.bin.resolve()
        text = 'echo "site: $(command -v apptainer singularity)"; export PATH={}:$PATH SITE={}\n'
        self.put(self.home, "custom", text.format(tool, "home"))
        # What is in the PATH of the login node is not in that of the job: the site puts it there.
        job = self.site_job("echo site $SITE")
        job["devices"] = [
            "exclusive=False",
            f"sbatch_export=HOME={self.home},PATH=/usr/bin:/bin,APPTAINER_NOHTTPS=1,"
            f"SLURM_CONF={self.cluster.state}/etc/slurm.conf",
        ]
        result = await self.run_job(job)
        self.assertEqual(result.return_code, 0, result)
        self.assertTrue(result.output.startswith("site: \njarvice n1: job "), result)
        self.assertIn("\nsite home\n", result.output)
        self.put(self.cluster.scratch, "custom", text.format(tool, "scratch"))
        result = await self.run_job(job)
        self.assertTrue(result.output.startswith("site: \njarvice n1: job "), result)
        self.assertIn("\nsite scratch\n", result.output)
        self.assertNotIn("site home", result.output)

    async def test_cuda_environment(self) -> None:
        """Before a job with GPUs, which is started with --nv, and before no other."""
        self.put(self.home, "cuda", "export SITE=cuda; echo cuda sourced\n")
        result = await self.run_job(self.site_job("echo site $SITE, $SLURM_GPUS_ON_NODE", gpus=1))
        self.assertEqual(result.return_code, 0, result)
        self.assertIn("\nsite cuda, 1\n", result.output)
        self.assertLess(result.output.index("cuda sourced"), result.output.index("container up"))
        # There is no driver here: Apptainer looks for its parts, says so, and goes on.
        self.assertIn("nvidia-persistenced/socket not found", result.output)
        by_device = self.site_job("echo site $SITE")
        by_device["devices"] = [*by_device["devices"], "sbatch_gres=gpu:1"]  # type: ignore[misc]
        result = await self.run_job(by_device)
        self.assertIn("\nsite cuda\n", result.output)
        result = await self.run_job(self.site_job("echo site ${SITE:-plain}"))
        self.assertIn("\nsite plain\n", result.output)
        for word in ("cuda sourced", "nvidia"):
            self.assertNotIn(word, result.output)

    async def test_environments_of_upstreams_text(self) -> None:
        """Upstream's own text finds its home and its GPUs, too."""
        self.put(self.home, "custom", "echo custom sourced\n")
        self.put(self.home, "cuda", "echo cuda sourced\n")
        text = self.hpc_script(f"echo ran{VERDICT}", overlay=0)
        text = text.replace("JOBOBJ_GPUS=0", "JOBOBJ_GPUS=1")
        text = text.replace('"exclusive=False"', f'"sbatch_export=ALL,HOME={self.home}"')
        result = await self.result(await self.submit(text))
        self.assertEqual(result.return_code, 0, result)
        found = [result.output.index(word) for word in ("custom sou", "cuda sou", "ran\n", "SUCC")]
        self.assertEqual(found, sorted(found), result)

    async def test_registry_proxy(self) -> None:
        """A registry on the node itself stands for others, and needs no TLS (PROTOCOL §2)."""
        port = self.registry.rpartition(":")[2]
        settings = {
            "JARVICE_REGISTRY_PROXY_PORT": port,
            "JARVICE_REGISTRY_PROXY_REPOS": "registry.invalid",
        }
        _, self.client = await self.start_daemon(**self.settings, **settings)
        await self.until(self.is_ready)
        self.put(self.home, "custom", "unset APPTAINER_NOHTTPS SINGULARITY_NOHTTPS\n")
        job = self.site_job("echo ran") | {
            "image": "registry.invalid/apps/app:latest",
            "docker_secret": {**self.docker_secret(), "server": f"localhost:{port}"},
        }
        result = await self.run_job(job)
        self.assertEqual(result.return_code, 0, result)
        self.assertIn(f"image docker://localhost:{port}/apps/app:latest", result.output)
        self.assertIn("\nran\n", result.output)
        # Of no other registry is that taken for granted.
        plain = await self.run_job(self.site_job("echo ran"))
        self.assertEqual(plain.return_code, 1, plain)
        self.assertNotIn("\nran\n", plain.output)
