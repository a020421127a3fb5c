"""The endpoint on a TLS listener, whose connections know no half-closes."""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.endpoints import SSL4ClientEndpoint, connectProtocol
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from jarvice_slurmd.interactive.front import FrontFactory
from test.interactive.loopback import GatewayCase, Peer, eventually, reactor

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /job1/ HTTP/1.1\r\nHost: d.com\r\n\r\n"


def make_certificate() -> PrivateCertificate:
    """A certificate that nobody need trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "d.com")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(
        pem + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return loaded


class _Secure(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return b"secure" if request.isSecure() else b"plain"


class TlsTests(GatewayCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = reactor
        self.site = Site(_Secure(), reactor=reactor)

    def start(self, **changes: Any) -> FrontFactory:
        def listen(port: int, factory: FrontFactory, interface: str) -> Any:
            return reactor.listenSSL(
                port, factory, make_certificate().options(), interface=interface
            )

        return self.listen(listen, **changes)

    async def connect(self) -> Peer:
        port = self.port.getHost().port
        options = CertificateOptions()
        endpoint = SSL4ClientEndpoint(reactor, "127.0.0.1", port, options)
        peer: Peer = await connectProtocol(endpoint, Peer())
        self.addCleanup(self._leave, peer)
        return peer

    async def test_job_and_api(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        service = await backend.accept()
        self.assertIn(b"X-Forwarded-Proto: https\r\n", await service.head())
        service.send(OK)
        await client.until(OK)
        client.send(b"GET / HTTP/1.1\r\nHost: d\r\n\r\n")
        await client.until(b"\r\n\r\nsecure")

    async def test_response_until_close(self) -> None:
        backend = self.job()
        self.start()
        client = await self.connect()
        client.send(GET)
        service = await backend.accept()
        await service.head()
        body = b"x" * 3_000_000
        service.send(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        service.close()
        await client.head()
        self.assertEqual(await client.rest(), body)

    async def test_websocket_ends(self) -> None:
        for by_client in (True, False):
            backend = self.job()
            self.start()
            client = await self.connect()
            client.send(
                b"GET /job1/ HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\n\r\n"
            )
            service = await backend.accept()
            await service.head()
            service.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            await client.head()
            data = b"y" * 1_000_000
            one, other = (client, service) if by_client else (service, client)
            one.send(data)
            one.close()
            self.assertEqual(await other.exactly(len(data)), data)
            await other.gone()
            await eventually(lambda: not self.front.channels)
