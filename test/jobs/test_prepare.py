"""From a submission to what sbatch reads; names; and the parameters in a real shell."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.interactive.routing import parse_jobs_domain
from jarvice_slurmd.jobs.masking import MASK
from jarvice_slurmd.jobs.model import MAX_NAME_BYTES, BatchJob, Submission, check_name
from jarvice_slurmd.jobs.parameters import Parameters, render_ingress_path, render_parameters
from jarvice_slurmd.jobs.prepare import JobPreparer
from jarvice_slurmd.settings import Settings
from jarvice_slurmd.slurm.interactive import (
    MAX_WORDS,
    render_find_interactive,
    render_interactive,
)
from test.jobs.batch_run import BatchRun
from test.properties import property_test, words

_SETTINGS = Settings(ssh_host="login", ssh_port=22, ssh_user="jarvice", ssh_pkey="PEM")
_BATCH = "JOBOBJ_INTERACTIVE=False\n"
_SAMPLE = (Path(__file__).parents[1] / "data" / "hpc_script.tmpl").read_text("utf-8")


def _prepare(text: str, settings: Settings = _SETTINGS, *, name: str = "x") -> BatchJob:
    return JobPreparer(settings).prepare(Submission(name=name, number=7, nodes=2, content=text))


def _overlay(job: BatchJob) -> str:
    (line,) = (
        line
        for line in job.node_script.splitlines()
        if line.startswith("export JARVICE_SINGULARITY_OVERLAY_SIZE=")
    )
    return line.partition("=")[2]


class PrepareTests(SynchronousTestCase):
    """`JobPreparer`."""

    def test_sample(self) -> None:
        """Upstream's kind of text becomes options, a script for sbatch and one for the nodes."""
        job = _prepare(_SAMPLE)
        self.assertEqual(
            list(job.options[1:]),
            [
                *("-J", "jarvice_x", "-o", '"$HOME"/.jarvice/x.out', "-N", "2", "-n", "16"),
                *("-p", "long", "--mem=16G", "--time=1-02:00:00", "-L", "solver@flex:2"),
                "--comment=a=b",
            ],
        )
        self.assertEqual(_overlay(job), "2048")
        self.assertIn("of ${JOB_JOB_FORMATED_NODELIST} in", job.node_script)
        self.assertNotIn("DOWNSTREAM_PARAMETERS}", job.node_script)
        self.assertIsNone(job.interactive)

    def test_sample_runs(self) -> None:
        """And what runs on the nodes does run, and completes."""
        run = BatchRun(_prepare(_SAMPLE).node_script)
        self.addCleanup(run.remove)
        self.assertEqual(
            run.run(),
            (
                0,
                f"0 node n1 of n1 n2 in {run.node.home}/\nit runs\nJARVICE_CMD_SUCCESS\n".encode(),
            ),
        )

    def test_no_secret_is_shown(self) -> None:
        """The job's and the platform's passwords are in the nodes' script alone."""
        settings = evolve(
            _SETTINGS,
            http_proxy="http://joe:proxy-pass@proxy:3128",
            https_proxy="http://joe:p2@proxy:3128",
            system_registry="registry.example.org",
            system_repo_base="jarvice",
            images_tag="1",
            docker_username="robot",
            docker_password="robot-pass",
        )
        job = _prepare(f"{_SAMPLE}echo pass-of-jane\n", settings)
        for secret in (
            "pass-of-jane",
            "proxy-pass",
            "joe:p2",
            "cm9ib3QtcGFzcw",
            "amFuZQ==",
            "auths",
        ):
            self.assertNotIn(secret, job.shown_script, secret)
            self.assertNotIn(secret, job.batch_script, secret)
        for secret in ("pass-of-jane", "proxy-pass", "cm9ib3QtcGFzcw"):
            self.assertIn(secret, job.node_script, secret)
        self.assertNotIn("eyJhdXRocyI6", job.shown_script)
        self.assertIn("JOBOBJ_NAE=jane-doe_x-solver", job.shown_script)
        self.assertIn("# sbatch --parsable -J jarvice_x", job.shown_script)

    def test_no_environment_is_shown(self) -> None:
        """Of a job that `job` describes; the nodes get it."""
        pem = "-----BEGIN\nit's\n"
        environment = {"API_KEY": "keykeykey", "SSH_PRIVATE_KEY": pem, "PGPASS": "abc", "N": "42"}
        content = {"image": "busybox", "command": "run keykeykey", "environment": environment}
        submission = Submission(name="x", number=7, nodes=1, content=content)
        job = JobPreparer(_SETTINGS).prepare(submission)
        self.assertIn("export API_KEY=keykeykey\n", job.node_script)
        exports = "".join(f"export {name}={MASK}\n" for name in environment)
        self.assertIn(f"executor_command='{exports}run {MASK}'\n", job.shown_script)
        for secret in ("keykeykey", "BEGIN"):
            self.assertNotIn(secret, job.shown_script)

    def test_platforms_password(self) -> None:
        """It goes to jobs that run the init image, and to no other."""
        settings = evolve(
            _SETTINGS,
            system_registry="registry.example.org",
            system_repo_base="jarvice",
            images_tag="1",
            docker_username="cm9ib3Q=",
            docker_password="cm9ib3QtcGFzcw==",
        )
        for init in (True, False):
            content = {"image": "team/app", "command": "true", "init": init}
            submission = Submission(name="x", number=7, nodes=1, content=content)
            text = JobPreparer(settings).prepare(submission).node_script
            self.assertEqual("INIT_DOCKER_PASSWORD=''" in text, not init, text[:3000])

    def test_no_secret_in_a_repr(self) -> None:
        """Value objects that reach a log or a traceback tell nothing."""
        submission = Submission(name="x", number=7, nodes=2, content=_SAMPLE)
        for shown in (repr(submission), repr(JobPreparer(_SETTINGS).prepare(submission))):
            self.assertNotIn("pass-of-jane", shown)

    def test_overlay_of_one_job(self) -> None:
        """The platform's size holds again for the next job."""
        preparer = JobPreparer(_SETTINGS)
        for devices, size in (('["overlay=5"]', "5"), ("[]", "640"), ('["overlay=0"]', "0")):
            text = f"{_BATCH}JOBOBJ_DEVICES={devices}\n{{DOWNSTREAM_PARAMETERS}}"
            job = preparer.prepare(Submission(name="x", number=7, nodes=1, content=text))
            self.assertEqual(_overlay(job), size)

    def test_interactive(self) -> None:
        """Refused where jobs have no domain, in PROTOCOL §3's words."""
        with self.assertRaises(InvalidArgumentsError) as caught:
            _prepare("echo\n")
        self.assertEqual(
            str(caught.exception), "interactive jobs are not supported on this cluster"
        )
        job = _prepare("echo\n", evolve(_SETTINGS, jobs_domain="jobs.example.org"))
        self.assertIsNotNone(job.interactive)

    def test_longest_words(self) -> None:
        """An application's words are noted whole up to their bounds, whatever they are made of."""
        settings = evolve(_SETTINGS, jobs_domain="jobs.example.org")
        job: dict[str, object] = {"image": "busybox", "command": "true", "interactive": True}
        words = {key: "\x01" * most for key, most in MAX_WORDS.items()}
        submission = Submission(name="x", number=7, nodes=1, content={**job, **words})
        interactive = JobPreparer(settings).prepare(submission).interactive
        assert interactive is not None
        self.assertEqual({key: getattr(interactive, key) for key in words}, words)
        found = re.search(r" interactive:(\d+)", render_find_interactive(root=".", numbers=[7]))
        assert found is not None
        self.assertLessEqual(len(render_interactive(interactive)), int(found[1]))

    def test_ingress_path(self) -> None:
        """JARVICE_INGRESSPATH: without slashes at its ends, empty where jobs have hosts."""
        for domain, path in {
            "": "",
            "d.com": "",
            "d.com/job$": "job7",
            "https://d.com/a/job$/": "a/job7",
            "http://d.com:8080/job$": "job7",
            "/job$": "job7",
            "/a/job$/b": "a/job7/b",
        }.items():
            self.assertEqual(render_ingress_path(domain, 7), path, domain)

    def test_public_address(self) -> None:
        """It is that of the address that a browser opens, and of interactive jobs alone."""
        for domain in ("d.com", "D.com/job$", "http://d.com:8080/job$", "http://d.com:8080"):
            settings = evolve(_SETTINGS, jobs_domain=domain, jobs_namespace="jobs")
            wanted = urlsplit(parse_jobs_domain(domain, "jobs").url(7)).netloc
            line = f"export JOB_PUBLICADDR={wanted}\n"
            self.assertIn(line, _prepare("{DOWNSTREAM_PARAMETERS}\n", settings).node_script)
            for interactive in (True, False):
                content = {"image": "app", "command": "true", "interactive": interactive}
                submission = Submission(name="x", number=7, nodes=1, content=content)
                script = JobPreparer(settings).prepare(submission).node_script
                self.assertIn(line if interactive else "export JOB_PUBLICADDR=''\n", script)

    def test_nul(self) -> None:
        """No shell can read it: refused before anything is submitted."""
        with self.assertRaises(InvalidArgumentsError):
            _prepare(f"{_BATCH}echo \0")

    def test_batch_script_is_constant(self) -> None:
        """What slurmctld keeps in its spool holds nothing of the text."""
        self.assertEqual(
            _prepare(_SAMPLE).batch_script, _prepare(f"{_BATCH}echo other\n").batch_script
        )

    def test_scratch_folder(self) -> None:
        """It is where the output and the job's folders are, whatever its name."""
        job = _prepare(_BATCH, evolve(_SETTINGS, scratch_dir="/s c/it's/"))
        self.assertIn("jarvice_root='/s c/it'\"'\"'s/.jarvice'\n", job.batch_script)
        self.assertEqual(job.options[4], "'/s c/it'\"'\"'s/.jarvice'/x.out")


