"""`make demo`, and what installs the packages it needs, as scripts and strangers run them."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import TestCase

from deploy.devcluster.cluster import packages
from deploy.devcluster.layout import Cluster, Options
from test.cluster import browser, test_applications

PROJECT = Path(__file__).parents[2]
INSTALL = PROJECT / "deploy" / "install-packages"

#: Puts a user who is not root around a command, though it may read what root may.
AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")

#: Gives a command a session of its own, with the terminal that it reads from.
ON_TERMINAL = ("setsid", "--ctty")

#: Seconds until what never ends is given up; far more than anything here takes.
PATIENCE = 300.0

#: dpkg-query(1) for a machine on which some packages are missing, or ALL; NONE is none.
DPKG_QUERY = """#!/bin/sh
for package; do :; done
case " $MISSING " in *" $package "* | " ALL ") exit 1 ;; esac
printf 'ii '
"""


#: A sitecustomize module with which the daemon, and nothing else, finds a wrong setting.
WRONG_SETTING = """\
import os, sys
if "jarvice-slurmd" in sys.orig_argv:
    os.environ["JARVICE_SLURM_OVERLAY_SIZE"] = "much"
"""

#: apt-get(8) that can't be interrupted while it installs.
APT_GET = """#!/bin/sh
trap '' INT TERM
echo >>"$APT.began"
sleep 2
echo >>"$APT.done"
"""


class DemoTestCase(TestCase):
    """Runs programs with a PATH and a temporary folder of their own."""

    def setUp(self) -> None:
        """Make the folders."""
        self.folder = Path(tempfile.mkdtemp(prefix="demo-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.bin = self.folder / "bin"
        self.tmp = self.folder / "tmp"
        for folder in (self.bin, self.tmp):
            folder.mkdir()
        # The test user's jobs run below it.
        for folder in (self.folder, self.tmp):
            folder.chmod(0o755)
        self.put("dpkg-query", DPKG_QUERY)

    def put(self, name: str, text: str) -> None:
        """Put a program in front of the PATH."""
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run_program(
        self, *words: str | Path, missing: str = "NONE", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program without a terminal; what it prints is one text."""
        return subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=PROJECT,
            env=self.environ(MISSING=missing, **environ),
            timeout=PATIENCE,
            check=False,
        )

    def environ(self, **changes: str) -> Mapping[str, str]:
        """The environment of what is run."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("JARVICE_")}
        path = f"{self.bin}:{os.environ['PATH']}"
        own = {"PATH": path, "TMPDIR": str(self.tmp), "MISSING": "NONE"}
        return {**inherited, **own, **changes}

    def demo(self, *before: str, **keywords: str) -> subprocess.CompletedProcess[str]:
        """Run the demo."""
        return self.run_program(*before, sys.executable, "-m", "deploy.demo", **keywords)

    def assert_nothing_left(self) -> None:
        """The demo's folder is gone, and so is every process that worked in it."""
        self.assertEqual(self.left(), [])

    def left(self) -> list[str]:
        """Its folder, and the processes that work in it: the demo's own, and the cluster's."""
        found = [str(path) for path in self.tmp.iterdir()]
        mark = os.fsencode(self.tmp)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
                if mark in words + (process / "environ").read_bytes():
                    found.append(f"{process}: {words!r}")
            except OSError:
                continue
        return found


class DemoTests(DemoTestCase):
    """`python -m deploy.demo`, which is what `make demo` runs."""

    def test_all_of_it(self) -> None:
        """Without a terminal it tells its story, ends by itself, and leaves nothing.

        Settings that the caller has exported, for a daemon of its own, are no matter.
        """
        done = self.demo(JARVICE_SCHED_SERVER_KEY="upstream:password", JARVICE_SLURM_EXECUTOR="x")
        self.assertEqual(done.returncode, 0, done.stdout)
        story = [
            "A private Slurm cluster",
            "|-- SSH connection to target cluster:",
            "Init done. Entering main loop.",
            "✔ GET /ready",
            "← GET /queued → [['",
            "← POST /runstatus → [['n1', 'n2'], ",
            'step 3 of 3: it\'s "working"',
            "← POST /exitstatus → 0, 00:00:",
            "✔ the job's own exit status and output came back",
            "in a container: BusyBox",
            "✔ pulled and converted once",
            "Started proxy to n",
            "✔ its page came through the tunnel",
            "the cluster is gone",
        ]
        rest = done.stdout
        for words in story:
            self.assertIn(words, rest, done.stdout)
            # The daemon's log comes beside the story, and has no place in its order.
            if words[0] not in "|IS":
                rest = rest.partition(words)[2]
        self.assertNotIn("✘", done.stdout)
        self.assertNotIn("\x1b", done.stdout)
        self.assertNotIn("Traceback", done.stdout)
        self.assert_nothing_left()

    def assert_failure_told(self, done: subprocess.CompletedProcess[str], *words: str) -> None:
        self.assertEqual(done.returncode, 1, done.stdout)
        for word in (*words, "✘ "):
            self.assertIn(word, done.stdout)
        self.assertNotIn("✔", done.stdout)
        self.assertNotIn("Traceback", done.stdout)
        self.assert_nothing_left()

    def test_no_cluster(self) -> None:
        """A cluster that can't be had: here a package can't be installed."""
        self.put("apt-get", "#!/bin/sh\necho 'E: no network here'; exit 100\n")
        done = self.demo(missing="slurmctld")
        self.assert_failure_told(
            done, "E: no network here", "apt-get", "✘ devcluster up failed: the reason stands above"
        )

    def test_no_daemon(self) -> None:
        """A daemon that ends: its own words are shown, and the cluster goes all the same."""
        (self.folder / "sitecustomize.py").write_text(WRONG_SETTING)
        done = self.demo(PYTHONPATH=str(self.folder))
        self.assert_failure_told(
            done,
            "│   JARVICE_SLURM_OVERLAY_SIZE is 'much'",
            "✘ the daemon has ended by itself",
            "the cluster is gone",
        )

    def test_not_root(self) -> None:
        """A stranger without root and without sudo learns what is missing."""
        done = self.demo(*AS_USER, missing="slurmctld")
        self.assert_failure_told(
            done,
            "    apt-get install --no-install-recommends slurmctld\n",
            "devcluster: this takes root",
        )


