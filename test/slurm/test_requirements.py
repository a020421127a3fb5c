"""What the judges make of what the probes printed, or did not."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.slurm.compute_node import (
    compute_node_not_asked,
    judge_compute_node,
    judge_container,
)
from jarvice_slurmd.slurm.findings import (
    Answer,
    Finding,
    Verdict,
    is_failed,
    parse_facts,
    parse_version,
    render_findings,
    render_summary,
)
from jarvice_slurmd.slurm.requirements import (
    judge_accounting,
    judge_clock,
    judge_configuration,
    judge_folder,
    judge_login,
    judge_queue,
    judge_space,
)

SILENCE = Answer(status=None, stderr="there is no SSH link")

LOGIN = """user_id=1001
user=jane
path=/usr/bin:/bin
sbatch=/usr/bin/sbatch
squeue=/usr/bin/squeue
scancel=/usr/bin/scancel
scontrol=/usr/bin/scontrol
srun=/usr/bin/srun
sacct=/usr/bin/sacct
version=slurm 22.05.8
clock=1000.5
"""

CONFIGURATION = """AccountingStorageType=accounting_storage/slurmdbd
MinJobAge=300 sec
PrivateData=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CORE_MEMORY
SLURM_VERSION=22.05.8
"""

FOLDER = "folder=/home/jane\nflock=yes\nlock=1\ntype=nfs\nfree=50000000\n"

TOOL = """singularity=/usr/bin/singularity
tool=/usr/bin/apptainer
tool_version=apptainer version 1.4.5
setuid=no
user_namespaces=yes
"""

COMPUTE = f"""job=12
seen=999.0
read=1001.0
state=COMPLETED
reason=None
shared=yes
{TOOL}host=n1
user_id=1001
lock=1
missing=
tmp_free=50000000
image=0
overlay_file=0
overlay=0
tmpfs=0
clock=1000.0
"""


def said(text: str) -> Answer:
    """A probe that succeeded."""
    return Answer(status=0, stdout=text)


def without(text: str, name: str, value: str | None = None) -> str:
    """A probe's lines, one of them gone or with another value."""
    lines = [line for line in text.splitlines() if not line.startswith(f"{name}=")]
    return "\n".join([*lines, *([] if value is None else [f"{name}={value}"])])


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    """The findings, each name once."""
    found = list(findings)
    names = {finding.name: finding for finding in found}
    assert len(names) == len(found), found
    return names


class FindingsTests(SynchronousTestCase):
    """What all of them share."""

    def test_versions(self) -> None:
        """The number in what commands say of themselves."""
        for text, version in {
            "slurm 22.05.8": (22, 5, 8),
            "slurm-wlm 24.11.5": (24, 11, 5),
            "slurm 19.05.0-rc1": (19, 5, 0),
            "singularity-ce version 3.11.4-jammy": (3, 11, 4),
            "singularity version 3.8.7-1.el8": (3, 8, 7),
            "apptainer version 1.4": (1, 4, 0),
            "sbatch: command not found": None,
            "": None,
        }.items():
            self.assertEqual(parse_version(text), version, text)

    def test_facts(self) -> None:
        """Lines without `=` are nobody's; a value may hold `=`."""
        facts = parse_facts("welcome\na=1\n\nb=x=y\na=2\nc=\n")
        self.assertEqual(facts, {"a": "2", "b": "x=y", "c": ""})

    def test_lines(self) -> None:
        """A line each, and how to fix what is not ok."""
        fine = Finding(name="a", verdict=Verdict.OK, found="1", needed="1", fix="never told")
        bad = Finding(name="b", verdict=Verdict.FAILED, found="1", needed="2", fix="do it")
        self.assertEqual(
            list(render_findings([fine, bad])),
            [
                "[ok]      a: 1 (needed: 1)",
                "[failed]  b: 1 (needed: 2)",
                "            fix: do it",
            ],
        )
        self.assertEqual(render_summary([fine, bad]), "1 ok, 0 warning, 1 failed, 0 unknown")
        self.assertTrue(is_failed([fine, bad]))
        self.assertFalse(is_failed([fine]))


