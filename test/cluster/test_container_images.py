"""How jobs come by their images: pulled once, converted once, or told why not."""

from __future__ import annotations

import os
from pathlib import Path

from test.cluster.containers import ContainerTestCase


class ImageTests(ContainerTestCase):
    """Pulls by the built-in executor."""

    async def test_pulled_once(self) -> None:
        """However many nodes and jobs ask at the same time, a blob is sent once."""
        image = f"once-{os.urandom(4).hex()}"
        self.push(image, image)
        job = self.job("cat /etc/mark", image=image)
        jobs = [await self.submit_job(job, nodes=nodes) for nodes in (1, 2, 1)]
        for submitted in jobs:
            result = await self.result(submitted)
            self.assertEqual(result.return_code, 0, result)
            self.assertIn(f"\n{image}\n", result.output)
        # The image's configuration and its one layer.
        self.assertEqual(self.blob_pulls(image), 2)

    async def test_half_finished(self) -> None:
        """A conversion that was killed is not used: the next job makes it anew."""
        image = f"killed-{os.urandom(4).hex()}"
        self.push(image, image)
        held = self.hold_conversions()
        job = await self.submit_job(self.job("echo ran", image=image))
        await self.until(held.has_begun)
        work = Path((self.job_folder(job) / "node.0" / "work").read_text().strip())
        self.assertTrue(self.holds_files(work), work)
        await self.client.post(f"/request/{job.path}/abort", {})
        aborted = await self.result(job)
        self.assertEqual(aborted.return_code, -15, aborted)
        held.release()
        result = await self.run_job(self.job("cat /etc/mark", image=image))
        self.assertEqual(result.return_code, 0, result)
        self.assertIn(f"\n{image}\n", result.output)
        # Nor is it left.
        self.assertFalse(self.holds_files(work), work)
        self.assertEqual(self.find_halves(image), [])

    def holds_files(self, folder: Path) -> bool:
        """Whether there are files in a folder that may be gone."""
        return folder.is_dir() and any(folder.iterdir())

    def find_halves(self, image: str) -> list[Path]:
        """What the container tool names its files in the cache by that are not whole yet."""
        images = self.cluster.scratch / ".jarvice" / "images"
        return list(images.glob(f"*{image}*/cache/oci-tmp/tmp_*"))

    async def test_changed_tag(self) -> None:
        """A tag that has moved is another image from then on."""
        image = f"moving-{os.urandom(4).hex()}"
        for mark in ("first", "second"):
            self.push(image, mark)
            result = await self.run_job(self.job("cat /etc/mark", image=image))
            self.assertIn(f"\n{mark}\n", result.output)

    async def test_pull_fails(self) -> None:
        """A wrong password, no password, no such image, no registry: the reason is told."""
        jobs = {
            "wrong password": (
                self.job("echo ran", docker_secret=self.docker_secret("hunter2-and-more")),
                "authentication required",
            ),
            "none": (self.job("echo ran", docker_secret=None), "authentication required"),
            "no image": (self.job("echo ran", image="no-such-image"), "manifest unknown"),
            "no registry": (self.job("echo ran", image="x") | self.nobody(), "connection refused"),
        }
        submitted = {
            name: (await self.submit_job(job, nodes=2), words)
            for name, (job, words) in jobs.items()
        }
        for name, (job, words) in submitted.items():
            result = await self.result(job)
            self.assertEqual(result.return_code, 1, name)
            self.assertIn("FAILED", result.verdict, name)
            self.assertIn(words, result.output, name)
            self.assertIn("can't be had", result.output, name)
            self.assertNotIn("\nran\n", result.output, name)
            self.assertNotIn("hunter2", result.output, name)

    def nobody(self) -> dict[str, object]:
        """An image at a port where nobody listens."""
        return {"image": "127.0.0.1:1/apps/app:latest", "docker_secret": None}

    async def test_not_from_anothers_cache(self) -> None:
        """What one job has pulled is not given to a job whose credentials do not open it."""
        self.assertEqual((await self.run_job(self.job("true"))).return_code, 0)
        result = await self.run_job(self.job("echo ran", docker_secret=None))
        self.assertEqual(result.return_code, 1, result)
        self.assertNotIn("\nran\n", result.output)

    async def test_image_file(self) -> None:
        """An absolute path is a file of the cluster, and nothing is pulled."""
        await self.run_job(self.job("true"))
        folder = self.cluster.scratch / ".jarvice" / "images"
        shebang = b"#!/usr/bin/env run-singularity"
        files = [path for path in folder.rglob("*") if path.is_file()]
        made = [path for path in files if path.read_bytes().startswith(shebang)]
        result = await self.run_job(self.job("echo ran", image="x") | {"image": str(made[0])})
        self.assertEqual(result.return_code, 0, result)
        gone = await self.run_job(self.job("echo ran") | {"image": "/no/such.sif"})
        self.assertIn("/no/such.sif is not there", gone.output)
        self.assertEqual(gone.return_code, 1)
