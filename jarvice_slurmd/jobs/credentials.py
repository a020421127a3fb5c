"""As whom a job's nodes pull: registries, and the secrets for them (PROTOCOL §2, Images). Pure.

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

#: Where an image without a registry in its name comes from (PROTOCOL §2, Images).
DOCKER_HUB: Final = "index.docker.io"
_DOCKER_HUB_NAMES: Final = frozenset(
    {DOCKER_HUB, "docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com"}
)
_API_PATHS: Final = frozenset({"", "v1", "v2"})


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
class Secret:
    """Credentials and what they are for: a registry, or repositories below a path of it."""

    server: str
    credentials: Credentials


def image_registry(image: str) -> str:
    """The registry that an image comes from, in lower case (PROTOCOL §2, Images)."""
    first, slash, _ = image.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return DOCKER_HUB if first.lower() in _DOCKER_HUB_NAMES else first.lower()
    return DOCKER_HUB


def covers(server: str, image: str) -> bool:
    """Whether an image comes from a registry, or from below a path of it."""
    registry, path = _server_parts(server)
    if image_registry(image).removesuffix(":443") != registry:
        return False
    # Where the first segment is no registry, all of the name is its path.
    first, _, rest = image.partition("/")
    named = "." in first or ":" in first or first == "localhost"
    own = f"/{rest if named and rest else image}"
    return not path or own == path or (own.startswith(path) and own[len(path)] in "/:@")


def _server_parts(server: str) -> tuple[str, str]:
    """The registry and the path that credentials are for; the path of an API says nothing."""
    bare = re.sub(r"^[a-z]+://", "", server.strip(), flags=re.IGNORECASE)
    registry, _, path = bare.partition("/")
    registry = registry.lower().removesuffix(":443")
    path = path.strip("/")
    if path in _API_PATHS:
        path = ""
    return DOCKER_HUB if registry in _DOCKER_HUB_NAMES else registry, path and f"/{path}"


def find_credentials(image: str, secrets: Sequence[Secret]) -> Credentials | None:
    """The first credentials for an image's registry, those of a longer path before the others."""
    fitting = [secret for secret in secrets if covers(secret.server, image)]
    if not fitting:
        return None
    # max() keeps the first of equals.
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


def _wrong_docker_secret() -> InvalidArgumentsError:
    return InvalidArgumentsError(
        "JOBOBJ_DOCKER_SECRET must be a JSON object of the texts server, username and password"
    )


def _wrong_container_secret() -> InvalidArgumentsError:
    return InvalidArgumentsError(
        "JOBOBJ_CTRSECRET must be the base64 of a docker configuration whose auths "
        "hold auth, or username and password, for each registry"
    )
