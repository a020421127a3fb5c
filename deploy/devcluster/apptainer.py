"""A working `singularity` command for ordinary users, on a Debian that may not have the package.

Where apt knows a package `apptainer`, it is installed. Debian 12 knows none, and its libc is too
old for the one in unstable: there, apptainer and the libc it needs are taken from unstable
through a private apt configuration, unpacked into a folder, and joined by patchelf. Neither the
system's apt sources nor its libc are touched; nothing keeps running. Standard library only.

    python3 deploy/devcluster/apptainer.py [--cache FOLDER] [--check USER]

prints the folder to put in the PATH of the login and compute nodes.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = (
    "squashfs-tools",
    "squashfuse",
    "fuse2fs",
    "fuse-overlayfs",
    "fuse3",
    "uidmap",
    "e2fsprogs",
)
"""What apptainer runs for a user without setuid: it mounts images and overlays through FUSE."""

BUILD_PACKAGES = ("patchelf", "debian-archive-keyring")
"""What makes one where Debian has no package of it."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INSTALL_PACKAGES = Path(__file__).resolve().parent.parent / "install-packages"


class ApptainerError(Exception):
    """Apptainer can't be made to work on this machine; the text says why."""


def install_apptainer(cache: Path | None = None) -> Path:
    """Make `singularity` and `apptainer` and return the folder that holds both, made once.

    `cache` is a folder that every user may enter, `default_cache()` when None. Takes root when
    packages are missing or /dev/fuse is closed to users. Raises `ApptainerError`.
    """
    folder = (cache or default_cache()).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _require_reachable(folder)
    with _locked(folder / "apptainer.lock"):
        _install_packages(*PACKAGES)
        _open_fuse()
        system = _find_system()
        if system is None and _apt_has("apptainer"):
            _install_packages("apptainer")
            system = _find_system()
        if system is not None:
            return _link_names(folder / "system-bin", system)
        prefix = folder / "apptainer"
        complete = prefix / ".complete"
        # The location is part of what patchelf wrote: a folder that was moved is made anew.
        if not complete.exists() or complete.read_text() != str(prefix):
            shutil.rmtree(prefix, ignore_errors=True)
            _build(prefix)
            complete.write_text(str(prefix))
        return prefix / "usr/bin"


def packages() -> tuple[str, ...]:
    """All Debian packages that `install_apptainer` needs on this machine."""
    if _find_system() is not None:
        return PACKAGES
    return (*PACKAGES, "apptainer") if _apt_has("apptainer") else (*PACKAGES, *BUILD_PACKAGES)


def default_cache() -> Path:
    """Return `${XDG_CACHE_HOME:-~/.cache}/jarvice-devcluster` where others may enter it.

    Root's home is usually closed to the test user; then it is below /var/tmp, in a folder that
    nobody else has made.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if base.is_absolute() and base.is_dir() and _closed_part(base) is None:
        return base / "jarvice-devcluster"
    folder = Path("/var/tmp") / f"jarvice-devcluster-{os.getuid()}"  # noqa: S108 - checked below
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o755)
    found = folder.lstat()
    if found.st_uid != os.getuid() or folder.is_symlink() or found.st_mode & 0o022:
        raise ApptainerError(f"{folder} belongs to somebody else or may be written by others")
    return folder


def check_apptainer(bin_folder: Path, user: str) -> list[str]:
    """Run containers as `user` from a local image, and return a line for each thing that works.

    Raises `ApptainerError` with apptainer's own words for the first that does not.
    """
    account = pwd.getpwnam(user)
    _install_packages("busybox-static")
    with tempfile.TemporaryDirectory(prefix="apptainer-check-", dir="/var/tmp") as name:
        work = Path(name)
        root = work / "root"
        (root / "bin").mkdir(parents=True)
        for folder in ("dev", "etc", "home", "proc", "sys", "tmp", "var/tmp"):
            (root / folder).mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for applet in ("sh", "touch", "cat", "id"):
            (root / "bin" / applet).symlink_to("busybox")
        for path in (work, *work.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)

        def singularity(*arguments: str) -> str:
            run = subprocess.run(
                [str(bin_folder / "singularity"), *arguments],
                user=account.pw_uid if os.getuid() == 0 else None,
                group=account.pw_gid if os.getuid() == 0 else None,
                extra_groups=[] if os.getuid() == 0 else None,
                cwd=work,
                env={"PATH": f"{bin_folder}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": name},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if run.returncode:
                raise ApptainerError(f"singularity {arguments[0]}: {run.stderr.strip()}")
            return run.stdout.strip()

        write = ("a.sif", "sh", "-c", "touch /written && cat /written")
        done = [f"version: {singularity('--version')}"]
        singularity("build", "a.sif", "root")
        done.append(f"image, as user {singularity('exec', 'a.sif', 'id', '-u')}: ok")
        singularity("exec", "--writable-tmpfs", *write)
        done.append("writable tmpfs: ok")
        singularity("overlay", "create", "--size", "64", "o.img")
        singularity("exec", "--overlay", "o.img", *write)
        done.append("overlay image: ok")
    return done


def _find_system() -> Path | None:
    """Return the machine's own apptainer; never one of ours that a PATH may lead to."""
    for folder in ("/usr/local/bin", "/usr/bin"):
        for name in ("apptainer", "singularity"):
            if os.access(program := Path(folder, name), os.X_OK):
                return program
    return None


