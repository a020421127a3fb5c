"""Every endpoint of PROTOCOL §1, as upstream calls it."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from io import StringIO
from typing import Any

from jarvice_slurmd import __version__
from jarvice_slurmd.errors import NotConnectedError, SlurmUnavailableError
from jarvice_slurmd.jobs.model import JobRef
from test.web.caller import ApiTestCase, Response

_TEXT = "JOBOBJ_INTERACTIVE=False\nSOME_PASSWORD=hush\necho hello\n"
_SCRIPT = base64.b64encode(_TEXT.encode()).decode()
_ARGS: dict[str, Any] = {
    "name": "x",
    "number": 7,
    "nodes": 1,
    "hpc_script": {"singularity": _SCRIPT},
}
_REF = {"name": "x", "number": 7, "jobid": "1"}


class AccessLogTests(ApiTestCase):
    """A line for each request."""

    def test_time_of_day(self) -> None:
        """It tells the time of day, whatever clock the reactor has."""
        self.site.logFile = log = StringIO()
        before = datetime.now(UTC).replace(microsecond=0)
        self.get("/live")
        said = re.search(r"\[(.*?)\] \"GET /live HTTP/1.1\" 200 ", log.getvalue())
        assert said is not None, log.getvalue()
        told = datetime.strptime(said[1], "%d/%b/%Y:%H:%M:%S %z")
        self.assertTrue(before <= told <= datetime.now(UTC), (before, told))


class ProbeTests(ApiTestCase):
    """/live, /ready, /gc, /nodes, /online."""

    def test_live(self) -> None:
        """The process runs, whatever the cluster does."""
        self.scheduler.error, self.not_ready = NotConnectedError("away"), "away"
        response = self.get("/live")
        self.assertEqual((response.status, response.json()), (200, {"status": "OK"}))
        self.assertEqual(self.scheduler.calls, [])

    def test_ready(self) -> None:
        """The version, once the login node has answered."""
        response = self.get("/ready")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.json(), {"status": "OK", "version": __version__})

    def test_not_ready(self) -> None:
        """Else the reason."""
        self.not_ready = "Connection refused"
        response = self.get("/ready")
        self.assertEqual(response.status, 503)
        self.assertEqual(response.json(), {"status": "BAD", "reason": "Connection refused"})
        self.assertEqual(self.scheduler.calls, [])

    def test_cluster_not_ready(self) -> None:
        """The link is up, and the cluster can't be asked all the same."""
        self.scheduler.error = SlurmUnavailableError("slurmctld is away")
        response = self.get("/ready")
        self.assertEqual(response.status, 503)
        self.assertEqual(response.json(), {"status": "BAD", "reason": "slurmctld is away"})

    def test_gc(self) -> None:
        """A command ran; or none did."""
        self.assertEqual(self.get("/gc").json(), {"status": "OK"})
        self.assertEqual(self.scheduler.calls, [("collect_garbage",)])
        self.scheduler.error = NotConnectedError("away")
        response = self.get("/gc")
        self.assertEqual((response.status, response.json()["status"]), (500, "BAD"))

    def test_for_other_schedulers(self) -> None:
        """/nodes and /online have nothing to do here."""
        self.assertIs(self.get("/nodes").json(), True)
        self.assertIs(self.post("/online", {"host": "n1", "status": True}).json(), True)
        for wrong in ({}, {"host": ["n1"]}, {"host": "n1", "comment": {}}):
            self.assert_error(self.post("/online", wrong), 400)
        self.assertEqual(self.scheduler.calls, [])


