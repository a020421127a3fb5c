"""jobs/executor.sh, run by a real bash: what is prepared, what runs, and on which node."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.jobs.executor import read_executor_text
from test.jobs.executor_run import IMAGE, ExecutorTestCase


class TextTests(SynchronousTestCase):
    def test_shellcheck(self) -> None:
        """Debian's shellcheck has nothing to say."""
        done = subprocess.run(
            ["shellcheck", "-"], input=read_executor_text(), text=True, capture_output=True
        )
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.returncode, 0)


class CommandTests(ExecutorTestCase):
    def test_exit_status(self) -> None:
        for command, expected in (("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)):
            status, output = self.run_job({"command": f"({command})"})
            self.assertEqual(status, expected, output)
            self.assert_clean()
            for name in ("done", "image"):
                (self.job_folder(1) / name).unlink()

    def test_kills_itself(self) -> None:
        """`$$` is the command's own shell, and its process group nobody else's."""
        for command, expected in (
            ("kill -TERM $$; echo survived", 143),
            ("kill -9 $$; echo survived", 137),
            ("kill -9 0; echo survived", 137),
        ):
            status, output = self.run_job({"command": command})
            self.assertEqual(status, expected, output)
            self.assertNotIn("\nsurvived", output)
            self.assertIn(f"the command ended with exit status {expected}", output)
            self.assert_clean()
            for name in ("done", "image"):
                (self.job_folder(1) / name).unlink()

    def test_interrupt(self) -> None:
        """SIGINT is not ignored: notebooks interrupt their kernels by it."""
        status, output = self.run_job({"command": "trap 'echo interrupted' INT; kill -INT $$"})
        self.assertEqual(status, 0, output)
        self.assertIn("\ninterrupted\n", output)

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

    def test_public_address(self) -> None:
        status, output = self.run_job(
            {"command": ". /etc/JARVICE/jobinfo.sh; echo at $JOB_PUBLICADDR"},
            parameters={"JOB_PUBLICADDR": "jobs-7.d.com"},
        )
        self.assertEqual(status, 0, output)
        self.assertIn("\nat jobs-7.d.com\n", output)

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

    def test_what_a_site_declares_stays(self) -> None:
        """Its files are sourced where a script's own are: a `declare` there is not a function's."""
        (self.scratch / ".jarvice_custom_env").write_text("umask 0; declare -x CUSTOM_custom=here")
        (self.home / ".jarvice_cuda_env").write_text("declare -x CUSTOM_cuda=here")
        self.assertEqual(self.run_job({"gpus": 1})[0], 0)
        for name in ("custom", "cuda"):
            self.assertIn(f"ENV exec CUSTOM_{name}=here", self.log.read_text())
        readable = [path for path in self.job_folder(1).iterdir() if path.stat().st_mode & 0o077]
        self.assertEqual(readable, [])

    def test_site_file_that_exits(self) -> None:
        """No job completes that never ran: the file is named, and the other nodes go no further."""
        for kind in ("custom", "cuda"):
            file = self.scratch / f".jarvice_{kind}_env"
            for text, status in (("exit 0", 0), ("set -e; false", 1), ("set -u; : $no_such", 1)):
                file.write_text(f"{text}\n")
                code, output = self.run_job({"command": "echo ran", "gpus": 1})
                self.assertEqual(code, 1, output)
                self.assertIn(f"error: {file} ended the job with exit status {status};", output)
                self.assertNotIn("\nran\n", output)
                failed = (self.job_folder(1) / "failed.0").read_text()
                self.assertIn(f"n1: {file} ended the job", failed)
                self.assert_clean()
                (self.job_folder(1) / "failed.0").unlink()
            file.unlink()

    def test_options_of_a_site_file(self) -> None:
        """They are for its own lines: the job does not run under them."""
        options = "set -eu; set -f -o pipefail -o noclobber; shopt -s nullglob failglob"
        for kind in ("custom", "cuda"):
            (self.scratch / f".jarvice_{kind}_env").write_text(f"{options}; export X=1\n")
        status, output = self.run_job({"command": "echo ran", "gpus": 1})
        self.assertEqual(status, 0, output)
        self.assertIn("\nran\n", output)
        self.assert_clean()

    def test_cuda_environment_of_the_scratch_folder(self) -> None:
        """It comes before that of the home, as the other one does."""
        (self.scratch / ".jarvice_cuda_env").write_text("export CUDA=scratch\n")
        (self.home / ".jarvice_cuda_env").write_text("export CUDA=home\n")
        self.assertEqual(self.run_job({"gpus": 1})[0], 0)
        self.assertEqual(len(self.asked("ENV exec CUDA=scratch")), 1)

    def test_gpus(self) -> None:
        (self.home / ".jarvice_cuda_env").write_text("export CUDA=here\n")
        self.assertEqual(self.run_job()[0], 0)
        self.assertEqual(self.asked("--nv") + self.asked("CUDA"), [])
        self.assertEqual(self.run_job({"gpus": 1}, environ={"JARVICE_X": "1"})[0], 0)
        self.assertEqual(len(self.asked("exec --nv")), 1)
        self.assertEqual(len(self.asked("ENV exec CUDA=here")), 1)

    def test_gpus_by_other_options(self) -> None:
        """`sbatch_gres=gpu:1`, `sbatch_gpus=…`: what Slurm says of the node counts."""
        (self.home / ".jarvice_cuda_env").write_text("export CUDA=here\n")
        for environ, gpus in (
            ({"SLURM_GPUS_ON_NODE": "2"}, 1),
            ({"SLURM_JOB_GPUS": "0"}, 1),
            ({"SLURM_GPUS_ON_NODE": "0"}, 0),
            ({"SLURM_GPUS_ON_NODE": "", "SLURM_JOB_GPUS": ""}, 0),
        ):
            self.log.write_text("")
            self.assertEqual(self.run_job(environ=environ)[0], 0)
            self.assertEqual(len(self.asked("exec --nv")), gpus, environ)
            self.assertEqual(len(self.asked("ENV exec CUDA=here")), gpus, environ)

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

    def test_overlay_that_does_not_fit(self) -> None:
        """The scratch folder, which is everybody's, is not filled first."""
        head = "Filesystem 1048576-blocks Used Available Capacity Mounted on"
        for available, good in ((640, False), (641, True)):
            line = f"server:/home 9000 8000 {available} 90% /home"
            self.set_program("df", f"#!/bin/sh\nprintf '%s\\n' '{head}' '{line}'\n")
            self.log.write_text("")
            status, output = self.run_job()
            self.assertEqual(status == 0, good, output)
            words = f"error: no overlay of 640 MB can be made: {available} MB free in /home"
            self.assertEqual(words in output, not good)
            self.assertEqual(len(self.asked("overlay create")), good)
            self.assert_clean()
            for name in ("failed.0", "image", "done"):
                (self.job_folder(1) / name).unlink(missing_ok=True)

    def test_binds(self) -> None:
        """The scratch folders at their own paths, the global one where it is on this node."""
        here, nowhere = self.folder / "global", self.folder / "nowhere"
        here.mkdir()
        for folder, bound in ((str(here), 1), (str(nowhere), 0), ("", 0)):
            self.log.write_text("")
            parameters = {"JARVICE_JOB_GLOBAL_SCRATCH_DIR": folder}
            self.assertEqual(self.run_job(parameters=parameters)[0], 0)
            (asked,) = self.asked("exec --overlay")
            words = asked.split()
            binds = [words[index + 1] for index, word in enumerate(words) if word == "-B"]
            node = f"{self.job_folder(1)}/node.0"
            wanted = [f"{node}/JARVICE:/etc/JARVICE", f"{self.scratch}/", "/:/data"]
            self.assertEqual(binds, wanted + [folder] * bound)

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
