"""The configuration, from environment variables (PROTOCOL §5)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.settings import Settings, SettingsError
from test.properties import property_test

_PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"
_LEAST = {
    "JARVICE_SLURM_CLUSTER_ADDR": "login.example.org",
    "JARVICE_SLURM_SSH_USER": "jarvice",
    "JARVICE_SLURM_SSH_PKEY": _PEM,
}
_NUMBERS = (
    "JARVICE_SLURM_CLUSTER_PORT",
    "JARVICE_SLURM_SSH_MAX_SESSIONS",
    "JARVICE_SLURM_SSH_MAX_CONNECTIONS",
    "JARVICE_SLURM_COMMAND_TIMEOUT",
    "JARVICE_SLURM_OUTPUT_BYTES",
    "JARVICE_SLURM_BODY_BYTES",
    "JARVICE_SLURM_SCHED_LOGLEVEL",
    "JARVICE_SLURM_OVERLAY_SIZE",
    "JARVICE_REGISTRY_PROXY_PORT",
    "JARVICE_SLURM_KEEP_ANSWERED_MINUTES",
    "JARVICE_SLURM_KEEP_UNASKED_DAYS",
)


def _settings(**environ: str) -> Settings:
    return Settings.from_environ({**_LEAST, **environ})


class GoodTests(SynchronousTestCase):
    """Configurations that are right."""

    def test_defaults(self) -> None:
        """What is required, and nothing else."""
        settings = _settings()
        self.assertEqual(
            (settings.ssh_host, settings.ssh_port, settings.ssh_user),
            ("login.example.org", 22, "jarvice"),
        )
        self.assertEqual((settings.log_level, settings.overlay_size), (30, 640))
        self.assertEqual((settings.scratch_dir, settings.global_scratch_dir), (None, ""))
        self.assertEqual((settings.server_key, settings.jobs_domain), (None, None))
        self.assertEqual((settings.ssh_known_hosts, settings.executor), (None, "singularity"))
        self.assertFalse(settings.singularity_verbose)
        self.assertEqual((settings.http_proxy, settings.registry_proxy_repos), ("", ()))

    def test_every_variable(self) -> None:
        """Each of PROTOCOL §5's has its effect."""
        expected: dict[str, tuple[str, Any]] = {
            "JARVICE_SLURM_CLUSTER_PORT": ("2222", ("ssh_port", 2222)),
            "JARVICE_SLURM_SCHED_LOGLEVEL": ("10", ("log_level", 10)),
            "JARVICE_SLURM_HTTP_PROXY": ("http://p", ("http_proxy", "http://p")),
            "JARVICE_SLURM_HTTPS_PROXY": ("http://s", ("https_proxy", "http://s")),
            "JARVICE_SLURM_NO_PROXY": ("a,b", ("no_proxy", "a,b")),
            "JARVICE_SLURM_OVERLAY_SIZE": ("0", ("overlay_size", 0)),
            "JARVICE_SLURM_SCRATCH_DIR": ("/scratch", ("scratch_dir", "/scratch/")),
            "JARVICE_SINGULARITY_TMPDIR": ("/var/tmp", ("singularity_tmpdir", "/var/tmp")),
            "JARVICE_SINGULARITY_VERBOSE": ("True", ("singularity_verbose", True)),
            "JARVICE_SYSTEM_REGISTRY": ("r.io", ("system_registry", "r.io")),
            "JARVICE_SYSTEM_REPO_BASE": ("base", ("system_repo_base", "base")),
            "JARVICE_IMAGES_TAG": ("1", ("images_tag", "1")),
            "JARVICE_LOCAL_REGISTRY": ("l.io", ("local_registry", "l.io")),
            "JARVICE_LOCAL_REPO_BASE": ("apps", ("local_repo_base", "apps")),
            "JARVICE_REGISTRY_PROXY_PORT": ("5000", ("registry_proxy_port", 5000)),
            "JARVICE_REGISTRY_PROXY_REPOS": (
                "a.io, b.io",
                ("registry_proxy_repos", ("a.io", "b.io")),
            ),
            "JARVICE_DOCKER_USERNAME": ("cm9ib3Q=", ("docker_username", "robot")),
            "JARVICE_DOCKER_PASSWORD": ("w6k=", ("docker_password", "é")),
            "JARVICE_SCHED_SERVER_KEY": ("user:pass:word", ("server_key", "user:pass:word")),
            "JARVICE_JOBS_DOMAIN": ("d.com/job$", ("jobs_domain", "d.com/job$")),
            "JARVICE_JOBS_NAMESPACE": ("ns", ("jobs_namespace", "ns")),
            "JARVICE_JOB_GLOBAL_SCRATCH_DIR": ("/g/", ("global_scratch_dir", "/g/")),
            "JARVICE_JOB_GLOBAL_REGISTRIES": ("x.io y.io", ("global_registries", ("x.io", "y.io"))),
            "JARVICE_SLURM_PVCLS_FOLDERS": ("/a,/b", ("pvcls_folders", ("/a", "/b"))),
        }
        settings = _settings(**{name: value for name, (value, _) in expected.items()})
        for name, (_, (attribute, value)) in expected.items():
            self.assertEqual(getattr(settings, attribute), value, name)

    def test_ignored(self) -> None:
        """What the chart sets for others is left alone, whatever it is."""
        self.assertEqual(
            _settings(
                JARVICE_SYSTEM_K8S="x",
                JARVICE_SLURM_EXPERIMENTAL="maybe",
                JARVICE_CLUSTER_TYPE="?",
                JARVICE_DAL_URL="",
                JARVICE_JOBS_INGRESS_CLASS="nginx",
            ),
            _settings(),
        )

    def test_synonyms(self) -> None:
        """The predecessor's names, where ours are not set."""
        settings = _settings(
            JARVICE_SCHED_LOGLEVEL="20",
            JARVICE_BAREMETAL_HTTP_PROXY="http://p",
            JARVICE_BAREMETAL_HTTPS_PROXY="http://s",
            JARVICE_BAREMETAL_NO_PROXY="n",
            JARVICE_SINGULARITY_OVERLAY_SIZE="5",
            JARVICE_JOB_SCRATCH_DIR="/old",
            JARVICE_BAREMETAL_EXECUTOR="apptainer",
        )
        self.assertEqual((settings.log_level, settings.overlay_size), (20, 5))
        self.assertEqual(
            (settings.http_proxy, settings.https_proxy, settings.no_proxy),
            ("http://p", "http://s", "n"),
        )
        self.assertEqual((settings.scratch_dir, settings.executor), ("/old/", "apptainer"))

    def test_ours_before_synonyms(self) -> None:
        """Ours wins; empty is not set."""
        both = {"JARVICE_SLURM_OVERLAY_SIZE": "1", "JARVICE_SINGULARITY_OVERLAY_SIZE": "2"}
        self.assertEqual(_settings(**both).overlay_size, 1)
        self.assertEqual(_settings(**{**both, "JARVICE_SLURM_OVERLAY_SIZE": " "}).overlay_size, 2)

    def test_key(self) -> None:
        """PEM text, or that base64-encoded, on one line or several; line ends as they come."""
        encoded = base64.encodebytes(_PEM.encode() * 3).decode()
        self.assertEqual(_settings().ssh_pkey, _PEM)
        self.assertEqual(_settings(JARVICE_SLURM_SSH_PKEY=f"\n{_PEM}\n\n").ssh_pkey, _PEM)
        for text in (encoded, encoded.replace("\n", ""), f" {encoded} "):
            self.assertEqual(_settings(JARVICE_SLURM_SSH_PKEY=text).ssh_pkey, _PEM * 3)

    def test_known_hosts(self) -> None:
        """Text, or the path of a file."""
        line = "login.example.org ssh-ed25519 AAAA"
        self.assertEqual(_settings(JARVICE_SLURM_SSH_KNOWN_HOSTS=line).ssh_known_hosts, line)
        file = Path(self.mktemp())
        file.write_text(f"{line}\n")
        path = str(file.absolute())
        self.assertEqual(_settings(JARVICE_SLURM_SSH_KNOWN_HOSTS=path).ssh_known_hosts, f"{line}\n")


