"""The shared folder is full, read-only, not mounted, or does not answer."""

from __future__ import annotations

import atexit
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.devcluster.layout import TEST_USER
from test.cluster.daemon import Job, job_text
from test.faults.outage_case import OutageTestCase
from test.faults.replica import FOLDERS, Jobs


class SmallScratch:
    """A scratch folder that is a file system of 8 MB, until this process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="scratch-"))
        atexit.register(self.remove)
        self.path.chmod(0o755)
        user = pwd.getpwnam(TEST_USER)
        self.mount("-t", "tmpfs", "-o", f"size=8m,mode=0700,uid={user.pw_uid}", "small")

    def mount(self, *words: str) -> None:
        """Mount something there, over what there is."""
        subprocess.run(["mount", *words, str(self.path)], check=True)

    def unmount(self) -> None:
        """Take the topmost away."""
        subprocess.run(["umount", "-l", str(self.path)], check=True)

    @property
    def layers(self) -> int:
        """How many are mounted there."""
        mounts = Path("/proc/self/mounts").read_text()
        return mounts.count(f" {self.path} ")

    def remove(self) -> None:
        """Take all of it away."""
        while self.layers:
            self.unmount()
        shutil.rmtree(self.path)


_scratch: SmallScratch | None = None
_unasked: list[Job] = []


class StorageTests(OutageTestCase):
    """Jobs in a scratch folder that is a small file system of its own."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Mount it, the first time."""
        global _scratch
        if _scratch is None:
            _scratch = SmallScratch()
        self.scratch = _scratch
        await super().setUp()
        self.addCleanup(self.leave_one)
        self.unasked = _unasked.pop()

    def environ(self) -> dict[str, str]:
        """The daemon's jobs are there."""
        return {**super().environ(), "JARVICE_SLURM_SCRATCH_DIR": str(self.scratch.path)}

    async def make_new_jobs(self) -> Jobs:
        """And one for each test that nobody asks about before."""
        text = job_text("echo nobody has asked yet")
        _unasked[:] = [await self.submit(text, number=8000 + number) for number in range(5)]
        jobs = await super().make_new_jobs()
        for job in _unasked:
            await self.forgotten(job)
        return jobs

    def leave_one(self) -> None:
        """Only the small file system itself is left for the next test."""
        while self.scratch.layers > 1:
            self.scratch.unmount()

    async def unmount_one(self) -> None:
        """Take the topmost away, as an end of an outage."""
        self.scratch.unmount()

    async def assert_unasked_is_right(self) -> None:
        """The job that nobody had asked about is answered rightly, and again."""
        for _ in range(2):
            end = await self.end_of(self.unasked)
            self.assertEqual((end[0], end[2][0]), (0, "nobody has asked yet\n"))

    async def test_full(self) -> None:
        """What must be written is refused and told; what must be read is answered."""
        filler = self.scratch.path / "filler"

        def fill() -> None:
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"x" * 4096)
                except OSError:
                    pass

        fill()

        async def mend() -> None:
            filler.unlink()

        await self.assert_unasked_is_right()
        terminated = await self.client.post("/terminate", self.jobs.held.ref)
        self.assertEqual(terminated.json, True)
        await self.assert_told(
            "submit", told="(told once until it is over)", over="works again after", mend=mend
        )
        await self.assert_unasked_is_right()
        job = await self.submit(job_text("echo there is room"))
        self.assertEqual((await self.end_of(job))[2][0], "there is room\n")

    async def test_read_only(self) -> None:
        """The same where it was mounted read-only."""
        self.scratch.mount("--bind", str(self.scratch.path))
        self.scratch.mount("-o", "remount,ro,bind")

        await self.assert_told(
            "submit",
            told="(told once until it is over)",
            over="works again after",
            mend=self.unmount_one,
        )
        await self.assert_unasked_is_right()

    async def test_not_mounted(self) -> None:
        """An empty mount point is not an empty scratch folder: nothing is unknown or removed."""
        self.scratch.mount("-t", "tmpfs", "-o", "size=1m,mode=0755", "nothing")
        answer = await self.client.post("/exitstatus", self.unasked.ref)
        self.assertEqual(answer.code, 503, answer.body)
        self.assertIn("mounted", answer.json["error"])
        answer = await self.client.post(f"/request/{self.unasked.path}/tail", {"qs": {}})
        self.assertEqual(answer.code, 503, answer.body)
        answer = await self.client.post("/runstatus", self.unasked.ref)
        self.assertEqual(answer.code, 503, answer.body)
        nobody = Job(name="nobody-knows-it", number=1, jobid="99999")
        answer = await self.client.post("/exitstatus", nobody.ref)
        self.assertEqual(answer.code, 503, answer.body)
        self.assertEqual((await self.client.get("/gc")).code, 500)
        self.assert_honest(await self.ask(), "submit", "exitstatus", "tail", "gc")
        self.assertIn("mounted", await self.until_not_ready())
        await self.unmount_one()
        await self.assert_works_again()
        await self.assert_unasked_is_right()

    async def test_locked_up(self) -> None:
        """Folders that can't be entered are not empty ones: nothing is unknown because of it."""
        for below in (".", "jobs", "submit", "numbers"):
            folder = self.scratch.path / ".jarvice" / below
            folder.chmod(0)
            answers = [
                await self.client.get("/gc"),
                await self.client.post("/runstatus", self.unasked.ref),
                await self.client.post("/exitstatus", self.unasked.ref),
                await self.client.post(f"/request/{self.unasked.path}/tail", {"qs": {}}),
            ]
            folder.chmod(0o700)
            self.assertEqual([answer.code for answer in answers], [500, 503, 503, 503], below)
            for answer in answers:
                self.assertIn("can't be entered", answer.json["error"])
        await self.assert_works_again()
        await self.assert_unasked_is_right()

    async def test_does_not_answer(self) -> None:
        """A file server that hangs: 504 in time for what needs it, and Slurm's answers go on."""
        commands = ("tail", "mkdir", "find", "rm")
        for command in commands:
            self.wrap(command, "exec sleep 1234567")
        await self.assert_told(
            "submit",
            "exitstatus",
            *FOLDERS,
            told="(told once until it is over)",
            over="works again after",
            mend=lambda: self.unwrapped(*commands),
            rounds=1,
        )
