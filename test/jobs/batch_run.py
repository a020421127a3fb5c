"""Runs jobs/batch.sh for real, on a sandbox where a stub of srun runs its command here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

from jarvice_slurmd.jobs.script import render_batch_script
from jarvice_slurmd.slurm.commands import render_root
from test.slurm.sandbox import Sandbox

# As srun(1): the same command once a task, each with its number; fails when one of them fails.
_SRUN = """
while [ "$1" != /bin/bash ]; do [ "$1" = -n ] && tasks=$2; shift; done
task=0 pids=
trap : TERM
while [ $task -lt $tasks ]; do
    SLURM_PROCID=$task SLURMD_NODENAME=n$((task + 1)) "$@" &
    pids="$pids $!" task=$((task + 1))
    echo $! >>"$HOME/tasks"
done
code=0
for pid in $pids; do
    while :; do
        wait $pid; ended=$?
        kill -0 $pid 2>/dev/null || break
    done
    [ $ended = 0 ] || code=$ended
done
exit $code
"""
_SCONTROL = """
case "$1 $2 $3" in
"show hostnames "*) printf 'n1\\nn2\\n' ;;
"-o show node") echo "NodeName=$4 Arch=x86_64 NodeAddr=127.0.0.9 NodeHostName=$4" ;;
*) cat "$HOME/show_job" ;;
esac
"""
# The script's own wait, shortened.
_SLEEP = 'case $1 in 0.2) set -- 0.02 ;; esac\nexec /bin/sleep "$1"'


class BatchRun:
    """One job of one name and id; `text` is what runs on every node.

    `lag` is a command of the script before which it lags, as on a busy machine.
    """

    def __init__(
        self,
        text: str,
        *,
        name: str = "x",
        jobid: str = "41",
        nodes: int = 1,
        lag: str | None = None,
    ) -> None:
        self.node = Sandbox()
        self.name, self.jobid, self.nodes = name, jobid, nodes
        self._lag = lag
        self.job = self.node.root / "jobs" / jobid
        self.submission = self.node.root / "submit" / name
        self.node.stub("srun", _SRUN)
        self.node.stub("scontrol", _SCONTROL)
        self.node.stub("sleep", _SLEEP)
        (self.node.home / "show_job").write_text("JobId=41 Reason=None\n")
        self.node.write(f"submit/{name}/jobid", f"{jobid}\n")
        self.node.write(f"submit/{name}/node.sh", text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, as slurmd would on the first node."""
        script = self.node.folder / "slurm_script"
        script_text = render_batch_script(self.name, render_root(None))
        if self._lag is not None:
            before, after = script_text.split(self._lag)
            script_text = f"{before}sleep 0.1; {self._lag}{after}"
        script.write_text(script_text, "utf-8")
        self._process = subprocess.Popen(
            ["/bin/bash", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.node.home,
            start_new_session=True,
            # What was started in the background ignores it; nothing of Slurm's does.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            env={
                **self.node.environ(),
                "SLURM_JOB_ID": self.jobid,
                "SLURM_JOBID": self.jobid,
                "SLURM_JOB_NODELIST": "n[1-2]" if self.nodes > 1 else "n1",
                "SLURM_NNODES": str(self.nodes),
                "SLURM_NTASKS": str(self.nodes),
                "SLURM_SUBMIT_DIR": str(self.node.home),
                "SLURM_GPUS_PER_NODE": "",
                "SLURMD_NODENAME": "n1",
            },
        )

    @property
    def pid(self) -> int:
        """The batch script's process."""
        assert self._process is not None
        return self._process.pid

    def terminate(self, *, by_cgroup: bool = False) -> None:
        """SIGTERM, as a time limit or scancel has it.

        Slurm tells every process of the job or, where it tracks them by cgroup, the script and the
        first process of each task.
        """
        assert self._process is not None
        tasks = [int(line) for line in (self.node.home / "tasks").read_text().split()]
        for pid in [self._process.pid, *tasks] if by_cgroup else self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def kill(self, which: int) -> str | None:
        """SIGKILL for one of its processes, the oldest being 0; returns what it ran, or None."""
        pids = self._processes()
        if which >= len(pids):
            return None
        command = b""
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pids[which]}/cmdline").read_bytes()
            os.kill(pids[which], signal.SIGKILL)
        return command.replace(b"\0", b" ").decode("utf-8", "replace")

    def _processes(self) -> list[int]:
        """Every process of the job, the oldest first: one session, whatever their groups."""
        assert self._process is not None
        # Not by their ids alone: these start again from the bottom one day.
        found: list[tuple[int, int]] = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                stat = (process / "stat").read_text()
                # proc(5): the session is the fourth field behind the name, which is in brackets,
                # the time of its start the twentieth.
                fields = stat.rpartition(")")[2].split()
                if int(fields[3]) == self._process.pid:
                    found.append((int(fields[19]), int(process.name)))
        return [pid for _, pid in sorted(found)]

    def finish(self) -> tuple[int, bytes]:
        """Wait for its end: exit status and output."""
        assert self._process is not None
        output, _ = self._process.communicate(timeout=60)
        return self._process.returncode, output

    def run(self) -> tuple[int, bytes]:
        """`start` and `finish`."""
        self.start()
        return self.finish()

    def record(self, name: str) -> str | None:
        """A file of the job's folder; None when it is not there."""
        path: Path = self.job / name
        return path.read_text("utf-8", "replace").strip() if path.exists() else None

    def verdict(self) -> tuple[str, int]:
        """State and exit status as the job's `exit` file has them."""
        state, code, _, _ = (self.record("exit") or "").split()
        return state, int(code)

    def remove(self) -> None:
        """End what is left of it, as slurmd does, and remove its files."""
        if self._process is not None:
            for pid in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
        self.node.remove()