class SilenceTests(SynchronousTestCase):
    """What could not be asked is unknown, never ok and never failed."""

    def test_unknown(self) -> None:
        """Every judge, of nothing."""
        for answer in (SILENCE, Answer(status=143)):
            configuration = by_name(judge_configuration(answer))
            controller = configuration.pop("Slurm's controller")
            known = Verdict.UNKNOWN if answer.status is None else Verdict.FAILED
            self.assertIs(controller.verdict, known)
            findings = [
                *configuration.values(),
                *judge_accounting(SILENCE, answer),
                *judge_container(answer, overlay_size=0, where="the login node"),
                *judge_compute_node(answer, overlay_size=0),
                *compute_node_not_asked(),
            ]
            for finding in findings:
                self.assertIs(finding.verdict, Verdict.UNKNOWN, finding)
                self.assertTrue(finding.found, finding)
                self.assertTrue(finding.needed, finding)
        for finding in (
            *judge_login(SILENCE, 1.0, 2.0),
            *judge_folder(SILENCE),
            *judge_queue(SILENCE, SILENCE),
        ):
            self.assertIs(finding.verdict, Verdict.UNKNOWN, finding)

    def test_reason(self) -> None:
        """The reason is told."""
        finding = by_name(judge_configuration(SILENCE))["SelectType"]
        self.assertEqual(finding.found, "there is no SSH link")


class LoginTests(SynchronousTestCase):
    """`judge_login`."""

    def judge(self, text: str) -> dict[str, Finding]:
        """With our own clock between 1000 and 1001."""
        return by_name(judge_login(said(text), 1000.0, 1001.0))

    def test_good(self) -> None:
        """All is well."""
        for finding in self.judge(LOGIN).values():
            self.assertIs(finding.verdict, Verdict.OK, finding)

    def test_missing_command(self) -> None:
        """A missing command fails, by name; a missing sacct warns."""
        finding = self.judge(without(LOGIN, "scancel", ""))["Slurm's commands"]
        self.assertIs(finding.verdict, Verdict.FAILED)
        self.assertIn("no scancel in the PATH /usr/bin:/bin", finding.found)
        finding = self.judge(without(LOGIN, "sacct", ""))["Slurm's commands"]
        self.assertIs(finding.verdict, Verdict.WARNING)

    def test_versions(self) -> None:
        """Too old fails; what has no number is unknown."""
        for version, verdict in {
            "slurm 18.08.9": Verdict.FAILED,
            "slurm 19.05.2": Verdict.OK,
            "slurm 25.05.1": Verdict.OK,
            "sbatch: not found": Verdict.UNKNOWN,
        }.items():
            finding = self.judge(without(LOGIN, "version", version))["Slurm's version"]
            self.assertIs(finding.verdict, verdict, version)

    def test_root(self) -> None:
        """Root is refused."""
        finding = self.judge(without(LOGIN, "user_id", "0"))["account"]
        self.assertIs(finding.verdict, Verdict.FAILED)

    def test_clock(self) -> None:
        """Only what is outside of the time between question and answer is a difference."""
        for clock, verdict, words in (
            ("1000.2", Verdict.OK, "no difference"),
            ("1004.0", Verdict.OK, "3.0 s ahead"),
            ("990.0", Verdict.WARNING, "10.0 s behind"),
            ("1400.0", Verdict.FAILED, "399.0 s ahead"),
            ("", Verdict.UNKNOWN, "not told"),
            ("1000.N", Verdict.UNKNOWN, "not told"),
        ):
            finding = judge_clock("clock", clock, 1000.0, 1001.0)
            self.assertIs(finding.verdict, verdict, clock)
            self.assertIn(words, finding.found)
        slow = judge_clock("clock", "1000.2", 1000.0, 1009.0)
        self.assertIs(slow.verdict, Verdict.UNKNOWN)
        self.assertIs(judge_clock("clock", "1400.0", 1000.0, 1009.0).verdict, Verdict.FAILED)


