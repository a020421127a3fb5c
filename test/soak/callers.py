"""The callers of a soak: each does what upstream does with a job, and checks every answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from test.cluster.daemon import DaemonClient, Job, Response, job_text
from test.soak.figures import Figures

#: Told, not guessed: what an outage may be answered with (PROTOCOL §1).
_OUTAGE = frozenset({502, 503, 504})

#: Seconds that a caller tries to get one thing done; far more than any fault lasts.
_PATIENCE = 120.0


@define(kw_only=True)
class Caller:
    """One of the callers: it asks any of the daemons, in turn and at random.

    `scratch` is the folder where jobs note their runs.
    """

    clients: list[DaemonClient]
    figures: Figures
    scratch: str
    random: Random
    until: float
    prefix: str
    _number: int = field(default=0, init=False)

    async def run(self) -> None:
        """One job after another, until it is time to stop."""
        while reactor.seconds() < self.until:
            self._number += 1
            try:
                await self.one_job()
            except GaveUpError as error:
                self.figures.is_wrong(str(error))

    async def one_job(self) -> None:
        """A job's whole life, with questions in between."""
        kind = self.random.choice(("succeeds", "succeeds", "fails", "is ended", "is held"))
        name = f"{self.prefix}-{self._number}_s1"
        number = int(self.prefix[-3:]) * 100_000 + self._number
        job = await self.submit(name, number, kind)
        self.figures.jobs["submitted"] += 1
        if kind == "is held":
            await self.assert_listed(job)
            await self.done("release", "/release", job.ref, {200})
        for _ in range(self.random.randrange(1, 5)):
            await self.ask_something(job)
        if kind == "is ended":
            if self.random.random() < 0.5:
                await self.done("terminate", "/terminate", job.ref, {200})
            else:
                await self.done("abort", f"/request/{job.path}/abort", {"qs": {}}, {200})
        await self.end(job, kind)

    # What a job is.

    def text(self, name: str, kind: str) -> str:
        """It notes that it ran, and prints what `output` says."""
        ending = {"fails": "exit 3", "is ended": "exec sleep 600"}.get(kind, "true")
        noted = f'echo "$JOB_JOBID" >>"{self.scratch}/ran.{name}"'
        return job_text(f"{noted}\necho 'output of {name}'\n{ending}")

    async def submit(self, name: str, number: int, kind: str) -> Job:
        """Submit, in one of the ways in which it can go wrong; the same job id each time."""
        text = self.text(name, kind)
        args = {
            "name": name,
            "number": number,
            "nodes": 1,
            "held": kind == "is held",
            "hpc_script": {"singularity": base64.b64encode(text.encode()).decode()},
        }
        way = self.random.random()
        if way < 0.1:
            self.figures.injected["the same submit to both daemons at once"] += 1
            both = [
                Deferred.fromCoroutine(self.ask("submit", "/submit", args, client=client))
                for client in self.clients
            ]
            answers = await gatherResults(both)
            self.assert_told("submit", *answers, right={200})
            jobids = {answer.json[0] for answer in answers if answer and answer.code == 200}
            if len(jobids) > 1:
                self.figures.is_wrong(f"two job ids for one submission: {jobids}")
        elif way < 0.2:
            self.figures.injected["a caller of submit goes away"] += 1
            asking = Deferred.fromCoroutine(self.ask("submit", "/submit", args))
            reactor.callLater(self.random.random() * 0.2, asking.cancel)
            await asking
        response = await self.done("submit", "/submit", args, {200})
        jobid = response.json[0]
        if way > 0.7:
            self.figures.injected["an answer of submit is lost, and asked for again"] += 1
            again = await self.done("submit", "/submit", args, {200})
            if again.json[0] != jobid:
                self.figures.is_wrong("submit asked again gave another job id")
        return Job(name=name, number=number, jobid=jobid)

    async def assert_listed(self, job: Job) -> None:
        """A held job is queued, and nothing else of its name is.

        The view of a daemon that did not submit it may be a second old.
        """
        found: list[list[str]] = []
        for wait in (0.0, 1.5):
            await deferLater(reactor, wait)
            listed = (await self.done("queued", "/queued", None, {200})).json
            found = [pair for pair in listed if pair[0] == job.name]
            if found == [[job.name, job.jobid]]:
                return
        self.figures.is_wrong(f"a held job is listed as {len(found)} jobs")

    async def ask_something(self, job: Job) -> None:
        """One question about the job or the cluster, and whether the answer can be true."""
        path = f"/request/{job.path}"
        questions: dict[str, tuple[str, Mapping[str, object] | None, set[int]]] = {
            "running": ("/running", None, {200}),
            "queued": ("/queued", None, {200}),
            "runstatus": ("/runstatus", job.ref, {200}),
            "events": ("/events", job.ref, {200, 404}),
            "tail": (f"{path}/tail", {"qs": {"lines": ["5"]}}, {200, 404}),
            "info": (f"{path}/info", {"qs": {}}, {200}),
            "ping": (f"{path}/ping", {"qs": {}}, {200}),
            "pvcls": ("/request/pvcls", {"qs": {"path": ["/etc"]}}, {200}),
            "nodes": ("/nodes", None, {200}),
            "online": ("/online", {"host": "n1"}, {200}),
            "live": ("/live", None, {200}),
            "ready": ("/ready", None, {200}),
            "gc": ("/gc", None, {200, 500}),
        }
        name = self.random.choice(list(questions))
        path, args, right = questions[name]
        response = await self.ask(name, path, args)
        self.assert_told(name, response, right=right)
        if response is None or response.code != 200:
            return
        body: Any = response.body
        if name in ("running", "queued"):
            ids = [pair[1] for pair in response.json if pair[0] == job.name]
            if ids not in ([], [job.jobid]):
                self.figures.is_wrong(f"{name} lists a job as {ids}, it is {job.jobid}")
        elif name == "tail":
            if not f"output of {job.name}\n".encode().startswith(body.split(b"srun:")[0]):
                self.figures.is_wrong(f"tail gave {body[:80]!r}")
        elif name == "live" and response.json != {"status": "OK"}:
            self.figures.is_wrong(f"live gave {body[:80]!r}")
        elif name == "pvcls" and b"/data/etc/passwd\n" not in body:
            self.figures.is_wrong(f"pvcls gave {body[:80]!r}")
        elif name == "runstatus" and response.json[2] is None:
            # Gone from Slurm: then it has ended, and its end is known.
            end = await self.done("exitstatus", "/exitstatus", job.ref, {200, 409})
            if end.code == 409 or end.json[0] == -9:
                self.figures.is_wrong(f"runstatus gave nulls, exitstatus {end.body[:80]!r}")

    async def end(self, job: Job, kind: str) -> None:
        """Wait for its end; the answer is right, and the same when it is asked again."""
        response = await self.done("exitstatus", "/exitstatus", job.ref, {200})
        code, _, printed = response.json
        expected = {"fails": (1,), "is ended": (-15,)}.get(kind, (0,))
        output = printed[0] if printed else None
        whole = f"output of {job.name}\n"
        # srun's own words may stand before and behind; what is ended early may not have printed.
        right = output is not None and (whole in output or kind == "is ended")
        if code not in expected or not right:
            self.figures.is_wrong(f"a job that {kind} ended with {code}, {str(output)[:200]!r}")
        again = await self.done("exitstatus", "/exitstatus", job.ref, {200})
        if again.json != response.json:
            self.figures.is_wrong("exitstatus asked again gave another answer")
        await self.assert_ran_once(job, kind)

    async def assert_ran_once(self, job: Job, kind: str) -> None:
        """What it noted itself: exactly one run, under the id that was answered."""
        try:
            with open(f"{self.scratch}/ran.{job.name}", encoding="ascii") as file:  # noqa: ASYNC230
                ran = file.read().split()
        except FileNotFoundError:
            ran = []
        if ran == [job.jobid] or (kind == "is ended" and not ran):
            self.figures.jobs["ended, right and once"] += 1
        elif not ran:
            self.figures.is_wrong(f"a job that {kind} never ran")
            self.figures.jobs["lost"] += 1
        else:
            self.figures.is_wrong(f"job {job.jobid} ran as {ran}")
            self.figures.jobs["doubled"] += 1

    # Asking.

    async def ask(
        self,
        endpoint: str,
        path: str,
        args: Mapping[str, object] | None,
        *,
        client: DaemonClient | None = None,
    ) -> Response | None:
        """Ask once; None when no answer came."""
        chosen = client or self.random.choice(self.clients)
        began = reactor.seconds()
        try:
            asking = chosen.get(path) if args is None else chosen.post(path, args)
            response = await asking
        except CancelledError:
            return None
        except Exception:
            self.figures.endpoints[endpoint].lost += 1
            return None
        self.figures.answered(endpoint, response.code, reactor.seconds() - began)
        return response

    def assert_told(self, endpoint: str, *responses: Response | None, right: set[int]) -> None:
        """Right, or an outage that is told as one."""
        for response in responses:
            if response is None or response.code in right or response.code in _OUTAGE:
                continue
            self.figures.is_wrong(f"{endpoint}: {response.code} {response.body[:120]!r}")

    async def done(
        self, endpoint: str, path: str, args: Mapping[str, object] | None, right: set[int]
    ) -> Response:
        """Ask until it is answered, as upstream does; 409 of exitstatus means later."""
        deadline = reactor.seconds() + _PATIENCE
        last = "nothing"
        while reactor.seconds() < deadline:
            response = await self.ask(endpoint, path, args)
            if response is not None and response.code in right:
                return response
            if response is not None:
                last = f"{response.code} {response.body[:120]!r}"
            later = {409} if endpoint == "exitstatus" else set()
            self.assert_told(endpoint, response, right=right | later)
            await deferLater(reactor, 0.3 + self.random.random())
        raise GaveUpError(f"{path} was not done within {_PATIENCE:.0f} s: {last} {args or ''}")


class GaveUpError(Exception):
    """Something could not be done in a time that is longer than any fault."""
