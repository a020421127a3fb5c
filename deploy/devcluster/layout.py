"""What one cluster is made of: its options, folder, ports and addresses."""

from __future__ import annotations

import json
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

TEST_USER = "jarvice-dev"
LOCK = "lock"

# Unix socket paths end at 107 bytes; slurmstepd's are `<state>/spool/n1/n1_<jobid>.<step>`.
_LONGEST_STATE = 70

# Below the kernel's ephemeral ports, so that no outgoing connection sits on one of ours.
_FIRST_PORT = 20000
_PORTS_A_CLUSTER = 48
_CLUSTERS = 250
MOST_NODES = 32


class DevClusterError(Exception):
    """Something a person has to know; the text is one, or the tail of a log follows it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `up` may be asked for. Ages and waits are in seconds; None leaves sshd's default."""

    nodes: int = 2
    accounting: bool = False
    login_shell: str | None = None
    banner: str | None = None
    max_sessions: int | None = None
    rekey_limit: str | None = None
    sshd_options: tuple[str, ...] = ()
    min_job_age: int = 10
    kill_wait: int = 5
    slurm_options: tuple[str, ...] = ()
    apptainer: bool = False
    registry: bool = False


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One cluster: a folder, a block of ports and a 127.x network that nobody else has."""

    state: Path
    block: int
    options: Options

    @property
    def name(self) -> str:
        """Slurm's ClusterName."""
        return f"dev{self.block}"

    @property
    def node_names(self) -> tuple[str, ...]:
        """n1, n2, …"""
        return tuple(f"n{i}" for i in range(1, self.options.nodes + 1))

    def node_address(self, name: str) -> str:
        """A node's loopback address: the only way to reach it, its name resolves nowhere."""
        return f"127.100.{self.block + 1}.{10 + int(name[1:])}"

    def port(self, part: str) -> int:
        """The TCP port of a part; optional parts have theirs whether they run or not."""
        fixed = ("sshd", "slurmctld", "slurmdbd", "mariadbd", "registry")
        offset = fixed.index(part) if part in fixed else 10 + int(part[1:])
        return _FIRST_PORT + self.block * _PORTS_A_CLUSTER + offset

    @property
    def ports(self) -> range:
        """Every port this cluster may ever listen on."""
        first = self.port("sshd")
        return range(first, first + _PORTS_A_CLUSTER)

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def bin(self) -> Path:
        """First in the PATH of sessions and daemons; a link to what optional parts bring."""
        return self.state / "bin"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def ssh(self) -> Path:
        return self.state / "ssh"

    @property
    def scratch(self) -> Path:
        """JARVICE_SLURM_SCRATCH_DIR; the test user owns it."""
        return self.state / "scratch"

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.run / "munge.socket"

    def make_folders(self) -> None:
        """Make the folder and those in it; the test user must be able to pass through."""
        self.state.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.state.chmod(0o755)
        for folder in (self.etc, self.run, self.log, self.ssh, self.scratch):
            folder.mkdir(mode=0o755)

    def save(self) -> None:
        """Write what `load` needs; done before anything is started, so that `down` finds it."""
        text = json.dumps({"block": self.block, "options": asdict(self.options)}, indent=1)
        _record(self.state).write_text(text + "\n")

    @classmethod
    def load(cls, state: Path) -> Cluster | None:
        """The cluster of a folder, or None when there is none."""
        try:
            record = json.loads(_record(state).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DevClusterError(f"{_record(state)} can't be read: {error}") from error
        options = record["options"]
        for several in ("sshd_options", "slurm_options"):
            options[several] = tuple(options[several])
        return cls(state=state, block=record["block"], options=Options(**options))


def _record(state: Path) -> Path:
    return state / "cluster.json"


def default_state() -> Path:
    """The folder that is used when none is named."""
    home = os.environ.get("XDG_STATE_HOME")
    if home:
        return Path(home) / "jarvice-devcluster"
    return Path(tempfile.gettempdir()) / f"jarvice-devcluster-{os.getuid()}"


def check_state(state: Path) -> None:
    """Refuse a folder that can't hold a cluster, in words that say what to do."""
    if state.exists() and state.stat().st_uid != os.getuid():
        raise DevClusterError(f"{state} belongs to somebody else: use another --state")
    if len(os.fsencode(state)) > _LONGEST_STATE:
        raise DevClusterError(
            f"{state} is too long for the Unix sockets in it: use a --state of at most "
            f"{_LONGEST_STATE} bytes"
        )
    if any(char.isspace() or char in "\"'\\#%$=" for char in str(state)):
        raise DevClusterError(
            f"{state} holds characters that slurm.conf can't: use another --state"
        )
    for parent in state.parents:
        if parent.exists() and not parent.stat().st_mode & 0o001:
            raise DevClusterError(
                f"{TEST_USER} can't enter {parent}, where the cluster would be: use another --state"
            )
    if _record(state).exists() or not state.exists():
        return
    if any(path.name != LOCK for path in state.iterdir()):
        raise DevClusterError(f"{state} is not empty and holds no cluster: use another --state")


@contextmanager
def free_block() -> Iterator[int]:
    """Choose a block of ports that are all free, and hold it until what uses it has started.

    A part that was stopped on purpose leaves its port free, but not those around it, so a new
    cluster never takes it.
    """
    for block in random.sample(range(_CLUSTERS), _CLUSTERS):
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                # Of the network namespace, as ports are; gone when this process is.
                claim.bind(f"\0jarvice-devcluster-{block}")
            except OSError:
                continue
            first = _FIRST_PORT + block * _PORTS_A_CLUSTER
            if all(_is_free(port) for port in range(first, first + _PORTS_A_CLUSTER)):
                yield block
                return
    raise DevClusterError("no block of free TCP ports was found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