class ConfigurationTests(SynchronousTestCase):
    """`judge_configuration`, `judge_accounting` and `judge_queue`."""

    def test_select_type(self) -> None:
        """Plugins that share nodes, those that don't, and those nobody knows."""
        for plugin, parameters, verdict in (
            ("select/cons_tres", "CR_CORE", Verdict.OK),
            ("select/cons_res", "CR_CPU", Verdict.OK),
            ("select/cray_aries", "OTHER_CONS_TRES", Verdict.OK),
            ("select/cray_aries", "OTHER_LINEAR", Verdict.UNKNOWN),
            ("select/linear", "CR_MEMORY", Verdict.FAILED),
            ("select/novel", "", Verdict.UNKNOWN),
        ):
            text = without(without(CONFIGURATION, "SelectType", plugin), "SelectTypeParameters")
            text += f"\nSelectTypeParameters={parameters}"
            finding = by_name(judge_configuration(said(text)))["SelectType"]
            self.assertIs(finding.verdict, verdict, finding)

    def test_min_job_age(self) -> None:
        """Too short warns; 0 means for ever."""
        for age, verdict in {
            "300 sec": Verdict.OK,
            "0 sec": Verdict.OK,
            "10 sec": Verdict.WARNING,
            "(null)": Verdict.UNKNOWN,
        }.items():
            text = without(CONFIGURATION, "MinJobAge", age)
            finding = by_name(judge_configuration(said(text)))["MinJobAge"]
            self.assertIs(finding.verdict, verdict, age)

    def judge_accounting(self, answer: Answer, storage: str | None) -> Finding:
        """The finding, for what slurm.conf says."""
        text = without(CONFIGURATION, "AccountingStorageType", storage)
        return by_name(judge_accounting(answer, said(text)))["accounting"]

    def test_accounting(self) -> None:
        """Off is a warning, configured but silent is a failure."""
        disabled = Answer(status=1, stderr="Slurm accounting storage is disabled")
        refused = Answer(status=1, stderr="sacct: error: slurmdbd: Connection refused")
        dbd = "accounting_storage/slurmdbd"
        for answer, storage, verdict in (
            (said(""), dbd, Verdict.OK),
            (refused, dbd, Verdict.FAILED),
            (disabled, "accounting_storage/none", Verdict.WARNING),
            (disabled, None, Verdict.WARNING),
            (said(""), None, Verdict.UNKNOWN),
            (SILENCE, dbd, Verdict.UNKNOWN),
        ):
            finding = self.judge_accounting(answer, storage)
            self.assertIs(finding.verdict, verdict, finding)
        self.assertIn("Connection refused", self.judge_accounting(refused, dbd).found)

    def test_private_data(self) -> None:
        """Other users' jobs may be hidden; ours and nodes may not."""
        for private, verdict in {
            "none": Verdict.OK,
            "jobs,usage": Verdict.OK,
            "jobs,nodes": Verdict.WARNING,
        }.items():
            text = without(CONFIGURATION, "PrivateData", private)
            finding = by_name(judge_queue(said("jobs=3"), said(text)))["PrivateData"]
            self.assertIs(finding.verdict, verdict, finding)
        refused = Answer(status=1, stderr="slurm_load_jobs error: Access/permission denied")
        finding = by_name(judge_queue(refused, said(CONFIGURATION)))["PrivateData"]
        self.assertIs(finding.verdict, Verdict.FAILED)
        self.assertIn("permission denied", finding.found)
        silent = Answer(status=1, stderr="Unable to contact slurm controller (connect failure)")
        finding = by_name(judge_queue(silent, said(CONFIGURATION)))["PrivateData"]
        self.assertIs(finding.verdict, Verdict.UNKNOWN)
        finding = by_name(judge_queue(said("jobs=3"), SILENCE))["PrivateData"]
        self.assertIs(finding.verdict, Verdict.UNKNOWN)


