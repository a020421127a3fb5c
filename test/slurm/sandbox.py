"""A login node for one test: a real /bin/sh, a home, and stubs in the place of Slurm's commands.

The stubs record their arguments and answer as a test tells them. They show that what we quote
arrives unchanged and that our scripts take the right branch; of Slurm itself they prove nothing.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from jarvice_slurmd.interfaces import CommandResult

_RECORD = """#!/bin/sh
printf '%s\\0' $# "$@" >>'{log}'
"""


#: What /bin/sh is on one cluster or another, as words that a script follows.
SHELLS: Final = {
    "sh": ("/bin/sh", "-c"),
    "bash": ("bash", "--posix", "-c"),
    # As some build it, Debian for one, it would take its own head for the system's.
    "busybox": ("busybox", "sh", "-c", 'head() { /usr/bin/head "$@"; }; eval "$1"', "sh"),
}


class Sandbox:
    """A temporary login node, whose /bin/sh is one of `SHELLS`; `remove` it when done."""

    def __init__(self, shell: str = "sh") -> None:
        self.shell = SHELLS[shell]
        self.folder = Path(tempfile.mkdtemp(prefix="sandbox-"))
        self.home = self.folder / "home"
        self.root = self.home / ".jarvice"
        self._bin = self.folder / "bin"
        self._log = self.folder / "log"
        for folder in (self.home, self._bin, self._log):
            folder.mkdir()

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder)

    def stub(self, name: str, text: str = "") -> None:
        """Put a command in the PATH that records its arguments and then runs shell text."""
        path = self._bin / name
        path.write_text(_RECORD.format(log=self._log / name) + text + "\n", "utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of each call of a stub so far."""
        log = self._log / name
        words = log.read_bytes().split(b"\0")[:-1] if log.exists() else []
        calls: list[list[str]] = []
        while words:
            count = int(words.pop(0))
            calls.append([word.decode("utf-8", "surrogateescape") for word in words[:count]])
            del words[:count]
        return calls

    def forget_calls(self) -> None:
        """Begin to record anew."""
        for log in self._log.iterdir():
            log.unlink()

    def run(self, script: str, stdin: bytes = b"") -> CommandResult:
        """Run shell text as the login node would, with nothing inherited."""
        done = subprocess.run(
            [*self.shell, script],
            input=stdin,
            capture_output=True,
            cwd=self.home,
            env=self.environ(),
            check=False,
            timeout=60,
        )
        return CommandResult(status=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def environ(self) -> dict[str, str]:
        """What a command of a non-interactive login finds in its environment."""
        return {"HOME": str(self.home), "PATH": f"{self._bin}:/usr/bin:/bin"}

    def files(self, under: Path | None = None) -> set[str]:
        """The paths of all files below a folder (`.jarvice` by default), relative to it."""
        top = under or self.root
        return {
            os.path.relpath(os.path.join(folder, file), top)
            for folder, _, files in os.walk(top)
            for file in files
        }

    def write(self, path: str, text: str, *, age: float = 0.0, now: float = 0.0) -> Path:
        """Write a file below `.jarvice`, with a modification time `age` seconds before `now`."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        if age:
            os.utime(file, (now - age, now - age))
        return file
