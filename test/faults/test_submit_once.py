"""Submit is done once: lost answers, cut links, killed and slow sbatch, two daemons at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import ClassVar

from twisted.internet.defer import Deferred, gatherResults, succeed

from test.cluster.daemon import DaemonClient, Job, Response
from test.faults.stage import NOTED, FaultTestCase, pause


class SubmitOnceTestCase(FaultTestCase):
    """Submissions whose answer is lost in some way, and their retry."""

    settings: ClassVar = {"JARVICE_SLURM_COMMAND_TIMEOUT": "8"}
    counter = 0

    def new_job(self, word: str = "app") -> tuple[str, int]:
        """A name and number that no other test has."""
        SubmitOnceTestCase.counter += 1
        number = 5000 + SubmitOnceTestCase.counter
        return f"20261123050000-{number}-{word}-user_s1", number

    def ask(self, text: str, name: str, number: int, **known: bool) -> Deferred[Response]:
        """Begin to submit; fires with the response."""

        async def asking() -> Response:
            return (await self.try_submit(text, name=name, number=number, **known))[1]

        return Deferred.fromCoroutine(asking())

    async def until_submitted(self, text: str, name: str, number: int, **known: bool) -> Job:
        """Submit as upstream does, again and again until it is answered 200."""
        answers: list[Response] = []

        async def is_submitted() -> bool:
            answers[:] = [await self.ask(text, name, number, **known)]
            self.assertIn(answers[0].code, (200, 503, 504), answers[0].body[:200])
            return answers[0].code == 200

        await self.until(is_submitted)
        return Job(name=name, number=number, jobid=answers[0].json[0])


class KilledSbatchTests(SubmitOnceTestCase):
    """sbatch dies, hangs or lies at a chosen point, the first time that it is called for a job."""

    #: What it does, what the submission is answered, and how often sbatch is called in all.
    cases: ClassVar = {
        "killed-before-it-submits": ("kill -9 $$", 503, 2),
        "killed-after-it-submitted": ('"$real" "$@" >/dev/null; kill -9 $$', 503, 1),
        "login-node-kills-all": ('"$real" "$@" >/dev/null; kill -9 $PPID; sleep 1', 503, 1),
        "no-answer-in-time": (
            '"$real" "$@" >/dev/null\n'
            'echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1',
            503,
            1,
        ),
        "says-it-was-refused": (
            '"$real" "$@" >/dev/null\n'
            'echo "sbatch: error: Batch job submission failed: whatever" >&2; exit 1',
            502,
            1,
        ),
        "says-nothing": ('"$real" "$@" >/dev/null; exit 0', 502, 1),
        "hangs-before-it-submits": ("exec sleep 300", 504, 2),
        "hangs-after-it-submitted": ('"$real" "$@" >/dev/null; exec sleep 300', 504, 1),
    }

    async def test_every_end(self) -> None:
        """Whatever became of the first attempt: the retry is right, and the job runs once."""
        folder = self.cluster.scratch / "first"
        arms = "\n".join(
            f'*jarvice_*{case}*) if mkdir "{folder}.{case}" 2>/dev/null; then\n{text}\nfi ;;'
            for case, (text, _, _) in self.cases.items()
        )
        self.wrap("sbatch", f'{NOTED}case "$*" in\n{arms}\nesac\nexec "$real" "$@"')
        await gatherResults([Deferred.fromCoroutine(self.one_end(case)) for case in self.cases])

    async def one_end(self, case: str) -> None:
        _, code, calls = self.cases[case]
        name, number = self.new_job(case)
        text = self.once_text(name)
        first = await self.ask(text, name, number)
        self.assertEqual(first.code, code, (case, first.body[:200]))
        self.assertTrue(first.json["error"])
        job = await self.until_submitted(text, name, number)
        self.assertEqual(await self.until_submitted(text, name, number), job)
        await self.assert_ran_once(job)
        self.assertEqual(self.attempts(name), calls, case)


class CutLinkTests(SubmitOnceTestCase):
    """The link is cut in the middle."""

    async def test_while_sbatch_runs(self) -> None:
        """Before it submits and after: the retry waits for what still runs there, and finds it."""
        begun = self.wrap(
            "sbatch",
            f"""{NOTED}case "$*" in
            *before*) hold; exec "$real" "$@" ;;
            *after*) "$real" "$@"; hold ;;
            esac""",
        )
        names = [self.new_job("before"), self.new_job("after")]
        asking = [self.ask(self.once_text(name), name, number) for name, number in names]
        await self.until(lambda: succeed(begun.exists() and len(begun.read_text().split()) == 2))
        self.assertGreater(self.cut_link(), 0)
        for lost in await gatherResults(asking):
            self.assertEqual(lost.code, 503, lost.body[:200])
            self.assertIn("link was lost", lost.json["error"])
        self.open_gates(begun)
        for name, number in names:
            job = await self.until_submitted(self.once_text(name), name, number)
            await self.assert_ran_once(job)
            self.assertEqual(self.attempts(name), 1)

    async def test_while_the_text_comes(self) -> None:
        """Half a text is no job; nothing is submitted before all of it is there."""
        begun = self.wrap("head", '[ "$2" -lt 500000 ] || hold; exec "$real" "$@"')
        self.wrap("sbatch", f'{NOTED}exec "$real" "$@"')
        name, number = self.new_job()
        text = self.once_text(name, "# " + "x" * 1_000_000)
        asking = self.ask(text, name, number)
        await self.until_exists(begun)
        self.cut_link()
        self.assertEqual((await asking).code, 503)
        self.open_gates(begun)
        folder = self.cluster.scratch / ".jarvice" / "submit" / name
        # What was begun is given up: the lock is free, and nothing says that sbatch was called.
        taken = ["flock", "--nonblock", str(folder / "lock"), "true"]
        await self.until(lambda: succeed(subprocess.run(taken).returncode == 0))
        self.assertEqual({path.name for path in folder.iterdir()} & {"intent", "jobid"}, set())
        self.assertEqual((self.attempts(name), self.queued_ids(name)), (0, []))
        self.unwrap("head")
        await self.assert_ran_once(await self.until_submitted(text, name, number))

    async def test_caller_goes_away(self) -> None:
        """A submission is not called off because nobody listens any longer."""
        begun = self.wrap("sbatch", f'{NOTED}hold; exec "$real" "$@"')
        name, number = self.new_job()
        asking = self.ask(self.once_text(name), name, number)
        await self.until_exists(begun)
        asking.cancel()
        await self.assertFailure(asking, Exception)
        self.open_gates(begun)
        job = await self.until_submitted(self.once_text(name), name, number)
        await self.assert_ran_once(job)
        self.assertEqual(self.attempts(name), 1)


class ForgottenTests(SubmitOnceTestCase):
    """The answer was lost, and the retry comes when the job is long gone."""

    async def test_finished_and_forgotten(self) -> None:
        """Slurm knows nothing any more: what the job left in its folder answers."""
        self.wrap("sbatch", f'{NOTED}"$real" "$@" >/dev/null; kill -9 $$')
        name, number = self.new_job()
        text = self.once_text(name, "echo said; exit 3")
        self.assertEqual((await self.ask(text, name, number)).code, 503)

        async def is_forgotten() -> bool:
            return bool(self.runs(name)) and not self.queued_ids(name)

        await self.until(is_forgotten)
        job = await self.until_submitted(text, name, number)
        end = await self.end_of(job)
        self.assertEqual((end[0], end[2][0].split("\n")[0]), (1, "said"))
        self.assertEqual((self.attempts(name), self.runs(name)), (1, [job.jobid]))


class FrozenControllerTests(SubmitOnceTestCase):
    """slurmctld stops answering, and later does what it was asked when nobody waits any longer."""

    async def test_made_late(self) -> None:
        """Both attempts may become jobs; one of them runs, and it is the one that was answered."""
        name, number = self.new_job()
        text = self.once_text(name, "sleep 1")
        self.freeze("slurmctld")
        first = await self.ask(text, name, number)
        self.assertIn(first.code, (503, 504), first.body[:200])
        self.thaw("slurmctld")
        job = await self.until_submitted(text, name, number)
        self.assertEqual(await self.until_submitted(text, name, number), job)
        await self.assert_ran_once(job)

        async def others_are_over() -> bool:
            said = self.cluster.slurm("squeue", "-h", "-o", "%i", "-n", f"jarvice_{name}")
            return not said.split()

        await self.until(others_are_over)
        self.assertEqual(self.runs(name), [job.jobid])

    async def test_looked_for_too_early(self) -> None:
        """The worst case, staged: the retry looks before slurmctld has made the first job.

        squeue is made blind for the retry, so that two jobs are made for certain.
        """
        name, number = self.new_job()
        text = self.once_text(name, "echo output; sleep 1")
        self.wrap("sbatch", f'{NOTED}"$real" "$@" >/dev/null; kill -9 $$')
        self.assertEqual((await self.ask(text, name, number, held=True)).code, 503)
        self.wrap("squeue", "exit 0")
        self.wrap("sbatch", f'{NOTED}exec "$real" "$@"')
        answered = (await self.ask(text, name, number, held=True)).json[0]
        self.unwrap("squeue")
        early, late = sorted(self.queued_ids(name), key=int)
        self.assertEqual(answered, late)
        self.cluster.slurm("scontrol", "release", early)
        await pause(2)
        self.assertEqual(self.runs(name), [])
        await self.assert_cancelled_by_gc()
        job = Job(name=name, number=number, jobid=late)
        await self.client.post("/release", job.ref)
        await self.assert_ran_once(job)
        end = await self.end_of(job)
        self.assertEqual(end[2][0], "output\n")

    async def assert_cancelled_by_gc(self) -> None:
        """What waits for nothing, because another attempt's job is the one, /gc cancels."""
        name, number = self.new_job()
        job = await self.submit(self.once_text(name), name=name, number=number, held=True)
        command = f"cd / && sbatch --parsable -H -o /dev/null -J jarvice_{name} --wrap true"
        second = self.cluster.ssh(command).stdout.decode().strip()
        self.assertEqual((await self.client.get("/gc")).code, 200)
        said = self.cluster.slurm("squeue", "-h", "-o", "%i", "-n", f"jarvice_{name}")
        self.assertEqual(said.split(), [job.jobid])
        self.assertNotEqual(second, job.jobid)
        await self.client.post("/terminate", job.ref)

    async def test_controller_killed_while_it_submits(self) -> None:
        """slurmctld dies by SIGKILL in the middle and comes back: one job.

        It is held, for what runs may be ended by a slurmctld that has not saved its start.
        """
        begun = self.wrap("sbatch", f'{NOTED}exec "$real" "$@"')
        name, number = self.new_job()
        text = self.once_text(name)
        asking = self.ask(text, name, number, held=True)
        await self.until_exists(begun)
        self.addCleanup(self.cluster.start, "slurmctld")
        os.kill(self.pid("slurmctld"), signal.SIGKILL)
        await self.start_part("slurmctld")
        first = await asking
        self.assertIn(first.code, (200, 503, 504), first.body[:200])
        self.unwrap("sbatch")
        job = await self.until_submitted(text, name, number, held=True)
        if first.code == 200:
            self.assertEqual(first.json[0], job.jobid)
        if self.is_lost_by_slurm(job):
            self.assertEqual(await self.end_of(job), [-9, "00:00:00", []])
            self.assertEqual(self.runs(name), [])
        else:
            self.assertEqual((await self.client.post("/release", job.ref)).json, True)
            await self.assert_ran_once(job)

    def is_lost_by_slurm(self, job: Job) -> bool:
        """Whether slurmctld died after it had told the job's id and before it had saved the job."""
        log = (self.cluster.state / "log" / "slurmctld.log").read_text("utf-8", "replace")
        made = re.findall(rf"submit_batch_job: JobId={job.jobid} ", log)
        restarted = log.rindex("slurmctld version")
        before = log.find(f"submit_batch_job: JobId={job.jobid} ")
        recovered = f"Recovered JobId={job.jobid} " in log[restarted:]
        return len(made) == 1 and before < restarted and not recovered