class FolderTests(SynchronousTestCase):
    """`judge_folder`."""

    def test_good(self) -> None:
        """All is well."""
        for finding in by_name(judge_folder(said(FOLDER))).values():
            self.assertIs(finding.verdict, Verdict.OK, finding)

    def test_locks(self) -> None:
        """A lock that two get, or nobody."""
        for lock, words in {"0": "two had the lock", "65": "no lock can be made"}.items():
            text = without(FOLDER, "lock", lock)
            finding = by_name(judge_folder(said(text)))["flock on the login node"]
            self.assertIs(finding.verdict, Verdict.FAILED)
            self.assertIn(words, finding.found)
        finding = by_name(judge_folder(said(without(FOLDER, "flock"))))["flock on the login node"]
        self.assertIn("not in the PATH", finding.found)

    def test_read_only(self) -> None:
        """A folder that can't be written fails; its locks are unknown."""
        answer = Answer(status=74, stdout="folder=/scratch\n", stderr="Read-only file system")
        findings = by_name(judge_folder(answer))
        self.assertIs(findings["folder"].verdict, Verdict.FAILED)
        self.assertIn("/scratch", findings["folder"].found)
        self.assertIs(findings["flock on the login node"].verdict, Verdict.UNKNOWN)

    def test_space(self) -> None:
        """Little space warns, next to none fails."""
        for kilobytes, verdict in {
            "20000000": Verdict.OK,
            "5000000": Verdict.WARNING,
            "500000": Verdict.FAILED,
            "": Verdict.UNKNOWN,
        }.items():
            self.assertIs(judge_space("space", kilobytes, said("")).verdict, verdict)


class ContainerTests(SynchronousTestCase):
    """`judge_container`."""

    def judge(self, text: str, *, overlay_size: int = 640) -> dict[str, Finding]:
        """On the compute node."""
        answer = said(text)
        where = "the compute node"
        return by_name(judge_container(answer, overlay_size=overlay_size, where=where))

    def test_good(self) -> None:
        """Apptainer, with an overlay and without."""
        for size in (0, 640):
            for finding in self.judge(TOOL, overlay_size=size).values():
                self.assertIs(finding.verdict, Verdict.OK, finding)

    def test_tmpfs_needs_a_version(self) -> None:
        """Overlay size 0 needs Singularity 3.11.3; a size does not."""
        for version, size, verdict in (
            ("singularity-ce version 3.11.2", 0, Verdict.FAILED),
            ("singularity-ce version 3.11.2", 640, Verdict.OK),
            ("singularity-ce version 3.11.3", 0, Verdict.OK),
            ("singularity version 4.1.0", 0, Verdict.OK),
            ("it does not start", 640, Verdict.FAILED),
        ):
            text = without(TOOL, "tool_version", version)
            finding = self.judge(text, overlay_size=size)["container tool"]
            self.assertIs(finding.verdict, verdict, (version, size))

    def test_rights(self) -> None:
        """Neither setuid nor user namespaces: no container starts."""
        text = without(TOOL, "user_namespaces", "no")
        self.assertIs(self.judge(text)["setuid"].verdict, Verdict.FAILED)
        text = without(text, "setuid", "yes")
        self.assertIs(self.judge(text)["setuid"].verdict, Verdict.OK)

    def test_none(self) -> None:
        """No tool fails where jobs run; on the login node it says nothing."""
        text = "singularity=\ntool=\nuser_namespaces=yes\n"
        self.assertIs(self.judge(text)["container tool"].verdict, Verdict.FAILED)
        findings = judge_container(said(text), overlay_size=640, where="the login node")
        self.assertIs(by_name(findings)["container tool"].verdict, Verdict.UNKNOWN)

    def test_only_apptainer(self) -> None:
        """JARVICE's own scripts need the other name."""
        finding = self.judge(without(TOOL, "singularity", ""))["container tool"]
        self.assertIs(finding.verdict, Verdict.WARNING)


