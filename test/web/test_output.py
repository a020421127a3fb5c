"""A job's output as it is sent: text, and no longer than it may be."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.jobs.model import ExitReport
from jarvice_slurmd.slurm.states import parse_state
from jarvice_slurmd.web.answers import json_answer
from jarvice_slurmd.web.wire import render_exit, render_output
from test.properties import property_test


class OutputTests(SynchronousTestCase):
    """`render_output`, and the answer of exitstatus."""

    def sent(self, output: bytes, max_bytes: int) -> tuple[str, int]:
        """The output as exitstatus sends it, and the whole answer's length."""
        report = ExitReport(state=parse_state("CD"), elapsed=1, output=output)
        body = json_answer(render_exit(report, max_bytes)).body
        return json.loads(body)[2][0], len(body)

    def test_text(self) -> None:
        """Words in any language come whole."""
        for text in ("fine\n" * 1000, "é中\n" * 100, ""):
            self.assertEqual(self.sent(text.encode(), 6 * len(text) + 2)[0], text)

    def test_bytes(self) -> None:
        """What is no text costs no more bytes than allowed, and the end is what is kept."""
        for byte in (b"\0", b"\xff", b"\x1b", b'"'):
            text, size = self.sent(byte * 100_000 + b"the end\n", 50_000)
            self.assertLess(size, 50_200)
            self.assertGreater(size, 40_000)
            self.assertTrue(text.endswith("the end\n"))

    @given(st.binary(max_size=300), st.integers(2, 400))
    @property_test(300)
    def test_any(self, output: bytes, max_bytes: int) -> None:
        """Whatever it is, it is the end of the output, and bounded."""
        for render in (str, json.dumps):
            text = render_output(output, max_bytes, render)
            self.assertLessEqual(len(render(text).encode("utf-8")), max_bytes)
            self.assertTrue(output.decode("utf-8", "replace").endswith(text))
