"""A batch job's way through the API of PROTOCOL §1, on a real cluster."""

from __future__ import annotations

from typing import ClassVar

from twisted.internet import reactor
from twisted.internet.task import deferLater

from test.cluster.daemon import ClusterTestCase, Job, job_text

#: Everything that a careless quoting trips over, and a backslash at the end of a line.
NASTY = (
    r"""'single' "double" `back` $HOME ${HOME} {bare} {{doubled}} %s """
    r"""\n \\ \' * ? [a] ~ ! # ; & | <> é 日本 """
    "\\"
)

#: Slurm tells one process after the other: a text that ended with its `sleep` might do so untold.
UNTIL_TOLD = "echo up; while :; do sleep 1; done"


class BatchJobTests(ClusterTestCase):
    """From /submit to /exitstatus."""

    async def test_success(self) -> None:
        """A job's output and exit status come back, and again when asked again."""
        text = 'echo "$PROCESS_PROCID/$JOB_NNODES on $PROCESS_NODENAME"; echo JARVICE_CMD_SUCCESS'
        job = await self.submit(job_text(text))
        end = await self.end_of(job)
        output = "0/1 on n1\nJARVICE_CMD_SUCCESS\n"
        verdict = "<< termination state: COMPLETED -- see STDOUT for job errors >>"
        self.assertEqual(end, [0, end[1], [output, verdict]])
        self.assertRegex(end[1], r"\A00:00:\d\d\Z")
        self.assertEqual(await self.end_of(job), end)

    async def test_just_submitted_is_known(self) -> None:
        """A job is in the queue's view as soon as it is submitted."""
        await self.client.get("/running")
        job = await self.submit(job_text("sleep 30"), held=True)
        self.assertTrue(await self.listed("/queued", job))
        status = await self.client.post("/runstatus", job.ref)
        self.assertEqual(status.json, [[], "00:00:00", job.path, None])
        await self.client.post("/terminate", job.ref)

    async def test_failure(self) -> None:
        """A job without markers is judged by its exit status."""
        end = await self.end_of(await self.submit(job_text("echo oh no >&2; exit 3")))
        self.assertEqual(end[0], 1)
        self.assertIn("oh no", end[2][0])
        self.assertIn("termination state: FAILED", end[2][1])

    async def test_failure_marker(self) -> None:
        """A job whose first node prints FAILURE has failed, whatever its exit status."""
        end = await self.end_of(await self.submit(job_text("echo JARVICE_CMD_FAILURE")))
        self.assertEqual(end[0], 1)

    async def test_quoted_marker(self) -> None:
        """A line that merely quotes a marker is no verdict."""
        text = "set -x\n/bin/echo 'GoTTY is starting with command: echo JARVICE_CMD_FAILURE'"
        end = await self.end_of(await self.submit(job_text(text)))
        self.assertEqual(end[0], 0, end)

    async def test_two_nodes(self) -> None:
        """The text runs once on each node; the first one's verdict counts."""
        text = (
            'echo "node $PROCESS_PROCID is $PROCESS_NODENAME of $JOB_JOB_FORMATED_NODELIST"\n'
            '[ "$PROCESS_PROCID" = 0 ] && sleep 2 && echo JARVICE_CMD_SUCCESS\n'
            '[ "$PROCESS_PROCID" = 0 ] || echo JARVICE_CMD_FAILURE'
        )
        job = await self.submit(job_text(text), nodes=2)
        await self.until_running(job)
        status = await self.client.post("/runstatus", job.ref)
        self.assertEqual(status.json[0], ["n1", "n2"])
        self.assertEqual(status.json[2:], [job.path, None])
        end = await self.end_of(job)
        self.assertEqual(end[0], 0, end)
        self.assertIn("node 0 is n1 of n1 n2\n", end[2][0])
        self.assertIn("node 1 is n2 of n1 n2\n", end[2][0])

    async def test_text_whatever_it_contains(self) -> None:
        """Quotes, braces, backslashes and UTF-8 arrive on the node as they were sent."""
        text = job_text(f"cat <<'END'\n{NASTY}\nEND\n")
        self.assertEqual((await self.end_of(await self.submit(text)))[2][0], f"{NASTY}\n")

    async def test_template(self) -> None:
        """A text that is a valid template has its doubled braces made single."""
        text = job_text("word=held; echo ${{word}} '}}{{'")
        self.assertEqual((await self.end_of(await self.submit(text)))[2][0], "held }{\n")

    async def test_megabytes_of_text(self) -> None:
        """A text far over every limit of arguments and environments runs."""
        line = "# " + "x" * 97 + "\n"
        text = job_text(line * 40_000 + "echo the end")
        self.assertEqual((await self.end_of(await self.submit(text)))[2][0], "the end\n")

    async def test_parameters(self) -> None:
        """The text learns what PROTOCOL §2 promises, in both of Apptainer's prefixes."""
        names = "JARVICE_JOB_SCRATCH_DIR SV SV_FLAG JOB_LOCAL_USER JARVICE_SINGULARITY_OVERLAY_SIZE"
        text = job_text(
            f"for name in {names}; do echo $name=${{!name}}; done; echo {{}}",
            JOBOBJ_DEVICES='["exclusive=False", "overlay=77"]',
        )
        output = (await self.end_of(await self.submit(text)))[2][0]
        self.assertIn(f"JARVICE_JOB_SCRATCH_DIR={self.cluster.scratch}/\n", output)
        self.assertIn("SV=false\nSV_FLAG=-s\nJOB_LOCAL_USER=jarvice-dev\n", output)
        self.assertIn("JARVICE_SINGULARITY_OVERLAY_SIZE=77\n", output)

    async def test_where_it_starts(self) -> None:
        """A job starts in the scratch folder, not among what we keep there."""
        job = await self.submit(job_text("pwd; echo $JOB_SUBMIT_DIR"))
        output = (await self.end_of(job))[2][0]
        self.assertEqual(output.split(), [str(self.cluster.scratch)] * 2)

    async def test_held_and_released(self) -> None:
        """A held job waits until it is released."""
        job = await self.submit(job_text("echo released"), held=True)
        await deferLater(reactor, 3)
        self.assertTrue(await self.listed("/queued", job))
        early = await self.client.post("/exitstatus", job.ref)
        self.assertEqual(early.code, 409, early.body)
        self.assertIn("PENDING", early.json["error"])
        self.assertEqual((await self.client.post("/release", job.ref)).json, True)
        self.assertEqual((await self.end_of(job))[2][0], "released\n")

    async def test_devices(self) -> None:
        """Devices become sbatch's options; one that is no device is refused by name."""
        devices = '["partition=debug", "exclusive=False", "sbatch_comment=a=b c\'d"]'
        head = {"JOBOBJ_DEVICES": devices, "JOBOBJ_RAM": 2, "JOBOBJ_GPUS": 0}
        text = job_text("sleep 30", **head, JOBOBJ_WALLTIME="00:20:00", JOBOBJ_LICENSES="solver:2")
        job = await self.submit(text, held=True)
        events = (await self.client.post("/events", job.ref)).json
        for fact in (
            "Partition=debug",
            "Comment=a=b c'd",
            "TimeLimit=00:20:00",
            "Licenses=solver:2",
            "MinMemoryNode=2G",
            f"JobName=jarvice_{job.name}",
        ):
            self.assertIn(fact, events)
        await self.client.post("/terminate", job.ref)
        _, refused = await self.try_submit(job_text("true", JOBOBJ_DEVICES='["gpu"]'))
        self.assertEqual(refused.code, 400)
        self.assertIn("'gpu'", refused.json["error"])

    async def test_slurm_refuses(self) -> None:
        """What sbatch refuses is 502 with sbatch's own words, and leaves nothing behind."""
        devices = '["partition=nowhere"]'
        job, refused = await self.try_submit(job_text("true", JOBOBJ_DEVICES=devices))
        self.assertEqual(refused.code, 502)
        self.assertIn("invalid partition specified: nowhere", refused.json["error"])
        folder = self.cluster.scratch / ".jarvice" / "submit" / job.name
        left = [path.name for path in folder.rglob("*") if path.is_file()]
        self.assertEqual(left, ["lock"])
        self.assertEqual((await self.end_of_fixed(job.name)), "second try\n")

    async def end_of_fixed(self, name: str) -> str:
        """The output of a refused job that was mended and submitted again."""
        fixed = await self.submit(job_text("echo second try"), name=name)
        return str((await self.end_of(fixed))[2][0])

    async def test_sbatch_can_not_read_its_options(self) -> None:
        """Nor is it an outage when sbatch's own options are wrong: it ends with 255 then."""
        _, refused = await self.try_submit(job_text("true", JOBOBJ_WALLTIME="foo bar"))
        self.assertEqual(refused.code, 502, refused.body)
        self.assertIn("Invalid --time specification", refused.json["error"])

    async def test_interactive_is_refused(self) -> None:
        """Without JARVICE_JOBS_DOMAIN there are no interactive jobs."""
        _, refused = await self.try_submit(job_text("true", JOBOBJ_INTERACTIVE="True"))
        self.assertEqual(refused.code, 400)
        sentence = "interactive jobs are not supported on this cluster"
        self.assertEqual(refused.json, {"error": sentence})

    async def test_nobody_knows(self) -> None:
        """A job that nobody knows, and a job id under another name, are no job."""
        job = await self.submit(job_text("true"), held=True)
        for ref in (
            {"name": "never", "number": 1, "jobid": 999_999},
            {**job.ref, "name": "another"},
        ):
            status = await self.client.post("/runstatus", ref)
            self.assertEqual(status.json, [None, None, None, None])
            end = await self.client.post("/exitstatus", ref)
            self.assertEqual(end.json, [-9, "00:00:00", []])
            self.assertEqual((await self.client.post("/events", ref)).code, 404)
        self.assertEqual((await self.client.post("/terminate", ref)).json, True)
        self.assertTrue(await self.listed("/queued", job))
        await self.client.post("/terminate", job.ref)

    async def test_constant_answers(self) -> None:
        """What other schedulers do more with."""
        self.assertEqual((await self.client.get("/nodes")).json, True)
        self.assertEqual((await self.client.get("/live")).json, {"status": "OK"})
        self.assertEqual((await self.client.post("/online", {"host": "n1"})).json, True)
        self.assertEqual((await self.client.get("/gc")).json, {"status": "OK"})
        job = await self.submit(job_text("true"))
        for method in ("ping", "connect", "whatever", ""):
            response = await self.client.post(f"/request/{job.path}/{method}", {"qs": {}})
            self.assertEqual((response.code, response.body), (200, b""))
        info = await self.client.post(f"/request/{job.path}/info", {"qs": {}})
        self.assertEqual(info.json, {"about": "", "help": "", "url": "", "actions": {}})
        shot = await self.client.post(f"/request/{job.path}/screenshot", {"qs": {}})
        self.assertEqual(shot.code, 404)


