"""The state table, against squeue(1) and sacct(1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.slurm.states import STATES, Phase, parse_state
from test.properties import property_test

# squeue(1), "JOB STATE CODES", written down here a second time so that a slip in one shows.
_RUNNING = {
    "R": "RUNNING",
    "RH": "REQUEUE_HOLD",
    "RS": "RESIZING",
    "SI": "SIGNALING",
    "ST": "STOPPED",
    "S": "SUSPENDED",
    "CG": "COMPLETING",
    "SO": "STAGE_OUT",
}
_QUEUED = {
    "CF": "CONFIGURING",
    "PD": "PENDING",
    "RD": "RESV_DEL_HOLD",
    "RF": "REQUEUE_FED",
    "RQ": "REQUEUED",
}
_ENDED = {
    "CD": ("COMPLETED", 0),
    "F": ("FAILED", 1),
    "NF": ("NODE_FAIL", 1),
    "OOM": ("OUT_OF_MEMORY", 1),
    "CA": ("CANCELLED", -15),
    "DL": ("DEADLINE", -15),
    "PR": ("PREEMPTED", -15),
    "BF": ("BOOT_FAIL", -9),
    "LF": ("LAUNCH_FAILED", -9),
    "RV": ("REVOKED", -9),
    "SE": ("SPECIAL_EXIT", -9),
    "TO": ("TIMEOUT", -9),
}


class StateTests(SynchronousTestCase):
    """`parse_state`."""

    def test_running(self) -> None:
        """Every state that upstream takes for running, in both spellings."""
        for spelling in (*_RUNNING.keys(), *_RUNNING.values()):
            state = parse_state(spelling)
            self.assertIs(state.phase, Phase.RUNNING, spelling)
            self.assertIsNone(state.return_code)

    def test_queued(self) -> None:
        """Every state that upstream takes for waiting, in both spellings."""
        for spelling in (*_QUEUED.keys(), *_QUEUED.values()):
            state = parse_state(spelling)
            self.assertIs(state.phase, Phase.QUEUED, spelling)
            self.assertIsNone(state.return_code)

    def test_ended(self) -> None:
        """Every final state, in both spellings, has its return code."""
        for code, (name, return_code) in _ENDED.items():
            self.assertEqual(parse_state(code), parse_state(name))
            state = parse_state(name)
            self.assertIs(state.phase, Phase.ENDED, name)
            self.assertEqual((state.code, state.return_code), (code, return_code))

    def test_whole(self) -> None:
        """The table holds these states and no other."""
        self.assertEqual(
            {state.code: state.name for state in STATES},
            {**_RUNNING, **_QUEUED, **{code: name for code, (name, _) in _ENDED.items()}},
        )

    def test_case_and_space(self) -> None:
        """Spelling in small letters and spaces around it don't matter."""
        self.assertEqual(parse_state(" completed\n").name, "COMPLETED")

    def test_sacct_says_who(self) -> None:
        """sacct's `CANCELLED by 1001`."""
        self.assertEqual(parse_state("CANCELLED by 1001").return_code, -15)

    def test_cut_by_a_column(self) -> None:
        """sacct's columns cut long states and end them in a plus sign."""
        for name in ("OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED", "BOOT_FAIL", "TIMEOUT"):
            for length in range(4, len(name) + 1):
                self.assertEqual(parse_state(f"{name[:length]}+").name, name)

    def test_ambiguous_beginnings(self) -> None:
        """What could be two states is neither: COMPLETED and COMPLETING end differently."""
        for text in ("COMPLET+", "RE+", "S+", "RE", "COMPLETE", "+", "R+"):
            state = parse_state(text)
            self.assertIs(state.phase, Phase.UNKNOWN, text)

    def test_similar_codes(self) -> None:
        """CF is no failure (TRAPS, "CF" matched as failed), and S no STOPPED."""
        self.assertIs(parse_state("CF").phase, Phase.QUEUED)
        self.assertEqual(parse_state("S").name, "SUSPENDED")

    def test_unheard_of(self) -> None:
        """A new state concludes nothing, and keeps its name for the log."""
        state = parse_state("expediting")
        self.assertEqual((state.name, state.phase), ("EXPEDITING", Phase.UNKNOWN))
        self.assertIsNone(state.return_code)
        self.assertIs(parse_state("").phase, Phase.UNKNOWN)

    @given(st.text())
    @property_test(200)
    def test_never_raises(self, text: str) -> None:
        """Whatever Slurm says, a return code comes only with the end."""
        state = parse_state(text)
        self.assertEqual(state.return_code is None, state.phase is not Phase.ENDED)
