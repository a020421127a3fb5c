"""MariaDB and slurmdbd: what makes `sacct` real."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path

from deploy.devcluster import processes
from deploy.devcluster.layout import TEST_USER, Cluster
from deploy.devcluster.parts import Part, accepts, run

# Not mariadb-server: that one is a service of the system. The client has what installs a database.
PACKAGES = ("mariadb-server-core", "mariadb-client-core", "slurmdbd")

_ADDRESS = "127.0.0.1"
_DATABASE = "slurm_acct_db"
_ACCOUNT = "dev"


def render_slurm_conf(cluster: Cluster) -> str:
    """The lines of slurm.conf(5) that are about accounting."""
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={_ADDRESS}
AccountingStoragePort={cluster.port("slurmdbd")}
# The munge socket: AuthInfo does not reach the conversation with slurmdbd.
AccountingStoragePass={cluster.munge_socket}
AccountingStoreFlags=job_comment"""


def prepare(cluster: Cluster) -> None:
    """Install an empty database and write slurmdbd's configuration."""
    run(
        [
            "mariadb-install-db",
            *_mariadb_options(cluster),
            "--skip-test-db",
            "--skip-name-resolve",
            "--auth-root-authentication-method=socket",
        ]
    )
    password = secrets.token_hex(16)
    _write_secret(
        _init_file(cluster),
        f"CREATE DATABASE IF NOT EXISTS {_DATABASE};\n"
        f"CREATE USER IF NOT EXISTS slurm@'{_ADDRESS}' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON {_DATABASE}.* TO slurm@'{_ADDRESS}';\n",
    )
    _write_secret(cluster.etc / "slurmdbd.conf", _render_slurmdbd_conf(cluster, password))


def database_part(cluster: Cluster) -> Part:
    """mariadbd, on a loopback port and a socket of its own."""
    return Part(
        name="mariadbd",
        argv=(
            "mariadbd",
            *_mariadb_options(cluster),
            f"--socket={cluster.run}/mariadb.socket",
            f"--pid-file={cluster.run}/mariadbd.own.pid",
            f"--bind-address={_ADDRESS}",
            f"--port={cluster.port('mariadbd')}",
            "--skip-name-resolve",
            f"--init-file={_init_file(cluster)}",
            # What slurmdbd asks for, in a size that fits a development machine.
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",
            # A crash of the machine may cost this database; jobs ending must not wait for disks.
            "--innodb-flush-log-at-trx-commit=0",
        ),
        answers=partial(accepts, _ADDRESS, cluster.port("mariadbd")),
    )


def daemon_part(cluster: Cluster) -> Part:
    """slurmdbd; it finds its configuration beside slurm.conf."""
    return Part(
        name="slurmdbd",
        argv=("slurmdbd", "-D"),
        answers=partial(accepts, _ADDRESS, cluster.port("slurmdbd")),
    )


def register(cluster: Cluster) -> None:
    """Have slurmdbd know the cluster and the test user, before slurmctld starts."""
    for words in (
        ("cluster", cluster.name),
        ("account", _ACCOUNT, f"Cluster={cluster.name}"),
        ("user", TEST_USER, f"Account={_ACCOUNT}", f"Cluster={cluster.name}"),
    ):
        run(["sacctmgr", "-i", "-Q", "add", *words], env=processes.environment(cluster))


def _mariadb_options(cluster: Cluster) -> tuple[str, ...]:
    return (
        "--no-defaults",
        f"--datadir={cluster.state}/mariadb",
        "--user=root",
        "--innodb-log-file-size=16M",
    )


def _init_file(cluster: Cluster) -> Path:
    return cluster.etc / "mariadb-init.sql"


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _render_slurmdbd_conf(cluster: Cluster, password: str) -> str:
    """slurmdbd.conf(5)."""
    return f"""\
DbdHost=localhost
DbdAddr={_ADDRESS}
DbdPort={cluster.port("slurmdbd")}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={cluster.munge_socket}
LogFile={cluster.log}/slurmdbd.log
PidFile={cluster.run}/slurmdbd.own.pid
StorageType=accounting_storage/mysql
StorageHost={_ADDRESS}
StoragePort={cluster.port("mariadbd")}
StorageLoc={_DATABASE}
StorageUser=slurm
StoragePass={password}
"""
