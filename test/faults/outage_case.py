"""How an outage is staged: jobs, a fault, everything asked while it lasts, and then its end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import ClassVar

from twisted.internet import reactor

from test.cluster.daemon import DaemonClient, job_text
from test.faults.replica import Asked, Jobs, Replica, ask_everything
from test.faults.stage import FaultTestCase, pause

#: Seconds within which every endpoint answers (24, and what a busy machine adds), and after a
#: fault's end works again (the issue).
BOUND = 28.0
RECOVERY = 15.0

_numbers = count(7000)
_shared_jobs: dict[str, Jobs] = {}

_UNAVAILABLE = {502, 503, 504}


class OutageTestCase(FaultTestCase):
    """A daemon that is a process of its own, with its log, and jobs in every state."""

    settings: ClassVar[Mapping[str, str]] = {"JARVICE_SLURM_COMMAND_TIMEOUT": "4"}

    async def setUp(self) -> None:  # type: ignore[override]
        """Start the daemon and the jobs."""
        self.cluster = self.make_cluster()
        self.replica = await self.start_replica()
        self.client = self.replica.client
        self.jobs = await self.make_jobs()

    def environ(self) -> dict[str, str]:
        """The daemon's environment."""
        return {**self.cluster.env(), **self.settings}

    async def start_replica(self, **changes: str) -> Replica:
        """A daemon, ready; it is stopped when the test ends."""
        replica = Replica({**self.environ(), **changes})
        replica.start()
        self.addCleanup(replica.stop)
        await self.until(replica.is_ready)
        return replica

    async def make_jobs(self) -> Jobs:
        """One that runs and has printed, one that has ended, one that is held.

        Tests of one cluster and scratch folder share them.
        """
        shared = _shared_jobs.get(self.environ()["JARVICE_SLURM_SCRATCH_DIR"])
        if shared is not None:
            self.end = await self.end_of(shared.ended)
            return shared
        jobs = await self.make_new_jobs()
        _shared_jobs[self.environ()["JARVICE_SLURM_SCRATCH_DIR"]] = jobs
        return jobs

    async def make_new_jobs(self) -> Jobs:
        """The same, for this test alone."""
        number = next(_numbers)
        running = await self.submit(job_text("echo started; sleep 6000"), number=number)
        ended = await self.submit(job_text("echo it has ended; exit 3"), number=next(_numbers))
        held = await self.submit(job_text("true"), number=next(_numbers), held=True)
        await self.until_running(running)
        self.end = await self.end_of(ended)

        async def has_printed() -> bool:
            path = f"/request/{running.path}/tail"
            return (await self.client.post(path, {"qs": {}})).body == b"started\n"

        await self.until(has_printed)
        return Jobs(running=running, ended=ended, held=held)

    async def ask(self, client: DaemonClient | None = None) -> dict[str, Asked]:
        """Everything, once."""
        return await ask_everything(client or self.client, self.jobs, number=next(_numbers))

    def assert_honest(self, answers: Mapping[str, Asked], *failing: str) -> None:
        """What needs what is broken says so; the rest answers rightly; all in time."""
        for endpoint, asked in answers.items():
            said = (endpoint, asked.code, asked.response.body[:300])
            self.assertLess(asked.seconds, BOUND, said)
            if endpoint == "gc" and endpoint in failing:
                self.assertEqual((asked.code, asked.response.json["status"]), (500, "BAD"), said)
            elif endpoint in failing:
                self.assertIn(asked.code, _UNAVAILABLE, said)
                self.assertTrue(asked.response.json["error"], said)
            elif endpoint != "ready":
                self.assert_right(endpoint, asked)
        self.assertEqual(answers["live"].code, 200)

    def assert_right(self, endpoint: str, asked: Asked) -> None:
        """An answer that is the truth."""
        said = (endpoint, asked.code, asked.response.body[:300])
        self.assertEqual(asked.code, 200, said)
        body = asked.response.body
        if endpoint == "running":
            self.assertIn([self.jobs.running.name, self.jobs.running.jobid], asked.response.json)
        elif endpoint == "runstatus":
            self.assertEqual(asked.response.json[2], self.jobs.running.path)
        elif endpoint == "exitstatus":
            self.assertEqual(asked.response.json, self.end)
        elif endpoint == "tail":
            self.assertEqual(body, b"started\n")
        elif endpoint == "events":
            self.assertIn(f"JobId={self.jobs.running.jobid} ", asked.response.json)

    async def assert_works_again(self, client: DaemonClient | None = None) -> None:
        """Within 15 s of now everything is right, without a restart."""
        deadline = reactor.seconds() + RECOVERY
        while True:
            answers = await self.ask(client)
            wrong = [
                (endpoint, asked.code, asked.response.body[:200])
                for endpoint, asked in answers.items()
                if asked.code != 200
            ]
            if not wrong:
                break
            self.assertLess(reactor.seconds(), deadline, wrong)
            await pause(0.3)
        self.assert_honest(answers)
        self.assertEqual(answers["ready"].code, 200)

    async def until_not_ready(self, client: DaemonClient | None = None, words: str = "") -> str:
        """Wait until /ready is 503 and its reason holds these words; returns it."""
        reasons: list[str] = []

        async def is_not_ready() -> bool:
            answer = await (client or self.client).get("/ready")
            if answer.code == 503 and re.search(words, answer.json["reason"]):
                reasons.append(answer.json["reason"])
            return bool(reasons)

        await self.until(is_not_ready)
        return reasons[0]

    async def assert_told(
        self,
        *failing: str,
        told: str,
        over: str,
        mend: Callable[[], Awaitable[object]],
        rounds: int = 2,
    ) -> None:
        """While it lasts all is asked several times; the log tells it once, and its end once."""
        before = len(self.replica.lines)
        # What was seen before is still true for a second.
        await pause(1.2)
        for _ in range(rounds):
            self.assert_honest(await self.ask(), *failing)
        self.assertTrue(await self.until_not_ready())
        await mend()
        await self.assert_works_again()

        async def is_told() -> bool:
            """It is believed once nothing has failed for a while."""
            await pause(2)
            await self.ask()
            return any(over in line for line in self.replica.told(before))

        await self.until(is_told)
        lines = self.replica.told(before)
        self.assertEqual(len([line for line in lines if told in line]), 1, lines)
        self.assertEqual(len([line for line in lines if over in line]), 1, lines)
        self.assertEqual([line for line, times in Counter(lines).items() if times > 1], [], lines)
