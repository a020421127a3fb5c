"""The daemon's configuration, read from environment variables (PROTOCOL §5)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

from jarvice_slurmd.errors import JarviceSlurmdError

#: Names of the open-source predecessor, accepted as synonyms (PROTOCOL §5).
_SYNONYMS: Final = {
    "JARVICE_SLURM_SCHED_LOGLEVEL": "JARVICE_SCHED_LOGLEVEL",
    "JARVICE_SLURM_HTTP_PROXY": "JARVICE_BAREMETAL_HTTP_PROXY",
    "JARVICE_SLURM_HTTPS_PROXY": "JARVICE_BAREMETAL_HTTPS_PROXY",
    "JARVICE_SLURM_NO_PROXY": "JARVICE_BAREMETAL_NO_PROXY",
    "JARVICE_SLURM_OVERLAY_SIZE": "JARVICE_SINGULARITY_OVERLAY_SIZE",
    "JARVICE_SLURM_SCRATCH_DIR": "JARVICE_JOB_SCRATCH_DIR",
    "JARVICE_SLURM_EXECUTOR": "JARVICE_BAREMETAL_EXECUTOR",
}
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0", ""})


class SettingsError(JarviceSlurmdError):
    """The configuration is wrong; `problems` holds a sentence for each thing that is.

    `settings` is what was read all the same, so that whoever knows more can look for more.
    """

    def __init__(self, problems: list[str], settings: Settings) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.settings = settings


@frozen(kw_only=True)
class Settings:
    """What the platform administrator configured (PROTOCOL §5); `from_environ` makes one.

    `scratch_dir` and `global_scratch_dir` end with a slash; None means the login user's home.
    `overlay_size` is in MB, 0 meaning a writable tmpfs; `output_bytes` and `body_bytes` bound a
    job's output in one answer and a request's body; `command_timeout` is in seconds.
    """

    ssh_host: str
    ssh_port: int
    ssh_user: str
    ssh_pkey: str = field(repr=False)
    ssh_known_hosts: str | None = None
    ssh_max_sessions: int = 10
    ssh_max_connections: int = 3
    command_timeout: float = 20.0
    output_bytes: int = 4 * 1024 * 1024
    body_bytes: int = 16 * 1024 * 1024
    log_level: int = 30
    http_proxy: str = field(default="", repr=False)
    https_proxy: str = field(default="", repr=False)
    no_proxy: str = ""
    overlay_size: int = 640
    scratch_dir: str | None = None
    global_scratch_dir: str = ""
    global_registries: tuple[str, ...] = ()
    executor: str = "singularity"
    singularity_tmpdir: str = "/tmp"  # noqa: S108 - a default for compute nodes, not ours to open
    singularity_verbose: bool = False
    system_registry: str = ""
    system_repo_base: str = ""
    images_tag: str = ""
    local_registry: str | None = None
    local_repo_base: str | None = None
    registry_proxy_port: int | None = None
    registry_proxy_repos: tuple[str, ...] = ()
    docker_username: str = field(default="", repr=False)
    docker_password: str = field(default="", repr=False)
    server_key: str | None = field(default=None, repr=False)
    jobs_domain: str | None = None
    jobs_namespace: str = ""
    answered_minutes: int = 60
    unasked_days: int = 30
    pvcls_folders: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings; raises `SettingsError` with every problem at once."""
        read = _Reader(environ)
        proxy_port = read.optional_number("JARVICE_REGISTRY_PROXY_PORT", 1, 65535)
        server_key = read.text("JARVICE_SCHED_SERVER_KEY") or None
        if server_key is not None and not server_key.partition(":")[2]:
            read.problem(
                "JARVICE_SCHED_SERVER_KEY", "must be user:password; the password is not to be empty"
            )
        settings = cls(
            ssh_host=read.required("JARVICE_SLURM_CLUSTER_ADDR"),
            ssh_port=read.number("JARVICE_SLURM_CLUSTER_PORT", 22, 1, 65535),
            ssh_user=read.required("JARVICE_SLURM_SSH_USER"),
            ssh_pkey=read.private_key("JARVICE_SLURM_SSH_PKEY"),
            ssh_known_hosts=read.text_or_file("JARVICE_SLURM_SSH_KNOWN_HOSTS"),
            ssh_max_sessions=read.number("JARVICE_SLURM_SSH_MAX_SESSIONS", 10, 1, 1000),
            ssh_max_connections=read.number("JARVICE_SLURM_SSH_MAX_CONNECTIONS", 3, 1, 10),
            command_timeout=read.number("JARVICE_SLURM_COMMAND_TIMEOUT", 20, 1, 600),
            output_bytes=read.number("JARVICE_SLURM_OUTPUT_BYTES", 4194304, 1, 1 << 30),
            body_bytes=read.number("JARVICE_SLURM_BODY_BYTES", 16777216, 1024, 1 << 30),
            log_level=read.number("JARVICE_SLURM_SCHED_LOGLEVEL", 30, 0, 100),
            http_proxy=read.text("JARVICE_SLURM_HTTP_PROXY"),
            https_proxy=read.text("JARVICE_SLURM_HTTPS_PROXY"),
            no_proxy=read.text("JARVICE_SLURM_NO_PROXY"),
            overlay_size=read.number("JARVICE_SLURM_OVERLAY_SIZE", 640, 0, 10**9),
            scratch_dir=read.folder("JARVICE_SLURM_SCRATCH_DIR") or None,
            global_scratch_dir=read.folder("JARVICE_JOB_GLOBAL_SCRATCH_DIR"),
            global_registries=read.words("JARVICE_JOB_GLOBAL_REGISTRIES"),
            executor=read.text("JARVICE_SLURM_EXECUTOR") or "singularity",
            singularity_tmpdir=read.folder("JARVICE_SINGULARITY_TMPDIR").rstrip("/") or "/tmp",  # noqa: S108
            singularity_verbose=read.boolean("JARVICE_SINGULARITY_VERBOSE"),
            system_registry=read.text("JARVICE_SYSTEM_REGISTRY"),
            system_repo_base=read.text("JARVICE_SYSTEM_REPO_BASE"),
            images_tag=read.text("JARVICE_IMAGES_TAG"),
            local_registry=read.text("JARVICE_LOCAL_REGISTRY") or None,
            local_repo_base=read.text("JARVICE_LOCAL_REPO_BASE") or None,
            registry_proxy_port=proxy_port,
            registry_proxy_repos=read.words("JARVICE_REGISTRY_PROXY_REPOS"),
            docker_username=read.base64_text("JARVICE_DOCKER_USERNAME"),
            docker_password=read.base64_text("JARVICE_DOCKER_PASSWORD"),
            server_key=server_key,
            jobs_domain=read.text("JARVICE_JOBS_DOMAIN") or None,
            jobs_namespace=read.text("JARVICE_JOBS_NAMESPACE"),
            answered_minutes=read.number("JARVICE_SLURM_KEEP_ANSWERED_MINUTES", 60, 1, 10**6),
            unasked_days=read.number("JARVICE_SLURM_KEEP_UNASKED_DAYS", 30, 1, 10**5),
            pvcls_folders=read.folders("JARVICE_SLURM_PVCLS_FOLDERS"),
        )
        if settings.local_registry is not None and settings.local_repo_base is None:
            read.problem("JARVICE_LOCAL_REPO_BASE", "is needed when JARVICE_LOCAL_REGISTRY is set")
        if read.problems:
            raise SettingsError(read.problems, settings)
        return settings


