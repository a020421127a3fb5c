"""What the probe and the directory of jobs stand on in tests: services in memory, and records."""

from __future__ import annotations

import base64
from collections.abc import Callable

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from jarvice_slurmd.errors import TunnelConnectError
from jarvice_slurmd.interactive.routing import JobsDomain, parse_jobs_domain
from jarvice_slurmd.interfaces import ITunnelOpener
from jarvice_slurmd.jobs.model import Interactive
from jarvice_slurmd.jobs.parameters import render_ingress_path
from jarvice_slurmd.slurm.interactive import (
    InteractiveRecord,
    ServiceAddress,
    render_interactive,
)

BY_PATH = parse_jobs_domain("https://d.com/job$", "")
BY_HOST = parse_jobs_domain("d.com", "jarvice")

#: What a service answers to a path: bytes, or None for nothing at all.
Answer = Callable[[str], bytes | None]


def status(code: int, *fields: str) -> bytes:
    """A whole response without a body."""
    lines = [f"HTTP/1.1 {code} X", *fields, "Content-Length: 0", "", ""]
    return "\r\n".join(lines).encode()


def at_root(path: str) -> bytes:
    """An application that knows nothing of a prefix."""
    return status(200 if path == "/" else 404)


def under_prefix(path: str) -> bytes:
    """An application that serves under /job7, as Jupyter does."""
    if path == "/":
        return status(302, "Location: /job7/lab")
    return status(302, "Location: /job7/lab?") if path.startswith("/job7/") else status(404)


def record(
    *,
    number: int = 7,
    url: str = "",
    help_text: str = "",
    about: Interactive | None = None,
    service: ServiceAddress | None = None,
    strip_prefix: bool | None = None,
) -> InteractiveRecord:
    """A job's record, with a password and letters to choose from."""
    return InteractiveRecord(
        name="20260101000000-ABCDE-app-user_s1",
        number=number,
        jobid="70",
        about=about or Interactive(),
        service=service,
        strip_prefix=strip_prefix,
        url=url,
        help=help_text,
        password="pass-word",
        random="".join(chr(97 + at % 26) for at in range(128)),
    )


def printed(name: str, number: int, jobid: str, **files: str) -> bytes:
    """What the login node prints of a job; `service="5902 n1 10.0.0.1"`, `url_txt=…` and so on."""
    noted = {"interactive": render_interactive(Interactive()).decode(), **files}
    fields = {"name": name, "number": f"{number}\n", "jobid": f"{jobid}\n"}
    fields |= {file.replace("_txt", ".txt"): text for file, text in noted.items()}
    lines = [f"{file}={base64.b64encode(text.encode()).decode()}" for file, text in fields.items()]
    return "".join(f"{line}\n" for line in lines).encode()


def prefix_of(domain: JobsDomain, number: int = 7) -> str:
    """`/job7`, or nothing by host."""
    path = render_ingress_path(domain.path, number)
    return f"/{path}" if path else ""


class _Transport(StringTransport):
    """One tunnel: the service at its end answers in the clock's next turn."""

    def __init__(self, services: FakeServices, answer: Answer, protocol: IProtocol) -> None:
        super().__init__()
        self._services = services
        self._answer = answer
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        """A request."""
        head = data.decode("ascii")
        self._services.requests.append(head)
        self._services.clock.callLater(self._services.delay, self._respond, head.split()[1])

    def _respond(self, path: str) -> None:
        said = self._answer(path)
        if said is not None and not self.disconnecting:
            self._protocol.dataReceived(said)

    def loseConnection(self) -> None:
        """The tunnel is closed, once."""
        if not self.disconnecting:
            self.disconnecting = True
            self._services.open_tunnels -= 1
            self._services.clock.callLater(
                0, self._protocol.connectionLost, Failure(ConnectionDone())
            )


@implementer(ITunnelOpener)
@define
class FakeServices:
    """Services by host and port; a port without one refuses, `silent` hosts never answer.

    Each takes `delay` seconds for an answer.
    """

    clock: Clock
    answers: dict[tuple[str, int], Answer] = field(factory=dict)
    silent: set[str] = field(factory=set)
    delay: float = 0.0
    error: Exception | None = None
    opened: list[tuple[str, int]] = field(factory=list)
    requests: list[str] = field(factory=list)
    open_tunnels: int = 0
    tunnels: list[_Transport] = field(factory=list)

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for."""
        return [request.split()[1] for request in self.requests]

    def open(self, host: str, port: int, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `ITunnelOpener.open`."""
        self.opened.append((host, port))
        if self.error is not None:
            return fail(self.error)
        if host in self.silent:
            return Deferred()
        answer = self.answers.get((host, port))
        if answer is None:
            return fail(TunnelConnectError(f"{host}:{port} refused"))
        protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
        assert protocol is not None
        self.open_tunnels += 1
        tunnel = _Transport(self, answer, protocol)
        self.tunnels.append(tunnel)
        protocol.makeConnection(tunnel)
        return succeed(protocol)
