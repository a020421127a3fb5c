"""MariaDB and slurmdbd: what makes `sacct` real."""

from __future__ import annotations

from deploy.devcluster.layout import Cluster

PACKAGES = ("mariadb-server-core", "slurmdbd")


def render_slurm_conf(cluster: Cluster) -> str:
    """The lines of slurm.conf(5) that are about accounting."""
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={cluster.port("slurmdbd")}"""