def split_proxy(proxy: str) -> tuple[str, str, str]:
    """A proxy's scheme with its `://`, its `user:password`, and its host; empty what is not there.

    A password may hold an `@` or a `://` that should have been escaped.
    """
    before, at, host = proxy.rpartition("@")
    scheme, separator, credentials = before.partition("://")
    if not at:
        return "", "", proxy
    return (scheme + separator, credentials, host) if separator else ("", before, host)


class _Reader:
    """Reads single variables and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ
        self._primary = {synonym: name for name, synonym in _SYNONYMS.items()}

    def problem(self, name: str, sentence: str) -> None:
        self.problems.append(f"{name} {sentence}")

    def text(self, name: str) -> str:
        value = self._environ.get(name, "").strip()
        if not value and name in _SYNONYMS:
            value = self._environ.get(_SYNONYMS[name], "").strip()
        return value

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            self.problem(name, "is required and not set")
        elif re.search(r"\s", value):
            self.problem(name, f"is {value!r}; it must not hold white space")
        return value

    def number(self, name: str, default: int, least: int, most: int) -> int:
        value = self.optional_number(name, least, most)
        return default if value is None else value

    def optional_number(self, name: str, least: int, most: int) -> int | None:
        value = self.text(name)
        if not value:
            return None
        if value.isascii() and value.isdigit() and len(value) < 16 and least <= int(value) <= most:
            return int(value)
        self.problem(name, f"is {value[:60]!r}; it must be a whole number from {least} to {most}")
        return None

    def boolean(self, name: str) -> bool:
        value = self.text(name).lower()
        if value not in _TRUE and value not in _FALSE:
            self.problem(name, f"is {value!r}; it must be true or false")
        return value in _TRUE

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(word for word in re.split(r"[,\s]+", self.text(name)) if word)

    def folders(self, name: str) -> tuple[str, ...]:
        folders = self.words(name)
        for folder in folders:
            if not folder.startswith("/"):
                self.problem(name, f"holds {folder!r}; it must hold absolute paths on the cluster")
        return folders

    def folder(self, name: str) -> str:
        value = self.text(name)
        if value and (not value.startswith("/") or re.search(r"[\x00-\x1f\x7f]", value)):
            self.problem(name, f"is {value!r}; it must be an absolute path on the cluster")
        return f"{value.rstrip('/')}/" if value else ""

    def base64_text(self, name: str) -> str:
        value = self.text(name)
        try:
            return base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            self.problem(name, "must be base64 of UTF-8 text")
            return ""

    def private_key(self, name: str) -> str:
        value = self.text(name)
        if not value:
            self.problem(name, "is required and not set")
            return ""
        if "-----BEGIN" not in value:
            try:
                value = base64.b64decode("".join(value.split()), validate=True).decode("ascii")
            except (binascii.Error, ValueError):
                value = ""
        if "-----BEGIN" not in value:
            self.problem(name, "must be a private key's PEM text, or that base64-encoded")
        return f"{value.strip()}\n"

    def text_or_file(self, name: str) -> str | None:
        value = self.text(name)
        if not value.startswith("/"):
            return value or None
        try:
            with open(value, encoding="utf-8") as file:
                return file.read()
        except (OSError, ValueError) as error:
            self.problem(name, f"names the file {value!r}, which can't be read: {error}")
            return None
