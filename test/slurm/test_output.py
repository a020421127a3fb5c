"""What squeue, sbatch, sacct and a job's folder say, parsed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import SlurmOutputError, SlurmRefusedError, SlurmUnavailableError
from jarvice_slurmd.slurm.output import (
    QueueEntry,
    first_words,
    is_jobid,
    iter_queue,
    parse_post_mortem,
    parse_queue_line,
    parse_submitted,
    refusal,
)
from jarvice_slurmd.slurm.states import Phase, parse_state
from test.properties import property_test


class QueueTests(SynchronousTestCase):
    """`parse_queue_line` and `iter_queue`."""

    def test_line(self) -> None:
        """Every field finds its place."""
        self.assertEqual(
            parse_queue_line("12|R|1-02:00:01|n[1-2]|None|jarvice_20240101000000-ABCDE-app-joe_s1"),
            QueueEntry(
                jobid="12",
                name="20240101000000-ABCDE-app-joe_s1",
                state=parse_state("RUNNING"),
                elapsed=93601,
                hostlist="n[1-2]",
                reason="None",
            ),
        )

    def test_forms_of_job_ids(self) -> None:
        """Arrays' and heterogeneous jobs' ids are Slurm's forms too."""
        for jobid in ("1", "4294967295", "12_3", "12+1"):
            entry = parse_queue_line(f"{jobid}|PD|0:00||Priority|jarvice_x")
            self.assertEqual(entry and entry.jobid, jobid)

    def test_separators_in_a_name(self) -> None:
        """The name stands last: a separator in it stays in it."""
        entry = parse_queue_line("7|PD|0:00||Priority|jarvice_a|b||c")
        self.assertEqual(entry and entry.name, "a|b||c")

    def test_others(self) -> None:
        """A job whose name lacks the prefix is not ours."""
        for name in ("interactive", "Jarvice_x", "xjarvice_a", ""):
            self.assertIsNone(parse_queue_line(f"7|R|0:01|n1|None|{name}"), name)

    def test_records_in_a_name(self) -> None:
        """A line feed in a name makes no record of what follows, whatever it looks like."""
        lines = (
            "m|1|R|0:01|n1|None|x",
            "2|CD|0:01|n1|None|jarvice_a",
            "m|3|R|0:01|n1|None|jarvice_b",
        )
        entries = filter(None, iter_queue("\n".join(lines), "m|"))
        self.assertEqual([entry.jobid for entry in entries], ["3"])

    def test_no_record(self) -> None:
        """Lines that are no record are none."""
        for line in (
            "",
            "|||||",
            "slurm_load_jobs error",
            "x|R|0:00||None|jarvice_x",
            "1|R|jarvice_x",
        ):
            self.assertIsNone(parse_queue_line(line), line)

    def test_line_feed_in_a_name(self) -> None:
        """A name of two lines loses its second; the next job's record is not disturbed."""
        text = "1|R|0:01|n1|None|jarvice_a\nsecond line\n2|PD|0:00||None|jarvice_b\n"
        entries = filter(None, iter_queue(text))
        self.assertEqual([(e.jobid, e.name) for e in entries], [("1", "a"), ("2", "b")])

    def test_empty(self) -> None:
        """No jobs, no entries."""
        self.assertEqual(list(iter_queue("")), [None])

    def test_other_line_separators(self) -> None:
        """Only a line feed ends a record: names may hold what Python takes for a line's end."""
        text = "1|R|0:01|n1|None|jarvice_a\u2028b\x0cc\n"
        self.assertEqual([entry.name for entry in iter_queue(text) if entry], ["a\u2028b\x0cc"])

    @given(st.text(st.sampled_from("1|R:0jarvice_\n ¹\0")))
    @property_test(200)
    def test_never_raises(self, text: str) -> None:
        """Whatever squeue prints, what comes out has Slurm's form of a job id."""
        for entry in filter(None, iter_queue(text)):
            self.assertTrue(is_jobid(entry.jobid))


