"""What cluster tests stand on: development clusters, one of them shared by a whole run.

The executable deploy/devcluster/devcluster does the work, as it does for a person. Its calls
block; where the reactor must go on meanwhile, use `deferToThread`.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

EXECUTABLE = Path(__file__).parents[2] / "deploy" / "devcluster" / "devcluster"

# Installing Debian packages included, once on a machine.
_UP_SECONDS = 1200.0
_SECONDS = 120.0


class DevClusterFailedError(Exception):
    """A devcluster command failed; the text is what it printed."""


class DevCluster:
    """One development cluster, in a folder of its own under the temporary folder.

    It goes down with this process, even if that is killed. `DevClusterFailedError` is raised
    where the executable exits non-zero.
    """

    def __init__(self, state: Path | None = None) -> None:
        self.state = state or Path(tempfile.mkdtemp(prefix="devcluster-"))

    def up(
        self,
        *,
        nodes: int = 2,
        accounting: bool = False,
        apptainer: bool = False,
        registry: bool = False,
        login_shell: str | None = None,
        banner: str | None = None,
        max_sessions: int | None = None,
        rekey_limit: str | None = None,
        min_job_age: int = 10,
        kill_wait: int = 5,
        sshd_options: Sequence[str] = (),
        slurm_options: Sequence[str] = (),
    ) -> None:
        """Bring it up; the options are those of `devcluster up`."""
        words = [f"--nodes={nodes}", f"--min-job-age={min_job_age}", f"--kill-wait={kill_wait}"]
        words += ["--accounting"] if accounting else []
        words += ["--apptainer"] if apptainer else []
        words += ["--registry"] if registry else []
        words += [f"--login-shell={login_shell}"] if login_shell is not None else []
        words += [f"--banner={banner}"] if banner is not None else []
        words += [f"--max-sessions={max_sessions}"] if max_sessions is not None else []
        words += [f"--rekey-limit={rekey_limit}"] if rekey_limit is not None else []
        words += [f"--sshd-option={option}" for option in sshd_options]
        words += [f"--slurm-option={option}" for option in slurm_options]
        self._run("up", f"--owner={os.getpid()}", *words, seconds=_UP_SECONDS)

    def down(self) -> None:
        """End every process of it and remove its folder; nothing when it is down."""
        self._run("down")
        shutil.rmtree(self.state, ignore_errors=True)

    def start(self, part: str) -> None:
        """Start `slurmctld`, `slurmdbd`, `sshd`, `n1`…, and wait until it is up."""
        self._run("start", part)

    def stop(self, part: str, *, kill: bool = False) -> None:
        """Stop a part, by SIGKILL if so asked, and wait until it is down."""
        self._run("stop", part, *(["--kill"] if kill else []))

    def status(self) -> tuple[int, str]:
        """The exit status of `devcluster status`, and what it printed."""
        done = self._attempt("status", seconds=_SECONDS)
        return done.returncode, done.stdout

    def env(self) -> dict[str, str]:
        """The daemon's environment, as a shell understands what `devcluster env` prints."""
        script = f"set -e; {self._run('env')}\nexec env -0"
        printed = subprocess.run(
            ["sh", "-c", script], env={"PATH": os.defpath}, capture_output=True, check=True
        ).stdout.decode()
        variables = dict(line.split("=", 1) for line in printed.split("\0") if line)
        return {name: value for name, value in variables.items() if name.startswith("JARVICE_")}

    def private_key(self, kind: str) -> str:
        """The user's `ed25519`, `ecdsa` or `rsa` key, as text."""
        return (self.state / "ssh" / f"user_{kind}").read_text()

    @property
    def scratch(self) -> Path:
        """JARVICE_SLURM_SCRATCH_DIR."""
        return self.state / "scratch"

    def ssh(
        self, command: str, *, stdin: bytes = b"", key: str = "ed25519"
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command on the login node with OpenSSH's client, as the test user."""
        words = ["ssh", "-F", str(self.state / "ssh" / "config")]
        words += ["-o", f"IdentityFile={self.state}/ssh/user_{key}", "login", command]
        return subprocess.run(
            words, input=stdin, capture_output=True, timeout=_SECONDS, check=False
        )

    def slurm(self, *words: str) -> str:
        """Run a Slurm command as Slurm's administrator, and return what it printed."""
        environ = {**os.environ, "SLURM_CONF": str(self.state / "etc" / "slurm.conf")}
        return self._checked(
            subprocess.run(
                words, env=environ, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        )

    def _run(self, *words: str, seconds: float = _SECONDS) -> str:
        return self._checked(self._attempt(*words, seconds=seconds))

    def _attempt(self, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(EXECUTABLE), *words, "--state", str(self.state)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def _checked(self, done: subprocess.CompletedProcess[str]) -> str:
        if done.returncode != 0:
            said = f"{done.stdout}{done.stderr}".strip()
            raise DevClusterFailedError(f"{shlex.join(done.args)}: {done.returncode}: {said}")
        return done.stdout


_shared: DevCluster | DevClusterFailedError | None = None


def shared_cluster() -> DevCluster:
    """The cluster with default options that all tests of this process share.

    Ask in `setUp`. It is brought up by the first who asks and goes down with the process; a test
    that stops a part of it starts it again (`addCleanup`). When it can't be brought up every
    test that asks fails with the reason.
    """
    global _shared
    if _shared is None:
        cluster = DevCluster()
        atexit.register(cluster.down)
        try:
            cluster.up()
        except DevClusterFailedError as error:
            _shared = error
        else:
            _shared = cluster
    if isinstance(_shared, DevClusterFailedError):
        raise DevClusterFailedError(str(_shared))
    return _shared
