"""How the bulk measurements are compared."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from test.bench.figures import NoFiguresError, median_ratio
from test.bench.throughput import Bulk, render_bulk


class RatioTests(SynchronousTestCase):
    """Each round is compared with its own."""

    def test_slow_rounds(self) -> None:
        """A round that is slow for both moves nothing; the medians' ratio would be 1."""
        self.assertEqual(median_ratio([20.0, 2.0, 10.0], [10.0, 1.0, 10.0]), 2.0)

    def test_nothing(self) -> None:
        """Without rounds there is no ratio."""
        self.assertRaises(NoFiguresError, median_ratio, [], [])


class TableTests(SynchronousTestCase):
    """The bulk table."""

    def test_rows(self) -> None:
        """Medians in MB/s, the ratio behind the others', the CPU for a GB."""
        ours, theirs = Bulk.nothing(), Bulk.nothing()
        for direction in ("download", "upload"):
            ours.add(direction, 200_000_000, 2.0, 0.4)
            theirs.add(direction, 200_000_000, 4.0, 0.0)
        self.assertEqual(
            render_bulk({"daemon": ours, "theirs": theirs})[1:],
            [
                ("daemon", "100", "", "100", "", "2.0", "2.0"),
                ("theirs", "50", "2.00 x", "50", "2.00 x", "-", "-"),
            ],
        )
