"""Which images a job pulls, and as whom."""

from __future__ import annotations

import base64
import json

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.credentials import (
    DOCKER_HUB,
    Credentials,
    Secret,
    find_credentials,
    image_registry,
    parse_container_secret,
    parse_docker_secret,
)
from jarvice_slurmd.jobs.images import ImagePolicy, select_images

REPO = "registry.example.com/team/reverse_engineer:1.0"
PLATFORM = Credentials(username="platform", password="platform-password")
POLICY = ImagePolicy(
    system_registry="sys.example.com",
    system_repo_base="jarvice/base",
    images_tag="4.1",
    init_credentials=PLATFORM,
)


def config(**auths: object) -> str:
    """A docker configuration as JOBOBJ_CTRSECRET holds it; __ stands for a dot in a name."""
    named = {key.replace("__", "."): value for key, value in auths.items()}
    return base64.b64encode(json.dumps({"auths": named}).encode()).decode()


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def secret(server: str, user: str = "user") -> Secret:
    return Secret(server=server, credentials=Credentials(username=user, password="secret"))


class NamesTests(SynchronousTestCase):
    def test_plain(self) -> None:
        images = select_images(POLICY, repo=REPO, appdefversion=2)
        self.assertEqual(images.app, f"docker://{REPO}")
        self.assertEqual(images.init, "docker://sys.example.com/jarvice/base/initv2:4.1")

    def test_no_system_registry(self) -> None:
        images = select_images(ImagePolicy(), repo=REPO)
        self.assertIsNone(images.init)
        self.assertIsNone(images.init_credentials)

    def test_local_registry(self) -> None:
        policy = ImagePolicy(
            local_registry="local:5000",
            local_repo_base="jarvice/apps",
            registry_proxy_port=5001,
            registry_proxy_repos=("registry.example.com",),
        )
        images = select_images(policy, repo=REPO, nae="bleveugle-reverse_engineer")
        self.assertEqual(
            images.app, "docker://local:5000/jarvice/apps/bleveugle-reverse_engineer:latest"
        )

    def test_local_registry_needs_the_application(self) -> None:
        for nae in (None, "", "a b", "../x"):
            error = self.assertRaises(
                InvalidArgumentsError,
                select_images,
                ImagePolicy(local_registry="local", local_repo_base="x"),
                repo=REPO,
                nae=nae,
            )
            self.assertIn("JOBOBJ_NAE", str(error))

    def test_proxy(self) -> None:
        through = "localhost:5001/team/reverse_engineer:1.0"
        cases = {
            "registry.example.com": through,
            "registry.example.com/": through,
            "registry.example.com/te": through,
            "registry.example.co": through,
            "registry.example.com/team/reverse_engineer:1": through,
            "registry.example.com/team": through,
            "registry.example.com/team/reverse_engineer": through,
            "registry.example.com/team/": through,
            "egistry.example.com": REPO,
            "registry.example.com/team/reverse_engineer:1.0.1": REPO,
            "other.example.com": REPO,
        }
        for proxied, expected in cases.items():
            policy = ImagePolicy(registry_proxy_port=5001, registry_proxy_repos=(proxied,))
            self.assertEqual(select_images(policy, repo=REPO).app, f"docker://{expected}", proxied)
        several = ImagePolicy(registry_proxy_port=5001, registry_proxy_repos=("x", "registry"))
        self.assertEqual(select_images(several, repo=REPO).app, f"docker://{through}")
        self.assertEqual(select_images(several, repo="/x.sif").app, "/x.sif")

    def test_file_on_the_cluster(self) -> None:
        images = select_images(POLICY, repo="/shared/apps/solver 2.sif")
        self.assertEqual(images.app, "/shared/apps/solver 2.sif")
        self.assertIsNone(images.app_credentials)

    def test_wrong_names(self) -> None:
        for repo in (None, "", "a b", "-x", "a\nb", "$(id)", "docker://", "docker:///etc/passwd"):
            error = self.assertRaises(InvalidArgumentsError, select_images, POLICY, repo=repo)
            self.assertIn("JOBOBJ_REPO", str(error))

    def test_registry_of_an_image(self) -> None:
        cases = {
            "registry.example.com/a:1": "registry.example.com",
            "REG.example.com/a": "reg.example.com",
            "localhost/a": "localhost",
            "host:5000/a/b@sha256:00": "host:5000",
            "nimbix/app:latest": DOCKER_HUB,
            "ubuntu:22.04": DOCKER_HUB,
            "docker.io/library/ubuntu": DOCKER_HUB,
        }
        for image, registry in cases.items():
            self.assertEqual(image_registry(image), registry, image)

    def test_global_registries(self) -> None:
        def is_global(*registries: str) -> bool:
            policy = ImagePolicy(global_registries=registries)
            return select_images(policy, repo=REPO).app_is_in_global_registries

        self.assertTrue(is_global("other.example.com", "registry.example.com"))
        self.assertTrue(is_global("https://registry.example.com/v2/"))
        self.assertFalse(is_global())
        self.assertFalse(is_global("registry.example.org"))


