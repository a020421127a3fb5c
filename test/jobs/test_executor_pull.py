"""jobs/executor.sh, run by a real bash: how a job comes by its image."""

from __future__ import annotations

import base64
import fcntl
import os

from test.jobs.executor_run import IMAGE, ExecutorTestCase


class PullTests(ExecutorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.credentials = {
            "JARVICE_DOCKER_USERNAME": base64.b64encode(b"anna-user").decode(),
            "JARVICE_DOCKER_PASSWORD": base64.b64encode(b"hunter2 '\"$x").decode(),
        }

    def test_credentials_are_for_the_pull_alone(self) -> None:
        status, output = self.run_job({"command": "env"}, parameters=self.credentials)
        self.assertEqual(status, 0, output)
        log = self.log.read_text()
        self.assertEqual(log.count("ENV exec APPTAINER_DOCKER_PASSWORD=hunter2 '\"$x"), 1)
        self.assertEqual(log.count("ENV exec APPTAINER_DOCKER_USERNAME=anna-user"), 1)
        self.assertEqual([line for line in self.asked("ARGV") if "hunter2" in line], [])
        for secret in ("hunter2", "PASSWORD", *self.credentials.values()):
            self.assertNotIn(secret, output)

    def test_no_process_keeps_credentials(self) -> None:
        """Not for the job's time: neither what waits for its end nor what runs in its container."""
        secrets = {
            **self.credentials,
            "JARVICE_INIT_DOCKER_USERNAME": base64.b64encode(b"platform-user").decode(),
            "JARVICE_INIT_DOCKER_PASSWORD": base64.b64encode(b"platform-password").decode(),
        }
        gate, pull = self.folder / "gate", self.folder / "pull"
        os.mkfifo(gate)
        os.mkfifo(pull)
        node = self.start(
            {"command": f"echo ready; read line <{gate}"},
            parameters=secrets,
            environ={"FAKE_GATE": str(pull)},
        )
        with pull.open("w"):  # opened once it pulls
            while_pulled = node.environments()
        node.read_until("\nready\n")
        afterwards = node.environments()
        gate.write_text("go on\n")
        self.assertEqual(node.finish()[0], 0)
        self.assertIn("sleep infinity", afterwards)
        for secret in (*secrets, *secrets.values(), "hunter2"):
            self.assertNotIn(secret, afterwards)
        # The container tool, and what stands for the program that it converts with.
        self.assertIn("hunter2", while_pulled)
        self.assertLessEqual(while_pulled.count("APPTAINER_DOCKER_PASSWORD="), 2)
        for secret in (*secrets, *secrets.values()):
            self.assertNotIn(f" {secret}=", while_pulled)

    def test_singularity_reads_its_own_names(self) -> None:
        environ = {"FAKE_VERSION": "singularity-ce version 4.1.0"}
        self.assertEqual(self.run_job(parameters=self.credentials, environ=environ)[0], 0)
        self.assertEqual(len(self.asked("ENV exec SINGULARITY_DOCKER_PASSWORD=hunter2")), 1)
        self.assertEqual(self.asked("APPTAINER_"), [])

    def test_public_image(self) -> None:
        self.assertEqual(self.run_job()[0], 0)
        self.assertEqual(self.asked("DOCKER"), [])

    def test_refused(self) -> None:
        status, output = self.run_job(environ={"FAKE_REFUSAL": "authentication required"})
        self.assertEqual(status, 1)
        self.assertIn("FATAL: authentication required", output)
        self.assertIn(f"the image docker://{IMAGE} can't be had", output)
        self.assert_clean()

    def test_proxies_are_for_the_pull_alone(self) -> None:
        status, output = self.run_job(
            {"command": "env"},
            parameters={"SCHTTP_PROXY": "http://proxy:1", "SCHTTPS_PROXY": "http://proxy:2"},
        )
        self.assertEqual(status, 0, output)
        self.assertEqual(len(self.asked("ENV exec http_proxy=http://proxy:1")), 1)
        self.assertEqual(len(self.asked("ENV exec https_proxy=http://proxy:2")), 1)
        self.assertNotIn("\nhttps_proxy=", output)
        self.assertEqual(self.asked("no_proxy"), [])

    def test_registry_on_the_node(self) -> None:
        """A registry proxy on localhost needs no TLS, and only that."""
        for registry, spared in (
            ("localhost:5000", 1),
            ("localhost.example.com", 0),
            ("registry.example.com", 0),
        ):
            self.log.write_text("")
            image = {"JARVICE_APP_IMAGE": f"docker://{registry}/team/app:1.0"}
            self.assertEqual(self.run_job(parameters=image)[0], 0)
            self.assertEqual(len(self.asked("ENV exec APPTAINER_NOHTTPS=1")), spared, registry)
            (self.job_folder(1) / "done").unlink()

    def test_work_folder(self) -> None:
        self.assertEqual(self.run_job()[0], 0)
        expected = f"ENV exec APPTAINER_TMPDIR={self.folder}/tmp"
        self.assertEqual(len(self.asked(expected)), 2)
        self.assertTrue((self.folder / "tmp").is_dir())

    def test_half_an_image(self) -> None:
        """What the container tool leaves when it is killed goes: with the job, or before a pull."""
        gate = self.folder / "gate"
        os.mkfifo(gate)
        node = self.start(environ={"FAKE_GATE": str(gate)})
        with gate.open("w"):
            (work,) = (self.folder / "tmp").iterdir()
            self.assertEqual(work.stat().st_mode & 0o777, 0o700)
            self.assertEqual((self.job_folder(1) / "node.0/work").read_text(), f"{work}\n")
            (work / "build-temp-1").mkdir()
            node.tell()
            self.assertEqual(node.finish()[0], 143)
        self.assertEqual(list((self.folder / "tmp").iterdir()), [])
        (image,) = (self.scratch / ".jarvice/images").iterdir()
        (image / "cache/oci-tmp/tmp_1").mkdir(parents=True)
        (image / "cache/oci-tmp/abcd").touch()
        self.assertEqual(self.start(jobid=2).finish()[0], 0)
        self.assertEqual([path.name for path in (image / "cache/oci-tmp").iterdir()], ["abcd"])
        self.assertEqual(list((self.folder / "tmp").iterdir()), [])

    def test_two_jobs_at_once_convert_once(self) -> None:
        gate = self.folder / "gate"
        os.mkfifo(gate)
        environ = {"FAKE_GATE": str(gate)}
        first = self.start(jobid=1, environ=environ)
        with gate.open("w"):  # opened once the first converts, closed once the second waits
            second = self.start(jobid=2, environ=environ)
            second.read_until(f"waits for another job that pulls docker://{IMAGE}")
        for node in (first, second):
            status, output = node.finish()
            self.assertEqual(status, 0, output)
        self.assertEqual(self.asked("CONVERTED"), [f"CONVERTED docker://{IMAGE}"])

    def test_ended_while_it_pulls(self) -> None:
        gate = self.folder / "gate"
        os.mkfifo(gate)
        node = self.start({"command": "echo started"}, environ={"FAKE_GATE": str(gate)})
        with gate.open("w"):
            node.terminate()
            node.read_until("told to end")
        status, output = node.finish()
        self.assertEqual(status, 143)
        self.assertNotIn("\nstarted", output)
        self.assert_clean()
        # What was half done is not used.
        status, output = self.start(jobid=2).finish()
        self.assertEqual(status, 0, output)
        self.assertEqual(len(self.asked("CONVERTED")), 2)

    def test_file_on_the_cluster(self) -> None:
        image = self.folder / "app.sif"
        image.touch()
        status, output = self.run_job(parameters={"JARVICE_APP_IMAGE": str(image)})
        self.assertEqual(status, 0, output)
        self.assertEqual(self.asked("docker://"), [])

    def test_init_image_runs_first(self) -> None:
        status, output = self.run_job(
            {"init": True}, parameters={"JARVICE_INIT_IMAGE": "docker://sys/initv2:1"}
        )
        self.assertEqual(status, 0, output)
        self.assertEqual(len(self.asked("ARGV -s run")), 1)
        self.assertEqual(len(self.asked("CONVERTED docker://sys/initv2:1")), 1)

    def test_no_init_image(self) -> None:
        """A platform that names none."""
        status, output = self.run_job({"init": True}, parameters={"JARVICE_INIT_IMAGE": ""})
        self.assertEqual(status, 1)
        self.assertIn("error: the platform names no init image", output)
        self.assertEqual(self.asked("docker://"), [])
        self.assert_clean()

    def test_images_that_nobody_uses_go(self) -> None:
        images = self.scratch / ".jarvice/images"
        for name in ("old", "young", "not-ours"):
            (images / name).mkdir(parents=True)
        for name in ("old", "young"):
            (images / name / "lock").touch()
        os.utime(images / "old", (0, 0))
        os.utime(images / "not-ours", (0, 0))
        self.assertEqual(self.run_job()[0], 0)
        left = {path.name for path in images.iterdir()} - {"young", "not-ours"}
        self.assertEqual(len(left), 1)
        self.assertNotIn("old", left)

    def test_image_that_is_used_stays_young(self) -> None:
        """Though nothing is written when it is: its folder and its file are touched."""
        self.assertEqual(self.run_job()[0], 0)
        (folder,) = (self.scratch / ".jarvice/images").iterdir()
        for path in (folder / "image", folder):
            os.utime(path, (0, 0))
        self.assertEqual(self.start(jobid=2).finish()[0], 0)
        for path in (folder / "image", folder):
            self.assertGreater(path.stat().st_mtime, 1, path)
        self.assertEqual(len(self.asked("CONVERTED")), 1)

    def test_image_that_is_being_pulled_stays(self) -> None:
        """However old its folder says it is: somebody holds its lock."""
        old = self.scratch / ".jarvice/images/old"
        old.mkdir(parents=True)
        with (old / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.utime(old, (0, 0))
            self.assertEqual(self.run_job()[0], 0)
            self.assertTrue((old / "lock").exists())
        os.utime(old, (0, 0))
        other = {"JARVICE_APP_IMAGE": "docker://registry.example.com/team/other:1.0"}
        self.assertEqual(self.start(jobid=2, parameters=other).finish()[0], 0)
        self.assertFalse(old.exists())
