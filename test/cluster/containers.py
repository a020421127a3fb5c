"""What the tests of containers stand on: a cluster with Apptainer, and a registry with a password.

Jobs are submitted as `job` and as `hpc_script`, and what they leave is looked for.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from attrs import frozen

from deploy.devcluster import registry, registry_images
from deploy.devcluster.layout import Cluster
from test.cluster.daemon import ClusterTestCase, Job
from test.cluster.harness import DevCluster

_SAMPLE = Path(__file__).parents[1] / "data" / "container_hpc_script.tmpl"

_cluster: DevCluster | None = None


def container_cluster() -> DevCluster:
    """The cluster that all tests of containers share, brought up by the first that asks."""
    global _cluster
    if _cluster is None:
        _cluster = DevCluster()
        atexit.register(_cluster.down)
        _cluster.up(apptainer=True, registry=True)
    return _cluster


@frozen(kw_only=True)
class Result:
    """How a job ended: what /exitstatus answered, and the status that the job itself noted."""

    return_code: int
    output: str
    verdict: str
    status: int


@frozen(kw_only=True)
class HeldConversions:
    """A program in the place of mksquashfs that halts with half an image written."""

    folder: Path
    site: Path

    def hold(self) -> None:
        """Have the site's own file put it into the PATH of jobs."""
        self.folder.chmod(0o777)
        program = self.folder / "mksquashfs"
        program.write_text(
            '#!/bin/sh\nhead -c 4096 /dev/zero >"$2"\n'
            f": >{self.folder}/begun\n"
            f"until [ -e {self.folder}/released ]; do sleep 0.1; done\n"
            f'rm -f "$2"\nexec {shutil.which("mksquashfs")} "$@"\n'
        )
        program.chmod(0o755)
        self.site.write_text(f"export PATH={self.folder}:$PATH\n")
        self.site.chmod(0o644)

    def release(self) -> None:
        """Let them go on, and hold none any more."""
        self.site.unlink(missing_ok=True)
        (self.folder / "released").touch()

    async def has_begun(self) -> bool:
        """Whether one has come to its middle."""
        return os.path.exists(self.folder / "begun")  # noqa: ASYNC240