_PARAMETERS = Parameters(
    scratch_dir=None,
    global_scratch_dir="",
    app_is_in_global_registries=False,
    tmpdir="/tmp",
    overlay_size=640,
    local_user="jarvice",
    command="",
    app_image="",
    init_image="",
    app_username="",
    app_password="",
    init_username="",
    init_password="",
    verbose=False,
    http_proxy="",
    https_proxy="",
    no_proxy="",
)


def _exported(parameters: Parameters, **environ: str) -> dict[str, str]:
    done = subprocess.run(
        ["/bin/bash", "-c", f"{render_parameters(parameters)}\nexec env -0"],
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "HOME": "/home/joe", **environ},
        check=True,
    )
    exported = dict(item.split("=", 1) for item in done.stdout.decode("utf-8").split("\0")[:-1])
    exported.pop("_", None)
    return exported


class ParametersTests(SynchronousTestCase):
    """`render_parameters`, as a shell reads them."""

    def test_names(self) -> None:
        """PROTOCOL §2's names are all there."""
        self.assertLessEqual(
            {
                "JARVICE_JOB_SCRATCH_DIR",
                "JARVICE_JOB_GLOBAL_SCRATCH_DIR",
                "JARVICE_JOB_APP_IS_IN_GLOBAL_REGISTRIES",
                "SINGULARITYENV_JARVICE_SERVICE_PORT",
                "APPTAINERENV_JARVICE_SERVICE_PORT",
                "SINGULARITYENV_JARVICE_SSH_PORT",
                "APPTAINERENV_JARVICE_SSH_PORT",
                "JARVICE_SINGULARITY_TMPDIR",
                "JARVICE_SINGULARITY_OVERLAY_SIZE",
                "JOB_LOCAL_USER",
                "JARVICE_INIT_DOCKER_USERNAME",
                "JARVICE_INIT_DOCKER_PASSWORD",
                "JARVICE_DOCKER_USERNAME",
                "JARVICE_DOCKER_PASSWORD",
                "JARVICE_APP_IMAGE",
                "JARVICE_INIT_IMAGE",
                "JARVICE_CMD",
                "SV",
                "SV_FLAG",
                "SCHTTP_PROXY",
                "SCHTTPS_PROXY",
                "SCNO_PROXY",
            },
            _exported(_PARAMETERS).keys(),
        )

    def test_fixed_forms(self) -> None:
        """True and False, true and false, -v and -s; a scratch folder that ends with a slash."""
        plain = _exported(_PARAMETERS)
        self.assertEqual((plain["SV"], plain["SV_FLAG"]), ("false", "-s"))
        self.assertEqual(plain["JARVICE_JOB_APP_IS_IN_GLOBAL_REGISTRIES"], "False")
        self.assertEqual(plain["JARVICE_JOB_SCRATCH_DIR"], "/home/joe/")
        other = _exported(
            evolve(
                _PARAMETERS, verbose=True, app_is_in_global_registries=True, scratch_dir="/s $x/"
            )
        )
        self.assertEqual((other["SV"], other["SV_FLAG"]), ("true", "-v"))
        self.assertEqual(other["JARVICE_JOB_APP_IS_IN_GLOBAL_REGISTRIES"], "True")
        self.assertEqual(other["JARVICE_JOB_SCRATCH_DIR"], "/s $x/")

    def test_ports(self) -> None:
        """Those that were chosen on the node; else what applications fall back to."""
        name = "SINGULARITYENV_JARVICE_SERVICE_PORT"
        self.assertEqual(_exported(_PARAMETERS)[name], "5902")
        self.assertEqual(_exported(_PARAMETERS, JARVICE_SERVICE_PORT="20123")[name], "20123")

    @given(st.lists(words, min_size=9, max_size=9))
    @property_test(60)
    def test_any_value(self, values: list[str]) -> None:
        """Every value arrives unchanged, whatever is in it."""
        names = {
            "global_scratch_dir": "JARVICE_JOB_GLOBAL_SCRATCH_DIR",
            "tmpdir": "JARVICE_SINGULARITY_TMPDIR",
            "local_user": "JOB_LOCAL_USER",
            "command": "JARVICE_CMD",
            "app_image": "JARVICE_APP_IMAGE",
            "init_image": "JARVICE_INIT_IMAGE",
            "http_proxy": "SCHTTP_PROXY",
            "https_proxy": "SCHTTPS_PROXY",
            "no_proxy": "SCNO_PROXY",
        }
        said: dict[str, Any] = dict(zip(names, values, strict=True))
        exported = _exported(evolve(_PARAMETERS, **said))
        self.assertEqual({key: exported[name] for key, name in names.items()}, said)


class NameTests(SynchronousTestCase):
    """`check_name`."""

    def test_good(self) -> None:
        """What upstream sends, and what users and applications may be called."""
        for name in (
            "20240101000000-ABCDE-joe_x-app_2-joe-x_s1",
            "a b",
            "é'$(id)",
            "-x",
            "x" * 200,
        ):
            self.assertEqual(check_name(name), name)

    def test_bad(self) -> None:
        """What can't be a file's name or can't be asked for."""
        for name in ("", ".", "..", ".x", "a/b", "a\\b", "a\nb", "a\0b", "a\x7f", "a,b", "\ud800"):
            with self.assertRaises(InvalidArgumentsError, msg=repr(name)):
                check_name(name)

    def test_length(self) -> None:
        """It is counted in bytes, as file systems count."""
        check_name("é" * (MAX_NAME_BYTES // 2))
        with self.assertRaises(InvalidArgumentsError):
            check_name("é" * (MAX_NAME_BYTES // 2) + "x")
