"""Where JupyterLab is: in a virtual environment of its own that the cluster's user may enter."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

from deploy.devcluster.apptainer import default_cache

_PROJECT = Path(__file__).parents[3]
_LOCK = _PROJECT / "requirements" / "apps.txt"

#: Jobs run as a user who can't enter the project's own environment: Debian's Python runs them.
_PYTHON = "/usr/bin/python3"


def install_packages(*names: str) -> None:
    """Have Debian packages; raises with what is missing where they can't be had."""
    done = subprocess.run(
        [str(_PROJECT / "deploy" / "install-packages"), *names],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())


def install_jupyter() -> Path:
    """The folder of its programs; takes a minute the first time, and is kept."""
    install_packages("python3", "python3-venv")
    lock = _LOCK.read_bytes()
    folder = default_cache() / f"apps-{hashlib.sha256(lock).hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            pip = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
            for words in (
                [_PYTHON, "-m", "venv", str(folder)],
                [*pip, "--require-hashes", "--only-binary=:all:", f"--requirement={_LOCK}"],
            ):
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"{words[0]} failed: {done.stderr.strip()}")
            (folder / ".complete").touch()
    return folder / "bin"
