"""Which images a job's nodes pull (PROTOCOL §2, Images). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.credentials import Credentials, Secret, covers, find_credentials

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*\Z", re.ASCII)
# What containers/image takes as docker://: a registry, whose name holds a dot or a port or is
# localhost; a path in lower case; a tag or a digest (of both it says that they are not supported).
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*+"
_HOST = r"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*+"
_DOCKER_REFERENCE = re.compile(
    rf"(?:(?:localhost|{_HOST}(?:\.{_HOST})++|{_HOST}(?=:))(?::[0-9]{{1,5}})?/)?"
    rf"{_PART}(?:/{_PART})*+"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?\Z",
    re.ASCII,
)
_LONGEST = 255
_LOCAL_FILE = re.compile(r"/[^\x00-\x1f\x7f]+\Z")
_APPLICATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)


@frozen(kw_only=True)
class ImagePolicy:
    """What the platform says of images (PROTOCOL §5).

    `init_credentials` are the platform's own, for the init image; `global_registries` are
    registries, or repositories below a path of one, that jobs are told are global.
    """

    system_registry: str = ""
    system_repo_base: str = ""
    images_tag: str = ""
    local_registry: str | None = None
    local_repo_base: str | None = None
    registry_proxy_port: int | None = None
    registry_proxy_repos: tuple[str, ...] = ()
    global_registries: tuple[str, ...] = ()
    init_credentials: Credentials | None = None


@frozen(kw_only=True)
class JobImages:
    """What a job's nodes pull; None as credentials means that the image is public.

    `init` and `app` are as the container tool takes them: docker://…, or the path of a file.
    """

    init: str | None
    app: str
    init_credentials: Credentials | None = None
    app_credentials: Credentials | None = None
    app_is_in_global_registries: bool = False

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no text that is shown may hold."""
        found: list[str] = []
        for credentials in (self.init_credentials, self.app_credentials):
            if credentials is not None:
                found += [credentials.password, credentials.password_base64]
        return tuple(found)


def select_images(
    policy: ImagePolicy,
    *,
    repo: str | None,
    nae: str | None = None,
    appdefversion: int = 2,
    docker_secret: Secret | None = None,
    container_secrets: Sequence[Secret] = (),
) -> JobImages:
    """Choose the images of a job, and the credentials for each.

    Raises `InvalidArgumentsError` naming the field when an image can't be named.
    """
    own = (docker_secret,) if docker_secret else ()

    def credentials_for(image: str) -> Credentials | None:
        # The job's own docker secret first, whatever else would fit better (PROTOCOL §2, Images).
        return find_credentials(image, own) or find_credentials(image, container_secrets)

    app = application_image(policy, repo=repo, nae=nae)
    if app.startswith("/"):
        app_credentials, is_global = None, False
    else:
        app_credentials = credentials_for(app)
        is_global = any(covers(entry, app) for entry in policy.global_registries)
        app = f"docker://{app}"
    init = init_image(policy, appdefversion)
    return JobImages(
        init=f"docker://{init}" if init else None,
        app=app,
        init_credentials=(policy.init_credentials or credentials_for(init) if init else None),
        app_credentials=app_credentials,
        app_is_in_global_registries=is_global,
    )


def init_image(policy: ImagePolicy, appdefversion: int) -> str | None:
    """The platform's init image; None where the platform names no registry for it."""
    if not policy.system_registry:
        return None
    parts = (policy.system_registry, policy.system_repo_base, f"initv{appdefversion}")
    name = "/".join(part.strip("/") for part in parts if part.strip("/"))
    return f"{name}:{policy.images_tag}" if policy.images_tag else name


def application_image(policy: ImagePolicy, *, repo: str | None, nae: str | None) -> str:
    """The application's image: the local registry's, one through the proxy, or the plain one.

    Without docker://. Raises `InvalidArgumentsError` where neither a repository nor, for a local
    registry, an application is named.
    """
    if policy.local_registry:
        if not nae or not _APPLICATION.match(nae):
            raise InvalidArgumentsError(
                f"the application (JOBOBJ_NAE, or job.nae) is {nae!r}; its image comes from the "
                "local registry, by that name"
            )
        parts = (policy.local_registry, policy.local_repo_base or "", f"{nae}:latest")
        return "/".join(part.strip("/") for part in parts if part.strip("/"))
    if not repo:
        raise InvalidArgumentsError("JOBOBJ_REPO is not set; a job needs an image")
    return _through_proxy(policy, parse_image(repo, "JOBOBJ_REPO"))


def parse_image(text: str, name: str) -> str:
    """An image's name, without docker://; or the absolute path of an image file on the cluster.

    `name` is what the field is called where it came from. Raises `InvalidArgumentsError`.
    """
    image = text.removeprefix("docker://")
    if not (_REFERENCE.match(image) or _LOCAL_FILE.match(text)):
        raise InvalidArgumentsError(
            f"{name} is {text[:200]!r}; it must be the name of a docker image, "
            "such as registry.example.com/team/app:1.0"
        )
    return image


def check_reference(text: str, name: str) -> str:
    """An image that a job names itself, as `parse_image`, when a container tool will take it.

    Raises `InvalidArgumentsError` which says what would be right.
    """
    image = parse_image(text, name)
    if text.startswith("/") or (len(image) <= _LONGEST and _DOCKER_REFERENCE.match(image)):
        return image
    raise InvalidArgumentsError(
        f"{name} is {text[:200]!r}, which is no docker image: [docker://][registry[:port]/]path in"
        " lower case, with :tag or @sha256:digest, such as registry.example.com/team/app:1.0; an"
        " image file is named by its absolute path"
    )


def _through_proxy(policy: ImagePolicy, image: str) -> str:
    if policy.registry_proxy_port is None or image.startswith("/"):
        return image
    if not image.startswith(policy.registry_proxy_repos):
        return image
    _, slash, rest = image.partition("/")
    return f"localhost:{policy.registry_proxy_port}/{rest if slash else image}"
