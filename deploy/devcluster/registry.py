"""An image registry of the cluster's own, which asks for a password and holds small images."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
from functools import partial

from deploy.devcluster.layout import Cluster, DevClusterError
from deploy.devcluster.parts import Part, accepts

PACKAGES = ("docker-registry", "apache2-utils", "umoci", "skopeo", "busybox-static")

#: Where the images stand: the platform's init image, and applications (PROTOCOL §2, Images).
SYSTEM_REPO_BASE = "jarvice"
IMAGES_TAG = "dev"
APPLICATIONS = "apps"


def address(cluster: Cluster) -> str:
    """The registry as it stands at the beginning of an image's name."""
    return f"127.0.0.1:{cluster.port('registry')}"


def credentials(cluster: Cluster) -> tuple[str, str]:
    """User and password, made for this cluster."""
    user, _, password = _login_file_text(cluster).partition(":")
    return user, password


def prepare(cluster: Cluster) -> None:
    """Make the credentials and write the configuration."""
    user, password = "jarvice", secrets.token_urlsafe(18)
    _write_private(cluster, "registry.login", f"{user}:{password}")
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    auths = {"auths": {address(cluster): {"auth": encoded}}}
    _write_private(cluster, "registry.auth.json", json.dumps(auths))
    made = subprocess.run(
        ("htpasswd", "-n", "-i", "-B", "-C", "5", user),
        input=password,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise DevClusterError(f"htpasswd failed: {made.stderr.strip()}")
    _write_private(cluster, "registry.htpasswd", made.stdout)
    (cluster.etc / "registry.yml").write_text(_render_configuration(cluster))
    (cluster.state / "registry").mkdir(mode=0o700, exist_ok=True)


def registry_part(cluster: Cluster) -> Part:
    """docker-registry, on loopback, without TLS: a job needs `job_environment`."""
    return Part(
        name="registry",
        argv=("docker-registry", "serve", str(cluster.etc / "registry.yml")),
        answers=partial(accepts, "127.0.0.1", cluster.port("registry")),
    )


def daemon_environment(cluster: Cluster) -> dict[str, str]:
    """What the daemon must be told of this registry (PROTOCOL §5)."""
    user, password = credentials(cluster)
    return {
        "JARVICE_SYSTEM_REGISTRY": address(cluster),
        "JARVICE_SYSTEM_REPO_BASE": SYSTEM_REPO_BASE,
        "JARVICE_IMAGES_TAG": IMAGES_TAG,
        "JARVICE_DOCKER_USERNAME": base64.b64encode(user.encode()).decode(),
        "JARVICE_DOCKER_PASSWORD": base64.b64encode(password.encode()).decode(),
    }


def job_environment() -> dict[str, str]:
    """What sessions on the login node, and with them jobs, need to pull without TLS."""
    return {"APPTAINER_NOHTTPS": "1", "SINGULARITY_NOHTTPS": "1"}


def _render_configuration(cluster: Cluster) -> str:
    """docker-registry's configuration (distribution/distribution, docs/configuration)."""
    return json.dumps(
        {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(cluster.state / "registry")},
                "delete": {"enabled": True},
            },
            "http": {"addr": address(cluster), "secret": secrets.token_hex(16)},
            "auth": {
                "htpasswd": {
                    "realm": cluster.name,
                    "path": str(cluster.etc / "registry.htpasswd"),
                }
            },
        },
        indent=1,
    )


def _write_private(cluster: Cluster, name: str, text: str) -> None:
    path = cluster.etc / name
    path.touch(mode=0o600)
    path.write_text(text)


def _login_file_text(cluster: Cluster) -> str:
    try:
        return (cluster.etc / "registry.login").read_text()
    except FileNotFoundError as error:
        raise DevClusterError(f"the cluster in {cluster.state} has no registry") from error
