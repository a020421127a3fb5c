"""The development cluster itself: its jobs are real, it is alone, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import TestCase

from twisted.conch.ssh.keys import Key

from deploy.devcluster import processes
from deploy.devcluster.layout import Cluster
from test.cluster.harness import EXECUTABLE, DevCluster, DevClusterFailedError, shared_cluster


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Ask until a condition holds; the bound is only there so that a failure ends."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def processes_that_mention(state: Path) -> list[str]:
    """Command lines of processes with a cluster's folder in their environment or arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(state) in text and int(process.name) != os.getpid():
            found.append(text.decode(errors="replace"))
    return found


class ClusterTests(TestCase):
    """Helpers: clusters that go down with the test."""

    def cluster(self) -> DevCluster:
        cluster = DevCluster()
        self.addCleanup(cluster.down)
        return cluster

    def run_ssh(self, cluster: DevCluster, command: str, *, key: str = "ed25519") -> str:
        done = cluster.ssh(command, key=key)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode()

    def submit(self, cluster: DevCluster, script: str, options: str = "") -> str:
        done = cluster.ssh(
            f"cd {cluster.scratch} && sbatch --parsable {options}",
            stdin=f"#!/bin/sh\n{script}\n".encode(),
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode().strip()

    def wait_for_job(self, cluster: DevCluster, job: str, state: str) -> None:
        words = ("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")
        wait_until(
            lambda: cluster.slurm(*words).strip() == state,
            f"job {job} is {state}",
        )


class SharedClusterTests(ClusterTests):
    """What any user of the default cluster relies on."""

    def test_job_on_both_nodes(self) -> None:
        """A job's steps run on two nodes, as the test user, and end with their own status."""
        cluster = shared_cluster()
        script = "srun -l sh -c 'echo \"$SLURMD_NODENAME $(id -un)\"'; exit 3"
        job = self.submit(cluster, script, "-N 2 -n 2 -o %j.out")
        self.wait_for_job(cluster, job, "FAILED")
        lines = sorted((cluster.scratch / f"{job}.out").read_text().split("\n"))
        self.assertEqual(lines, ["", "0: n1 jarvice-dev", "1: n2 jarvice-dev"])
        self.assertIn("ExitCode=3:0", cluster.slurm("scontrol", "show", "job", job))

    def test_jobs_share_a_node(self) -> None:
        """Jobs that ask for little run at once: nodes claim more than the machine has."""
        cluster = shared_cluster()
        jobs = [self.submit(cluster, "sleep 600", "-w n1 -o /dev/null") for _ in range(8)]
        for job in jobs:
            self.addCleanup(cluster.slurm, "scancel", job)
        for job in jobs:
            self.wait_for_job(cluster, job, "RUNNING")

    def test_every_key_type_is_let_in(self) -> None:
        """The user's ed25519, ECDSA and RSA keys are all authorised."""
        cluster = shared_cluster()
        for kind in ("ed25519", "ecdsa", "rsa"):
            self.assertEqual(self.run_ssh(cluster, "id -un", key=kind), "jarvice-dev\n")

    def test_node_names_resolve_nowhere(self) -> None:
        """The login node reaches a node by its NodeAddr alone."""
        cluster = shared_cluster()
        self.assertEqual(cluster.ssh("getent hosts n2").returncode, 2)
        self.assertIn("NodeAddr=127.", self.run_ssh(cluster, "scontrol show node n2"))

    def test_env(self) -> None:
        """The daemon's environment names an account that can log in and a folder it may use."""
        cluster = shared_cluster()
        env = cluster.env()
        key = Key.fromString(env["JARVICE_SLURM_SSH_PKEY"].encode())
        self.assertEqual(key.sshType(), b"ssh-ed25519")
        address = f"[{env['JARVICE_SLURM_CLUSTER_ADDR']}]:{env['JARVICE_SLURM_CLUSTER_PORT']}"
        known = [line.split() for line in env["JARVICE_SLURM_SSH_KNOWN_HOSTS"].splitlines()]
        self.assertEqual({line[0] for line in known}, {address})
        self.assertEqual(
            [line[1] for line in known], ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]
        )
        self.assertEqual(env["JARVICE_SLURM_SSH_USER"], "jarvice-dev")
        folder = env["JARVICE_SLURM_SCRATCH_DIR"]
        self.assertTrue(folder.endswith("/"))
        self.run_ssh(cluster, f"touch {folder}mine && rm {folder}mine")

    def test_stop_and_start(self) -> None:
        """Each part can be stopped and started, twice over, and status says so."""
        cluster = shared_cluster()
        for part in ("slurmctld", "n1", "sshd"):
            self.addCleanup(cluster.start, part)
            for kill in (False, True):
                cluster.stop(part, kill=kill)
                cluster.stop(part)
                status, text = cluster.status()
                self.assertEqual(status, 1)
                self.assertRegex(text, rf"\n  {part} +down")
                cluster.start(part)
                cluster.start(part)
                self.assertEqual(cluster.status()[0], 0)
        self.assertEqual(self.run_ssh(cluster, "sinfo -h -p all -o %T"), "idle\n")

    def test_sessions_end_with_sshd(self) -> None:
        """Stopping sshd cuts the connections that there are."""
        cluster = shared_cluster()
        self.addCleanup(cluster.start, "sshd")
        words = ["ssh", "-F", str(cluster.state / "ssh" / "config"), "login", "echo in; cat"]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as session:
            self.addCleanup(session.kill)
            assert session.stdout is not None
            self.assertEqual(session.stdout.readline(), b"in\n")
            cluster.stop("sshd", kill=True)
            self.assertEqual(session.wait(60), 255)

    def test_unknown_part(self) -> None:
        """A part that is not there is refused, with those that are."""
        cluster = shared_cluster()
        with self.assertRaisesRegex(
            DevClusterFailedError, "there are munged, slurmctld, n1, n2, sshd"
        ):
            cluster.stop("n9")