class BadTests(SynchronousTestCase):
    """Configurations that are wrong."""

    def problems(self, **environ: str) -> list[str]:
        with self.assertRaises(SettingsError, msg=environ) as caught:
            _settings(**environ)
        return list(caught.exception.problems)

    def test_nothing_set(self) -> None:
        """All that is required is named at once."""
        with self.assertRaises(SettingsError) as caught:
            Settings.from_environ({})
        self.assertEqual(
            caught.exception.problems, [f"{name} is required and not set" for name in _LEAST]
        )
        self.assertEqual(str(caught.exception).count("\n"), 2)

    def test_everything_wrong(self) -> None:
        """Every problem is told at once, each once, by its variable's name."""
        wrong = {
            **dict.fromkeys(_NUMBERS, "many"),
            "JARVICE_SLURM_CLUSTER_ADDR": "two words",
            "JARVICE_SLURM_SSH_USER": "",
            "JARVICE_SLURM_SSH_PKEY": "no key",
            "JARVICE_SLURM_SSH_KNOWN_HOSTS": "/nonexistent/file",
            "JARVICE_SLURM_SCRATCH_DIR": "relative",
            "JARVICE_JOB_GLOBAL_SCRATCH_DIR": "~/x",
            "JARVICE_SINGULARITY_VERBOSE": "perhaps",
            "JARVICE_DOCKER_USERNAME": "!",
            "JARVICE_DOCKER_PASSWORD": "/w==",
            "JARVICE_SCHED_SERVER_KEY": "nocolon",
            "JARVICE_LOCAL_REGISTRY": "l.io",
        }
        problems = self.problems(**wrong)
        named = sorted(problem.split()[0] for problem in problems)
        self.assertEqual(
            named, sorted(set(wrong) - {"JARVICE_LOCAL_REGISTRY"} | {"JARVICE_LOCAL_REPO_BASE"})
        )

    def test_numbers(self) -> None:
        """Whole numbers within bounds, which are named."""
        for name in _NUMBERS:
            for value in ("-1", "1.5", "x", "٣", "9" * 12, "9" * 5000, "0x10"):
                (problem,) = self.problems(**{name: value})
                self.assertTrue(problem.startswith(name), problem)
                self.assertLess(len(problem), 300)

    def test_folders_that_may_be_listed(self) -> None:
        """A folder that is no absolute path would forbid all of them without a word."""
        (problem,) = self.problems(JARVICE_SLURM_PVCLS_FOLDERS="/a,data")
        self.assertIn("'data'", problem)

    def test_no_secret_in_a_problem(self) -> None:
        """A wrong key, password or server key is not shown."""
        problems = self.problems(
            JARVICE_SLURM_SSH_PKEY="hush-hush",
            JARVICE_DOCKER_PASSWORD="hush-hush!",
            JARVICE_SCHED_SERVER_KEY="hush-hush",
        )
        self.assertEqual((len(problems), "hush" in " ".join(problems)), (3, False))

    def test_server_key(self) -> None:
        """A password that is empty opens the door: what a template made of unset values."""
        for key in ("user", "user:", ":"):
            (problem,) = self.problems(JARVICE_SCHED_SERVER_KEY=key)
            self.assertTrue(problem.startswith("JARVICE_SCHED_SERVER_KEY must be"), problem)

    def test_folders(self) -> None:
        """Absolute, and nothing that would be two lines of a script."""
        for value in ("x", "./x", "~", "$HOME", "/a\nb", "/a\x7f"):
            (problem,) = self.problems(JARVICE_SLURM_SCRATCH_DIR=value)
            self.assertIn("absolute path", problem)

    @given(
        st.dictionaries(
            st.sampled_from(
                [*_LEAST, *_NUMBERS, "JARVICE_SLURM_SCRATCH_DIR", "JARVICE_DOCKER_PASSWORD"]
            ),
            st.text(max_size=20),
        )
    )
    @property_test(150)
    def test_raises_only_its_own_error(self, environ: dict[str, str]) -> None:
        """Whatever is set."""
        try:
            _settings(**environ)
        except SettingsError as error:
            self.assertTrue(error.problems)


class SecretTests(SynchronousTestCase):
    """What a traceback or a log may show."""

    def test_repr(self) -> None:
        """No secret is in it."""
        shown = repr(
            _settings(
                JARVICE_SCHED_SERVER_KEY="user:hush",
                JARVICE_DOCKER_USERNAME=base64.b64encode(b"hush").decode(),
                JARVICE_DOCKER_PASSWORD=base64.b64encode(b"hush").decode(),
                JARVICE_SLURM_HTTP_PROXY="http://joe:hush@proxy",
                JARVICE_SLURM_HTTPS_PROXY="http://joe:hush@proxy",
            )
        )
        self.assertIn("login.example.org", shown)
        for secret in ("hush", "c2VjcmV0", "PRIVATE"):
            self.assertNotIn(secret, shown)