class JobTests(ApiTestCase):
    """A job's way."""

    def submit(self, **args: object) -> Response:
        return self.post("/submit", {**_ARGS, **args})

    def test_submit(self) -> None:
        """Its id and its script, which tells no secret."""
        jobid, script = self.submit().json()
        self.assertEqual(jobid, "1")
        self.assertIn("echo hello", script)
        self.assertNotIn("hush", script)

    def test_submit_as_upstream_may_write_it(self) -> None:
        """Number as a string, bearer or null in it, base64 with line ends."""
        wrapped = base64.encodebytes(_TEXT.encode()).decode()
        response = self.submit(
            number="7", nodes="1", held=None, bearer=None, hpc_script={"singularity": wrapped}
        )
        self.assertEqual(response.json()[0], "1")
        self.assertEqual(self.submit(bearer="a.b.c").json()[0], "1")
        (_, submission), _ = self.scheduler.calls
        self.assertEqual((submission.number, submission.nodes), (7, 1))  # type: ignore[attr-defined]

    def test_held(self) -> None:
        """True submits with -H."""
        self.assertIn(" -H", self.submit(held=True).json()[1])
        self.assertNotIn(" -H", self.submit(name="y", held=False).json()[1])

    def test_described_job(self) -> None:
        """`job` in the place of hpc_script."""
        args = {key: value for key, value in _ARGS.items() if key != "hpc_script"}
        job = {"image": "docker://busybox", "command": "true"}
        response = self.post("/submit", {**args, "job": job})
        self.assertEqual((response.status, response.json()[0]), (200, "1"))

    def test_lists(self) -> None:
        """Names and ids, as lists of two."""
        self.submit()
        self.submit(name="y")
        self.scheduler.start("1", "n1")
        self.assertEqual(self.get("/running").json(), [["x", "1"]])
        self.assertEqual(self.get("/queued").json(), [["y", "2"]])

    def test_runstatus(self) -> None:
        """Nodes, time, path, and null; four nulls for a job that Slurm does not have."""
        self.submit()
        self.assertEqual(self.post("/runstatus", _REF).json(), [[], "00:00:00", "x/7/1", None])
        self.scheduler.start("1", "n1", "n2", elapsed=90061)
        self.assertEqual(
            self.post("/runstatus", _REF).json(), [["n1", "n2"], "25:01:01", "x/7/1", None]
        )
        unknown = self.post("/runstatus", {**_REF, "jobid": "9"})
        self.assertEqual((unknown.status, unknown.json()), (200, [None] * 4))

    def test_exitstatus(self) -> None:
        """Each return code, with time, output and the sentence."""
        self.submit()
        for state, rc in {
            "COMPLETED": 0,
            "FAILED": 1,
            "NODE_FAIL": 1,
            "OUT_OF_MEMORY": 1,
            "CANCELLED": -15,
            "DEADLINE": -15,
            "PREEMPTED": -15,
            "TIMEOUT": -9,
            "BOOT_FAIL": -9,
        }.items():
            self.scheduler.end("1", state, elapsed=61, output=b"out \xff\n")
            verdict = f"<< termination state: {state} -- see STDOUT for job errors >>"
            self.assertEqual(
                self.post("/exitstatus", _REF).json(), [rc, "00:01:01", ["out \ufffd\n", verdict]]
            )

    def test_exitstatus_of_none(self) -> None:
        """A job nobody knows."""
        response = self.post("/exitstatus", _REF)
        self.assertEqual((response.status, response.json()), (200, [-9, "00:00:00", []]))

    def test_exitstatus_too_early(self) -> None:
        """409 while it runs."""
        self.submit()
        self.assert_error(self.post("/exitstatus", _REF), 409)

    def test_terminate(self) -> None:
        """True; `force` is passed on; what upstream adds is ignored."""
        self.submit()
        for args, force in (({}, False), ({"force": True, "nodes": ["n1"]}, True)):
            self.assertIs(self.post("/terminate", {**_REF, **args}).json(), True)
            self.assertEqual(self.scheduler.calls[-1][2], force)

    def test_release(self) -> None:
        """True."""
        self.submit(held=True)
        self.assertIs(self.post("/release", _REF).json(), True)

    def test_events(self) -> None:
        """A JSON string."""
        self.submit()
        self.assertIn("JobId=1", self.post("/events", _REF).json())

    def test_unknown_job(self) -> None:
        """What can't be done to a job that is not there."""
        self.assert_error(self.post("/release", _REF), 404)
        self.assert_error(self.post("/events", _REF), 404)

    def test_job_ids(self) -> None:
        """As a number or a string, and the number too."""
        self.submit()
        for jobid, number in ((1, 7), ("1", "7"), (1, "7")):
            response = self.post("/runstatus", {"name": "x", "number": number, "jobid": jobid})
            self.assertEqual(response.json()[2], "x/7/1")


