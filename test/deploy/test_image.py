"""The image's Dockerfile: what it says, and what its steps make without an engine to run it.

The build stage is replayed in a folder: COPY copies, RUN runs, with that folder for /opt and /src.
What an engine alone can do (the base image, layers, the final stage's file tree) is not tested.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from deploy.demo.processes import free_port
from jarvice_slurmd.service import Options

PROJECT = Path(__file__).parents[2]
DOCKERFILE = PROJECT / "deploy" / "image" / "Dockerfile"
IGNORED = PROJECT / ".dockerignore"

VENV = "/opt/jarvice-slurmd"

#: What is required beside a key.
SETTINGS = {"JARVICE_SLURM_CLUSTER_ADDR": "127.0.0.1", "JARVICE_SLURM_SSH_USER": "jarvice"}


@frozen
class Instruction:
    """One instruction of a Dockerfile, its continued lines joined."""

    word: str
    rest: str


def parse_dockerfile(text: str) -> list[list[Instruction]]:
    """The instructions before the first FROM, then those of each stage."""
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[list[Instruction]] = [[]]
    for line in filter(None, map(str.strip, joined.split("\n"))):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append(Instruction(word, rest.strip()))
    return stages


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file of the project reach the engine: the last match decides."""
    sent = True
    for line in IGNORED.read_text().split("\n"):
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parts = path.split("/")
        heads = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        # `*` and `**/x` are all that is used there beside plain paths.
        name = pattern.removeprefix("**/")
        tried = parts if pattern.startswith("**/") else heads
        if any(fnmatch(one, name) for one in tried):
            sent = line.startswith("!")
    return sent


class DockerfileTests(SynchronousTestCase):
    """What it says."""

    def setUp(self) -> None:
        self.head, self.build, self.final = parse_dockerfile(DOCKERFILE.read_text())

    def rest(self, word: str) -> str:
        """What the final stage's only instruction of this name says."""
        (found,) = [one.rest for one in self.final if one.word == word]
        return found

    def test_base(self) -> None:
        """Both stages are of the one base; its default names no registry's host."""
        self.assertEqual([one.word for one in self.head], ["ARG"])
        name, _, default = self.head[0].rest.partition("=")
        self.assertEqual(name, "BASE")
        self.assertNotIn("/", default)
        froms = [stage[0].rest.split()[0] for stage in (self.build, self.final)]
        self.assertEqual(froms, ["${BASE}"] * 2)

    def test_user(self) -> None:
        """A number other than root's, so that `runAsNonRoot` can tell."""
        user, group = self.rest("USER").split(":")
        self.assertGreater(int(user), 0)
        self.assertGreater(int(group), 0)

    def test_start_and_stop(self) -> None:
        """The daemon is process 1, without a shell before it, and SIGTERM ends it in order."""
        command = json.loads(self.rest("ENTRYPOINT"))
        self.assertEqual(command, ["twistd", "--nodaemon", "--pidfile=", "jarvice-slurmd"])
        self.assertEqual(self.rest("STOPSIGNAL"), "SIGTERM")

    def test_port(self) -> None:
        """The port of the daemon's default endpoint."""
        self.patch(Options, "environ", {})
        options = Options()
        with self.assertRaises(Exception):  # noqa: B017 - it has no settings
            options.parseOptions([])  # type: ignore[no-untyped-call]
        self.assertEqual(options["http"], [f"tcp:{self.rest('EXPOSE')}"])

    def test_no_settings(self) -> None:
        """No setting, and nothing secret, is in the image."""
        text = DOCKERFILE.read_text()
        self.assertNotIn("JARVICE_", text)
        self.assertFalse(re.search(r"PASSWORD|PRIVATE|TOKEN", text, re.IGNORECASE))

    def test_final_stage_copies_the_build_alone(self) -> None:
        """One folder from the build stage; it runs nothing."""
        self.assertEqual(self.rest("COPY"), f"--from=build {VENV} {VENV}")
        self.assertNotIn("RUN", [one.word for one in self.final])

    def test_what_is_sent(self) -> None:
        """What it copies reaches the engine, and no more."""
        for path in (
            "requirements/runtime.txt",
            "setup.py",
            "pyproject.toml",
            "jarvice_slurmd/jobs/executor.sh",
            "twisted/plugins/jarvice_slurmd_plugin.py",
        ):
            self.assertTrue(is_sent(path), path)
        for path in (
            ".git/config",
            ".venv/bin/python",
            "id_ed25519",
            "deploy/image/Dockerfile",
            "jarvice_slurmd/__pycache__/log.cpython-311.pyc",
            "requirements/test.txt",
            "test/fakes.py",
            "twisted/plugins/dropin.cache",
        ):
            self.assertFalse(is_sent(path), path)


