"""The ways from a browser to a job's web service: our daemon's, `ssh -L`'s and paramiko's."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from attrs import asdict, evolve, frozen

from deploy.demo.processes import PROJECT, free_port
from test.bench.namespaces import LEASHED, NEAR_ADDRESS, Namespace, Wire, inside
from test.bench.neighbours import Login
from test.bench.scene import Scene, SceneError, daemon, job_text, submission, twistd

#: The distance of far ways, as a round trip in seconds, and TCP buffers that fill such a wire.
ROUND_TRIP: Final = 0.05
LARGE_BUFFERS: Final = 16 * 1024 * 1024

_PATIENCE: Final = 60.0
_PAUSE: Final = 0.05


@frozen(kw_only=True)
class Service:
    """The job whose web service is reached: its number, and where the login node finds it."""

    number: int
    address: str
    port: int


@frozen(kw_only=True)
class Way:
    """A way to the service: a port on loopback and the path that leads to it there.

    `pid` is the process that forwards; `namespace` is where it and its browser are.
    """

    title: str
    port: int
    path: str
    pid: int
    namespace: Namespace | None = None

    def cpu_seconds(self) -> float:
        """The CPU that its process has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """The memory that its process has now: resident, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        if found is None:
            raise SceneError(f"{self.title} has ended")
        return int(found[1]) * 1024


def start_service(scene: Scene) -> Service:
    """Submit the job, and wait until its service answers through the daemon."""
    source = (Path(__file__).parent / "service.py").read_bytes()
    encoded = base64.b64encode(source).decode("ascii")
    text = job_text(f'exec python3 -c "$(echo {encoded} | base64 -d)"', interactive=True)
    name, number = scene.names.next("service")
    jobid, _ = scene.upstream().post("/submit", submission(name, number, text, held=False))
    try:
        place = json.loads(_until_open(scene.port, f"/job{number}/place"))
    except SceneError as error:
        shown = scene.cluster.slurm("scontrol", "show", "job", jobid)
        output = (scene.cluster.scratch / ".jarvice" / f"{name}.out").read_text()[-2000:]
        raise SceneError(f"{error}\n{shown}\n{output}") from error
    shown = scene.cluster.slurm("scontrol", "show", "node", place["node"])
    address = re.search(r"\bNodeAddr=(\S+)", shown)
    if address is None:
        raise SceneError(f"{place['node']} has no address")
    return Service(number=number, address=address[1], port=place["port"])


@contextlib.contextmanager
def daemon_way(
    scene: Scene,
    service: Service,
    *,
    environ: Mapping[str, str] | None = None,
    namespace: Namespace | None = None,
    words: Sequence[str] = (),
) -> Iterator[Way]:
    """The way through a daemon of its own, which `words` start if it is not `twistd`."""
    path = f"/job{service.number}/"
    with daemon(
        scene.cluster, scene.folder, words or twistd(), environ=environ, namespace=namespace
    ) as process:
        _until_open(process.port, f"{path}place", namespace)
        yield Way(
            title="daemon", port=process.port, path=path, pid=process.pid, namespace=namespace
        )


@contextlib.contextmanager
def near_ways(scene: Scene, service: Service) -> Iterator[Sequence[Way]]:
    """The daemon, `ssh -N -L` and paramiko, all through the cluster's sshd."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(daemon_way(scene, service)),
            stack.enter_context(_ssh_way(scene.login, service)),
            stack.enter_context(_paramiko_way(scene.login, service)),
        ]


@contextlib.contextmanager
def far_ways(scene: Scene, service: Service, wire: Wire) -> Iterator[Sequence[Way]]:
    """The daemon and `ssh -N -L` at the far end of a wire, the login node at its near end."""
    name = f"[{scene.login.host}]:{scene.login.port}"
    known = scene.cluster.env()["JARVICE_SLURM_SSH_KNOWN_HOSTS"]
    with contextlib.ExitStack() as stack:
        login = stack.enter_context(_login_node(scene, wire.near))
        environ = {
            "JARVICE_SLURM_CLUSTER_ADDR": login.host,
            "JARVICE_SLURM_CLUSTER_PORT": str(login.port),
            "JARVICE_SLURM_SSH_KNOWN_HOSTS": known.replace(name, f"[{login.host}]:{login.port}"),
        }
        options = (f"HostName={login.host}", f"Port={login.port}", f"HostKeyAlias={name}")
        yield [
            stack.enter_context(daemon_way(scene, service, environ=environ, namespace=wire.far)),
            stack.enter_context(_ssh_way(login, service, wire.far, options)),
        ]


@contextlib.contextmanager
def _ssh_way(
    login: Login,
    service: Service,
    namespace: Namespace | None = None,
    options: Sequence[str] = (),
) -> Iterator[Way]:
    """`ssh -N -L` with its default ciphers."""
    port = free_port()
    words = ["ssh", "-F", login.ssh_config, "-N", "-o", "ExitOnForwardFailure=yes"]
    words += [word for option in options for word in ("-o", option)]
    words += ["-L", f"127.0.0.1:{port}:{service.address}:{service.port}", "login"]
    with _running(words, namespace) as pid:
        _until_open(port, "/place", namespace)
        yield Way(title="ssh -N -L", port=port, path="/", pid=pid, namespace=namespace)


@contextlib.contextmanager
def _paramiko_way(login: Login, service: Service) -> Iterator[Way]:
    """The paramiko forwarder."""
    port = free_port()
    said = {
        "login": asdict(login),
        "port": port,
        "to_host": service.address,
        "to_port": service.port,
    }
    words = [sys.executable, "-m", "test.bench.paramiko_forward"]
    with _running(words, None, json.dumps(said)) as pid:
        _until_open(port, "/place")
        yield Way(title="paramiko", port=port, path="/", pid=pid)


@contextlib.contextmanager
def _running(words: Sequence[str], namespace: Namespace | None, stdin: str = "") -> Iterator[int]:
    """Run a process; its id. It is ended in the end."""
    before = LEASHED if namespace is None else namespace.words
    process = subprocess.Popen(
        [*before, *words], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        assert process.stdin is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _login_node(scene: Scene, namespace: Namespace) -> Iterator[Login]:
    """How to log in from the other end of the wire.

    The sockets belong to the namespace; behind them is an sshd of the cluster's own configuration,
    one for each connection, in the network of the cluster's nodes.
    """
    words = ["/usr/sbin/sshd", "-i", "-e", "-f", str(scene.cluster.state / "ssh" / "sshd_config")]
    with namespace.entered():
        listener = socket.create_server((NEAR_ADDRESS, 0))

    sshds: list[subprocess.Popen[bytes]] = []

    def accept() -> None:
        # Until the listener is shut down.
        with contextlib.suppress(OSError), (scene.folder / "sshd.log").open("wb") as log:
            while True:
                connection, _ = listener.accept()
                with connection:
                    at = connection.fileno()
                    sshds.append(subprocess.Popen(words, stdin=at, stdout=at, stderr=log))

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield evolve(scene.login, host=NEAR_ADDRESS, port=listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
        for process in sshds:
            process.terminate()
            process.wait()


def _until_open(port: int, path: str, namespace: Namespace | None = None) -> bytes:
    """Ask until the answer is 200; its body."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        try:
            with inside(namespace):
                connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                return body
            said = f"{response.status} {body[:300]!r}"
        except (OSError, http.client.HTTPException) as error:
            said = str(error)
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise SceneError(f"the service does not answer at port {port}, {path}: {said}")
        time.sleep(_PAUSE)
