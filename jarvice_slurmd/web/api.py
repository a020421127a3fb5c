"""The endpoints of PROTOCOL §1, one method each."""

from __future__ import annotations

from typing import Final

from jarvice_slurmd import __version__
from jarvice_slurmd.errors import InvalidArgumentsError, JarviceSlurmdError
from jarvice_slurmd.interfaces import IJobInfo, IScheduler
from jarvice_slurmd.jobs.model import JobInfo, JobRef
from jarvice_slurmd.web import wire
from jarvice_slurmd.web.answers import Answer, error_answer, json_answer
from jarvice_slurmd.web.readiness import Readiness
from jarvice_slurmd.web.request import ApiRequest

_EMPTY: Final = Answer(content_type="text/plain; charset=utf-8")


class Api:
    """Turns requests into the scheduler's use cases and their outcomes into answers.

    `max_output` is how many bytes an output may have as it is sent; `job_info` says how interactive
    jobs are reached, None where there are none.
    """

    def __init__(
        self,
        scheduler: IScheduler,
        *,
        executor: str,
        max_output: int = 8 * 1024 * 1024,
        readiness: Readiness,
        job_info: IJobInfo | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._job_info = job_info
        self._executor = executor
        self._max_output = max_output
        self._readiness = readiness

    async def live(self, request: ApiRequest) -> Answer:
        """GET /live: the process runs."""
        return json_answer({"status": "OK"})

    async def ready(self, request: ApiRequest) -> Answer:
        """GET /ready: the link is up, Slurm answers, and our folder can be written to."""
        error = await self._readiness.error()
        if error is not None:
            return json_answer({"status": "BAD", "reason": str(error)}, 503)
        return json_answer({"status": "OK", "version": __version__})

    async def gc(self, request: ApiRequest) -> Answer:
        """GET /gc: whether a command runs on the login node; it removes what jobs left."""
        try:
            await self._scheduler.collect_garbage()
        except JarviceSlurmdError as error:
            return json_answer({"status": "BAD", "error": str(error)}, 500, error)
        return json_answer({"status": "OK"})

    async def nodes(self, request: ApiRequest) -> Answer:
        """GET /nodes: only other schedulers have something to say."""
        return json_answer(True)

    async def running(self, request: ApiRequest) -> Answer:
        """GET /running."""
        return json_answer(wire.render_summaries(await self._scheduler.running()))

    async def queued(self, request: ApiRequest) -> Answer:
        """GET /queued."""
        return json_answer(wire.render_summaries(await self._scheduler.queued()))

    async def submit(self, request: ApiRequest) -> Answer:
        """POST /submit."""
        submission = wire.parse_submission(_args(request), self._executor)
        submitted = await self._scheduler.submit(submission)
        return json_answer([submitted.jobid, submitted.script])

    async def runstatus(self, request: ApiRequest) -> Answer:
        """POST /runstatus."""
        ref = wire.parse_ref(_args(request))
        return json_answer(wire.render_run_status(ref, await self._scheduler.run_status(ref)))

    async def exitstatus(self, request: ApiRequest) -> Answer:
        """POST /exitstatus."""
        ref = wire.parse_ref(_args(request))
        report = await self._scheduler.exit_status(ref)
        return json_answer(wire.render_exit(report, self._max_output))

    async def terminate(self, request: ApiRequest) -> Answer:
        """POST /terminate."""
        args = _args(request)
        wire.check_nodes(args)
        await self._scheduler.terminate(wire.parse_ref(args), force=wire.parse_force(args))
        return json_answer(True)

    async def release(self, request: ApiRequest) -> Answer:
        """POST /release."""
        await self._scheduler.release(wire.parse_ref(_args(request)))
        return json_answer(True)

    async def events(self, request: ApiRequest) -> Answer:
        """POST /events."""
        return json_answer(await self._scheduler.events(wire.parse_ref(_args(request))))

    async def online(self, request: ApiRequest) -> Answer:
        """POST /online: only other schedulers have something to do."""
        wire.check_online(_args(request))
        return json_answer(True)

    async def pvcls(self, request: ApiRequest) -> Answer:
        """POST /request/pvcls."""
        args = _args(request)
        path = wire.parse_query(args, "path", wire.absolute_path, "")
        if not path:
            raise InvalidArgumentsError("qs.path is missing; it must be an absolute path")
        details = wire.parse_query(args, "details", wire.truth, False)
        listing = await self._scheduler.list_folder(path, details=details)
        return _text(listing.decode("utf-8", "replace"))

    async def request(self, request: ApiRequest) -> Answer:
        """POST /request/<name>/<number>/<jobid>/<method>; an unknown method is no error."""
        *job, method = wire.parse_job_path(request.path.split(b"/")[2:])
        if method not in ("shutdown", "abort", "info", "tail", "screenshot"):
            return _EMPTY
        ref = wire.parse_ref(dict(zip(("name", "number", "jobid"), job, strict=True)))
        if method == "tail":
            return await self._tail(request, ref)
        if method == "info":
            return json_answer(wire.render_info(await self._info(ref)))
        if method == "screenshot":
            return error_answer(404, "there are no screenshots of jobs on this cluster")
        await self._scheduler.terminate(ref, force=method == "abort")
        return _EMPTY

    async def _info(self, ref: JobRef) -> JobInfo | None:
        return None if self._job_info is None else await self._job_info.info(ref)

    async def _tail(self, request: ApiRequest, ref: JobRef) -> Answer:
        args = _args(request) if request.body() else {}
        lines = wire.parse_query(args, "lines", wire.line_count, 100)
        output = await self._scheduler.tail(ref, lines)
        return _text(wire.render_output(output, self._max_output))


def _args(request: ApiRequest) -> wire.Args:
    content_type = (request.getHeader(b"Content-Type") or b"").decode("ascii", "replace")
    return wire.parse_args(content_type, request.body())


def _text(text: str) -> Answer:
    return Answer(content_type="text/plain; charset=utf-8", body=text.encode("utf-8"))
