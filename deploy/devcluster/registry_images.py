"""The images of the cluster's registry: busybox, and a script or two (umoci(1), skopeo(1))."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.devcluster import registry
from deploy.devcluster.layout import Cluster
from deploy.devcluster.parts import run

_SYSTEM_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n",
    "etc/NAE/help.html": "<h1>Test application</h1>\n",
}

#: Announces itself, and on SIGTERM saves its work to $1 and says goodbye.
_FAREWELL = """\
#!/bin/sh
trap 'sleep 1; [ -z "$1" ] || echo "work of $(hostname)" >"$1"; echo farewell; exit 0' TERM
echo "farewell: ready"
while :; do sleep 1; done
"""

#: A small web service on the port that an interactive application is given.
_WEB = """\
#!/bin/sh
mkdir -p /tmp/www.$$ && cd /tmp/www.$$ || exit 1
echo "<h1>Hello from $(hostname)</h1>" >index.html
echo "web: listening on ${JARVICE_SERVICE_PORT:-5902}"
exec httpd -f -p "${JARVICE_SERVICE_PORT:-5902}" -h /tmp/www.$$
"""

#: What a real init image is for is JARVICE's own affair; this one leaves a mark.
_INIT = """\
#!/bin/sh
echo "init image: $*"
"""


def push_images(cluster: Cluster) -> None:
    """Build the cluster's images and push them: an application with a shell profile and one
    without, one that saves its work when it is ended, a web service, and the init image."""
    applications = registry.APPLICATIONS
    init = f"{registry.SYSTEM_REPO_BASE}/initv2:{registry.IMAGES_TAG}"
    push_image(cluster, f"{applications}/app:latest", _SYSTEM_FILES)
    push_image(cluster, f"{applications}/no-profile:latest", {})
    push_image(
        cluster,
        f"{applications}/farewell:latest",
        {**_SYSTEM_FILES, "bin/farewell": _FAREWELL},
    )
    push_image(cluster, f"{applications}/web:latest", {**_SYSTEM_FILES, "bin/web": _WEB})
    push_image(cluster, init, {**_SYSTEM_FILES, "init.sh": _INIT}, entrypoint="/init.sh")


def push_image(
    cluster: Cluster, name: str, files: Mapping[str, str], *, entrypoint: str = "/bin/sh"
) -> str:
    """Push an image of busybox and these files (path to text; scripts are executable).

    `name` is below the registry, with its tag; the whole name is returned. A name pushed again
    is another image from then on.
    """
    with tempfile.TemporaryDirectory(prefix="devcluster-image-") as folder:
        root = Path(folder, "root")
        _fill(root, files)
        layout = f"{folder}/oci"
        image = f"{layout}:image"
        run(("umoci", "init", "--layout", layout))
        run(("umoci", "new", "--image", image))
        run(("umoci", "insert", "--image", image, str(root), "/"))
        run(("umoci", "config", "--image", image, "--config.entrypoint", entrypoint))
        whole = f"{registry.address(cluster)}/{name}"
        run(
            (
                *("skopeo", "copy", "--quiet", "--dest-tls-verify=false"),
                *("--authfile", str(cluster.etc / "registry.auth.json")),
                *(f"oci:{image}", f"docker://{whole}"),
            )
        )
    return whole


def _fill(root: Path, files: Mapping[str, str]) -> None:
    for folder in ("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "var/tmp"):
        (root / folder).mkdir(parents=True)
    busybox = Path("/bin/busybox")
    (root / "bin/busybox").write_bytes(busybox.read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in run((str(busybox), "--list")).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