class TerminationTests(ClusterTestCase):
    """Ending jobs before they end."""

    async def test_terminate(self) -> None:
        """/terminate cancels: the job is told with SIGTERM and may save its work."""
        trap = "trap 'echo saving; sleep 1; echo saved; exit 0' TERM"
        job = await self.submit(job_text(f"{trap}; {UNTIL_TOLD}"))
        await self.until_output(job.path, "up\n")
        self.assertEqual((await self.client.post("/terminate", job.ref)).json, True)
        end = await self.end_of(job)
        self.assertEqual(end[0], -15)
        for line in ("saving\n", "saved\n"):
            self.assertIn(line, end[2][0])
        self.assertIn("CANCELLED", end[2][1])

    async def test_shutdown(self) -> None:
        """/request/…/shutdown does the same."""
        job = await self.submit(job_text(f"trap 'echo bye; exit 0' TERM; {UNTIL_TOLD}"))
        await self.until_output(job.path, "up\n")
        response = await self.client.post(f"/request/{job.path}/shutdown", {"qs": {}})
        self.assertEqual((response.code, response.body), (200, b""))
        end = await self.end_of(job)
        self.assertEqual(end[0], -15)
        self.assertIn("bye\n", end[2][0])

    async def test_abort(self) -> None:
        """/request/…/abort kills at once a job that does not listen to SIGTERM."""
        text = "trap 'echo ignored' TERM; echo up; while :; do sleep 1; done"
        job = await self.submit(job_text(text), nodes=2)
        await self.until_output(job.path, "up\n")
        response = await self.client.post(f"/request/{job.path}/abort", {"qs": {}})
        self.assertEqual(response.code, 200, response.body)
        end = await self.end_of(job)
        self.assertEqual(end[0], -15, end)
        self.assertNotIn("ignored", end[2][0])

    async def deaf_job(self) -> Job:
        """A job of two nodes that runs and does not listen to SIGTERM."""
        # It starts no process whose end its own shell would tell of.
        text = (
            "trap '' TERM; never=$JARVICE_JOB_DIR/never.$PROCESS_PROCID; mkfifo $never\n"
            "echo $PROCESS_PROCID is up; read line <>$never"
        )
        job = await self.submit(job_text(text), nodes=2)
        await self.until_output(job.path, "0 is up\n")
        await self.until_output(job.path, "1 is up\n")
        return job

    def assert_only_users_text(self, output: str) -> None:
        """Besides what the text prints only Slurm speaks, and nobody shows our scripts."""
        for line in output.splitlines():
            self.assertRegex(line, r"\A([01] is up|(srun|slurmstepd-\w+): .*)\Z", output)

    async def test_force(self) -> None:
        """A job that is terminated by force says nothing of how its processes were killed."""
        job = await self.deaf_job()
        answer = await self.client.post("/terminate", {**job.ref, "force": True})
        self.assertEqual(answer.json, True)
        end = await self.end_of(job)
        self.assertEqual(end[0], -15, end)
        self.assert_only_users_text(end[2][0])

    async def test_deaf_to_a_time_limit(self) -> None:
        """Nor does one that is killed because it went on after its time limit."""
        job = await self.deaf_job()
        self.cluster.slurm("scontrol", "update", f"JobId={job.jobid}", "EndTime=now+1seconds")
        end = await self.end_of(job)
        self.assertEqual(end[0], -9, end)
        self.assertIn("TIMEOUT", end[2][1])
        self.assert_only_users_text(end[2][0])

    async def test_terminate_while_queued(self) -> None:
        """A job that never ran ends as cancelled, and still does when Slurm has forgotten it."""
        job = await self.submit(job_text("true"), held=True)
        self.assertEqual((await self.client.post("/terminate", job.ref)).json, True)
        await self.forgotten(job)
        end = await self.end_of(job)
        self.assertEqual(end[:2], [-15, "00:00:00"])

    async def until_output(self, path: str, text: str) -> None:
        """Wait until a job's output holds a text."""

        async def has_it() -> bool:
            response = await self.client.post(f"/request/{path}/tail", {"qs": {"lines": ["0"]}})
            return text.encode() in response.body

        await self.until(has_it)


