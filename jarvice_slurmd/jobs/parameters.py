"""DOWNSTREAM_PARAMETERS: what a job's text learns of the cluster and the platform (PROTOCOL §2)."""

from __future__ import annotations

from shlex import quote

from attrs import field, frozen


@frozen(kw_only=True)
class Parameters:
    """The values behind DOWNSTREAM_PARAMETERS.

    Images are references with their transport (``docker://…``), empty when there is none; user
    names and passwords are base64; `overlay_size` is in MB; `scratch_dir` ends with a slash, None
    meaning the user's home on the node.
    """

    scratch_dir: str | None
    global_scratch_dir: str
    app_is_in_global_registries: bool
    tmpdir: str
    overlay_size: int
    local_user: str
    command: str = field(repr=False)
    app_image: str
    init_image: str
    app_username: str = field(repr=False)
    app_password: str = field(repr=False)
    init_username: str = field(repr=False)
    init_password: str = field(repr=False)
    verbose: bool
    http_proxy: str
    https_proxy: str
    no_proxy: str
    ingress_path: str = ""
    public_address: str = ""


def render_parameters(parameters: Parameters) -> str:
    """The exports that stand for DOWNSTREAM_PARAMETERS, every value one word for a shell.

    The service's port is what the node's own environment says in JARVICE_SERVICE_PORT: it is
    chosen there, where it is free. Apptainer reads its own prefix and warns about the older one,
    so both are set.
    """
    values = {
        "JARVICE_JOB_SCRATCH_DIR": (
            '"$HOME"/' if parameters.scratch_dir is None else quote(parameters.scratch_dir)
        ),
        "JARVICE_JOB_GLOBAL_SCRATCH_DIR": quote(parameters.global_scratch_dir),
        "JARVICE_JOB_APP_IS_IN_GLOBAL_REGISTRIES": str(parameters.app_is_in_global_registries),
        "SINGULARITYENV_JARVICE_SERVICE_PORT": '"${JARVICE_SERVICE_PORT:-5902}"',
        "APPTAINERENV_JARVICE_SERVICE_PORT": '"${JARVICE_SERVICE_PORT:-5902}"',
        "SINGULARITYENV_JARVICE_SSH_PORT": '"${JARVICE_SSH_PORT:-5903}"',
        "APPTAINERENV_JARVICE_SSH_PORT": '"${JARVICE_SSH_PORT:-5903}"',
        "JARVICE_INGRESSPATH": quote(parameters.ingress_path),
        "SINGULARITYENV_JARVICE_INGRESSPATH": quote(parameters.ingress_path),
        "APPTAINERENV_JARVICE_INGRESSPATH": quote(parameters.ingress_path),
        "JOB_PUBLICADDR": quote(parameters.public_address),
        "JARVICE_SINGULARITY_TMPDIR": quote(parameters.tmpdir),
        "JARVICE_SINGULARITY_OVERLAY_SIZE": str(parameters.overlay_size),
        "JOB_LOCAL_USER": quote(parameters.local_user),
        "JARVICE_INIT_DOCKER_USERNAME": quote(parameters.init_username),
        "JARVICE_INIT_DOCKER_PASSWORD": quote(parameters.init_password),
        "JARVICE_DOCKER_USERNAME": quote(parameters.app_username),
        "JARVICE_DOCKER_PASSWORD": quote(parameters.app_password),
        "JARVICE_APP_IMAGE": quote(parameters.app_image),
        "JARVICE_INIT_IMAGE": quote(parameters.init_image),
        "JARVICE_CMD": quote(parameters.command),
        "SV": "true" if parameters.verbose else "false",
        "SV_FLAG": "-v" if parameters.verbose else "-s",
        "SCHTTP_PROXY": quote(parameters.http_proxy),
        "SCHTTPS_PROXY": quote(parameters.https_proxy),
        "SCNO_PROXY": quote(parameters.no_proxy),
    }
    return "\n".join(f"export {name}={word}" for name, word in values.items())


def render_ingress_path(jobs_domain: str, number: int) -> str:
    """The path of a job's address without its slashes (PROTOCOL §3, JARVICE_INGRESSPATH).

    `jobs_domain` is JARVICE_JOBS_DOMAIN, or what of it begins with its path. Empty where jobs have
    hosts of their own.
    """
    path = jobs_domain.rpartition("://")[2].partition("/")[2]
    return path.strip("/").replace("$", str(number)) if "$" in path else ""


def render_public_address(jobs_domain: str, namespace: str, number: int) -> str:
    """A job's public host, with its port where one is named (PROTOCOL §3, %PUBLICADDR%).

    `jobs_domain` is JARVICE_JOBS_DOMAIN, `namespace` JARVICE_JOBS_NAMESPACE.
    """
    authority, _, path = jobs_domain.strip().rpartition("://")[2].partition("/")
    authority = authority.lower()
    return authority if "$" in path or not authority else f"{namespace}-{number}.{authority}"