class JobIdTests(SynchronousTestCase):
    """`is_jobid` and `parse_submitted`."""

    def test_forms(self) -> None:
        """Slurm's forms, and nothing that a shell, a path or an option could be made of."""
        for jobid in (
            "",
            " 1",
            "1 ",
            "1\n",
            "-1",
            "1;2",
            "1.0",
            "1_",
            "_1",
            "1_2_3",
            "٣",
            "1" * 11,
        ):
            self.assertFalse(is_jobid(jobid), repr(jobid))
        for jobid in ("..", "1/..", "$(id)", "*", "1\0", "1,2", "--signal=KILL"):
            self.assertFalse(is_jobid(jobid), repr(jobid))

    def test_submitted(self) -> None:
        """`sbatch --parsable` prints the id, on a federation the cluster too."""
        self.assertEqual(parse_submitted(b"12\n"), "12")
        self.assertEqual(parse_submitted(b"12;main\n"), "12")

    def test_submitted_with_words_before(self) -> None:
        """A plugin's words before the id do no harm."""
        self.assertEqual(parse_submitted(b"your quota is 5 of 7\n99\n"), "99")

    def test_no_job_id(self) -> None:
        """Anything else is an error that shows what was printed."""
        for said in (b"", b"\n", b"Submitted batch job", b";main\n", b"\xff\xfe"):
            with self.assertRaises(SlurmOutputError):
                parse_submitted(said)


def _post_mortem(output: bytes = b"", **records: str) -> bytes:
    lines = [f"{key}={records.get(key, '')}" for key in ("name", "start", "exit")]
    lines += [f"{key}={records.get(key, '')}" for key in ("cancelled", "answer")]
    lines += [f"sacct={records['sacct']}"] if "sacct" in records else []
    return "\n".join([*lines, "output", ""]).encode() + output


class PostMortemTests(SynchronousTestCase):
    """`parse_post_mortem`."""

    def test_nothing_left(self) -> None:
        """Empty records are none."""
        found = parse_post_mortem(_post_mortem())
        self.assertEqual(
            (found.name, found.start, found.exit, found.cancelled, found.answer), (None,) * 5
        )
        self.assertEqual((found.accounting, found.accounting_error), (None, None))
        self.assertEqual(found.output, b"")

    def test_records(self) -> None:
        """Each record is read; a name may hold what separates records."""
        found = parse_post_mortem(
            _post_mortem(
                name="a=b",
                start="100",
                exit="FAILED 3 100 160",
                cancelled="150",
                answer="TIMEOUT 60",
            )
        )
        self.assertEqual((found.name, found.start, found.cancelled), ("a=b", 100, 150))
        self.assertEqual(found.exit, (parse_state("FAILED"), 3, 100, 160))
        self.assertEqual(found.answer, (parse_state("TIMEOUT"), 60))

    def test_output(self) -> None:
        """All behind the first `output` line is the job's, its own such lines included."""
        output = b"one\noutput\nname=x\n\xff\0"
        self.assertEqual(parse_post_mortem(_post_mortem(output)).output, output)

    def test_records_that_make_no_sense(self) -> None:
        """A record cut off while it was written is none."""
        found = parse_post_mortem(
            _post_mortem(
                name="x", start="now", exit="FAILED 3 100", cancelled="-1", answer="TIMEOUT"
            )
        )
        self.assertEqual(
            (found.start, found.exit, found.cancelled, found.answer), (None, None, None, None)
        )

    def test_cut_off(self) -> None:
        """An answer without its end can't be trusted."""
        for stdout in (b"", b"name=x\nstart=5\n", _post_mortem().removesuffix(b"output\n")):
            with self.assertRaises(SlurmOutputError):
                parse_post_mortem(stdout)

    def test_accounting(self) -> None:
        """sacct's state, seconds and name; its state may say who cancelled."""
        found = parse_post_mortem(_post_mortem(sacct="0 CANCELLED by 1001|61|jarvice_a|b"))
        self.assertEqual(found.accounting, (parse_state("CANCELLED"), 61, "jarvice_a|b"))
        self.assertIsNone(found.accounting_error)

    def test_accounting_knows_nothing(self) -> None:
        """An empty answer with status 0 is an answer."""
        found = parse_post_mortem(_post_mortem(sacct="0 "))
        self.assertEqual((found.accounting, found.accounting_error), (None, None))

    def test_accounting_disabled(self) -> None:
        """A cluster without accounting is not an outage."""
        found = parse_post_mortem(_post_mortem(sacct="1 Slurm accounting storage is disabled"))
        self.assertEqual((found.accounting, found.accounting_error), (None, None))

    def test_accounting_down(self) -> None:
        """What sacct said when it could not ask is kept, and so is a silent failure."""
        words = "sacct: error: Problem talking to the database: Connection refused"
        self.assertEqual(
            parse_post_mortem(_post_mortem(sacct=f"1 {words}")).accounting_error, words
        )
        found = parse_post_mortem(_post_mortem(sacct="127 "))
        self.assertEqual(found.accounting_error, "sacct ended with status 127")

    @given(st.binary(max_size=200))
    @property_test(200)
    def test_raises_only_its_own_error(self, stdout: bytes) -> None:
        """Whatever the login node prints."""
        try:
            parse_post_mortem(stdout)
        except SlurmOutputError:
            self.assertNotIn(b"\noutput\n", stdout)

    @given(
        st.lists(
            st.text(st.sampled_from("0123456789 -|FAILED\n¹"), max_size=30), min_size=5, max_size=5
        )
    )
    @property_test(200)
    def test_nonsense_in_records(self, values: list[str]) -> None:
        """Whatever stands in the records, numbers come out as numbers or not at all."""
        keys = ("start", "exit", "cancelled", "answer", "sacct")
        found = parse_post_mortem(_post_mortem(b"", **dict(zip(keys, values, strict=True))))
        self.assertIsInstance(found.start or 0, int)
        if found.exit is not None:
            self.assertEqual([type(part) for part in found.exit[1:]], [int, int, int])


