"""The built-in executor: the `job` object, and executor.sh run by a real bash.

The container tool is fake_apptainer.sh here; test.cluster has the real one.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import IO

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.executor import parse_job, read_executor_text, render_node_script

IMAGE = "registry.example.com/team/app:1.0"
MINIMAL = {"image": IMAGE, "command": "true"}


class ParsingTests(SynchronousTestCase):
    def test_minimal(self) -> None:
        job = parse_job(MINIMAL)
        self.assertEqual((job.image, job.command, job.nodes), (IMAGE, "true", None))
        self.assertEqual((job.request.cores, job.request.gpus, job.request.ram), (1, 0, 0))
        self.assertFalse(job.request.interactive)

    def test_everything(self) -> None:
        job = parse_job(
            {
                "image": f"docker://{IMAGE}",
                "command": ["/bin/solve", "it's a file", ""],
                "worker_command": "sshd",
                "environment": {"A": "b", "N": 3},
                "nodes": 2,
                "nae": "team-solver",
                "cores": 8,
                "ram": 16,
                "gpus": 1,
                "walltime": "1-02:03:04",
                "licenses": "solver:2",
                "devices": ["partition=all", "overlay=100"],
                "interactive": True,
                "url": "https://%PUBLICADDR%/",
                "help": "Help",
                "about": "About",
                "wants_prefix": False,
                "init": True,
                "docker_secret": {
                    "server": "registry.example.com",
                    "username": "anna",
                    "password": "secret",
                },
                "docker_config": {"auths": {"other": {"username": "bert", "password": "secret"}}},
            }
        )
        self.assertEqual(job.command, "exec /bin/solve 'it'\"'\"'s a file' ''")
        self.assertEqual(job.image, IMAGE)
        self.assertEqual(job.environment, {"A": "b", "N": "3"})
        self.assertEqual(job.request.walltime, "1-02:03:04")
        self.assertIs(job.wants_prefix, False)
        self.assertEqual([item.server for item in job.container_secrets], ["other"])
        assert job.docker_secret is not None
        self.assertEqual(job.docker_secret.credentials.username, "anna")
        self.assertNotIn("secret'", repr(job))
        self.assertNotIn("anna", repr(job))

    def test_null_is_absent(self) -> None:
        self.assertEqual(parse_job({**MINIMAL, "walltime": None, "gpus": None}), parse_job(MINIMAL))

    def test_walltimes(self) -> None:
        for text in ("90", "90:00", "01:30:00", "2-0", "2-01:30", "2-01:30:00"):
            self.assertEqual(parse_job({**MINIMAL, "walltime": text}).request.walltime, text)

    def test_each_error_names_its_field(self) -> None:
        wrong: dict[str, tuple[object, ...]] = {
            "image": ("", 3, "a b", "$(id)", "-x", ["a"], "a\0b"),
            "command": ("", "  ", [], [""], ["-x"], ["a", 3], 7, {"a": 1}, "a\0", ["a", "\0"]),
            "worker_command": ("", [], 3, "\ud800"),
            "environment": ([], "A=b", {"1A": "b"}, {"A B": "c"}, {"A": None}, {"A": True}),
            "nodes": (0, -1, "2", 1.5, True, 10**9),
            "nae": ("", 3),
            "cores": (0, "4", True),
            "ram": (-1, "1G"),
            "gpus": (-1, 1.0),
            "walltime": ("", 60, "1h", "1:2:3:4", "--exclusive", "1\n"),
            "licenses": ("", "-x", "a b", ["a"]),
            "devices": ("partition=x", ["nonsense"], [1], ["unknown=1"], {}),
            "interactive": ("True", 1),
            "url": (3, ""),
            "help": ([],),
            "about": (1,),
            "wants_prefix": ("yes",),
            "init": (1,),
            "docker_secret": ("hunter2", ["hunter2"], {"username": {"hunter2": 1}}),
            "docker_config": ("hunter2", ["hunter2"], {"auths": {"a": "hunter2"}}),
            "comand": ("true",),
        }
        cases = [(name, value) for name, values in wrong.items() for value in values]
        for name, value in cases:
            job = {**MINIMAL, "interactive": True, name: value}
            error = self.assertRaises(InvalidArgumentsError, parse_job, job)
            self.assertIn(f"job.{name}", str(error), value)
            self.assertNotIn("hunter2", str(error))

    def test_what_must_be_there(self) -> None:
        for name in MINIMAL:
            job = {key: value for key, value in MINIMAL.items() if key != name}
            error = self.assertRaises(InvalidArgumentsError, parse_job, job)
            self.assertEqual(str(error), f"job.{name} is missing")

    def test_not_an_object(self) -> None:
        values: tuple[object, ...] = (None, [], "job", 3)
        for value in values:
            self.assertRaises(InvalidArgumentsError, parse_job, value)

    def test_batch_jobs_have_no_address(self) -> None:
        error = self.assertRaises(InvalidArgumentsError, parse_job, {**MINIMAL, "url": "https://x"})
        self.assertIn("job.interactive", str(error))


class TextTests(SynchronousTestCase):
    def test_shellcheck(self) -> None:
        """Debian's shellcheck has nothing to say."""
        done = subprocess.run(
            ["shellcheck", "-"], input=read_executor_text(), text=True, capture_output=True
        )
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.returncode, 0)