def _build(prefix: Path) -> None:
    print("Fetching Apptainer, and the libc that it needs, from Debian unstable", file=sys.stderr)
    _install_packages(*BUILD_PACKAGES)
    with tempfile.TemporaryDirectory(prefix="apptainer-apt-") as name:
        for package in _download(Path(name), ("apptainer", "libc6")):
            _run("dpkg", "-x", str(package), str(prefix))
    prefix.chmod(0o755)
    loaders = sorted(prefix.glob("usr/lib/*/ld-linux-*.so.*"))
    if not loaders:
        raise ApptainerError("the libc6 package holds no loader where it is expected")
    loader = loaders[0]
    libraries = loader.parent
    for program in (prefix / "usr/bin/apptainer", libraries / "apptainer/bin/starter"):
        # RPATH, not RUNPATH: it must reach the needs of the libraries themselves.
        _run(
            *("patchelf", "--set-interpreter", str(loader)),
            *("--force-rpath", "--set-rpath", str(libraries), str(program)),
        )
    # It looks for its configuration below where it finds itself.
    for link, target in (("usr/etc", "etc"), ("usr/lib/etc", "etc")):
        (prefix / link).symlink_to(prefix / target)
    for link in ("usr/var", "usr/lib/var"):
        (prefix / link).symlink_to(prefix / "var")
    (prefix / "var/lib/apptainer/mnt/session").mkdir(parents=True, exist_ok=True)
    _link_names(prefix / "usr/bin", prefix / "usr/bin/apptainer")


def _download(work: Path, names: Sequence[str]) -> list[Path]:
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    sources = work / "sources.list"
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    sources.write_text(f"deb {signed}{_mirror()} sid main\n")
    options: list[str] = []
    for option in (
        f"Dir::Etc::SourceList={sources}",
        "Dir::Etc::SourceParts=/dev/null",
        "Dir::Etc::Preferences=/dev/null",
        "Dir::Etc::PreferencesParts=/dev/null",
        f"Dir::State::Lists={work}/lists",
        f"Dir::Cache={work}/cache",
        "APT::Sandbox::User=",
        "Acquire::Languages=none",
    ):
        options += ["-o", option]
    _run("apt-get", "-q", *options, "update", cwd=work)
    _run("apt-get", "-q", *options, "download", *names, cwd=work)
    packages = sorted(work.glob("*.deb"))
    if len(packages) != len(names):
        raise ApptainerError(f"apt-get download fetched {[p.name for p in packages]}")
    return packages


def _mirror() -> str:
    """Return the address this machine gets Debian from, in apt's own words."""
    release = _release().get("VERSION_CODENAME", "")
    targets = _run("apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)")
    for line in targets.splitlines():
        codename, component, address = line.split(" ", 2)
        if component == "main" and codename == release:
            return address
    raise ApptainerError(f"apt's configuration has no source for {release or 'this release'} main")


def _release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key: value.strip('"') for key, _, value in pairs}


def _apt_has(package: str) -> bool:
    policy = subprocess.run(
        ["apt-cache", "policy", package], capture_output=True, text=True, check=False
    )
    candidate = [line for line in policy.stdout.splitlines() if "Candidate:" in line]
    return bool(candidate) and "(none)" not in candidate[0]


def _install_packages(*packages: str) -> None:
    _run(str(INSTALL_PACKAGES), *packages)


def _open_fuse() -> None:
    fuse = Path("/dev/fuse")
    if not fuse.exists():
        raise ApptainerError("/dev/fuse is missing: the kernel offers no FUSE (modprobe fuse)")
    if fuse.stat().st_mode & 0o666 == 0o666:
        return
    try:
        fuse.chmod(0o666)
    except PermissionError:
        raise ApptainerError("/dev/fuse is closed to users; as root: chmod 666 /dev/fuse") from None


def _link_names(folder: Path, program: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("apptainer", "singularity"):
        link = folder / name
        if link == program:
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(program)
    return folder


def _closed_part(folder: Path) -> Path | None:
    """Return the first folder on the way that other users may not enter."""
    way = (folder, *folder.parents)
    return next((part for part in reversed(way) if not part.stat().st_mode & 0o001), None)


def _require_reachable(folder: Path) -> None:
    closed = _closed_part(folder)
    if closed is not None:
        raise ApptainerError(f"other users may not enter {closed}: choose another cache folder")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise ApptainerError(f"{Path(command[0]).name} failed: {said}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 when apptainer can't be made to work."""
    parser = argparse.ArgumentParser(description="Make singularity work; print its folder.")
    parser.add_argument("--cache", type=Path, metavar="FOLDER")
    parser.add_argument("--check", metavar="USER", help="run containers as this user")
    options = parser.parse_args(arguments)
    try:
        folder = install_apptainer(options.cache)
        print(folder)
        for line in check_apptainer(folder, options.check) if options.check else ():
            print(line, file=sys.stderr)
    except ApptainerError as error:
        print(f"apptainer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