class ComputeNodeTests(SynchronousTestCase):
    """`judge_compute_node`."""

    def judge(self, text: str, *, overlay_size: int = 640) -> dict[str, Finding]:
        """What the job printed."""
        return by_name(judge_compute_node(said(text), overlay_size=overlay_size))

    def test_good(self) -> None:
        """All is well, and every finding is there that stands for unknown elsewhere."""
        findings = self.judge(COMPUTE)
        for finding in findings.values():
            self.assertIs(finding.verdict, Verdict.OK, finding)
        self.assertEqual(list(findings), list(by_name(compute_node_not_asked())))

    def test_not_shared(self) -> None:
        """A job that ended and left nothing: the folder is not shared."""
        text = "job=12\nread=30.0\nstate=FAILED\nreason=NonZeroExitCode\n"
        findings = self.judge(text)
        folder = findings.pop("folder on the compute node")
        self.assertIs(folder.verdict, Verdict.FAILED)
        self.assertIn("job 12 ended (FAILED, NonZeroExitCode)", folder.found)
        for finding in findings.values():
            self.assertIs(finding.verdict, Verdict.UNKNOWN, finding)

    def test_did_not_start(self) -> None:
        """A job that waits says nothing about the node."""
        text = "job=12\nread=99.0\nstate=PENDING\nreason=Resources\n"
        for finding in self.judge(text).values():
            self.assertIs(finding.verdict, Verdict.UNKNOWN, finding)
            self.assertIn("PENDING (Resources)", finding.found)

    def test_single_faults(self) -> None:
        """Each fault is told by its own finding."""
        for name, value, finding, words in (
            ("lock", "0", "flock across nodes", "got the lock"),
            ("lock", "65", "flock across nodes", "no lock can be made"),
            ("missing", "srun", "commands on the compute node", "no srun on n1"),
            ("tmp_free", "", "work folder", "can't be written"),
            ("overlay", "FATAL: fuse", "overlay", "FATAL: fuse"),
            ("clock", "500.0", "clock of the compute node", "499.0 s behind"),
        ):
            findings = self.judge(without(COMPUTE, name, value))
            found = findings.pop(finding)
            self.assertIs(found.verdict, Verdict.FAILED, found)
            self.assertIn(words, found.found)
            for other in findings.values():
                self.assertIs(other.verdict, Verdict.OK, other)

    def test_clock(self) -> None:
        """It is compared with a moment before and one after, near to each other; else unknown."""
        for seen, read, clock, verdict, words in (
            (None, "1200.0", "1040.0", Verdict.UNKNOWN, "not known when"),
            ("1000.0", "1200.0", "1040.0", Verdict.UNKNOWN, "moment of 200 s"),
            ("1000.0", "1200.0", "900.0", Verdict.WARNING, "100.0 s behind"),
            ("1199.0", "1200.0", "1040.0", Verdict.WARNING, "159.0 s behind"),
            ("1000.0", None, "1000.0", Verdict.UNKNOWN, "not known when"),
            ("1199.0", "1200.0", None, Verdict.UNKNOWN, "not told"),
        ):
            text = f"submitted=1000.0\n{COMPUTE}"
            for name, value in (("seen", seen), ("read", read), ("clock", clock)):
                text = without(text, name, value)
            found = self.judge(text)["clock of the compute node"]
            self.assertIs(found.verdict, verdict, found)
            self.assertIn(words, found.found)

    def test_disk_that_is_not_used(self) -> None:
        """The disk that the settings ask for must work; the other one should."""
        text = without(COMPUTE, "tmpfs", "FATAL: tmpfs")
        self.assertIs(self.judge(text)["writable tmpfs"].verdict, Verdict.WARNING)
        found = self.judge(text, overlay_size=0)["writable tmpfs"]
        self.assertIs(found.verdict, Verdict.FAILED)

    def test_no_image(self) -> None:
        """Where no image can be made nothing is said about disks."""
        text = without(COMPUTE, "image", "FATAL: mksquashfs")
        for name in ("overlay_file", "overlay", "tmpfs"):
            text = without(text, name)
        findings = self.judge(text)
        self.assertIs(findings["containers on the compute node"].verdict, Verdict.FAILED)
        self.assertIs(findings["overlay"].verdict, Verdict.UNKNOWN)