class RefusalTests(SynchronousTestCase):
    """`refusal` tells "no" from "no answer"."""

    def test_no_answer(self) -> None:
        """slurm_errno.h's and the shell's words for a controller or database that is away."""
        for said in (
            b"slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
            b"sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            b"sbatch: error: Batch job submission failed: Unable to contact slurm controller",
            b"sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
            b"slurm_load_jobs error: Zero Bytes were transmitted or received",
            b"sbatch: error: slurm_msg_sendto: msg_type=4003: Unexpected missing socket error",
            b"scontrol: error: Connection refused",
            b"squeue: error: Slurm backup controller in standby mode",
            b"sbatch: error: Munge encode failed: Failed to access munge socket",
        ):
            error = refusal(said)
            self.assertIsInstance(error, SlurmUnavailableError, said)
            self.assertIn(said.decode(), str(error))

    def test_refused(self) -> None:
        """Slurm's own no, in its own words."""
        for said in (
            b"sbatch: error: invalid partition specified: nope",
            b"sbatch: error: Batch job submission failed: Requested node configuration is not "
            b"available",
            b"scontrol: error: Invalid job id specified",
            b"sbatch: error: Job violates accounting/QOS policy (job submit limit, ...)",
            b"",
        ):
            error = refusal(said)
            self.assertIsInstance(error, SlurmRefusedError, said)
            self.assertIn(said.decode(), str(error))

    def test_one_sentence(self) -> None:
        """Line feeds and too many words don't reach the sentence, whatever the bytes."""
        words = first_words(b"one\n\ttwo \xff\n" + b"x" * 10_000)
        self.assertTrue(words.startswith("one two \ufffd x"))
        self.assertEqual((len(words), words.count("\n")), (500, 0))
        self.assertEqual(first_words(b" \n"), "(it said nothing)")


class PhaseTests(SynchronousTestCase):
    """The phases of what the queue may say."""

    def test_unknown_is_no_phase(self) -> None:
        """A line with a new state is an entry that neither runs, waits nor has ended."""
        entry = parse_queue_line("7|NEW|0:00||None|jarvice_x")
        self.assertIs(entry and entry.state.phase, Phase.UNKNOWN)
