"""The environment in which the daemon finds this cluster (PROTOCOL §5)."""

from __future__ import annotations

import shlex

from deploy.devcluster import login, registry
from deploy.devcluster.layout import TEST_USER, Cluster


def daemon_environment(cluster: Cluster) -> dict[str, str]:
    """The variables, in the order in which they are printed.

    The registry's address is valid whether a registry listens there or not.
    """
    variables = {
        "JARVICE_SLURM_CLUSTER_ADDR": login.ADDRESS,
        "JARVICE_SLURM_CLUSTER_PORT": str(cluster.port("sshd")),
        "JARVICE_SLURM_SSH_USER": TEST_USER,
        "JARVICE_SLURM_SSH_PKEY": (cluster.ssh / "user_ed25519").read_text(),
        "JARVICE_SLURM_SSH_KNOWN_HOSTS": (cluster.ssh / "known_hosts").read_text(),
        "JARVICE_SLURM_SCRATCH_DIR": f"{cluster.scratch}/",
        "JARVICE_SYSTEM_REGISTRY": registry.address(cluster),
        "JARVICE_SYSTEM_REPO_BASE": registry.SYSTEM_REPO_BASE,
        "JARVICE_IMAGES_TAG": registry.IMAGES_TAG,
    }
    if cluster.options.registry:
        variables |= registry.daemon_environment(cluster)
    return variables


def render_exports(variables: dict[str, str]) -> str:
    """Lines for a shell's `eval`."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