class TwoDaemonsTests(SubmitOnceTestCase):
    """Replicas that get the same submission, and different ones, at once."""

    async def start_second(self) -> DaemonClient:
        """A second daemon, ready."""
        first = self.client
        _, self.client = await self.start_daemon(**self.settings)
        await self.until(self.is_ready)
        second, self.client = self.client, first
        return second

    async def test_same_at_once(self) -> None:
        """Twenty requests for one job, half to each: one job id, one call of sbatch."""
        first, second = self.client, await self.start_second()
        self.wrap("sbatch", f'{NOTED}sleep 0.2; exec "$real" "$@"')
        name, number = self.new_job()
        text = self.once_text(name)
        asking = []
        for client in (first, second) * 10:
            self.client = client
            asking.append(self.ask(text, name, number))
        answers = await gatherResults(asking)
        self.assertEqual({answer.code for answer in answers}, {200})
        (jobid,) = {answer.json[0] for answer in answers}
        self.assertEqual(self.attempts(name), 1)
        await self.assert_ran_once(Job(name=name, number=number, jobid=jobid))

    async def test_different_at_once(self) -> None:
        """Names that differ in one character, numbers that are the same: all run, each once."""
        first, second = self.client, await self.start_second()
        base, number = self.new_job()
        names = [f"{base}{suffix}" for suffix in ("", "a", "A", "_", "-", ".", "=", " b", "'", '"')]
        names += [f"{base}.out", f"{base}.out.out", "jobs", "submit", "numbers", "$HOME", "a*", "~"]
        jobs = []
        for at, name in enumerate(names):
            self.client = (first, second)[at % 2]
            text = self.once_text(str(at), f"echo output of {at}")
            jobs.append(Deferred.fromCoroutine(self.submit(text, name=name, number=number)))
        for at, job in enumerate(await gatherResults(jobs)):
            end = await self.end_of(job)
            self.assertEqual((end[0], end[2][0]), (0, f"output of {at}\n"))
            self.assertEqual(self.runs(str(at)), [job.jobid])

    async def test_other_number(self) -> None:
        """A second job of a name that is taken is refused, and the first is left alone."""
        name, number = self.new_job()
        job = await self.submit(self.once_text(name), name=name, number=number)
        refused = await self.ask(self.once_text(name), name, number + 1000)
        self.assertEqual(refused.code, 400, refused.body[:200])
        await self.assert_ran_once(job)
