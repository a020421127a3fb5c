"""Nobody comes in: callers without the key, other people's jobs, files, logs, and TLS."""

from __future__ import annotations

import base64
import datetime
import json
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import treq
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, ResponseNeverReceived
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from deploy.demo.processes import free_port
from test.cluster.daemon import DaemonClient, Job, Response, job_text
from test.cluster.harness import DevCluster
from test.cluster.test_survival import accounting_cluster
from test.faults.outage_case import OutageTestCase
from test.faults.replica import Jobs, Replica
from test.faults.stage import FaultTestCase, pause
from test.web.caller import ApiTestCase

_USER, _PASSWORD = "upstream", "correct-horse-battery-staple"


class EndpointTests(ApiTestCase):
    """Every endpoint that there is, taken from the site itself."""

    server_key = f"{_USER}:{_PASSWORD}"

    def test_every_endpoint_wants_the_key(self) -> None:
        """All but /live and /ready; also one that is added tomorrow."""
        names = {name.decode() for name in self.site.resource.listStaticNames()}
        self.assertLessEqual({"live", "ready", "gc", "submit", "request"}, names)
        below = {"request/pvcls", "request/x/7/41/tail", "request/x/7/41/abort", "live/x"}
        for name in (names | below | {"nowhere", ""}) - {"live", "ready"}:
            for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT"):
                response = self.call(method, f"/{name}")
                self.assertEqual(response.status, 401, (method, name))
        for name in ("live", "ready"):
            self.assertEqual(self.get(f"/{name}").status, 200)
        self.assertEqual(self.scheduler.calls, [("check",)])


class OtherPeoplesJobsTests(FaultTestCase):
    """Jobs that are another user's, or ours but not submitted by us."""

    async def test_out_of_reach(self) -> None:
        """Not seen, not tailed, not released, not ended, whatever name and id are said."""
        command = "sbatch --parsable -H -o /dev/null --wrap 'sleep 600' -J "
        strange = self.cluster.ssh(f"{command} somebody-elses-tool").stdout.decode().strip()
        theirs = self.cluster.slurm(
            "sbatch", "--parsable", "-H", "-o", "/dev/null", "-D", "/", "-J", "jarvice_theirs",
            "--wrap", "sleep 600",
        ).strip()  # fmt: skip
        self.addCleanup(self.cluster.slurm, "scancel", strange, theirs)
        ours = await self.submit(job_text("sleep 600"), held=True)
        self.addCleanup(self.cluster.slurm, "scancel", ours.jobid)
        for name, jobid in (
            ("theirs", theirs),
            ("somebody-elses-tool", strange),
            (ours.name, theirs),
            (ours.name, strange),
            ("theirs", ours.jobid),
        ):
            job = Job(name=name, number=1, jobid=jobid)
            await self.assert_out_of_reach(job)
        listed = (await self.client.get("/queued")).json
        self.assertEqual([pair for pair in listed if pair[1] in (theirs, strange)], [])
        states = self.cluster.slurm(
            "squeue", "-h", "-o", "%i %t %r", "-j", f"{strange},{theirs},{ours.jobid}"
        )
        self.assertEqual(
            set(states.splitlines()),
            {f"{jobid} PD JobHeldUser" for jobid in (strange, theirs, ours.jobid)},
        )

    async def test_name_that_looks_like_records(self) -> None:
        """A job of the account, named so, neither ends one of ours nor makes one up."""
        ours = await self.submit(job_text("sleep 600"), held=True)
        name = f"x\n{ours.jobid}|CD|1:00|n1|None|jarvice_{ours.name}\n9|R|1:00|n1|None|jarvice_none"
        forged = self.cluster.ssh(
            f"sbatch --parsable -H -o /dev/null --wrap 'sleep 600' -J '{name}'"
        ).stdout.decode()
        self.addCleanup(self.cluster.slurm, "scancel", forged.strip(), ours.jobid)

        async def is_seen() -> bool:
            return forged.strip() in self.cluster.slurm("squeue", "-h", "-o", "%i").split()

        await self.until(is_seen)
        await pause(1.1)
        self.assertEqual((await self.client.post("/exitstatus", ours.ref)).code, 409)
        self.assertTrue(await self.listed("/queued", ours))
        self.assertNotIn(["none", "9"], (await self.client.get("/running")).json)

    async def assert_out_of_reach(self, job: Job) -> None:
        answers: dict[str, Response] = {
            path: await self.client.post(path, job.ref)
            for path in ("/runstatus", "/exitstatus", "/events", "/release")
        }
        self.assertEqual(answers["/runstatus"].json, [None] * 4)
        self.assertEqual(answers["/exitstatus"].json, [-9, "00:00:00", []])
        self.assertEqual(answers["/events"].code, 404)
        self.assertEqual(answers["/release"].code, 404)
        for path in ("/terminate", f"/request/{job.path}/abort", f"/request/{job.path}/shutdown"):
            self.assertEqual((await self.client.post(path, job.ref)).code, 200)
        tail = await self.client.post(f"/request/{job.path}/tail", {"qs": {}})
        self.assertEqual(tail.code, 404)


