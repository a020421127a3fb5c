"""The arguments of tail and pvcls, right and wrong."""

from __future__ import annotations

import json
from typing import Any

from test.web.test_arguments import ArgumentTestCase


class QueryTests(ArgumentTestCase):
    """qs of tail and pvcls."""

    def test_lines(self) -> None:
        """A whole number."""
        values: tuple[Any, ...] = ("", "x", "-1", "1.5", "+5", "٣", "9" * 10, "$(id)", -5, None, [])
        for value in values:
            response = self.post("/request/x/7/41/tail", {"qs": {"lines": [value]}})
            self.assert_refused(response, "lines")

    def test_qs(self) -> None:
        """An object of lists of strings."""
        for qs in ("lines=5", 5, ["lines"], True):
            self.assert_refused(self.post("/request/x/7/41/tail", {"qs": qs}), "qs")
            self.assert_refused(self.post("/request/pvcls", {"qs": qs}), "qs")
        for value in ({"a": 1}, True, 1.5):
            response = self.post("/request/x/7/41/tail", {"qs": {"lines": value}})
            self.assert_refused(response, "lines")

    def test_path(self) -> None:
        """An absolute one that goes nowhere else and could not be read as anything else."""
        for path in (
            "",
            "tmp",
            "-exec",
            "./x",
            "~",
            "/tmp/../etc",
            "/..",
            "/a\nb",
            "/a\0",
            "/\ud800",
        ):
            self.assert_refused(self.post("/request/pvcls", {"qs": {"path": [path]}}), "path")
        values: tuple[Any, ...] = ([], [None], [5], [["/"]], {"x": "/"}, None, 5, True)
        for value in values:
            self.assert_refused(self.post("/request/pvcls", {"qs": {"path": value}}), "path")
        self.assert_refused(self.post("/request/pvcls", {}), "path")

    def test_paths_that_look_odd(self) -> None:
        """These are paths: what they spell is the scheduler's to quote."""
        for path in (
            "/-exec",
            "/tmp/a b",
            "/it's",
            '/"',
            "/$(id)",
            "/a..b",
            "/...",
            "/%",
            "/é",
            "//",
        ):
            self.post("/request/pvcls", {"qs": {"path": [path]}})
            self.assertEqual(self.scheduler.calls.pop(), ("list_folder", path, False))

    def test_body_of_tail(self) -> None:
        """A body that is there must be a form."""
        headers = {"Content-Type": "application/json"}
        response = self.call("POST", "/request/x/7/41/tail", headers, json.dumps({}).encode())
        self.assert_refused(response)