class OutputTests(ClusterTestCase):
    """What comes back of a job's output."""

    settings: ClassVar = {"JARVICE_SLURM_OUTPUT_BYTES": "200000"}

    async def test_tail(self) -> None:
        """/request/…/tail gives the last lines; 100 by default, 0 meaning all; 404 before any."""
        held = await self.submit(job_text("true"), held=True)
        missing = await self.client.post(f"/request/{held.path}/tail", {"qs": {}})
        self.assertEqual(missing.code, 404)
        await self.client.post("/terminate", held.ref)
        job = await self.submit(job_text("seq 1000"))
        await self.end_of(job)
        for lines, first in ((None, 901), ("0", 1), ("7", 994)):
            qs = {} if lines is None else {"lines": [lines]}
            response = await self.client.post(f"/request/{job.path}/tail", {"qs": qs})
            self.assertEqual(response.content_type, "text/plain; charset=utf-8")
            expected = "".join(f"{number}\n" for number in range(first, 1001))
            self.assertEqual(response.body.decode(), expected)

    async def test_bounded(self) -> None:
        """At most 10,000 lines and the configured bytes come back; bad bytes are replaced."""
        lines = await self.submit(job_text("seq 20000"))
        bytes_ = await self.submit(job_text("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo é"))
        bad = await self.submit(job_text(r"printf 'a\377b\n'"))
        output = (await self.end_of(lines))[2][0]
        self.assertEqual(output.splitlines(), [str(number) for number in range(10001, 20001)])
        output = (await self.end_of(bytes_))[2][0]
        self.assertEqual(len(output.encode()), 200_000)
        self.assertTrue(output.endswith("xxx\né\n"))
        self.assertEqual((await self.end_of(bad))[2][0], "a\N{REPLACEMENT CHARACTER}b\n")

    async def test_pvcls(self) -> None:
        """/request/pvcls lists folders, then files, and says why it can't."""
        folder = self.cluster.scratch / "listed $(id) 'here' é%s"
        (folder / "sub").mkdir(parents=True)
        (folder / "file\\n").write_text("12345")
        folder.chmod(0o755)
        args = {"qs": {"path": [str(folder)]}}
        listing = await self.client.post("/request/pvcls", args)
        self.assertEqual(listing.code, 200, listing.body)
        expected = f"/data{folder}/sub/\n/data{folder}/file\\n\n"
        self.assertEqual(listing.body.decode(), expected)
        args["qs"]["details"] = ["true"]
        detailed = (await self.client.post("/request/pvcls", args)).body.decode().splitlines()
        self.assertRegex(detailed[0], r"\A\d{10} \d+ /data/")
        self.assertRegex(detailed[1], r"\A\d{10} 5 /data/")
        nowhere = await self.client.post("/request/pvcls", {"qs": {"path": ["/-delete"]}})
        self.assertEqual(nowhere.code, 401)
        self.assertIn("/-delete", nowhere.json["error"])