class AccountedJobsTests(FaultTestCase):
    """What accounting knows of other users."""

    def make_cluster(self) -> DevCluster:
        """The one with slurmdbd."""
        return accounting_cluster()

    async def test_not_answered(self) -> None:
        """sacct tells everybody's jobs to everybody; we don't."""
        jobid = self.cluster.slurm(
            "sbatch", "--parsable", "-o", "/dev/null", "-D", "/", "-J", "jarvice_theirs",
            "--wrap", "exit 3",
        ).strip()  # fmt: skip
        job = Job(name="theirs", number=1, jobid=jobid)

        async def is_accounted() -> bool:
            return b"FAILED" in self.cluster.ssh(f"sacct -nX -j {jobid} -o State").stdout

        await self.until(is_accounted)
        answer = await self.client.post("/exitstatus", job.ref)
        self.assertEqual(answer.json, [-9, "00:00:00", []])


class FilesTests(FaultTestCase):
    """What stands on the shared disk."""

    async def test_only_the_owners(self) -> None:
        """Everything that we and the job leave is the owner's alone, at every stage."""
        text = job_text("echo output; mkdir -p $JARVICE_JOB_DIR; sleep 1")
        job = await self.submit(text, held=True)
        self.assert_private(job)
        await self.client.post("/release", job.ref)
        await self.until_running(job)
        self.assert_private(job)
        await self.end_of(job)
        self.assert_private(job)
        self.assertTrue((self.cluster.scratch / ".jarvice" / f"{job.name}.out").exists())

    def assert_private(self, job: Job) -> None:
        for path in self.paths_of(job):
            mode = path.lstat().st_mode
            self.assertEqual(mode & 0o077, 0, (str(path), stat.filemode(mode)))

    def paths_of(self, job: Job) -> Iterator[Path]:
        root = self.cluster.scratch / ".jarvice"
        yield from (root, root / "submit", root / "jobs", root / "numbers")
        for folder in (root / "submit" / job.name, root / "jobs" / job.jobid):
            if folder.exists():
                yield folder
                yield from folder.rglob("*")
        output = root / f"{job.name}.out"
        if output.exists():
            yield output


