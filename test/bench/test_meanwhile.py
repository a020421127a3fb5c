"""The table of what was asked while somebody moved much."""

from __future__ import annotations

from math import inf

from twisted.trial.unittest import SynchronousTestCase

from test.bench.figures import Sample
from test.bench.meanwhile import NOTHING, Meanwhile


class MeanwhileTests(SynchronousTestCase):
    """What was found."""

    def setUp(self) -> None:
        """Two rounds of one question, the second slower; another was never answered."""
        self.found = Meanwhile()
        for milliseconds in (1.0, 3.0):
            alone = Sample(seconds=1.0, latencies=[milliseconds / 1000] * 100)
            self.found.samples["one", NOTHING].append(alone)
            beside = Sample(seconds=1.0, latencies=[milliseconds / 500] * 100)
            self.found.samples["one", "a move"].append(beside)
            self.found.rates["one", "a move"].append(100 * milliseconds)
        for moved in (NOTHING, "a move"):
            nothing = Sample(seconds=1.0, latencies=[], failures={"refused": 2})
            self.found.samples["other", moved].append(nothing)

    def test_table(self) -> None:
        """Percentiles are those of all rounds together; rows stand by question."""
        self.assertEqual(
            self.found.render()[1:3],
            [
                ("one", NOTHING, "", "1.00", "3.00", ""),
                ("one", "a move", "200", "2.00", "6.00", "2.00 x"),
            ],
        )
        self.assertEqual([row[0] for row in self.found.render()[3:]], ["other", "other"])

    def test_no_answer(self) -> None:
        """What was never answered is infinitely slow, and said to be broken."""
        self.assertEqual(self.found.latency("other", NOTHING, 50), inf)
        self.assertEqual(
            self.found.broken(),
            [f"other, meanwhile {moved}: 2 x refused" for moved in (NOTHING, "a move")],
        )
