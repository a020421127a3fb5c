"""Every field of every endpoint with what can't be right: 400, a sentence, nothing runs."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import given
from hypothesis import strategies as st

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.web.wire import parse_args
from test.properties import property_test
from test.web.caller import FORM, ApiTestCase, Response, form
from test.web.questions import REF, SUBMIT

_OF_A_JOB = ("/runstatus", "/exitstatus", "/terminate", "/release", "/events")

#: What is no string, and no number either.
_NO_TEXT: tuple[Any, ...] = (None, True, False, [], {}, ["x"], {"x": "y"}, 1.5, -1, float("nan"))
#: Strings that could mean something to a shell, a path or an option, where they may not stand.
_NO_NAMES = (
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/",
    ".hidden",
    "a\nb",
    "a\0b",
    "a\x1b",
    "a\\b",
    "\ud800",
)
_NO_NUMBERS: tuple[Any, ...] = (
    *("", " ", "x", "-1", "1.5", "1e3", "0x1", "٣", "1;id", "$(id)", "--wrap", "1\n", "1\0"),
    *(-1, 1.0, 1.5, 2**31, 10**30, "9" * 100, True, False, None, [], [1], {}, float("inf")),
)
_NO_JOB_IDS: tuple[Any, ...] = (
    *(
        "",
        " ",
        "x",
        "-1",
        "1.5",
        "٣",
        "1;id",
        "1 2",
        "$(id)",
        "..",
        "../1",
        "1/",
        "*",
        "1\n",
        "1\0",
    ),
    *("--signal=KILL", "9" * 11, "1_2_3", "_1"),
    *(-1, 1.0, 10**11, True, False, None, [], ["1"], {}, float("nan")),
)


class ArgumentTestCase(ApiTestCase):
    """Nothing that is refused here asks the cluster anything."""

    max_body_bytes = 3_000_000

    def assert_refused(self, response: Response, *words: str) -> None:
        sentence = self.assert_error(response, 400, *words)
        self.assertLess(len(sentence), 600, sentence)
        self.assertEqual(self.scheduler.calls, [])


class BodyTests(ArgumentTestCase):
    """Bodies that hold no arguments."""

    targets = (*_OF_A_JOB, "/submit", "/request/pvcls")

    def test_no_form(self) -> None:
        """Another type of body, or none."""
        for kind in ("application/json", "multipart/form-data; boundary=x", "text/plain", "\t", ""):
            for target in self.targets:
                headers = {"Content-Type": kind} if kind.strip() else {}
                self.assert_refused(self.call("POST", target, headers, form(REF)), "args")

    def test_type_with_parameters(self) -> None:
        """A charset and capitals in the type change nothing."""
        for kind in (f"{FORM}; charset=UTF-8", FORM.upper(), f" {FORM} ;x"):
            response = self.call("POST", "/runstatus", {"Content-Type": kind.strip()}, form(REF))
            self.assertEqual(response.status, 200, kind)

    def test_type_in_no_encoding(self) -> None:
        """A header of bytes that are no text is refused like any other type."""
        connection = self.connect()
        connection.send(
            b"POST /submit HTTP/1.1\r\nHost: x\r\nContent-Type: \xff\r\nContent-Length: 0\r\n\r\n"
        )
        response = connection.receive()
        assert response is not None
        self.assert_refused(response)

    def test_no_args(self) -> None:
        """A form without args, with several, or with too many fields."""
        for body in (b"", b"x=y", b"Args={}", b"args={}&args={}", b"&" * 500, b"x=y&" * 500):
            for target in self.targets:
                self.assert_refused(self.call("POST", target, {"Content-Type": FORM}, body))

    def test_bombs(self) -> None:
        """What would cost seconds and gigabytes to read is refused without being read."""
        for body, words in (
            (b"args=" + b"%41" * 1_100_000, "escaped characters"),
            (b"args=[" + b"[]," * 300_000 + b"1]", "values or separators"),
            (b'args={"a":' + b"[" * 90_000, "not JSON"),
            (b'args={"a":' + b"9" * 90_000 + b"}", "not JSON"),
        ):
            with self.assertRaises(InvalidArgumentsError) as refused:
                parse_args(FORM, body)
            self.assertIn(words, str(refused.exception))

    def test_no_json(self) -> None:
        """args that are no JSON, no UTF-8, no object, or nested without end."""
        for args in (
            b"",
            b"{",
            b"nonsense",
            b"{'name': 'x'}",
            b"\xff\xfe",
            b'{"name": "\xff"}',
            b"[]",
            b"null",
            b'"name"',
            b"7",
            b"true",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"1" * 100_000,
            b"{}{}",
        ):
            body = urlencode({"args": args}).encode()
            for target in self.targets:
                self.assert_refused(self.call("POST", target, {"Content-Type": FORM}, body), "args")

    @given(st.binary(max_size=60))
    @property_test(150)
    def test_any_bytes(self, body: bytes) -> None:
        """Whatever the body: an answer in JSON, and never 500."""
        for prefix in (b"", b"args="):
            response = self.call("POST", "/runstatus", {"Content-Type": FORM}, prefix + body)
            self.assert_refused(response)


class JobTests(ArgumentTestCase):
    """name, number and jobid."""

    def refuse(self, key: str, value: object) -> None:
        for target in (*_OF_A_JOB, *(["/submit"] if key != "jobid" else [])):
            args = {**(SUBMIT if target == "/submit" else REF), key: value}
            self.assert_refused(self.post(target, args), key)

    def test_missing(self) -> None:
        """Each is named when it is missing."""
        for target in (*_OF_A_JOB, "/submit"):
            whole: dict[str, Any] = SUBMIT if target == "/submit" else REF
            for key in whole:
                args = {other: value for other, value in whole.items() if other != key}
                self.assert_refused(self.post(target, args), key)
            self.assert_refused(self.post(target, {}))

    def test_name(self) -> None:
        """What is no name of a job and of a file."""
        for value in (*_NO_TEXT, *_NO_NAMES, "x" * 201, "é" * 101, "x" * 1_000_000):
            self.refuse("name", value)

    def test_number(self) -> None:
        """What is no number of a job."""
        for value in _NO_NUMBERS:
            self.refuse("number", value)

    def test_jobid(self) -> None:
        """What is not one of Slurm's job ids."""
        for value in (*_NO_JOB_IDS, "1" * 1_000_000):
            self.refuse("jobid", value)

    def test_force(self) -> None:
        """What is neither true nor false."""
        values: tuple[Any, ...] = ("yes", 1, 0, [], {}, "1", 1.0)
        for value in values:
            self.assert_refused(self.post("/terminate", {**REF, "force": value}), "force")

    def test_in_a_path(self) -> None:
        """The same of /request/<name>/<number>/<jobid>/<method>, percent-encoded."""
        for name in _NO_NAMES[:-1]:
            if name not in ("", ".", ".."):
                path = f"/request/{quote(name, safe='')}/7/41/tail"
                self.assert_refused(self.post(path, {}), "name")
        for bad in ("x", "-1", "1%3Bid", "%2E%2E", "%24(id)", "1%0A", "1%00", "1%2F2", "+1"):
            for method in ("tail", "info", "shutdown", "abort", "screenshot"):
                self.assert_refused(self.post(f"/request/x/{bad}/41/{method}", {}), "number")
                self.assert_refused(self.post(f"/request/x/7/{bad}/{method}", {}), "jobid")

    @given(
        st.sampled_from(["name", "number", "jobid"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=4,
        ),
    )
    @property_test(200)
    def test_anything(self, key: str, value: object) -> None:
        """Whatever JSON stands there: an answer, or a sentence that names the field."""
        response = self.post("/runstatus", {**REF, key: value})
        if response.status == 400:
            self.assertIn(key, response.json()["error"])
        else:
            self.assertEqual(response.status, 200)


class SubmitTests(ArgumentTestCase):
    """The other arguments of /submit."""

    def refuse(self, *words: str, **args: object) -> None:
        self.assert_refused(self.post("/submit", {**SUBMIT, **args}), *words)

    def test_nodes(self) -> None:
        """At least one."""
        for value in (*_NO_NUMBERS, 0, "0"):
            self.refuse("nodes", nodes=value)

    def test_nodes_of_a_job(self) -> None:
        """Given here and in `job` they must be the same; either alone will do."""
        others = {key: value for key, value in SUBMIT.items() if key not in ("hpc_script", "nodes")}
        job = {"image": "busybox", "command": "true"}

        def submit(nodes: object, inner: object) -> Response:
            given = {} if nodes is None else {"nodes": nodes}
            args = {**others, **given, "name": f"{nodes}-{inner}"}
            return self.post("/submit", {**args, "job": {**job, "nodes": inner}})

        for nodes, inner in ((1, 4), (4, 1), ("1", 4), (2, True), (2, 0)):
            self.assert_refused(submit(nodes, inner), f"nodes is {nodes}", f"job.nodes is {inner}")
        for missing in (None, 0, "x", True):
            self.assert_refused(submit(None, missing), "nodes")
        same: tuple[tuple[object, object], ...] = ((4, 4), ("4", 4), (None, 4), (4, None))
        for outer, inside in same:
            self.assertEqual(submit(outer, inside).status, 200)
        wanted = [call[1].nodes for call in self.scheduler.calls]  # type: ignore[attr-defined]
        self.assertEqual(wanted, [4, 4, 4, 4])
        null = self.post("/submit", {**others, "nodes": None, "job": {**job, "nodes": 4}})
        self.assertEqual(null.status, 200)

    def test_held(self) -> None:
        """True or false."""
        values: tuple[Any, ...] = ("yes", 1, 0, [], {}, 1.0)
        for value in values:
            self.refuse("held", held=value)

    def test_bearer(self) -> None:
        """A string, or absent."""
        values: tuple[Any, ...] = (5, 0, 1.5, True, False, [], ["a.b.c"], {}, {"a": "b"})
        for value in values:
            self.refuse("bearer", "JWT", bearer=value)

    def test_long_words(self) -> None:
        """An application's URL, help and description have bounds, which are told."""
        others = {key: value for key, value in SUBMIT.items() if key != "hpc_script"}
        for key, most in (("url", 2000), ("help", 10_000), ("about", 2000)):
            job = {"image": "busybox", "command": "true", "interactive": key == "url"}
            job[key] = "é" * (most + 1)
            response = self.post("/submit", {**others, "job": job})
            self.assert_error(response, 400, f"job.{key}", str(most))
        self.assertEqual(self.scheduler.jobs, {})

    def test_hpc_script(self) -> None:
        """An object with this cluster's executor's text in base64 of UTF-8."""
        for value in (*_NO_TEXT, "text", {"docker": "eA=="}, {"singularity": ""}):
            self.refuse("hpc_script", hpc_script=value)
        wrong: tuple[Any, ...] = ("é", "!!!", "eA", "eA==eA==", "//4=", 5, [], {})
        for text in wrong:
            self.refuse("hpc_script", hpc_script={"singularity": text})

    def test_other_executor(self) -> None:
        """What there is instead is named, without its text."""
        self.refuse("'singularity'", "docker", hpc_script={"docker": "c2VjcmV0"})
        self.refuse("\ud800", hpc_script={"\ud800": "x"})

    def test_many_executors(self) -> None:
        """A sentence stays one, however many there are."""
        self.refuse("hpc_script", hpc_script={f"executor{n}": "x" for n in range(1000)})
