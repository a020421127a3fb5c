"""The `job` object: what it may hold, and what is said of what it may not."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.executor import parse_job

IMAGE = "registry.example.com/team/app:1.0"
MINIMAL = {"image": IMAGE, "command": "true"}


class ParsingTests(SynchronousTestCase):
    def test_minimal(self) -> None:
        job = parse_job(MINIMAL)
        self.assertEqual((job.image, job.command, job.nodes), (IMAGE, "true", None))
        self.assertEqual((job.request.cores, job.request.gpus, job.request.ram), (1, 0, 0))
        self.assertFalse(job.request.interactive)

    def test_everything(self) -> None:
        job = parse_job(
            {
                "image": f"docker://{IMAGE}",
                "command": ["/bin/solve", "it's a file", ""],
                "worker_command": "sshd",
                "environment": {"A": "b", "N": 3},
                "nodes": 2,
                "nae": "team-solver",
                "cores": 8,
                "ram": 16,
                "gpus": 1,
                "walltime": "1-02:03:04",
                "licenses": "solver:2",
                "devices": ["partition=all", "overlay=100"],
                "interactive": True,
                "url": "https://%PUBLICADDR%/",
                "help": "Help",
                "about": "About",
                "wants_prefix": False,
                "init": True,
                "docker_secret": {
                    "server": "registry.example.com",
                    "username": "anna",
                    "password": "secret",
                },
                "docker_config": {"auths": {"other": {"username": "bert", "password": "secret"}}},
            }
        )
        self.assertEqual(job.command, "exec /bin/solve 'it'\"'\"'s a file' ''")
        self.assertEqual(job.image, IMAGE)
        self.assertEqual(job.environment, {"A": "b", "N": "3"})
        self.assertEqual(job.request.walltime, "1-02:03:04")
        self.assertIs(job.wants_prefix, False)
        self.assertEqual([item.server for item in job.container_secrets], ["other"])
        assert job.docker_secret is not None
        self.assertEqual(job.docker_secret.credentials.username, "anna")
        self.assertNotIn("secret'", repr(job))
        self.assertNotIn("anna", repr(job))

    def test_null_is_absent(self) -> None:
        self.assertEqual(parse_job({**MINIMAL, "walltime": None, "gpus": None}), parse_job(MINIMAL))

    def test_walltimes(self) -> None:
        for text in ("90", "90:00", "01:30:00", "2-0", "2-01:30", "2-01:30:00"):
            self.assertEqual(parse_job({**MINIMAL, "walltime": text}).request.walltime, text)

    def test_images(self) -> None:
        """What a container tool takes as docker://, and files."""
        digest = f"sha256:{'0a' * 32}"
        for image in (
            *(
                "busybox",
                "busybox:1",
                "team/app",
                "team/app:V1.0_x-y",
                "docker.io/library/x:latest",
            ),
            *("localhost/app", "localhost:5000/a/b", "host:5000/a", "REG.example.com/a__b/c--d.e"),
            *("127.0.0.1:5000/apps/app:latest", f"busybox@{digest}", f"a-b.c.io:443/x/y@{digest}"),
        ):
            for text in (image, f"docker://{image}"):
                self.assertEqual(parse_job({**MINIMAL, "image": text}).image, image)
        for path in ("/apps/Solver 2.sif", "/x"):
            self.assertEqual(parse_job({**MINIMAL, "image": path}).image, path)

    def test_images_that_no_node_can_pull(self) -> None:
        """The field is named, and what would be right."""
        digest = f"sha256:{'0a' * 32}"
        for image in (
            *("library://x", "library://team/app:1", "http://x/y", "https://registry.io/y"),
            *("oras://r.io/x", "shub://x/y", "docker-archive:/x.tar", "docker://docker://x"),
            *("Busybox", "team/App:1", "Team/app", "registry.example.com/Team/app", "LOCALHOST/a"),
            *(
                "a//b",
                "a/",
                "a:",
                "a:b:c",
                "a@b",
                "a@sha256:00",
                "a..b",
                "a-/b",
                "a___b",
                "-a.io/b",
            ),
            *("host:/a", "host:port/a", f"a:{'t' * 129}", f"a:1@{digest}", "a.io-/b"),
            *(f"a@{digest.upper()}", f"{'a/' * 128}a", "docker:///etc/x", "x.sif/", "./x.sif"),
        ):
            error = self.assertRaises(InvalidArgumentsError, parse_job, {**MINIMAL, "image": image})
            self.assertIn("job.image is", str(error), image)
            self.assertIn("registry.example.com/team/app:1.0", str(error))
        long = f"{'a-' * 2_000_000}/"
        self.assertRaises(InvalidArgumentsError, parse_job, {**MINIMAL, "image": long})

    def test_each_error_names_its_field(self) -> None:
        wrong: dict[str, tuple[object, ...]] = {
            "image": ("", 3, "a b", "$(id)", "-x", ["a"], "a\0b"),
            "command": ("", "  ", [], [""], ["-x"], ["a", 3], 7, {"a": 1}, "a\0", ["a", "\0"]),
            "worker_command": ("", [], 3, "\ud800"),
            "environment": ([], "A=b", {"1A": "b"}, {"A B": "c"}, {"A": None}, {"A": True}),
            "nodes": (0, -1, "2", 1.5, True, 10**9),
            "nae": ("", 3),
            "cores": (0, "4", True),
            "ram": (-1, "1G"),
            "gpus": (-1, 1.0),
            "walltime": ("", 60, "1h", "1:2:3:4", "--exclusive", "1\n"),
            "licenses": ("", "-x", "a b", ["a"]),
            "devices": ("partition=x", ["nonsense"], [1], ["unknown=1"], {}),
            "interactive": ("True", 1),
            "url": (3, ""),
            "help": ([],),
            "about": (1,),
            "wants_prefix": ("yes",),
            "init": (1,),
            "docker_secret": ("hunter2", ["hunter2"], {"username": {"hunter2": 1}}),
            "docker_config": ("hunter2", ["hunter2"], {"auths": {"a": "hunter2"}}),
            "comand": ("true",),
        }
        cases = [(name, value) for name, values in wrong.items() for value in values]
        for name, value in cases:
            job = {**MINIMAL, "interactive": True, name: value}
            error = self.assertRaises(InvalidArgumentsError, parse_job, job)
            self.assertIn(f"job.{name}", str(error), value)
            self.assertNotIn("hunter2", str(error))

    def test_what_must_be_there(self) -> None:
        for name in MINIMAL:
            job = {key: value for key, value in MINIMAL.items() if key != name}
            error = self.assertRaises(InvalidArgumentsError, parse_job, job)
            self.assertEqual(str(error), f"job.{name} is missing")

    def test_not_an_object(self) -> None:
        values: tuple[object, ...] = (None, [], "job", 3)
        for value in values:
            self.assertRaises(InvalidArgumentsError, parse_job, value)

    def test_batch_jobs_have_no_address(self) -> None:
        error = self.assertRaises(InvalidArgumentsError, parse_job, {**MINIMAL, "url": "https://x"})
        self.assertIn("job.interactive", str(error))