class ContainerTestCase(ClusterTestCase):
    """A test with a daemon before the cluster with containers."""

    timeout = 240
    settings: ClassVar[Mapping[str, str]] = {"JARVICE_SLURM_OVERLAY_SIZE": "64"}

    def make_cluster(self) -> DevCluster:
        """The one with Apptainer and a registry."""
        return container_cluster()

    @property
    def layout(self) -> Cluster:
        """The cluster as the devcluster itself knows it."""
        found = Cluster.load(self.cluster.state)
        assert found is not None
        return found

    @property
    def registry(self) -> str:
        """The registry, as it stands before an image's name."""
        return registry.address(self.layout)

    def push(self, image: str, mark: str) -> None:
        """Push an application's image that holds a mark in /etc/mark."""
        registry_images.push_image(self.layout, f"apps/{image}:latest", {"etc/mark": f"{mark}\n"})

    def hold_conversions(self) -> HeldConversions:
        """Have every image's conversion halt in the middle, until it is let go or the test ends."""
        found = tempfile.TemporaryDirectory(prefix="held-", dir=self.cluster.scratch)
        self.addCleanup(found.cleanup)
        held = HeldConversions(
            folder=Path(found.name), site=self.cluster.scratch / ".jarvice_custom_env"
        )
        held.hold()
        self.addCleanup(held.release)
        return held

    def blob_pulls(self, image: str) -> int:
        """How many blobs of an application's image the registry has sent so far."""
        lines = (self.cluster.state / "log" / "registry.out").read_text().splitlines()
        return sum(f'"GET /v2/apps/{image}/blobs/' in line and '" 200 ' in line for line in lines)

    def docker_secret(self, password: str | None = None) -> dict[str, str]:
        """The job's own credentials; those that work unless another password is given."""
        user, good = registry.credentials(self.layout)
        return {"server": self.registry, "username": user, "password": password or good}

    def docker_config(self) -> str:
        """The same as docker keeps them, encoded as upstream sends them."""
        user, password = registry.credentials(self.layout)
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        config = {"auths": {f"https://{self.registry}/v2/": {"auth": auth}}}
        return base64.b64encode(json.dumps(config).encode()).decode()

    def job(self, command: object, *, image: str = "app", **fields: object) -> dict[str, object]:
        """A `job` that may share its nodes; `fields` are added or replaced."""
        return {
            "image": f"{self.registry}/apps/{image}:latest",
            "command": command,
            "docker_secret": self.docker_secret(),
            "devices": ["exclusive=False"],
            **fields,
        }

    def hpc_script(
        self, command: str, *, image: str = "app", overlay: int = 64, in_config: bool = False
    ) -> str:
        """A job's text as upstream writes it, with its credentials in one place or the other."""
        secret = json.dumps(self.docker_secret()).replace("{", "{{").replace("}", "}}")
        text = _SAMPLE.read_text()
        for word, value in {
            "REGISTRY": self.registry,
            "IMAGE": image,
            "OVERLAY": str(overlay),
            "CTRSECRET": self.docker_config() if in_config else "",
            "DOCKER_SECRET": "" if in_config else secret,
            "COMMAND": base64.b64encode(command.encode()).decode(),
        }.items():
            text = text.replace(f"@{word}@", value)
        return text

    async def submit_args(
        self, content: Mapping[str, object], *, nodes: int = 1, **more: object
    ) -> tuple[Job, str]:
        """Submit what must be accepted; returns the job, and the script that was answered."""
        name = f"20261123050000-{os.urandom(3).hex().upper()}-app_1-some_user-x_s1"
        number = int.from_bytes(os.urandom(3), "big")
        args = {"name": name, "number": number, "nodes": nodes, **content, **more}
        response = await self.client.post("/submit", args)
        self.assertEqual(response.code, 200, response.body)
        jobid, script = response.json
        return Job(name=name, number=number, jobid=jobid), script

    async def submit_job(self, job: Mapping[str, object], *, nodes: int = 1) -> Job:
        """Submit a `job`."""
        submitted, _ = await self.submit_args({"job": job}, nodes=nodes)
        return submitted

    async def run_job(self, job: Mapping[str, object], *, nodes: int = 1) -> Result:
        """Submit a `job` and wait until it has ended."""
        return await self.result(await self.submit_job(job, nodes=nodes))

    async def result(self, job: Job) -> Result:
        """Wait until a job has ended and nothing of it is left."""
        return_code, _, (output, verdict) = await self.end_of(job)
        await self.until_nothing_left(job)
        words = (self.job_folder(job) / "exit").read_text().split()
        return Result(return_code=return_code, output=output, verdict=verdict, status=int(words[1]))

    def job_folder(self, job: Job) -> Path:
        """The job's own folder."""
        return self.cluster.scratch / ".jarvice" / "jobs" / job.jobid

    async def until_printed(self, job: Job, *texts: str) -> None:
        """Wait until a job has printed all of these."""

        async def has_printed() -> bool:
            response = await self.client.post(f"/request/{job.path}/tail", {})
            return all(text.encode() in response.body for text in texts)

        await self.until(has_printed)

    async def until_nothing_left(self, job: Job) -> None:
        """Wait until the job's processes, disks and command are gone; they must go."""
        left: list[str] = []

        async def is_gone() -> bool:
            left[:] = self._left(job)
            return not left

        try:
            await self.until(is_gone)
        except self.failureException:
            self.fail(f"what is left of job {job.jobid}: {left}")

    def is_of(self, job: Job, environ: bytes) -> bool:
        """Whether that is the environment of one of the job's processes."""
        # Job ids are counted by each cluster for itself.
        marks = {
            f"DEVCLUSTER_STATE={self.cluster.state}".encode(),
            f"JOB_JOBID={job.jobid}".encode(),
        }
        return marks.issubset(environ.split(b"\0"))

    def _left(self, job: Job) -> list[str]:
        kept = ("node.*/overlay.img*", "node.*/JARVICE/.command")
        found = [str(path) for name in kept for path in self.job_folder(job).glob(name)]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.is_of(job, (process / "environ").read_bytes()):
                    found.append(f"{process}: {(process / 'cmdline').read_bytes()[:200]!r}")
            except OSError:
                continue
        return found
