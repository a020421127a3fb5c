"""The probes in a real shell, with stubs for Slurm's commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.slurm.commands import Status, render_root
from jarvice_slurmd.slurm.findings import parse_facts
from jarvice_slurmd.slurm.probes import (
    render_accounting_probe,
    render_compute_probe,
    render_configuration_probe,
    render_container_probe,
    render_folder_probe,
    render_login_probe,
    render_node_probe,
    render_queue_probe,
    render_session_probe,
)
from test.slurm.sandbox import Sandbox

_ROOT = render_root(None)
_COMPUTE_NODE = (files("jarvice_slurmd.slurm") / "compute_node.sh").read_text("utf-8")

#: Runs the job at once, as a compute node that shares the folder would.
_RUNS_IT = """
for word; do
    case $last in -o) output=$word ;; esac
    last=$word
done
echo 42
shift $(($# - 3))
/bin/bash "$@" >"$output" 2>&1 {}
"""


class ProbeTests(SynchronousTestCase):
    """What each prints."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)

    def facts(self, script: str, status: int = 0) -> dict[str, str]:
        """What a probe printed."""
        result = self.node.run(script)
        self.assertEqual(result.status, status, result)
        return parse_facts(result.stdout.decode())

    def left(self) -> list[str]:
        """What stands in the home; .jarvice is made by nobody but jobs."""
        return [path.name for path in self.node.home.iterdir()]

    def test_login(self) -> None:
        """Commands that are there have a path, others have none."""
        self.node.stub("sbatch", 'echo "slurm 23.02.1"')
        facts = self.facts(render_login_probe())
        self.assertEqual(facts["version"], "slurm 23.02.1")
        self.assertTrue(facts["sbatch"].endswith("/bin/sbatch"))
        self.assertGreater(float(facts["clock"]), 1e9)
        self.assertTrue(facts["user_id"].isdigit())

    def test_configuration(self) -> None:
        """Only what is looked at; a silent controller is a failure of the command."""
        self.node.stub(
            "scontrol",
            "printf '%s\\n' 'SelectType              = select/cons_tres'"
            " 'JobCompPass = secret' 'MinJobAge               = 300 sec'",
        )
        facts = self.facts(render_configuration_probe())
        self.assertEqual(facts, {"SelectType": "select/cons_tres", "MinJobAge": "300 sec"})
        self.node.stub("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
        self.assertEqual(self.facts(render_configuration_probe(), status=1), {})

    def test_queue_and_accounting(self) -> None:
        """Our own jobs are counted; failures are the command's own."""
        self.node.stub("squeue", "echo 1; echo 2")
        self.assertEqual(self.facts(render_queue_probe()), {"jobs": "2"})
        self.node.stub("squeue", "exit 1")
        self.facts(render_queue_probe(), status=1)
        self.node.stub("sacct", "exit 3")
        self.facts(render_accounting_probe(), status=3)

    def test_node(self) -> None:
        """The node's own port, else slurm.conf's; nothing when no node is up or may be seen."""
        self.node.stub("sinfo", "echo n7; echo n8")
        told = 'echo "NodeName=n7 NodeAddr=10.0.0.7 NodeHostName=n7 {} Version=22"'
        config = "echo 'SlurmdPort  = 7000'"
        for own, port in {"Port=6000": "6000", "": "7000"}.items():
            text = f'case "$*" in *config*) {config} ;; *) {told.format(own)} ;; esac'
            self.node.stub("scontrol", text)
            facts = self.facts(render_node_probe())
            del facts["ssh_port"]
            self.assertEqual(facts, {"node": "n7", "address": "10.0.0.7", "port": port})
        self.node.stub("scontrol", "exit 1")
        self.assertNotIn("node", self.facts(render_node_probe(), status=1))
        self.node.stub("sinfo")
        self.assertEqual(set(self.facts(render_node_probe())), {"ssh_port"})

    def test_folder(self) -> None:
        """Locks are tried, and nothing is left behind."""
        facts = self.facts(render_folder_probe(root=_ROOT))
        self.assertEqual(facts["folder"], str(self.node.home))
        self.assertEqual(facts["lock"], "1")
        self.assertTrue(facts["free"].isdigit())
        self.assertEqual(self.left(), [])

    def test_folder_that_jobs_made(self) -> None:
        """It is tried itself, as the folder around it may be closed."""
        self.node.write("jobs/1/name", "x")
        mktemp = f'case $2 in {self.node.root}/*) exec /bin/mktemp "$@" ;; *) exit 1 ;; esac'
        self.node.stub("mktemp", mktemp)  # root is kept out of no folder
        self.assertEqual(self.facts(render_folder_probe(root=_ROOT))["lock"], "1")
        self.assertEqual(self.node.files(), {"jobs/1/name"})

    def test_folder_that_is_not_there(self) -> None:
        """Is told by its name, and not made."""
        root = render_root(f"{self.node.home}/not mounted/")
        result = self.node.run(render_folder_probe(root=root))
        self.assertEqual(result.status, Status.NO_FOLDER)
        self.assertIn(b"not mounted", result.stderr)
        self.assertFalse((self.node.home / "not mounted").exists())

    def test_container(self) -> None:
        """The tool is looked for where jobs do: after the account's own environment."""
        tools = self.node.home / "tools"
        tools.mkdir()
        (tools / "singularity").write_text("#!/bin/sh\necho singularity-ce version 3.11.4\n")
        (tools / "singularity").chmod(0o755)
        self.assertEqual(self.facts(render_container_probe(root=_ROOT))["tool"], "")
        environment = self.node.home / ".jarvice_custom_env"
        environment.write_text(f"PATH=$PATH:{tools}\necho noise=1\n")
        facts = self.facts(render_container_probe(root=_ROOT))
        self.assertEqual(facts["tool"], f"{tools}/singularity")
        self.assertEqual(facts["tool_version"], "singularity-ce version 3.11.4")
        self.assertEqual(facts["custom_env"], str(environment))
        self.assertNotIn("noise", facts)

    def compute(self, seconds: int = 30) -> dict[str, str]:
        """The check on a compute node."""
        return self.facts(
            render_compute_probe(
                root=_ROOT, tmpdir=str(self.node.folder), partition="it's", seconds=seconds
            )
        )

    def test_compute_node(self) -> None:
        """The job's answer comes back; the lock that the login node holds is kept from it."""
        self.node.stub("sbatch", _RUNS_IT.format("&"))
        self.node.stub("squeue", "echo 'RUNNING|None'")
        self.node.stub("scancel")
        facts = self.compute()
        self.assertEqual((facts["job"], facts["shared"], facts["lock"]), ("42", "yes", "1"))
        self.assertEqual(self.left(), [])
        self.assertEqual(self.node.calls("scancel"), [])
        (words,) = self.node.calls("sbatch")
        self.assertEqual(words[words.index("-p") + 1], "it's")
        times = [float(facts[name]) for name in ("seen", "clock", "read")]
        self.assertEqual(times, sorted(times))

    def test_compute_node_that_nobody_sees(self) -> None:
        """Where the login node knows no moment before it, the clock is not told."""
        self.node.stub("sbatch", _RUNS_IT.format(""))  # it looks for nothing until the job is over
        self.node.stub("squeue", "echo 'COMPLETED|None'")
        self.node.stub("sleep")
        facts = self.compute()
        self.assertEqual(facts["shared"], "yes")
        self.assertLessEqual({"clock", "seen"} & facts.keys(), set())

    def look_around(self, *without: str, **environ: str) -> dict[str, str]:
        """What compute_node.sh says of a node that lacks some commands."""
        path = self.node.folder / "commands"
        work = self.node.folder / "work"
        for folder in (path, work):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        for command in (*Path("/bin").iterdir(), *Path("/usr/bin").iterdir()):
            if command.name not in without and not (path / command.name).is_symlink():
                (path / command.name).symlink_to(command)
        for name in {"srun", "scontrol"} - set(without):
            (path / name).unlink(missing_ok=True)
            (path / name).symlink_to("/bin/true")
        (work / "seen").touch()
        done = subprocess.run(
            ["/bin/bash", "-c", _COMPUTE_NODE],
            env={
                "PATH": str(path),
                "jarvice_path": str(path),
                "jarvice_work": str(work),
                "jarvice_tmpdir": str(self.node.folder),
                **environ,
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return parse_facts(done.stdout)

    def test_commands_of_a_compute_node(self) -> None:
        """Each that a job calls is looked for, and everything else is told without it."""
        self.assertEqual(self.look_around()["missing"], "")
        for name in ("ps", "awk", "grep", "sed", "srun", "scontrol", "find", "sha256sum", "flock"):
            facts = self.look_around(name)
            self.assertEqual(facts["missing"], name)
            self.assertTrue(facts["tmp_free"].isdigit(), name)

    def test_path_of_jobs(self) -> None:
        """What a job calls before it sources the site's environment must be there without it."""
        missing = self.look_around(jarvice_path="/nowhere")["missing"]
        self.assertEqual(missing, "ps awk grep sed srun scontrol")

    def test_only_commands_of_jobs(self) -> None:
        """None is looked for that no job calls."""
        jobs = files("jarvice_slurmd.jobs")
        text = "".join((jobs / name).read_text("utf-8") for name in ("batch.sh", "executor.sh"))
        first, then, *_ = re.findall(r"for jarvice_name in (.*); do", _COMPUTE_NODE)
        for name in f"{first} {then}".split():
            self.assertRegex(text, rf"(?m)(^|[|(;&`]) *{name} ", name)

    def test_compute_node_elsewhere(self) -> None:
        """A job that ended without leaving anything is told by its state."""
        self.node.stub("sbatch", "echo 42")
        self.node.stub("squeue", "echo 'FAILED|NonZeroExitCode'")
        self.node.stub("scancel")
        self.node.stub("sleep")
        facts = self.compute()
        self.assertNotIn("shared", facts)
        self.assertEqual((facts["state"], facts["reason"]), ("FAILED", "NonZeroExitCode"))
        self.assertEqual(self.node.calls("scancel"), [])

    def test_compute_node_busy(self) -> None:
        """A job that does not start is cancelled."""
        self.node.stub("sbatch", "echo 42")
        self.node.stub("squeue", "echo 'PENDING|Resources'")
        self.node.stub("scancel")
        facts = self.compute(seconds=0)
        self.assertNotIn("shared", facts)
        self.assertEqual(self.node.calls("scancel"), [["--quiet", "42"]])
        self.assertEqual(self.left(), [])

    def test_compute_node_refused(self) -> None:
        """sbatch's own status and words."""
        self.node.stub("sbatch", "echo 'invalid partition' >&2; exit 1")
        script = render_compute_probe(root=_ROOT, tmpdir="/tmp", partition=None, seconds=1)
        result = self.node.run(script)
        self.assertEqual((result.status, result.stderr), (1, b"invalid partition\n"))

    def test_session(self) -> None:
        """From when to when."""
        facts = self.facts(render_session_probe(0))
        self.assertLessEqual(float(facts["begin"]), float(facts["end"]))


class ShellCheckTests(SynchronousTestCase):
    """Debian's shellcheck has nothing to say."""

    def test_probes(self) -> None:
        """Everything that runs on the login node."""
        for script in (
            render_login_probe(),
            render_configuration_probe(),
            render_queue_probe(),
            render_accounting_probe(),
            render_node_probe(),
            render_folder_probe(root=_ROOT),
            render_container_probe(root=_ROOT),
            render_session_probe(1),
            render_compute_probe(root=_ROOT, tmpdir="/tmp", partition="p", seconds=1),
        ):
            self.check("sh", script)

    def test_job(self) -> None:
        """What runs on the compute node."""
        script = render_compute_probe(root=_ROOT, tmpdir="/tmp", partition=None, seconds=1)
        _, _, text = script.partition("<<'JARVICE_END_OF_JOB'\n")
        self.check("bash", text.partition("\nJARVICE_END_OF_JOB\n")[0] + "\n")

    def check(self, shell: str, text: str) -> None:
        """Run it."""
        done = subprocess.run(
            ["shellcheck", f"--shell={shell}", "--severity=warning", "-"],
            input=text,
            text=True,
            capture_output=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