class RunningDemo:
    """A demo that runs, in a process group of its own, and what it has printed."""

    def __init__(self, environ: Mapping[str, str], *before: str, is_on_terminal: bool) -> None:
        self.text = ""
        # On a terminal it reads from and prints to one, which is told nothing else than here.
        self.printed, theirs = pty.openpty() if is_on_terminal else os.pipe()
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "deploy.demo"],
            stdin=theirs if is_on_terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            cwd=PROJECT,
            env=environ,
            start_new_session=not is_on_terminal,
        )
        os.close(theirs)

    def read_until(self, words: str | None) -> None:
        """Read until words are printed, or until the end; raises where that comes first."""
        deadline = time.monotonic() + PATIENCE
        while words is None or words not in self.text:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self.printed], [], [], left)[0]:
                raise AssertionError(f"never printed: {words}\n{self.text}")
            try:
                printed = os.read(self.printed, 65536)
            except OSError:  # how a terminal tells that nobody prints on it any more
                printed = b""
            if not printed:
                if words is None:
                    return
                raise AssertionError(f"ended before it printed: {words}\n{self.text}")
            self.text += printed.decode("utf-8", "replace")

    def end(self) -> int:
        """Read to the end; the exit status."""
        self.read_until(None)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Kill it, should it still run; its cluster takes itself down."""
        self.process.kill()
        self.process.wait()
        os.close(self.printed)


class InterruptedTests(DemoTestCase):
    """What a signal makes of it, and Ctrl-C on a terminal."""

    def start(self, *before: str, is_on_terminal: bool = False, **environ: str) -> RunningDemo:
        demo = RunningDemo(self.environ(**environ), *before, is_on_terminal=is_on_terminal)
        self.addCleanup(self.wait_until, lambda: not self.left(), "all of it is gone")
        self.addCleanup(demo.close)
        return demo

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Ask until a condition holds; the bound is only there so that a failure ends."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.05)

    def assert_interrupted(self, demo: RunningDemo, number: signal.Signals) -> None:
        """It says so, ends with the status that shells give a signal, and leaves nothing."""
        status = demo.end()
        self.assertEqual(status, 128 + number, demo.text)
        self.assertIn(f"✘ interrupted by {number.name}", demo.text)
        self.assertIn("the cluster is gone", demo.text)
        self.assertNotIn("Traceback", demo.text)
        self.assert_nothing_left()

    def test_job_runs(self) -> None:
        """A signal to the demo's process group, and one to the demo alone, while a job runs."""
        for send, number in ((os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)):
            demo = self.start()
            demo.read_until("← job id")
            send(demo.process.pid, number)
            self.assert_interrupted(demo, number)
            self.assertIn("the daemon has answered what was asked and ended", demo.text)

    def test_cluster_starts(self) -> None:
        """A signal to the demo's process group while the cluster starts."""
        demo = self.start()
        self.wait_until(lambda: list(self.tmp.glob("*/run/slurmctld.pid")), "slurmctld starts")
        os.killpg(demo.process.pid, signal.SIGINT)
        self.assert_interrupted(demo, signal.SIGINT)

    def test_packages_are_installed(self) -> None:
        """A signal while packages are installed: that is not cut short, and nothing follows it."""
        self.put("apt-get", APT_GET)
        apt = self.folder / "apt"
        demo = self.start(MISSING="slurmctld", APT=str(apt))
        self.wait_until(apt.with_suffix(".began").exists, "apt-get runs")
        os.killpg(demo.process.pid, signal.SIGINT)
        self.assert_interrupted(demo, signal.SIGINT)
        self.assertEqual(apt.with_suffix(".done").read_text(), "\n")

    def test_killed(self) -> None:
        """What a killed demo leaves takes itself down."""
        demo = self.start()
        demo.read_until("← job id")
        demo.process.kill()
        self.wait_until(lambda: not self.left(), "all of it is gone")

    def test_nobody_reads(self) -> None:
        """A reader that goes away, as `head` does, ends nothing half-way."""
        with subprocess.Popen(
            [sys.executable, "-m", "deploy.demo"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            env=self.environ(),
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
            process.wait(PATIENCE)
        self.assert_nothing_left()

    def test_terminal(self) -> None:
        """On a terminal all stays up; Ctrl-C ends it in good order, and is a success."""
        demo = self.start(*ON_TERMINAL, is_on_terminal=True)
        demo.read_until("curl -s http")
        os.write(demo.printed, b"\x03")
        self.assertEqual(demo.end(), 0, demo.text)
        for words in ("Traceback", "CRITICAL", "✘"):
            self.assertNotIn(words, demo.text)
        self.assertIn("the cluster is gone", demo.text)
        self.assert_nothing_left()


class TestCommandTests(DemoTestCase):
    """`make test`, with a virtual environment whose programs only print what is run."""

    def make(self, *before: str, missing: str = "NONE") -> subprocess.CompletedProcess[str]:
        """Run it, where sudo is of no help."""
        programs = self.folder / "venv" / "bin"
        programs.mkdir(parents=True)
        for name in ("ruff", "mypy", "lint-imports", "python"):
            (programs / name).write_text(f"#!/bin/sh\necho began {name}\n")
            (programs / name).chmod(0o755)
        (programs.parent / ".made").touch()
        self.put("sudo", "#!/bin/sh\nexit 1\n")
        words = ("make", "test", f"VENV={programs.parent}")
        return self.run_program(*before, *words, missing=missing, MAKEFLAGS="")

    def assert_named(self, done: subprocess.CompletedProcess[str]) -> list[str]:
        """It named packages, once, and stopped before anything else; returns their names."""
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertNotIn("began", done.stdout)
        self.assertEqual(done.stdout.count("apt-get install"), 1, done.stdout)
        line = next(line for line in done.stdout.splitlines() if "apt-get install" in line)
        return line.split("--no-install-recommends ")[1].split()

    def test_names_what_is_missing(self) -> None:
        """Without root what any group of tests lacks is named before the first check."""
        missing = "python3-venv shellcheck chromium slurmctld slurmdbd fuse2fs umoci"
        named = self.assert_named(self.make(*AS_USER, missing=missing))
        self.assertEqual(sorted(named), sorted(missing.split()))

    def test_names_all(self) -> None:
        """On a bare machine all is named that a cluster or a test would install by itself."""
        options = Options(accounting=True, apptainer=True, registry=True)
        needed = {*packages(Cluster(state=self.tmp, block=0, options=options))}
        needed |= {*browser.PACKAGES, *test_applications._DESKTOP, "tcsh", "python3-venv"}
        named = self.assert_named(self.make(*AS_USER, missing="ALL"))
        self.assertEqual(needed - {*named}, set())
        self.assertEqual(len({*named}), len(named))

    def test_nothing_missing(self) -> None:
        """Where nothing is missing the checks come first, then the tests."""
        done = self.make(*AS_USER)
        self.assertEqual(done.returncode, 0, done.stdout)
        began = [line for line in done.stdout.splitlines() if line.startswith("began")]
        self.assertEqual(
            began, [f"began {name}" for name in ("ruff", "ruff", "mypy", "lint-imports", "python")]
        )


class InstallTests(DemoTestCase):
    """deploy/install-packages."""

    def install(self, *before: str, **keywords: str) -> subprocess.CompletedProcess[str]:
        """Ask for three packages."""
        return self.run_program(*before, INSTALL, "munge", "slurmd", "umoci", **keywords)

    def test_nothing_to_do(self) -> None:
        """Where all are installed nothing is said, whoever asks."""
        for before in ((), AS_USER):
            done = self.install(*before)
            self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_without_root(self) -> None:
        """Without root and without sudo the missing ones are named, and only these."""
        self.put("sudo", "#!/bin/sh\necho 'sudo: a password is required' >&2; exit 1\n")
        done = self.install(*AS_USER, missing="slurmd")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(
            done.stdout,
            "Debian packages are missing, and installing them takes root. Please run:\n"
            "    apt-get install --no-install-recommends slurmd\n",
        )

    def test_with_sudo(self) -> None:
        """With a sudo that asks no password the missing ones are installed by it."""
        self.put("sudo", '#!/bin/sh\n[ "$2" = true ] || echo "$*"\n')
        done = self.install(*AS_USER, missing="umoci")
        self.assertEqual((done.returncode, done.stdout), (0, f"-n {INSTALL} umoci\n"))

    def test_apt_fails(self) -> None:
        """What apt says is shown, and its exit status is kept."""
        self.put("apt-get", "#!/bin/sh\necho 'E: no network here'; exit 100\n")
        done = self.install(missing="munge")
        self.assertEqual(done.returncode, 100, done.stdout)
        self.assertIn("Installing Debian packages: munge\n", done.stdout)
        self.assertIn("E: no network here\ninstall-packages: failed: apt-get", done.stdout)
