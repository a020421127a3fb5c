"""Slurm's compressed host lists and times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import SlurmOutputError
from jarvice_slurmd.slurm.hostlist import parse_hostlist
from jarvice_slurmd.slurm.output import parse_elapsed, render_elapsed
from test.properties import property_test


class HostlistTests(SynchronousTestCase):
    """`parse_hostlist` expands as `scontrol show hostnames` does."""

    def assert_hosts(self, text: str, *hosts: str) -> None:
        self.assertEqual(parse_hostlist(text), hosts, text)

    def test_plain(self) -> None:
        """Names without brackets."""
        self.assert_hosts("")
        self.assert_hosts("n1", "n1")
        self.assert_hosts("n1,login-2.cluster", "n1", "login-2.cluster")

    def test_range(self) -> None:
        """A range, and one that counts over a power of ten."""
        self.assert_hosts("n[1-2]", "n1", "n2")
        self.assert_hosts("n[9-11]", "n9", "n10", "n11")

    def test_leading_zeros(self) -> None:
        """Zeros are kept, also over a power of ten; commas in brackets separate numbers."""
        self.assert_hosts("c[01-04,07]", "c01", "c02", "c03", "c04", "c07")
        self.assert_hosts("c[008-011]", "c008", "c009", "c010", "c011")
        self.assert_hosts("c[099-101]", "c099", "c100", "c101")

    def test_mixed(self) -> None:
        """Several items, with and without brackets, and text behind the bracket."""
        self.assert_hosts("login,n[1-2],gpu7", "login", "n1", "n2", "gpu7")
        self.assert_hosts("n[1-2].example.com", "n1.example.com", "n2.example.com")

    def test_several_brackets(self) -> None:
        """They multiply, the last one counting fastest."""
        self.assert_hosts("r[1-2]n[01,03]-ib", "r1n01-ib", "r1n03-ib", "r2n01-ib", "r2n03-ib")

    def test_big(self) -> None:
        """A cluster of 9,999 nodes."""
        hosts = parse_hostlist("n[0001-9999]")
        self.assertEqual((len(hosts), hosts[0], hosts[-1]), (9999, "n0001", "n9999"))

    def test_malformed(self) -> None:
        """Brackets that don't match or hold no range are the parser's own error."""
        for text in (
            "n[1-2",
            "n1-2]",
            "n[]",
            "n[a-b]",
            "n[2-1]",
            "n[1-]",
            "n[[1]]",
            "]n[",
            "n[1,]",
        ):
            with self.assertRaises(SlurmOutputError, msg=text):
                parse_hostlist(text)

    def test_bombs(self) -> None:
        """A few characters can't ask for millions of names, whichever way they multiply."""
        for text in (
            "n[1-999999999]",
            "n[1-1000][1-1000]",
            "n[1-60000],m[1-60000]",
            "[1-100]" * 9,
            "n[" + "9" * 5000 + "]",
        ):
            with self.assertRaises(SlurmOutputError):
                parse_hostlist(text)

    @given(st.text(st.sampled_from("n0123456789[]-,. ¹٣")))
    @property_test(400)
    def test_raises_only_its_own_error(self, text: str) -> None:
        """Whatever is in it, it is a tuple of names or a SlurmOutputError."""
        try:
            hosts = parse_hostlist(text)
        except SlurmOutputError:
            return
        self.assertFalse([host for host in hosts if "[" in host or "]" in host])

    @given(st.lists(st.integers(0, 120), min_size=1, unique=True), st.integers(1, 4))
    @property_test(100)
    def test_expands_what_was_compressed(self, numbers: list[int], width: int) -> None:
        """Numbers of one width, written singly and as ranges, come back in order."""
        written = ",".join(
            f"{number:0{width}d}-{number + 1:0{width}d}" if number % 2 else f"{number:0{width}d}"
            for number in numbers
        )
        wanted = [
            f"n{each:0{width}d}"
            for number in numbers
            for each in ([number, number + 1] if number % 2 else [number])
        ]
        self.assertEqual(list(parse_hostlist(f"n[{written}]")), wanted)


class ElapsedTests(SynchronousTestCase):
    """Slurm's times in seconds, and ours."""

    def test_forms(self) -> None:
        """Minutes, hours, days, and sacct's fractions."""
        for text, seconds in {
            "0:00": 0,
            "0:07": 7,
            "12:34": 754,
            "1:02:03": 3723,
            "23:59:59": 86399,
            "1-00:00:00": 86400,
            "11-02:03:04": 957784,
            "00:12.345": 12,
            " 1:00 ": 60,
        }.items():
            self.assertEqual(parse_elapsed(text), seconds, text)

    def test_no_time(self) -> None:
        """What is no time is none."""
        for text in (
            "",
            "INVALID",
            "N/A",
            "UNLIMITED",
            "Partition_Limit",
            "-1:00",
            "1:2:3:4",
            "٣:٣٣",
        ):
            self.assertEqual(parse_elapsed(text), 0, text)

    def test_rendered(self) -> None:
        """PROTOCOL, runstatus: HH:MM:SS, days counted as hours, never negative."""
        self.assertEqual(render_elapsed(0), "00:00:00")
        self.assertEqual(render_elapsed(957784), "266:03:04")
        self.assertEqual(render_elapsed(-5), "00:00:00")

    @given(st.integers(0, 10**8))
    @property_test(100)
    def test_round_trip(self, seconds: int) -> None:
        """What is rendered is read back."""
        self.assertEqual(parse_elapsed(render_elapsed(seconds)), seconds)

    @given(st.text(st.sampled_from("0123456789:-. INVALD¹")))
    @property_test(200)
    def test_never_raises(self, text: str) -> None:
        """Whatever Slurm says is some number of seconds."""
        self.assertGreaterEqual(parse_elapsed(text), 0)
