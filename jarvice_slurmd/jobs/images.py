"""Which images a job's nodes pull, and as whom (PROTOCOL §2, Images). Pure.

Every error here is an `InvalidArgumentsError` that names the field, and tells no secret.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.script import load_json

#: What an image without a registry in its name comes from, by the name that docker's own
#: configuration has for it.
DOCKER_HUB: Final = "index.docker.io"
_DOCKER_HUB_NAMES: Final = frozenset(
    {DOCKER_HUB, "docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com"}
)
_API_PATHS: Final = frozenset({"", "v1", "v2"})
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*\Z", re.ASCII)
_LOCAL_FILE = re.compile(r"/[^\x00-\x1f\x7f]+\Z")
_APPLICATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)


@frozen(kw_only=True)
class Credentials:
    """A registry's user and password; neither is shown."""

    username: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def username_base64(self) -> str:
        """The user as the job's parameters carry it (PROTOCOL §2)."""
        return base64.b64encode(self.username.encode()).decode("ascii")

    @property
    def password_base64(self) -> str:
        """The password as the job's parameters carry it (PROTOCOL §2)."""
        return base64.b64encode(self.password.encode()).decode("ascii")


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
class Secret:
    """Credentials and what they are for: a registry, or repositories below a path of it."""

    server: str
    credentials: Credentials


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
    secrets = (docker_secret, *container_secrets) if docker_secret else tuple(container_secrets)
    app = application_image(policy, repo=repo, nae=nae)
    if app.startswith("/"):
        app_credentials, is_global = None, False
    else:
        app_credentials = find_credentials(app, secrets)
        is_global = any(_covers(entry, app) for entry in policy.global_registries)
        app = f"docker://{app}"
    init = init_image(policy, appdefversion)
    return JobImages(
        init=f"docker://{init}" if init else None,
        app=app,
        init_credentials=(
            policy.init_credentials or find_credentials(init, secrets) if init else None
        ),
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
                f"JOBOBJ_NAE is {nae!r}; it must name the application, "
                "whose image comes from the local registry"
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


def image_registry(image: str) -> str:
    """The registry that an image comes from, in lower case (PROTOCOL §2, Images)."""
    first, slash, _ = image.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return DOCKER_HUB if first.lower() in _DOCKER_HUB_NAMES else first.lower()
    return DOCKER_HUB


def find_credentials(image: str, secrets: Sequence[Secret]) -> Credentials | None:
    """The first credentials for an image's registry, those of a longer path before the others."""
    fitting = [secret for secret in secrets if _covers(secret.server, image)]
    if not fitting:
        return None
    # The job's own docker secret stands first, and max() keeps the first of equals.
    return max(fitting, key=lambda secret: _server_parts(secret.server)[1].count("/")).credentials


def parse_docker_secret(text: str | None) -> Secret | None:
    """Read JOBOBJ_DOCKER_SECRET: JSON of server, username, password; braces may be doubled.

    None when it is unset or names nobody; raises `InvalidArgumentsError`.
    """
    if text is None or not text.strip():
        return None
    try:
        value = load_json(text)
    except ValueError:
        raise _wrong_docker_secret() from None
    if value in ({}, None):
        return None
    if not isinstance(value, dict):
        raise _wrong_docker_secret()
    return docker_secret_from(value)


def docker_secret_from(value: Mapping[str, Any]) -> Secret | None:
    """A docker secret as JSON's own objects; None when it names nobody.

    Raises `InvalidArgumentsError` where a part is no text.
    """
    words = [value.get(key) or "" for key in ("server", "username", "password")]
    if not all(isinstance(word, str) for word in words):
        raise _wrong_docker_secret()
    server, username, password = words
    if not username:
        return None
    return Secret(
        server=server or DOCKER_HUB,
        credentials=Credentials(username=username, password=password),
    )


def parse_container_secret(text: str | None) -> tuple[Secret, ...]:
    """Read JOBOBJ_CTRSECRET: base64 of a docker config with `auths`.

    Raises as `container_secrets_from`.
    """
    if text is None or not text.strip():
        return ()
    try:
        value = json.loads(base64.b64decode("".join(text.split()), validate=True).decode("utf-8"))
    except (ValueError, RecursionError):
        raise _wrong_container_secret() from None
    return container_secrets_from(value)


def container_secrets_from(value: object) -> tuple[Secret, ...]:
    """The credentials of a docker config (docker login's config.json) as JSON's own objects.

    Entries without a user are left out. Raises `InvalidArgumentsError` where it is no such thing.
    """
    auths = value.get("auths", {}) if isinstance(value, dict) else None
    if not isinstance(auths, dict):
        raise _wrong_container_secret()
    found = []
    for server, entry in auths.items():
        if not isinstance(entry, dict):
            raise _wrong_container_secret()
        credentials = _read_entry(entry)
        if credentials is not None:
            found.append(Secret(server=server, credentials=credentials))
    return tuple(found)


def _read_entry(entry: Mapping[str, Any]) -> Credentials | None:
    username, password, auth = (entry.get(key) or "" for key in ("username", "password", "auth"))
    if not (isinstance(username, str) and isinstance(password, str) and isinstance(auth, str)):
        raise _wrong_container_secret()
    if auth and not username:
        try:
            text = base64.b64decode(auth, validate=True).decode("utf-8").rstrip("\0")
        except (binascii.Error, ValueError):
            raise _wrong_container_secret() from None
        username, _, password = text.partition(":")
    return Credentials(username=username, password=password) if username else None


def _through_proxy(policy: ImagePolicy, image: str) -> str:
    if policy.registry_proxy_port is None or image.startswith("/"):
        return image
    for proxied in policy.registry_proxy_repos:
        prefix = proxied.rstrip("/")
        if image == prefix or (image.startswith(prefix) and image[len(prefix)] in "/:@"):
            _, slash, rest = image.partition("/")
            return f"localhost:{policy.registry_proxy_port}/{rest if slash else image}"
    return image


def _server_parts(server: str) -> tuple[str, str]:
    """The registry and the path that credentials are for; the path of an API says nothing."""
    bare = re.sub(r"^[a-z]+://", "", server.strip(), flags=re.IGNORECASE)
    registry, _, path = bare.partition("/")
    registry = registry.lower().removesuffix(":443")
    path = path.strip("/")
    if path in _API_PATHS:
        path = ""
    return DOCKER_HUB if registry in _DOCKER_HUB_NAMES else registry, path and f"/{path}"


def _covers(server: str, image: str) -> bool:
    """Whether an image comes from a registry, or from below a path of it."""
    registry, path = _server_parts(server)
    if image_registry(image).removesuffix(":443") != registry:
        return False
    # Where the first segment is no registry, all of the name is its path.
    first, _, rest = image.partition("/")
    named = "." in first or ":" in first or first == "localhost"
    own = f"/{rest if named and rest else image}"
    return not path or own == path or (own.startswith(path) and own[len(path)] in "/:@")


def _wrong_docker_secret() -> InvalidArgumentsError:
    return InvalidArgumentsError(
        "JOBOBJ_DOCKER_SECRET must be a JSON object of the texts server, username and password"
    )


def _wrong_container_secret() -> InvalidArgumentsError:
    return InvalidArgumentsError(
        "JOBOBJ_CTRSECRET must be the base64 of a docker configuration whose auths "
        "hold auth, or username and password, for each registry"
    )