class SecretsTests(OutageTestCase):
    """What the log and the answers never hold."""

    settings: ClassVar = {
        "JARVICE_SLURM_COMMAND_TIMEOUT": "4",
        "JARVICE_SLURM_SCHED_LOGLEVEL": "0",
        "JARVICE_SCHED_SERVER_KEY": f"{_USER}:{_PASSWORD}",
        "JARVICE_DOCKER_USERNAME": base64.b64encode(b"registry-robot-7").decode(),
        "JARVICE_DOCKER_PASSWORD": base64.b64encode(b"platform-registry-pass").decode(),
        "JARVICE_SLURM_HTTPS_PROXY": "http://proxyuser:proxy-pass-word@proxy:3128",
    }

    async def make_jobs(self) -> Jobs:
        """None."""
        nobody = Job(name="nobody", number=1, jobid="99999999")
        return Jobs(running=nobody, ended=nobody, held=nobody)

    async def test_never_told(self) -> None:
        """At the lowest log level, through errors of every kind, and in every answer."""
        authorization = (_USER, _PASSWORD)
        secret = base64.b64encode(b'{"auths":{"r.io":{"auth":"am9iOmpvYi1wYXNz"}}}').decode()
        docker = json.dumps({"server": "q.io", "username": "u7", "password": "job-docker-pass"})
        text = job_text(
            "true",
            JOBOBJ_REPO="q.io/app",
            JOBOBJ_CTRSECRET=secret,
            JOBOBJ_DOCKER_SECRET=docker,
            SOME_TOKEN="eyJhbGciOi-token",
        )
        submission = {
            "name": "secret-keeper",
            "number": 4711,
            "nodes": 1,
            "held": True,
            "bearer": "eyJhbGciOi-bearer",
            "hpc_script": {"singularity": base64.b64encode(text.encode()).decode()},
        }
        answers = [
            await self.client.post("/submit", submission, auth=authorization),
            await self.client.post("/submit", {**submission, "nodes": "many"}, auth=authorization),
            await self.client.post("/submit", submission, auth=(_USER, f"{_PASSWORD}!")),
            await self.client.get("/running", auth=authorization),
        ]
        self.assertEqual([answer.code for answer in answers], [200, 400, 401, 200])
        self.addCleanup(self.cluster.slurm, "scancel", answers[0].json[0])
        self.cut_link()
        answers.append(await self.client.post("/submit", submission, auth=authorization))
        answers.append(await self.client.get("/ready"))
        key = self.cluster.private_key("ed25519").splitlines()[2]
        secrets = (
            *(_PASSWORD, "platform-registry-pass", "proxy-pass-word", "job-docker-pass"),
            *("am9iOmpvYi1wYXNz", "job-pass", "eyJhbGciOi", secret, key),
            *(base64.b64encode(word.encode()).decode() for word in (_PASSWORD, "job-docker-pass")),
            base64.b64encode(f"{_USER}:{_PASSWORD}".encode()).decode(),
            self.settings["JARVICE_DOCKER_PASSWORD"],
        )
        told = "\n".join(self.replica.lines)
        self.assertIn("secret-keeper", told)
        for word in secrets:
            self.assertNotIn(word, told)
            for answer in answers:
                self.assertNotIn(word, answer.body.decode())


@implementer(IPolicyForHTTPS)
class _Trusting:
    """Trusts one certificate, and no other."""

    def __init__(self, pem: bytes) -> None:
        self._root = trustRootFromCertificates([Certificate.loadPEM(pem)])

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        """See IPolicyForHTTPS."""
        return optionsForClientTLS(hostname.decode(), trustRoot=self._root)


class TLSTests(OutageTestCase):
    """The API over TLS, by an endpoint string."""

    async def make_jobs(self) -> Jobs:
        """None."""
        nobody = Job(name="nobody", number=1, jobid="99999999")
        return Jobs(running=nobody, ended=nobody, held=nobody)

    def make_certificate(self) -> tuple[Path, bytes]:
        """A file with a new key and its certificate for localhost; and the certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        public = certificate.public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = Path(tempfile.mkstemp(prefix="tls-", suffix=".pem")[1])
        self.addCleanup(path.unlink)
        path.write_bytes(private + public)
        return path, public

    async def test_endpoint_string(self) -> None:
        """Who trusts the certificate is served; plain HTTP and who does not trust it are not."""
        path, certificate = self.make_certificate()
        port = free_port()
        replica = Replica(
            self.environ(), f"ssl:{port}:privateKey={path}:certKey={path}:interface=127.0.0.1"
        )
        replica.start()
        self.addCleanup(replica.stop)
        url = f"https://localhost:{port}"
        trusting = DaemonClient(url, Agent(reactor, _Trusting(certificate)))

        async def is_ready() -> bool:
            try:
                return (await trusting.get("/ready")).code == 200
            except Exception:
                return False

        await self.until(is_ready)
        self.assertEqual((await trusting.get("/live")).json, {"status": "OK"})
        self.assertEqual((await trusting.get("/running")).code, 200)
        await self.assert_fails(
            lambda: treq.get(f"{url}/live", agent=Agent(reactor, BrowserLikePolicyForHTTPS()))
        )
        await self.assert_fails(
            lambda: treq.get(f"http://localhost:{port}/live", agent=Agent(reactor))
        )

    async def assert_fails(self, ask: Callable[[], Awaitable[object]]) -> None:
        try:
            answer = await ask()
        except ResponseNeverReceived:
            return
        except Exception as error:
            self.assertIn("response", str(error).lower())
            return
        self.fail(f"answered: {answer}")
