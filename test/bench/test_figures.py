"""The bench's own arithmetic."""

from __future__ import annotations

from math import inf

from twisted.trial.unittest import SynchronousTestCase

from test.bench.figures import (
    Goal,
    NoFiguresError,
    Sample,
    Section,
    Series,
    count_questions,
    percentile,
    ratio,
    render_failures,
    render_report,
    render_table,
)

SDIAG = """\
Remote Procedure Call statistics by message type
\tREQUEST_JOB_INFO                        ( 2003) count:5      ave_time:12897  total_time:64487
\tREQUEST_JOB_USER_INFO                   ( 2039) count:30     ave_time:24982  total_time:74947
\tREQUEST_JOB_INFO_SINGLE                 ( 2021) count:200    ave_time:1      total_time:1
\tREQUEST_SUBMIT_BATCH_JOB                ( 4003) count:1000   ave_time:1      total_time:1

Remote Procedure Call statistics by user
\troot            (       0) count:20462  ave_time:1275   total_time:26096168
"""


class PercentileTests(SynchronousTestCase):
    """Nearest rank: always one of the values."""

    def test_ranks(self) -> None:
        """Of a hundred values the 99th percentile is the 99th, the median the 50th."""
        values = [float(value) for value in range(100, 0, -1)]
        self.assertEqual(
            [percentile(values, percent) for percent in (0, 1, 50, 99, 100)],
            [1.0, 1.0, 50.0, 99.0, 100.0],
        )

    def test_few(self) -> None:
        """Of few values the 99th percentile is the largest."""
        self.assertEqual(percentile([3.0, 9.0, 4.0], 99), 9.0)

    def test_none(self) -> None:
        """What was not measured has no percentile."""
        self.assertRaises(NoFiguresError, percentile, [], 50)


class SeriesTests(SynchronousTestCase):
    """Medians over runs."""

    def test_medians(self) -> None:
        """One slow run does not move the rate, nor the latency."""
        runs = [
            Sample(seconds=2.0, latencies=[0.001] * 20),
            Sample(seconds=2.0, latencies=[0.003] * 24),
            Sample(seconds=2.0, latencies=[0.9], failures={"refused": 2}),
        ]
        series = Series([*runs])
        self.assertEqual(series.rate, 10.0)
        self.assertEqual(series.latency(50), 3.0)
        self.assertEqual(series.answers, 45)
        self.assertEqual(series.failures, {"refused": 2})

    def test_runs_without_answers(self) -> None:
        """They count as no answers a second, but have no latency."""
        series = Series([Sample(seconds=1.0, latencies=[]), Sample(seconds=1.0, latencies=[0.5])])
        self.assertEqual((series.rate, series.latency(99)), (0.5, 500.0))
        self.assertEqual(Series([series.samples[0]]).latency(50), inf)

    def test_no_runs(self) -> None:
        """Nothing has no rate."""
        self.assertRaises(NoFiguresError, lambda: Series([]).rate)


class QuestionTests(SynchronousTestCase):
    """What sdiag counts."""

    def test_counts_questions_about_jobs(self) -> None:
        """All three ways to ask about jobs, and nothing else."""
        self.assertEqual(count_questions(SDIAG), 235)

    def test_counts_nothing(self) -> None:
        """A controller that nobody has asked lists no such line."""
        self.assertEqual(count_questions("Server thread count:  1\n"), 0)


class ReportTests(SynchronousTestCase):
    """What a person reads."""

    def test_ratio(self) -> None:
        """Two places where they tell something."""
        self.assertEqual((ratio(3, 2), ratio(300, 2), ratio(1, 0)), ("1.50 x", "150 x", "-"))

    def test_table(self) -> None:
        """Columns are as wide as their widest cell."""
        self.assertEqual(render_table([("a", "b"), ("long", "12")]), "  a      b\n  long  12\n")

    def test_failures(self) -> None:
        """The most frequent first."""
        self.assertEqual(render_failures({"reset": 1, "refused": 11}), "11 x refused; 1 x reset")

    def test_report(self) -> None:
        """Goals say whether they are reached; only what is broken has failed."""
        section = Section(
            title="Speed",
            table=[("who", "rate"), ("ours", "9")],
            remarks=["as measured"],
            goals=[Goal(text="at least 10", measured="9", reached=False)],
        )
        report = render_report(["2 cores"], [section])
        self.assertIn("1. Speed\n\n  who   rate\n  ours     9\n  as measured\n", report)
        self.assertRegex(report, r"at least 10 +9 +MISSED\n")
        self.assertTrue(report.endswith("\nNothing failed.\n"))
        self.assertTrue(
            render_report([], [], ["3 answers were wrong"]).endswith(
                "\nFAILED: 3 answers were wrong\n"
            )
        )
