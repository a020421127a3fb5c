"""Anything in any field: what is refused runs nothing, and what is let through runs only itself.

The real scheduler behind the real site, its shell text run by a real sh on a sandbox whose Slurm
commands are stubs. Every text that is sent would leave a mark if any of it were run.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from jarvice_slurmd.interfaces import CommandResult, IRemoteShell
from jarvice_slurmd.scheduler import SlurmScheduler
from jarvice_slurmd.snapshot import QueueSnapshot
from jarvice_slurmd.ssh.shell import encode_script
from jarvice_slurmd.web.api import Api
from jarvice_slurmd.web.outages import Outages
from jarvice_slurmd.web.readiness import Readiness
from jarvice_slurmd.web.resource import Requests
from jarvice_slurmd.web.site import make_site
from test.fakes import SETTINGS
from test.properties import property_test
from test.slurm.sandbox import Sandbox
from test.web.caller import FORM, ApiTestCase, Response, form

#: Each would make a file named pwned, were it read as anything but text.
_INJECTIONS = tuple(
    injection.replace("RUN", "touch pwned")
    for injection in (
        "$(RUN)", "`RUN`", "; RUN", "\nRUN\n", "'; RUN; '", '"; RUN; "', "& RUN &", "| RUN",
        "x' || RUN '", "${x:-$(RUN)}", ") RUN (", "\\'; RUN #", "--wrap=RUN", "-exec RUN ;",
        "%s$(RUN)%n", "<(RUN)", "x\r\nRUN", "x\0; RUN", "}}; RUN; {{", "EOF\nRUN\nEOF",
        "/../../$(RUN)", "~/$(RUN)", "#\nRUN", "\u2028RUN", "\ud800; RUN", "*; RUN", "!RUN",
    )
)  # fmt: skip
_ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**63, [], {}, [[]], {"a": {}}, "", " ", ".", "..", "a/../b", "-n"),
    *("--help", "x" * 300, "é" * 150, "\x7f", "\x1b[31m", "٣", "1e3", "0x10", "1 2", "1,2", "[1]"),
)

_REF: dict[str, object] = {"name": "x", "number": 7, "jobid": "41"}
_HEAD = {
    "JOBOBJ_APPDEFVERSION": "2",
    "JOBOBJ_INTERACTIVE": "False",
    "JARVICE_CPU_CORES": "1",
}
_HEAD_KEYS = (
    *("JOBOBJ_INTERACTIVE", "JOBOBJ_APPDEFVERSION", "JOBOBJ_ARCH", "JOBOBJ_NAE", "JOBOBJ_REPO"),
    *("JOBOBJ_CTRSECRET", "JOBOBJ_USER", "JOBOBJ_DOCKER_SECRET", "JOBOBJ_DEVICES", "JOBOBJ_GPUS"),
    *("JOBOBJ_RAM", "JOBOBJ_LICENSES", "JOBOBJ_WALLTIME", "JARVICE_CPU_CORES", "JARVICE_CMD"),
)
_JOB: dict[str, object] = {
    "image": "docker.io/library/x:latest",
    "command": ["true"],
    "nodes": 1,
}
_JOB_KEYS = (
    *("image", "command", "environment", "nodes", "cores", "ram", "gpus", "walltime", "licenses"),
    *("devices", "interactive", "url", "help", "about", "wants_prefix", "docker_secret"),
)


@implementer(IRemoteShell)
class SandboxShell:
    """Runs every script with the sandbox's sh, at once, and counts."""

    def __init__(self, node: Sandbox) -> None:
        self.node = node
        self.count = 0

    def run(
        self,
        script: str,
        stdin: bytes = b"",
        *,
        timeout: float | None = None,
        max_output: int | None = None,
    ) -> Deferred[CommandResult]:
        """See `IRemoteShell.run`."""
        self.count += 1
        text = encode_script(script).decode("utf-8", "surrogateescape")
        return succeed(self.node.run(text, stdin))


class BadInputTestCase(ApiTestCase):
    """The site over the real scheduler."""

    max_body_bytes = 2_000_000

    def setUp(self) -> None:
        super().setUp()
        self.node = Sandbox()
        self.addCleanup(self.node.remove)
        self.node.stub("sbatch", "cat >/dev/null; echo 41")
        self.node.stub("squeue", "echo '41|R|0:01|n1|None|jarvice_x'")
        for command in ("scancel", "scontrol", "sacct"):
            self.node.stub(command)
        self.shell = SandboxShell(self.node)
        scheduler = SlurmScheduler(
            self.shell, QueueSnapshot(self.shell, self.clock, make_mark=str), SETTINGS
        )
        outages = Outages(self.clock)
        readiness = Readiness(lambda: None, scheduler.check, self.clock, outages)
        self.site = make_site(
            Api(scheduler, executor="singularity", readiness=readiness),
            Requests(),
            outages=outages,
            server_key=None,
            max_body_bytes=self.max_body_bytes,
            reactor=self.clock,
        )

    def ask(self, target: str, args: object) -> Response:
        """POST; what is refused has run nothing, and nothing that was sent has run."""
        return self.ask_bytes(target, form(args), json.dumps(args)[:300])

    def ask_bytes(self, target: str, body: bytes, shown: object) -> Response:
        before = self.shell.count
        connection = self.connect()
        connection.request("POST", target, {"Content-Type": FORM}, body)
        # squeue is asked a second time about a job that it lacks.
        self.clock.pump([1.1] * 2)
        response = connection.receive()
        assert response is not None, shown
        if 400 <= response.status < 500 and response.status not in (401, 404, 409):
            sentence = response.json()["error"]
            # Only the cluster knows that.
            if "was submitted before" not in sentence:
                self.assertEqual(self.shell.count, before, (target, shown, sentence))
            self.assertTrue(sentence, shown)
        self.assertNotEqual(response.status, 500, (target, shown, response.body))
        self.assertEqual({path.name for path in self.node.home.iterdir()} - {".jarvice"}, set())
        made = {name for name in self.node.files() if name.rpartition("/")[2] == "pwned"}
        self.assertEqual(made, set(), (target, shown))
        self.assert_options()
        return response

    def assert_options(self) -> None:
        """No text has become an option of a command."""
        for command in ("squeue", "scancel", "scontrol", "sacct"):
            for call in self.node.calls(command):
                for word in call:
                    self.assertFalse(word.startswith(("--wrap", "--help", "-exec")), call)
        self.node.forget_calls()

    def submit(self, head: dict[str, str] | None = None, **args: object) -> Response:
        """Submit a job whose text has this head."""
        lines = [f"{key}={value}" for key, value in {**_HEAD, **(head or {})}.items()]
        text = "\n".join([*lines, "{DOWNSTREAM_PARAMETERS}", "true"])
        encoded = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()
        return self.ask(
            "/submit", {**_REF, "nodes": 1, "hpc_script": {"singularity": encoded}, **args}
        )