class Node:
    """One node of a job: executor.sh in a bash of its own, as srun starts it."""

    def __init__(self, script: str, environ: Mapping[str, str], folder: Path) -> None:
        file = folder / "script"
        file.write_text(script)
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", 'trap : TERM; t=$(cat "$0"); (eval "$t")', str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ,
            start_new_session=True,
        )
        self.seen = ""

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def read_until(self, text: str) -> None:
        """Wait until a line that holds this text has been printed."""
        while text not in self.seen:
            line = self._stdout.readline()
            if not line:
                raise AssertionError(f"{text!r} was never printed:\n{self.seen}")
            self.seen += line

    def terminate(self) -> None:
        """SIGTERM to every process, as proctrack/linuxproc does."""
        for pid in self._members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _members(self) -> list[int]:
        lines = subprocess.run(
            ["ps", "-e", "-o", "pid=,sess="], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        pairs = (tuple(map(int, line.split())) for line in lines)
        return [pid for pid, session in pairs if session == self._process.pid]

    def finish(self) -> tuple[int, str]:
        """Wait for the end: exit status and output."""
        self.seen += self._stdout.read()
        return self._process.wait(), self.seen

    def clean_up(self) -> None:
        for pid in self._members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._stdout.close()
        self._process.wait()


class ExecutorTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="executor-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.scratch = self.folder / "scratch"
        self.home = self.folder / "home"
        self.bin = self.folder / "bin"
        for folder in (self.scratch, self.home, self.bin):
            folder.mkdir()
        self.log = self.folder / "log"
        self.log.touch()
        self.set_program("apptainer", Path(__file__).with_name("fake_apptainer.sh").read_text())
        self.set_program("id", '#!/bin/sh\n[ "$1" = -u ] && echo 1000 || echo anna\n')

    def set_program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def job_folder(self, jobid: int) -> Path:
        return self.scratch / f".jarvice/jobs/{jobid}"

    def start(
        self,
        job: Mapping[str, object] | None = None,
        *,
        jobid: int = 1,
        rank: int = 0,
        nodes: int = 1,
        parameters: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Node:
        self.job_folder(jobid).mkdir(parents=True, exist_ok=True, mode=0o700)
        names = [f"n{number}" for number in range(1, nodes + 1)]
        exports = {
            "PROCESS_PROCID": str(rank),
            "PROCESS_NODENAME": names[rank],
            "JOB_JOBID": str(jobid),
            "JOB_NNODES": str(nodes),
            "JOB_JOB_FORMATED_NODELIST": " ".join(names),
            "JARVICE_JOB_SCRATCH_DIR": f"{self.scratch}/",
            "JARVICE_SINGULARITY_TMPDIR": str(self.folder / "tmp"),
            "JARVICE_SINGULARITY_OVERLAY_SIZE": "640",
            "JARVICE_APP_IMAGE": f"docker://{IMAGE}",
            "SLURM_JOB_NAME": "jarvice_20260101-ABCDE-app-anna_s1",
            "SV": "false",
            "SV_FLAG": "-s",
            **(parameters or {}),
        }
        text = "".join(f"export {name}={quote(value)}\n" for name, value in exports.items())
        place = Path(tempfile.mkdtemp(dir=self.folder))
        node = Node(
            render_node_script(parse_job({**MINIMAL, **(job or {})}), text),
            {
                "PATH": f"{self.bin}:/usr/bin:/bin:/usr/sbin:/sbin",
                "HOME": str(self.home),
                "FAKE_LOG": str(self.log),
                **(environ or {}),
            },
            place,
        )
        self.addCleanup(node.clean_up)
        return node

    def run_job(
        self,
        job: Mapping[str, object] | None = None,
        *,
        parameters: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        return self.start(job, parameters=parameters, environ=environ).finish()

    def asked(self, word: str) -> list[str]:
        """What the container tool was asked, of the lines that hold a word."""
        return [line for line in self.log.read_text().splitlines() if word in line]

    def assert_clean(self, jobid: int = 1) -> None:
        left = {path.name for path in self.job_folder(jobid).iterdir()}
        self.assertEqual({name for name in left if name.startswith("node.")}, set())


class CommandTests(ExecutorTestCase):
    def test_exit_status(self) -> None:
        for command, expected in (("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)):
            status, output = self.run_job({"command": f"({command})"})
            self.assertEqual(status, expected, output)
            self.assert_clean()
            for name in ("done", "image"):
                (self.job_folder(1) / name).unlink()

    def test_words_arrive_as_they_are(self) -> None:
        words = ["a b", "it's", '"', "$HOME `id` \\", "line\nfeed", "*", "ü€", "", "{x} {{y}}"]
        status, output = self.run_job({"command": ["printf", "<%s>\\n", *words]})
        self.assertEqual(status, 0, output)
        for word in words:
            self.assertIn(f"<{word}>\n", output)

    def test_environment(self) -> None:
        status, output = self.run_job(
            {
                "command": 'echo "<$A>"; [ "$B" = "two\nlines" ] && echo "<$N>"',
                "environment": {"A": "it's $HOME", "B": "two\nlines", "N": 1.5},
            }
        )
        self.assertEqual(status, 0, output)
        self.assertIn("<it's $HOME>\n", output)
        self.assertIn("<1.5>\n", output)

    def test_a_megabyte(self) -> None:
        text = "x" * 1_000_000
        status, output = self.run_job({"command": f"text={text}; echo ${{#text}}"})
        self.assertEqual(status, 0, output[:1000])
        self.assertIn("\n1000000\n", output)

    def test_files_of_the_node(self) -> None:
        status, output = self.run_job(
            {
                "command": "cat /etc/JARVICE/cores; . /etc/JARVICE/jobinfo.sh; echo $JOB_NAME",
                "cores": 3,
            }
        )
        self.assertEqual(status, 0, output)
        self.assertIn("n1\nn1\nn1\n20260101-ABCDE-app-anna_s1\n", output)

    def test_refuses_root(self) -> None:
        self.set_program("id", "#!/bin/sh\necho 0\n")
        status, output = self.run_job()
        self.assertEqual(status, 1)
        self.assertIn("do not run as root", output)
        self.assertEqual(self.log.read_text(), "")

    def test_no_container_tool(self) -> None:
        for program in Path("/usr/bin").glob("*"):
            if not (self.bin / program.name).exists() and program.name != "singularity":
                (self.bin / program.name).symlink_to(program)
        (self.bin / "apptainer").unlink()
        status, output = self.run_job(environ={"PATH": str(self.bin)})
        self.assertEqual(status, 1)
        self.assertIn("neither apptainer nor singularity is in the PATH", output)

    def test_container_that_does_not_start(self) -> None:
        status, output = self.run_job(environ={"FAKE_NO_START": "no user namespaces here"})
        self.assertEqual(status, 1)
        self.assertIn("FATAL: no user namespaces here", output)
        self.assertIn("the container did not start (exit status 255)", output)
        self.assert_clean()


class PreparationTests(ExecutorTestCase):
    def test_custom_environment_comes_first(self) -> None:
        """It is what may put the container tool into the PATH."""
        hidden = self.folder / "hidden"
        hidden.mkdir()
        (self.bin / "apptainer").rename(hidden / "apptainer")
        text = f"export PATH={hidden}:$PATH CUSTOM=scratch\n"
        (self.scratch / ".jarvice_custom_env").write_text(text)
        (self.home / ".jarvice_custom_env").write_text("export CUSTOM=home\n")
        status, output = self.run_job()
        self.assertEqual(status, 0, output)
        self.assertIn("ENV exec CUSTOM=scratch", self.log.read_text())

    def test_custom_environment_of_the_home(self) -> None:
        (self.home / ".jarvice_custom_env").write_text("export CUSTOM=home\n")
        self.assertEqual(self.run_job()[0], 0)
        self.assertIn("ENV exec CUSTOM=home", self.log.read_text())

    def test_gpus(self) -> None:
        (self.home / ".jarvice_cuda_env").write_text("export CUDA=here\n")
        self.assertEqual(self.run_job()[0], 0)
        self.assertEqual(self.asked("--nv") + self.asked("CUDA"), [])
        self.assertEqual(self.run_job({"gpus": 1}, environ={"JARVICE_X": "1"})[0], 0)
        self.assertEqual(len(self.asked("exec --nv")), 1)
        self.assertEqual(len(self.asked("ENV exec CUDA=here")), 1)

    def test_overlay(self) -> None:
        seen = f"ls {self.job_folder(1)}/node.0"
        status, output = self.run_job(
            {"command": "until ! [ -e /etc/JARVICE/.command ]; do sleep 0.1; done; " + seen}
        )
        self.assertEqual(status, 0, output)
        overlay = f"{self.job_folder(1)}/node.0/overlay.img"
        self.assertEqual(
            self.asked("overlay create"), [f"ARGV -s overlay create --size 640 {overlay}"]
        )
        self.assertEqual(len(self.asked(f"exec --overlay {overlay}")), 1)
        self.assertNotIn("overlay.img", output)
        self.assert_clean()

    def test_writable_tmpfs(self) -> None:
        status, _ = self.run_job(parameters={"JARVICE_SINGULARITY_OVERLAY_SIZE": "0"})
        self.assertEqual(status, 0)
        self.assertEqual(self.asked("overlay create"), [])
        self.assertEqual(len(self.asked("exec --writable-tmpfs")), 1)

    def test_tmpfs_of_an_old_singularity(self) -> None:
        zero = {"JARVICE_SINGULARITY_OVERLAY_SIZE": "0"}
        for version, good in (
            ("singularity version 3.8.7-1.el8", False),
            ("singularity-ce version 3.11.2", False),
            ("singularity-ce version 3.11.3", True),
            ("singularity-ce version 4.1.0", True),
            ("singularity-pro version 3.11-9", True),
            ("apptainer version 1.0.3", True),
        ):
            self.log.write_text("")
            status, output = self.run_job(parameters=zero, environ={"FAKE_VERSION": version})
            self.assertEqual(status == 0, good, output)
            if not good:
                self.assertIn("overlay size 0 needs Singularity 3.11.3 or newer", output)
                self.assertEqual(self.asked("ARGV"), [])
            for path in self.job_folder(1).iterdir():
                path.unlink()

    def test_what_is_printed(self) -> None:
        status, output = self.run_job()
        self.assertEqual(status, 0)
        for words in (
            "jarvice n1: job 1 as anna, node 1 of 1",
            "apptainer version 1.4.5",
            f"image docker://{IMAGE}",
            "MB free in",
            "overlay of 640 MB, made in",
            "container up after",
            "the command ended with exit status 0 after",
        ):
            self.assertIn(words, output)
        self.assertNotIn("JOB_NNODES=", output)

    def test_verbose(self) -> None:
        status, output = self.run_job(parameters={"SV": "true", "SV_FLAG": "-v"})
        self.assertEqual(status, 0)
        self.assertIn("JOB_NNODES=1", output)
        self.assertEqual(self.asked("ARGV -s"), [])


class PullTests(ExecutorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.credentials = {
            "JARVICE_DOCKER_USERNAME": base64.b64encode(b"anna-user").decode(),
            "JARVICE_DOCKER_PASSWORD": base64.b64encode(b"hunter2 '\"$x").decode(),
        }

    def test_credentials_are_for_the_pull_alone(self) -> None:
        status, output = self.run_job({"command": "env"}, parameters=self.credentials)
        self.assertEqual(status, 0, output)
        log = self.log.read_text()
        self.assertEqual(log.count("ENV exec APPTAINER_DOCKER_PASSWORD=hunter2 '\"$x"), 1)
        self.assertEqual(log.count("ENV exec APPTAINER_DOCKER_USERNAME=anna-user"), 1)
        self.assertEqual([line for line in self.asked("ARGV") if "hunter2" in line], [])
        for secret in ("hunter2", "PASSWORD", *self.credentials.values()):
            self.assertNotIn(secret, output)

    def test_singularity_reads_its_own_names(self) -> None:
        environ = {"FAKE_VERSION": "singularity-ce version 4.1.0"}
        self.assertEqual(self.run_job(parameters=self.credentials, environ=environ)[0], 0)
        self.assertEqual(len(self.asked("ENV exec SINGULARITY_DOCKER_PASSWORD=hunter2")), 1)
        self.assertEqual(self.asked("APPTAINER_"), [])

    def test_public_image(self) -> None:
        self.assertEqual(self.run_job()[0], 0)
        self.assertEqual(self.asked("DOCKER"), [])

    def test_refused(self) -> None:
        status, output = self.run_job(environ={"FAKE_REFUSAL": "authentication required"})
        self.assertEqual(status, 1)
        self.assertIn("FATAL: authentication required", output)
        self.assertIn(f"the image docker://{IMAGE} can't be had", output)
        self.assert_clean()

    def test_proxies_are_for_the_pull_alone(self) -> None:
        status, output = self.run_job(
            {"command": "env"},
            parameters={"SCHTTP_PROXY": "http://proxy:1", "SCHTTPS_PROXY": "http://proxy:2"},
        )
        self.assertEqual(status, 0, output)
        self.assertEqual(len(self.asked("ENV exec http_proxy=http://proxy:1")), 1)
        self.assertEqual(len(self.asked("ENV exec https_proxy=http://proxy:2")), 1)
        self.assertNotIn("\nhttps_proxy=", output)
        self.assertEqual(self.asked("no_proxy"), [])

    def test_work_folder(self) -> None:
        self.assertEqual(self.run_job()[0], 0)
        expected = f"ENV exec APPTAINER_TMPDIR={self.folder}/tmp"
        self.assertEqual(len(self.asked(expected)), 2)
        self.assertTrue((self.folder / "tmp").is_dir())

    def test_two_jobs_at_once_convert_once(self) -> None:
        gate = self.folder / "gate"
        os.mkfifo(gate)
        environ = {"FAKE_GATE": str(gate)}
        first = self.start(jobid=1, environ=environ)
        with gate.open("w"):  # opened once the first converts, closed once the second waits
            second = self.start(jobid=2, environ=environ)
            second.read_until(f"waits for another job that pulls docker://{IMAGE}")
        for node in (first, second):
            status, output = node.finish()
            self.assertEqual(status, 0, output)
        self.assertEqual(self.asked("CONVERTED"), [f"CONVERTED docker://{IMAGE}"])

    def test_ended_while_it_pulls(self) -> None:
        gate = self.folder / "gate"
        os.mkfifo(gate)
        node = self.start({"command": "echo started"}, environ={"FAKE_GATE": str(gate)})
        with gate.open("w"):
            node.terminate()
            node.read_until("told to end")
        status, output = node.finish()
        self.assertEqual(status, 143)
        self.assertNotIn("\nstarted", output)
        self.assert_clean()
        # What was half done is not used.
        status, output = self.start(jobid=2).finish()
        self.assertEqual(status, 0, output)
        self.assertEqual(len(self.asked("CONVERTED")), 2)

    def test_file_on_the_cluster(self) -> None:
        image = self.folder / "app.sif"
        image.touch()
        status, output = self.run_job(parameters={"JARVICE_APP_IMAGE": str(image)})
        self.assertEqual(status, 0, output)
        self.assertEqual(self.asked("docker://"), [])

    def test_init_image_runs_first(self) -> None:
        status, output = self.run_job(
            {"init": True}, parameters={"JARVICE_INIT_IMAGE": "docker://sys/initv2:1"}
        )
        self.assertEqual(status, 0, output)
        self.assertEqual(len(self.asked("ARGV -s run")), 1)
        self.assertEqual(len(self.asked("CONVERTED docker://sys/initv2:1")), 1)

    def test_images_that_nobody_uses_go(self) -> None:
        images = self.scratch / ".jarvice/images"
        for name in ("old", "young", "not-ours"):
            (images / name).mkdir(parents=True)
        for name in ("old", "young"):
            (images / name / "lock").touch()
        os.utime(images / "old", (0, 0))
        os.utime(images / "not-ours", (0, 0))
        self.assertEqual(self.run_job()[0], 0)
        left = {path.name for path in images.iterdir()} - {"young", "not-ours"}
        self.assertEqual(len(left), 1)
        self.assertNotIn("old", left)


class NodesTests(ExecutorTestCase):
    def test_two_nodes(self) -> None:
        job = {"command": "echo ran on $PROCESS_NODENAME; cat /etc/JARVICE/nodes", "cores": 2}
        nodes = [self.start(job, rank=rank, nodes=2) for rank in (0, 1)]
        (first_status, first), (second_status, second) = [node.finish() for node in nodes]
        self.assertEqual((first_status, second_status), (0, 0), first + second)
        self.assertIn("ran on n1\nn1\nn2\n", first)
        self.assertNotIn("ran on", second)
        self.assertIn("container up", second)
        self.assertEqual(len(self.asked("CONVERTED")), 1)
        self.assert_clean()

    def test_command_waits_for_every_container(self) -> None:
        first = self.start({"command": "echo ran"}, rank=0, nodes=2)
        first.read_until("overlay of")
        self.assertFalse((self.job_folder(1) / "up.1").exists())
        second = self.start({"command": "echo ran"}, rank=1, nodes=2)
        second.read_until("container up")
        status, output = first.finish()
        self.assertEqual(status, 0)
        self.assertIn("\nran\n", output)
        self.assertEqual(second.finish()[0], 0)

    def test_worker_command(self) -> None:
        proof = self.folder / "proof"
        os.mkfifo(proof)
        job = {
            "command": ["cat", str(proof)],
            "worker_command": f"echo from $PROCESS_NODENAME with $A >{proof}",
            "environment": {"A": "b"},
        }
        nodes = [self.start(job, rank=rank, nodes=2) for rank in (0, 1)]
        status, output = nodes[0].finish()
        self.assertEqual(status, 0)
        self.assertIn("\nfrom n2 with b\n", output)
        self.assertEqual(nodes[1].finish()[0], 0)

    def test_one_node_that_fails_fails_the_others(self) -> None:
        first = self.start(rank=0, nodes=2)
        first.read_until("overlay of")
        environ = {"FAKE_NO_START": "no space left"}
        status, output = self.start(rank=1, nodes=2, environ=environ).finish()
        self.assertEqual(status, 1, output)
        self.assertEqual(first.finish()[0], 1)


class EndingTests(ExecutorTestCase):
    def test_farewell(self) -> None:
        saved = self.folder / "saved"
        node = self.start(
            {
                "command": f"trap 'echo work >{saved}; echo farewell; exit 5' TERM; echo ready;"
                " while :; do sleep 0.1; done"
            }
        )
        node.read_until("\nready\n")
        node.terminate()
        status, output = node.finish()
        self.assertEqual(status, 5, output)
        self.assertEqual(output.count("farewell"), 1)
        self.assertEqual(saved.read_text(), "work\n")
        self.assert_clean()

    def test_what_a_shell_started_may_save_its_work(self) -> None:
        """The shell dies of SIGTERM, its child does not; the container stays for the child."""
        gate = self.folder / "gate"
        os.mkfifo(gate)
        child = f"trap : TERM; echo ready; while ! read line; do :; done <{gate}; echo saved"
        node = self.start({"command": f"cd /; sh -c {quote(child)}; echo not reached"})
        with gate.open("w") as opened:
            node.read_until("\nready\n")
            node.terminate()
            node.read_until("told to end")
            opened.write("now\n")
        status, output = node.finish()
        self.assertEqual(status, 143, output)
        self.assertIn("\nsaved\n", output)
        self.assertNotIn("not reached", output)

    def test_default_is_to_die(self) -> None:
        node = self.start({"command": "echo ready; exec sleep 1000"})
        node.read_until("\nready\n")
        node.terminate()
        self.assertEqual(node.finish()[0], 143)

    def test_other_nodes_stay_until_the_command_has_ended(self) -> None:
        gate = self.folder / "gate"
        os.mkfifo(gate)
        command = f"trap : TERM; echo ready; while ! read line; do :; done <{gate}; exit 4"
        first = self.start({"command": command}, rank=0, nodes=2)
        second = self.start({"command": command}, rank=1, nodes=2)
        with gate.open("w") as opened:
            first.read_until("\nready\n")
            for node in (first, second):
                node.read_until("container up")
                node.terminate()
                node.read_until("told to end")
            self.assertTrue((self.job_folder(1) / "node.1").exists())
            opened.write("now\n")
        self.assertEqual(first.finish()[0], 4)
        status, output = second.finish()
        self.assertEqual(status, 0, output)
        self.assertIn("ended with the job", output)
