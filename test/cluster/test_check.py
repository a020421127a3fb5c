"""`python -m jarvice_slurmd.check`, against clusters that are as they should be, and are not."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from test.cluster.harness import DevCluster, shared_cluster

PROJECT = Path(__file__).parents[2]

_poor: DevCluster | None = None


def poor_cluster() -> DevCluster:
    """A cluster that lacks much, brought up by the first test that asks."""
    global _poor
    if _poor is None:
        _poor = DevCluster()
        atexit.register(_poor.down)
        _poor.up(
            nodes=1,
            max_sessions=3,
            sshd_options=["AllowTcpForwarding no"],
            slurm_options=["PrivateData=jobs,nodes", "MinJobAge=300"],
        )
    return _poor


class CheckTests(SynchronousTestCase):
    """The command, its lines and its exit status."""

    timeout = 300

    def check(
        self, cluster: DevCluster, *words: str, status: int = 0, **changes: str
    ) -> dict[str, tuple[str, str]]:
        """Run it; returns verdict and words of each finding by its name."""
        done = subprocess.run(
            [sys.executable, "-m", "jarvice_slurmd.check", *words],
            env={"PATH": os.environ["PATH"], **cluster.env(), **changes},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        self.printed = done.stdout + done.stderr
        self.assertEqual(done.returncode, status, self.printed)
        found = {}
        for line in done.stdout.splitlines():
            if line.startswith("["):
                verdict, _, rest = line[1:].partition("]")
                name, _, said = rest.strip().partition(": ")
                found[name] = (verdict, said)
        return found

    def test_good(self) -> None:
        """What the development cluster offers, and what it lacks on purpose."""
        found = self.check(shared_cluster())
        for name in (
            "Slurm's commands",
            "Slurm's version",
            "account",
            "clock of the login node",
            "Slurm's controller",
            "SelectType",
            "PrivateData",
            "folder",
            "flock on the login node",
            "free space",
            "host key",
            "forwarding",
            "MaxSessions",
        ):
            self.assertEqual(found[name][0], "ok", self.printed)
        for name in ("accounting", "MinJobAge"):
            self.assertEqual(found[name][0], "warning", self.printed)
        self.assertEqual(found["flock across nodes"][0], "unknown")
        self.assertIn("10 sessions at once", found["MaxSessions"][1])

    def test_compute_node(self) -> None:
        """A job tells of its node; what it needs there and does not find has failed."""
        cluster = shared_cluster()
        found = self.check(cluster, "--on-compute-node", "--partition", "debug", status=1)
        for name in ("folder on the compute node", "flock across nodes", "work folder"):
            self.assertEqual(found[name][0], "ok", self.printed)
        self.assertEqual(found["commands on the compute node"][0], "ok", self.printed)
        # A busy machine may take too long to compare them, but they are read in their order.
        self.assertRegex(found["clock of the compute node"][1], "no difference|at some moment of")
        self.assertEqual(found["container tool"][0], "failed", self.printed)
        self.assertIn("on the compute node", found["container tool"][1])
        self.assertEqual(list(cluster.scratch.rglob("*check*")), [])

    def test_folder_is_not_shared(self) -> None:
        """A folder that the login node has and the compute node lacks fails the check."""
        cluster = shared_cluster()
        self.assertEqual(cluster.ssh("mkdir -p /tmp/unshared.$USER").returncode, 0)
        self.addCleanup(cluster.ssh, "rm -rf /tmp/unshared.$USER")
        # The compute node "lacks" it: it is gone by the time the job is to write to it.
        cluster.ssh("cat >/tmp/unshared.$USER/.jarvice_custom_env", stdin=b"rm -rf $jarvice_work\n")
        user = cluster.env()["JARVICE_SLURM_SSH_USER"]
        found = self.check(
            cluster,
            "--on-compute-node",
            status=1,
            JARVICE_SLURM_SCRATCH_DIR=f"/tmp/unshared.{user}",
        )
        self.assertEqual(found["folder on the compute node"][0], "failed", self.printed)
        self.assertEqual(found["flock across nodes"][0], "unknown", self.printed)

    def test_job_can_not_run(self) -> None:
        """A partition that does not exist: unknown, with sbatch's own words."""
        found = self.check(shared_cluster(), "--on-compute-node", "--partition", "no-such")
        self.assertEqual(found["flock across nodes"][0], "unknown", self.printed)
        self.assertIn("no-such", found["flock across nodes"][1])

    def test_job_waits(self) -> None:
        """A job that does not start in time is cancelled, and says so."""
        cluster = shared_cluster()
        cluster.slurm("scontrol", "update", "PartitionName=debug", "State=DOWN")
        self.addCleanup(cluster.slurm, "scontrol", "update", "PartitionName=debug", "State=UP")
        words = ["--on-compute-node", "--partition", "debug", "--patience", "2"]
        found = self.check(cluster, *words)
        self.assertEqual(found["flock across nodes"][0], "unknown", self.printed)
        self.assertIn("PENDING (PartitionDown)", found["flock across nodes"][1])
        left = cluster.slurm("squeue", "-h", "-n", "slurmd-check", "-t", "PD", "-o", "%i")
        self.assertEqual(left, "")

    def test_poor(self) -> None:
        """Every fault is found, and the exit status says that one of them is fatal."""
        scratch = "/nowhere/"
        found = self.check(
            poor_cluster(),
            status=1,
            JARVICE_SLURM_SCRATCH_DIR=scratch,
            JARVICE_SLURM_SSH_KNOWN_HOSTS="",
        )
        self.assertEqual(found["folder"][0], "failed", self.printed)
        self.assertIn("/nowhere", found["folder"][1])
        self.assertEqual(found["PrivateData"][0], "warning", self.printed)
        self.assertEqual(found["MinJobAge"][0], "ok", self.printed)
        self.assertEqual(found["MaxSessions"][0], "warning", self.printed)
        self.assertIn("3 sessions at once", found["MaxSessions"][1])
        self.assertEqual(found["forwarding"][0], "warning", self.printed)
        self.assertIn("sshd forbids it", found["forwarding"][1])
        self.assertEqual(found["host key"][0], "warning", self.printed)
        self.assertIn("SHA256:", self.printed)

    def test_no_controller(self) -> None:
        """Without slurmctld nothing that it would say is ok."""
        cluster = poor_cluster()
        cluster.stop("slurmctld")
        self.addCleanup(cluster.start, "slurmctld")
        done = self.check(cluster, status=1)
        self.assertEqual(done["Slurm's controller"][0], "failed", self.printed)
        for name in ("SelectType", "MinJobAge", "PrivateData"):
            self.assertEqual(done[name][0], "unknown", self.printed)
        self.assertEqual(done["Slurm's version"][0], "ok", self.printed)

    def test_no_login_node(self) -> None:
        """Nobody answers: 2, and why."""
        environ = shared_cluster().env()
        port = environ["JARVICE_SLURM_CLUSTER_PORT"]
        known = environ["JARVICE_SLURM_SSH_KNOWN_HOSTS"].replace(f":{port} ", ":1 ")
        changes = {"JARVICE_SLURM_CLUSTER_PORT": "1", "JARVICE_SLURM_SSH_KNOWN_HOSTS": known}
        self.assertEqual(self.check(shared_cluster(), status=2, **changes), {})
        self.assertIn("refused", self.printed)

    def test_wrong_host_key(self) -> None:
        """Another host key than the one that is known: 2, and which."""
        other = poor_cluster().env()["JARVICE_SLURM_SSH_KNOWN_HOSTS"].split()[1:3]
        port = shared_cluster().env()["JARVICE_SLURM_CLUSTER_PORT"]
        known = f"[127.0.0.1]:{port} {' '.join(other)}\n"
        found = self.check(shared_cluster(), status=2, JARVICE_SLURM_SSH_KNOWN_HOSTS=known)
        self.assertEqual(found, {})
        self.assertIn("host key", self.printed)
        self.assertIn("SHA256:", self.printed)

    def test_wrong_configuration(self) -> None:
        """Every problem with the settings, and 2."""
        self.check(shared_cluster(), status=2, JARVICE_SLURM_OVERLAY_SIZE="much")
        self.assertIn("JARVICE_SLURM_OVERLAY_SIZE", self.printed)
