"""The environment in which the daemon finds this cluster (PROTOCOL §5)."""

from __future__ import annotations

import shlex

from deploy.devcluster import login
from deploy.devcluster.layout import TEST_USER, Cluster


def daemon_environment(cluster: Cluster) -> dict[str, str]:
    """The variables, in the order in which they are printed.

    The registry's address is a port of ours where a registry may listen: valid, whether one
    does or not.
    """
    return {
        "JARVICE_SLURM_CLUSTER_ADDR": login.ADDRESS,
        "JARVICE_SLURM_CLUSTER_PORT": str(cluster.port("sshd")),
        "JARVICE_SLURM_SSH_USER": TEST_USER,
        "JARVICE_SLURM_SSH_PKEY": (cluster.ssh / "user_ed25519").read_text(),
        "JARVICE_SLURM_SSH_KNOWN_HOSTS": (cluster.ssh / "known_hosts").read_text(),
        "JARVICE_SLURM_SCRATCH_DIR": f"{cluster.scratch}/",
        "JARVICE_SYSTEM_REGISTRY": f"127.0.0.1:{cluster.port('registry')}",
        "JARVICE_SYSTEM_REPO_BASE": "jarvice",
        "JARVICE_IMAGES_TAG": "dev",
    }


def render_exports(variables: dict[str, str]) -> str:
    """Lines for a shell's `eval`."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