class RequestTests(ApiTestCase):
    """/request."""

    def setUp(self) -> None:
        super().setUp()
        args = {**_ARGS, "name": "a b-c_d"}
        self.assertEqual(self.post("/submit", args).status, 200)
        self.scheduler.calls.clear()
        self.path = "/request/a%20b-c_d/7/1"
        self.ref = JobRef(name="a b-c_d", number=7, jobid="1")

    def test_nothing_to_do(self) -> None:
        """ping, connect, anything unknown and no method at all: 200 and empty."""
        for path in (
            *(f"{self.path}/{method}" for method in ("ping", "connect", "nonsense", "")),
            *(self.path, f"{self.path}/", "/request/x/7", "/request/x", "/request/", "/request"),
            "/request/x/notanumber/--/ping",
            "/request/%ff/7/1/ping",
            *(f"{self.path}/{method}/extra" for method in ("shutdown", "abort", "tail")),
        ):
            response = self.post(path, {})
            self.assertEqual((response.status, response.body), (200, b""), path)
        self.assertEqual(self.scheduler.calls, [])

    def test_no_utf8(self) -> None:
        """What no job can be named is refused, not changed into something that one could."""
        for method in ("shutdown", "abort", "tail", "info", "screenshot"):
            response = self.post(f"/request/%ff%fe/7/1/{method}", {"qs": {}})
            self.assertEqual(response.status, 400, method)
        self.assertEqual(self.scheduler.calls, [])

    def test_without_body(self) -> None:
        """Upstream may send none at all."""
        for method in ("ping", "info", "shutdown", "abort"):
            self.assertEqual(self.call("POST", f"{self.path}/{method}").status, 200, method)

    def test_shutdown_and_abort(self) -> None:
        """SIGTERM and time, or at once."""
        for method, force in (("shutdown", False), ("abort", True)):
            response = self.post(f"{self.path}/{method}", {"qs": {}})
            self.assertEqual((response.status, response.body), (200, b""))
            self.assertEqual(self.scheduler.calls.pop(), ("terminate", self.ref, force))

    def test_info(self) -> None:
        """All empty for a batch job."""
        self.assertEqual(
            self.post(f"{self.path}/info", {}).json(),
            {"about": "", "help": "", "url": "", "actions": {}},
        )

    def test_screenshot(self) -> None:
        """404."""
        self.assert_error(self.post(f"{self.path}/screenshot", {}), 404)

    def test_tail(self) -> None:
        """Text: the last 100 lines, or as many as said; 0 means all."""
        self.scheduler.jobs["1"].output = "".join(f"{n}é\n" for n in range(200)).encode()
        response = self.post(f"{self.path}/tail", {"qs": {}})
        self.assertEqual(response.headers["content-type"], "text/plain; charset=utf-8")
        self.assertEqual(response.body.decode().split()[0], "100é")
        for qs, count in (({"lines": ["5"]}, 5), ({"lines": "0"}, 200), ({"lines": [3]}, 3)):
            body = self.post(f"{self.path}/tail", {"qs": qs}).body
            self.assertEqual(body.count(b"\n"), count, qs)
        self.assertEqual(self.call("POST", f"{self.path}/tail").body.count(b"\n"), 100)

    def test_tail_of_bytes(self) -> None:
        """Undecodable bytes are replaced: what goes out is UTF-8."""
        self.scheduler.jobs["1"].output = b"\xff\0\x1b\n"
        self.assertEqual(self.post(f"{self.path}/tail", {}).body.decode("utf-8"), "\ufffd\0\x1b\n")

    def test_no_output(self) -> None:
        """404 while there is none."""
        self.assert_error(self.post(f"{self.path}/tail", {}), 404)

    def test_pvcls(self) -> None:
        """Folders, then files; details before each."""
        response = self.post("/request/pvcls", {"qs": {"path": ["/tmp"]}})
        self.assertEqual(response.headers["content-type"], "text/plain; charset=utf-8")
        self.assertEqual(response.body, b"/data/tmp/a/\n/data/tmp/b\n")
        for details in (["true"], ["True"], ["1"]):
            args = {"qs": {"path": ["/tmp"], "details": details}}
            self.assertTrue(
                self.post("/request/pvcls", args).body.startswith(b"1700000000 5 /data")
            )
        self.assertEqual(self.scheduler.calls[0], ("list_folder", "/tmp", False))

    def test_pvcls_refused(self) -> None:
        """401 with the reason."""
        self.assert_error(
            self.post("/request/pvcls", {"qs": {"path": ["/gone"]}}), 401, "can't cd to /gone"
        )