class LifeTests(ClusterTests):
    """From up to down."""

    def test_side_by_side(self) -> None:
        """Two clusters know nothing of each other; the end of one leaves the other alone."""
        first, second = shared_cluster(), self.cluster()
        second.up(nodes=3)
        jobs = [self.submit(cluster, "sleep 600", "-J x") for cluster in (first, second)]
        self.addCleanup(first.slurm, "scancel", jobs[0])
        for cluster, job in zip((first, second), jobs, strict=True):
            self.wait_for_job(cluster, job, "RUNNING")
            self.assertEqual(cluster.slurm("squeue", "-h", "-n", "x", "-o", "%A").split(), [job])
        second.down()
        self.assertFalse(second.state.exists())
        self.assertEqual(processes_that_mention(second.state), [])
        self.assertEqual(first.status()[0], 0)
        self.wait_for_job(first, jobs[0], "RUNNING")

    def test_down_after_a_crash(self) -> None:
        """When all daemons have been killed, `down` still finds what their jobs left running."""
        cluster = self.cluster()
        cluster.up()
        jobs = (
            ("srun sleep 600", "-N 2 -n 2"),
            # Nothing in its environment, no parent that would tell.
            ("exec env -i sleep 600", "-N 1 --export=NONE -o clean.out"),
        )
        for script, options in jobs:
            self.wait_for_job(cluster, self.submit(cluster, script, options), "RUNNING")
        found = Cluster.load(cluster.state)
        assert found is not None

        def named(pids: set[int], *names: str) -> set[int]:
            those = set()
            for pid in pids:
                # What was found a moment ago may have ended.
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if Path(f"/proc/{pid}/comm").read_text().strip() in names:
                        those.add(pid)
            return those

        def mine() -> set[int]:
            return processes.find(cluster.state, found)

        wait_until(lambda: len(named(mine(), "sleep")) == 3, "the jobs run")
        sleeps = named(mine(), "sleep")
        daemons = named(mine(), "munged", "slurmctld", "slurmd", "slurmstepd", "sshd")
        processes.end(daemons, kill=True)
        self.assertEqual({pid for pid in sleeps if processes.start_time(pid) is None}, set())
        cluster.down()
        self.assertEqual({pid for pid in sleeps if processes.start_time(pid)}, set())
        self.assertEqual(processes_that_mention(cluster.state), [])
        self.assertFalse(cluster.state.exists())

    def test_down_after_up_was_killed(self) -> None:
        """An `up` that was killed half-way is cleaned up after."""
        cluster = self.cluster()
        with subprocess.Popen(
            [str(EXECUTABLE), "up", "--state", str(cluster.state)], stdout=subprocess.DEVNULL
        ) as up:
            wait_until((cluster.state / "run" / "slurmctld.pid").exists, "slurmctld was started")
            up.kill()
        self.assertNotEqual(processes_that_mention(cluster.state), [])
        cluster.down()
        self.assertEqual(processes_that_mention(cluster.state), [])
        self.assertFalse(cluster.state.exists())

    def test_interrupted_up(self) -> None:
        """An `up` that gets signals cleans up by itself, and to the end."""
        cluster = self.cluster()
        with subprocess.Popen(
            [str(EXECUTABLE), "up", "--state", str(cluster.state)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as up:
            wait_until((cluster.state / "run" / "munged.pid").exists, "munged was started")
            up.send_signal(signal.SIGTERM)
            while up.poll() is None:
                up.send_signal(signal.SIGINT)
                time.sleep(0.01)
            self.assertEqual(up.returncode, 130)
        self.assertEqual(processes_that_mention(cluster.state), [])
        self.assertFalse(cluster.state.exists())

    def test_up_again(self) -> None:
        """Up twice leaves a cluster alone; with a part missing it makes a new one."""
        cluster = self.cluster()
        cluster.up()
        before = cluster.env()
        cluster.up()
        self.assertEqual(cluster.env(), before)
        cluster.stop("slurmctld", kill=True)
        cluster.up()
        self.assertNotEqual(cluster.env(), before)
        self.assertEqual(cluster.status()[0], 0)

    def test_goes_down_with_its_owner(self) -> None:
        """What a killed test run leaves behind takes itself down."""
        cluster = self.cluster()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
            words = [str(EXECUTABLE), "up", "--state", str(cluster.state)]
            subprocess.run(
                [*words, "--owner", str(owner.pid)], check=True, stdout=subprocess.DEVNULL
            )
            found = Cluster.load(cluster.state)
            assert found is not None
            daemon = processes.recorded(found.run / "slurmctld.pid")
            assert daemon is not None
            handle = os.pidfd_open(daemon)
            self.addCleanup(os.close, handle)
            owner.kill()
        self.assertTrue(select.select([handle], [], [], 60)[0])
        wait_until(lambda: not cluster.state.exists(), "the folder is removed")

    def test_failed_up_says_why_and_leaves_nothing(self) -> None:
        """What can't start is named, with the tail of its log."""
        cluster = self.cluster()
        with self.assertRaises(DevClusterFailedError) as caught:
            cluster.up(slurm_options=["Nonsense=1"])
        self.assertIn("slurmctld ended while it started", str(caught.exception))
        self.assertIn("unrecognized key: Nonsense", str(caught.exception))
        self.assertEqual(processes_that_mention(cluster.state), [])
        self.assertFalse(cluster.state.exists())

    def test_foreign_folder(self) -> None:
        """A folder that holds something else is left alone."""
        folder = Path(tempfile.mkdtemp(prefix="devcluster-"))
        self.addCleanup(folder.rmdir)
        file = folder / "precious"
        file.touch()
        self.addCleanup(file.unlink)
        cluster = DevCluster(folder)
        with self.assertRaisesRegex(DevClusterFailedError, "holds no cluster"):
            cluster.up()
        self.assertEqual(cluster.status()[0], 4)
        self.assertTrue(file.exists())


class OptionTests(ClusterTests):
    """What `up` may be asked for."""

    def test_accounting(self) -> None:
        """`sacct` knows a job after Slurm has forgotten it."""
        cluster = self.cluster()
        cluster.up(accounting=True, min_job_age=2)
        job = self.submit(cluster, "exit 3", "-J kept")
        listed = ("squeue", "-h", "-t", "all", "-o", "%A")
        wait_until(lambda: not cluster.slurm(*listed).split(), "Slurm forgets the job", 180)
        line = self.run_ssh(cluster, f"sacct -n -X -P -j {job} -o JobName,State,ExitCode,User")
        self.assertEqual(line, "kept|FAILED|3:0|jarvice-dev\n")
        cluster.stop("slurmdbd", kill=True)
        self.assertNotEqual(cluster.ssh("sacct").returncode, 0)
        cluster.start("slurmdbd")
        self.assertIn("kept", self.run_ssh(cluster, "sacct -n -X -P -o JobName"))

    def test_login_shell_and_banner(self) -> None:
        """The shell that reads the command is the one asked for, and it prints first."""
        cluster = self.cluster()
        banner = "Welcome to 'HPC' $HOME %s"
        cluster.up(login_shell="/usr/bin/tcsh", banner=banner)
        done = cluster.ssh("if ( $?tcsh ) echo a tcsh; cat; exit 7", stdin=b"fed\n")
        self.assertEqual(done.returncode, 7)
        self.assertEqual(done.stdout.decode(), f"{banner}\na tcsh\nfed\n")
        self.assertEqual(done.stderr.decode(), f"{banner}\n")

    def test_server_options(self) -> None:
        """sshd's and Slurm's options reach them."""
        cluster = self.cluster()
        cluster.up(
            max_sessions=2,
            rekey_limit="1M",
            sshd_options=["AllowTcpForwarding no"],
            slurm_options=["PrivateData=jobs"],
            min_job_age=17,
            kill_wait=3,
        )
        config = str(cluster.state / "ssh" / "sshd_config")
        said = subprocess.run(
            ["/usr/sbin/sshd", "-T", "-f", config], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for line in ("maxsessions 2", "rekeylimit 1048576 0", "allowtcpforwarding no"):
            self.assertIn(line, said)
        shown = cluster.slurm("scontrol", "show", "config")
        self.assertRegex(shown, r"MinJobAge +=\s17 sec")
        self.assertRegex(shown, r"KillWait +=\s3 sec")
        self.assertRegex(shown, r"PrivateData +=\sjobs")