class FieldTests(BadInputTestCase):
    """Each field of each endpoint with each of the odd values and injections."""

    def test_job_fields(self) -> None:
        """name, number, jobid and force of the endpoints that name a job."""
        for target in ("/runstatus", "/exitstatus", "/terminate", "/release", "/events"):
            for key in ("name", "number", "jobid", "force"):
                for value in (*_ODD, *_INJECTIONS):
                    self.ask(target, {**_REF, key: value})

    def test_job_ids_and_numbers(self) -> None:
        """What is no job id and no number never reaches a shell at all."""
        for target in ("/runstatus", "/exitstatus", "/terminate", "/release", "/events"):
            for key in ("jobid", "number"):
                for value in _INJECTIONS:
                    before = self.shell.count
                    self.assertEqual(self.ask(target, {**_REF, key: value}).status, 400)
                    self.assertEqual(self.shell.count, before)

    def test_submission_fields(self) -> None:
        """Those of /submit."""
        for key in ("name", "number", "nodes", "held", "bearer", "hpc_script", "job"):
            for value in (*_ODD, *_INJECTIONS):
                self.submit(**{key: value})

    def test_heads_of_texts(self) -> None:
        """Every key that a job's text may set: they become sbatch's options, or text."""
        for key in _HEAD_KEYS:
            for value in _INJECTIONS:
                line = value.replace("\n", " ").replace("\r", " ")
                self.submit({key: line}, name=f"n{len(key)}")

    def test_devices(self) -> None:
        """Devices add neither commands nor options."""
        for injection in _INJECTIONS:
            for device in (injection, f"partition={injection}", f"sbatch_comment={injection}",
                           f"sbatch_{injection}=x", f"overlay={injection}"):  # fmt: skip
                self.submit({"JOBOBJ_DEVICES": json.dumps([device])})

    def test_descriptions(self) -> None:
        """The fields of a job that is described for the built-in executor."""
        for key in _JOB_KEYS:
            for value in (*_ODD, *_INJECTIONS):
                self.ask("/submit", {**_REF, "job": {**_JOB, key: value}})

    def test_queries(self) -> None:
        """qs of tail and pvcls."""
        for value in (*_ODD, *_INJECTIONS):
            for qs in (value, {"lines": value}, {"lines": [value]}):
                self.ask("/request/x/7/41/tail", {"qs": qs})
            text = value if isinstance(value, str) else "x"
            for path in (value, [value], [f"/{text}"], [f"/tmp/{text}"]):
                self.ask("/request/pvcls", {"qs": {"path": path, "details": [value]}})

    def test_paths(self) -> None:
        """The parts of a job's path."""
        for injection in _INJECTIONS:
            part = "".join(f"%{byte:02x}" for byte in injection.encode("utf-8", "surrogatepass"))
            for target in (
                f"/request/{part}/7/41/tail",
                f"/request/x/{part}/41/tail",
                f"/request/x/7/{part}/abort",
                f"/request/x/7/41/{part}",
            ):
                self.ask(target, {"qs": {}})


_json = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(_INJECTIONS),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
_targets = st.sampled_from(
    (
        *("/submit", "/runstatus", "/exitstatus", "/terminate", "/release", "/events", "/online"),
        *("/request/pvcls", "/request/x/7/41/tail", "/request/x/7/41/abort"),
    )
)


class AnythingTests(BadInputTestCase):
    """What hypothesis can think of."""

    @given(_targets, st.sampled_from((*_REF, "qs", "nodes", "held", "job", "hpc_script")), _json)
    @property_test(200)
    def test_any_value(self, target: str, key: str, value: object) -> None:
        """One field holds anything."""
        self.ask(target, {**_REF, key: value})

    @given(_targets, st.binary(max_size=200))
    @property_test(100)
    def test_any_body(self, target: str, body: bytes) -> None:
        """A form whose args is anything."""
        self.ask_bytes(target, b"args=" + body, body)

    @given(st.text(max_size=60), st.text(max_size=60))
    @property_test(60)
    def test_any_text(self, text: str, command: str) -> None:
        """A job's text and command are anything: they are text until they run on a node."""
        encoded = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()
        args = {**_REF, "nodes": 1}
        self.ask("/submit", {**args, "hpc_script": {"singularity": encoded}})
        self.ask("/submit", {**args, "job": {**_JOB, "command": command}})