class CredentialsTests(SynchronousTestCase):
    def choose(self, image: str, *secrets: Secret) -> str | None:
        found = find_credentials(image, secrets)
        return None if found is None else found.username

    def test_server_forms(self) -> None:
        for server in (
            "registry.example.com",
            "https://registry.example.com",
            "https://registry.example.com/",
            "https://registry.example.com/v2/",
            "HTTPS://Registry.Example.com/v1",
            "registry.example.com:443",
        ):
            self.assertEqual(self.choose(REPO, secret(server)), "user", server)

    def test_other_servers(self) -> None:
        for server in ("example.com", "registry.example.com:5000", "registry.example.com.evil.org"):
            self.assertIsNone(self.choose(REPO, secret(server)), server)

    def test_docker_hub(self) -> None:
        for server in ("https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"):
            for image in ("nimbix/app", "ubuntu", "docker.io/nimbix/app"):
                self.assertEqual(self.choose(image, secret(server)), "user", (server, image))

    def test_longest_path(self) -> None:
        secrets = (
            secret("registry.example.com", "all"),
            secret("registry.example.com/team", "team"),
            secret("registry.example.com/tea", "tea"),
        )
        self.assertEqual(self.choose(REPO, *secrets), "team")
        self.assertEqual(self.choose("registry.example.com/x", *secrets), "all")

    def test_job_before_container(self) -> None:
        images = select_images(
            POLICY,
            repo=REPO,
            docker_secret=secret("https://registry.example.com", "job"),
            container_secrets=(
                secret("registry.example.com", "container"),
                secret("registry.example.com/team", "container"),
            ),
        )
        assert images.app_credentials is not None
        self.assertEqual(images.app_credentials.username, "job")

    def test_container_when_the_job_is_for_another(self) -> None:
        images = select_images(
            POLICY,
            repo=REPO,
            docker_secret=secret("other.example.com", "job"),
            container_secrets=(secret("https://registry.example.com/v2/", "container"),),
        )
        assert images.app_credentials is not None
        self.assertEqual(images.app_credentials.username, "container")

    def test_public(self) -> None:
        self.assertIsNone(select_images(POLICY, repo="nimbix/app").app_credentials)

    def test_init_is_pulled_as_the_platform(self) -> None:
        own = secret("sys.example.com", "job")
        images = select_images(POLICY, repo=REPO, docker_secret=own)
        self.assertEqual(images.init_credentials, PLATFORM)
        self.assertIsNone(images.app_credentials)

    def test_nothing_is_shown(self) -> None:
        images = select_images(
            POLICY, repo=REPO, docker_secret=secret("registry.example.com", "job-user")
        )
        shown = repr(images)
        for word in ("job-user", "secret", "platform"):
            self.assertNotIn(word, shown)
        self.assertIn("c2VjcmV0", images.secrets)
        self.assertIn("platform-password", images.secrets)


class ParsingTests(SynchronousTestCase):
    def test_docker_secret(self) -> None:
        for text in (
            '{"server": "https://registry.example.com", "username": "test", "password": "pass"}',
            '{{"server": "https://registry.example.com", "username": "test", "password": "pass"}}',
        ):
            found = parse_docker_secret(text)
            assert found is not None
            self.assertEqual(found.credentials, Credentials(username="test", password="pass"))
            self.assertEqual(found.server, "https://registry.example.com")

    def test_docker_secret_of_docker_hub(self) -> None:
        found = parse_docker_secret('{"username": "test", "password": "pass"}')
        assert found is not None
        self.assertEqual(found.server, DOCKER_HUB)

    def test_no_docker_secret(self) -> None:
        for text in (
            None,
            "",
            "  ",
            "{}",
            "null",
            '{"server": "", "username": "", "password": ""}',
        ):
            self.assertIsNone(parse_docker_secret(text), text)

    def test_wrong_docker_secret(self) -> None:
        for text in ("hunter2", "[]", '{"username": {"hunter2": 1}}', '"hunter2"', "[" * 100_000):
            error = self.assertRaises(InvalidArgumentsError, parse_docker_secret, text)
            self.assertIn("JOBOBJ_DOCKER_SECRET", str(error))
            self.assertNotIn("hunter2", str(error))
            self.assertIsNone(error.__cause__)

    def test_container_secret(self) -> None:
        found = parse_container_secret(
            config(
                a__example__com=auth("anna", "with:colon"),
                b__example__com={"username": "bert", "password": "pass"},
                c__example__com={},
            )
        )
        self.assertEqual(
            {item.server: item.credentials for item in found},
            {
                "a.example.com": Credentials(username="anna", password="with:colon"),
                "b.example.com": Credentials(username="bert", password="pass"),
            },
        )

    def test_no_container_secret(self) -> None:
        for text in (None, "", " ", base64.b64encode(b"{}").decode(), config()):
            self.assertEqual(parse_container_secret(text), (), text)

    def test_wrong_container_secret(self) -> None:
        for text in (
            "hunter2",
            base64.b64encode(b"hunter2").decode(),
            base64.b64encode(b'{"auths": ["hunter2"]}').decode(),
            base64.b64encode(b"\xff").decode(),
            config(a="hunter2"),
            config(a={"auth": "hunter2!"}),
            config(a={"username": 7}),
        ):
            error = self.assertRaises(InvalidArgumentsError, parse_container_secret, text)
            self.assertIn("JOBOBJ_CTRSECRET", str(error))
            self.assertNotIn("hunter2", str(error))