class BuiltImage:
    """The build stage, replayed in a folder; its virtual environment stands for the image."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="jarvice-image-"))
        self.venv = self.folder / "opt"
        self.source = self.folder / "src"
        self.source.mkdir()
        programs = self.folder / "bin"
        programs.mkdir()
        (programs / "python").symlink_to(sys.executable)
        self._environ = {
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
            "HOME": str(self.folder),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        _, build, self.final = parse_dockerfile(DOCKERFILE.read_text())
        for instruction in build:
            if instruction.word == "COPY":
                self._copy(instruction.rest)
            elif instruction.word == "RUN":
                self._run(instruction.rest)
        # As on a root file system that is read-only.
        for path in self.venv.rglob("*"):
            if path.is_dir():
                path.chmod(0o555)

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        for source in sources:
            whole = PROJECT / source
            files = [whole] if whole.is_file() else [f for f in whole.rglob("*") if f.is_file()]
            for file in files:
                path = file.relative_to(PROJECT).as_posix()
                if not is_sent(path):
                    continue
                below = file.name if whole.is_file() else file.relative_to(whole).as_posix()
                to = self.source / target / below
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, to)

    def _run(self, command: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-ec", command.replace(VENV, str(self.venv))],
            cwd=self.source,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"RUN {command}\n{done.stdout}")

    def start(self, environ: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
        """Start the ENTRYPOINT as a container would: in `/`, and without any capability.

        That takes from root, too, the right to write where nobody may. (Not as the image's own
        user: the Python that is tested with may be one that root alone can read.)
        """
        (entrypoint,) = [one.rest for one in self.final if one.word == "ENTRYPOINT"]
        program, *words = json.loads(entrypoint)
        drop = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        return subprocess.Popen(
            [
                *(drop if os.geteuid() == 0 else ["setpriv", "--no-new-privs"]),
                str(self.venv / "bin" / program),
                *words,
                *arguments,
            ],
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def remove(self) -> None:
        """Remove the folder."""
        for path in [self.venv, *self.venv.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(self.folder)


@cache
def built_image() -> BuiltImage:
    """The one that all tests share, built when the first of them asks; removed at the end."""
    image = BuiltImage()
    atexit.register(image.remove)
    return image


class BuildTests(SynchronousTestCase):
    """What its steps make."""

    def setUp(self) -> None:
        self.image = built_image()

    def run_image(self, environ: dict[str, str], *arguments: str) -> tuple[int, str]:
        """Run it to its end: exit status and output."""
        process = self.image.start(environ, *arguments)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def test_every_file_is_installed(self) -> None:
        """The package whole, shell texts included, and twistd's plugin; nothing is linked."""
        (packages,) = self.image.venv.glob("lib/python3*/site-packages")
        for folder in ("jarvice_slurmd", "twisted"):
            for file in (PROJECT / folder).rglob("*"):
                path = file.relative_to(PROJECT)
                if file.is_file() and is_sent(path.as_posix()):
                    self.assertEqual(
                        (packages / path).read_bytes(), file.read_bytes(), f"{path} is not the same"
                    )
        self.assertEqual(list(packages.glob("*jarvice*.pth")), [])

    def test_no_installer(self) -> None:
        """Who comes in finds no pip."""
        self.assertEqual(list(self.image.venv.glob("lib/python3*/site-packages/pip")), [])

    def test_wrong_configuration(self) -> None:
        """Every problem is told, and the exit status is not 0: Kubernetes shows both."""
        status, output = self.run_image({})
        self.assertEqual(status, 1, output)
        self.assertIn("the configuration is wrong:", output)
        for name in (*SETTINGS, "JARVICE_SLURM_SSH_PKEY"):
            self.assertIn(f"{name} is required and not set", output)

    def test_check(self) -> None:
        """The check of the cluster is in the image, too."""
        done = subprocess.run(
            [str(self.image.venv / "bin" / "python"), "-m", "jarvice_slurmd.check", "--help"],
            cwd="/",
            env={},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0)
        self.assertIn("--on-compute-node", done.stdout)

    def test_start_and_stop(self) -> None:
        """Where nothing can be written it serves, and SIGTERM ends it in order."""
        key = self.image.folder / "key"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        port, nobody = free_port(), free_port()
        process = self.image.start(
            {
                **SETTINGS,
                "JARVICE_SLURM_CLUSTER_PORT": str(nobody),
                "JARVICE_SLURM_SSH_PKEY": key.read_text(),
                # Where twistd can't write its list of plugins it says so no louder.
                "JARVICE_SLURM_SCHED_LOGLEVEL": "20",
            },
            *("--http", f"tcp:{port}:interface=127.0.0.1"),
        )
        try:
            self.assertEqual(self.until_answered(f"http://127.0.0.1:{port}/live"), 200)
            self.assertEqual(self.until_answered(f"http://127.0.0.1:{port}/ready"), 503)
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        # twistd ends as the signal has it; the kernel keeps process 1 of a container from that, and
        # it ends with status 0 there.
        self.assertEqual(process.returncode, -signal.SIGTERM, output)
        self.assertIn("Init done. Entering main loop.", output)
        self.assertNotIn("Unable to write", output)
        self.assertNotIn("Traceback", output)

    def until_answered(self, url: str) -> int:
        """The status code of an address, as soon as somebody listens there."""
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - http
                    return int(response.status)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
