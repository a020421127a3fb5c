"""Runs jobs/executor.sh for real, as srun starts it, with fake_apptainer.sh for the container tool.

test.cluster has the real one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from shlex import quote
from typing import IO

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.jobs.executor import parse_job, render_node_script

IMAGE = "registry.example.com/team/app:1.0"
MINIMAL = {"image": IMAGE, "command": "true"}


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
            # What was started in the background ignores it; nothing of Slurm's does.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
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

    def tell(self) -> None:
        """SIGTERM for the text alone, as batch.sh sends it once a container is up."""
        first = self._process.pid
        (text,) = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        os.kill(int(text), signal.SIGTERM)

    def kill(self, which: int) -> str | None:
        """SIGKILL for one of its processes, the oldest being 0; returns what it ran, or None."""
        pids = self._members()
        if which >= len(pids):
            return None
        command = b""
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pids[which]}/cmdline").read_bytes()
            os.kill(pids[which], signal.SIGKILL)
        return command.replace(b"\0", b" ").decode("utf-8", "replace")

    def environments(self) -> str:
        """What its processes have in their environments, command lines between them."""
        found = b""
        for pid in self._members():
            with contextlib.suppress(OSError):
                for file in ("cmdline", "environ"):
                    found += Path(f"/proc/{pid}/{file}").read_bytes().replace(b"\0", b" ") + b"\n"
        return found.decode("utf-8", "replace")

    def _members(self) -> list[int]:
        lines = subprocess.run(
            # Process ids start again from the bottom one day.
            ["ps", "-e", "-o", "pid=,sess=", "--sort=start_time,pid"],
            capture_output=True,
            text=True,
            check=True,
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
