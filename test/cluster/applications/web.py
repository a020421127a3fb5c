"""A small web application, run as a job's text: Python's standard library and nothing else.

It serves where JARVICE says: on JARVICE_SERVICE_PORT, under /JARVICE_INGRESSPATH when it is started
with the word `prefix`, else at `/`. Below that:

    /               a page that names the job's node
    /echo           what was asked, as JSON: method, path, fields, and the body's size and checksum
    /bytes?N        N bytes of `pattern`
    /endless        bytes until the browser leaves
    /events         server-sent events: one at once, one for each POST to /events
    /websocket      echoes messages; speaks the subprotocol `echo`
    /connections    how many connections are open besides this one
    /cookies        two cookies and a redirect within the application
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from typing import Any

BLOCK = bytes(range(256)) * 257
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def pattern(size: int) -> bytes:
    """Bytes whose period is no power of two: what is lost, doubled or swapped shows."""
    return (BLOCK[:65_521] * (size // 65_521 + 1))[:size]


class _State:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.events = 1
        self.connections = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State
    prefix: str

    def setup(self) -> None:
        with self.state.changed:
            self.state.connections += 1
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            with self.state.changed:
                self.state.connections -= 1

    def log_message(self, *words: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        if not path.startswith(f"{self.prefix}/"):
            self._answer(404, b"nothing here\n")
            return
        name = path[len(self.prefix) + 1 :] or "index"
        serve = getattr(self, f"_serve_{name}", None)
        if serve is None:
            self._answer(404, b"nothing here\n")
        else:
            serve(query)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _serve

    def _answer(self, status: int, body: bytes, *fields: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _serve_index(self, query: str) -> None:
        node = os.environ.get("PROCESS_NODENAME", "nowhere")
        text = f"<!DOCTYPE html><title>A job</title><h1>A job's page</h1><p>It runs on {node}.</p>"
        self._answer(200, text.encode(), ("Content-Type", "text/html; charset=utf-8"))

    def _serve_echo(self, query: str) -> None:
        digest, size = hashlib.sha256(), 0
        for piece in self._body():
            digest.update(piece)
            size += len(piece)
        said = {
            "method": self.command,
            "path": self.path,
            "fields": self.headers.items(),
            "size": size,
            "sha256": digest.hexdigest(),
        }
        self._answer(200, json.dumps(said).encode(), ("Content-Type", "application/json"))

    def _body(self) -> Any:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from _pieces(self.rfile, size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            yield from _pieces(self.rfile, int(self.headers.get("Content-Length", 0)))

    def _serve_bytes(self, query: str) -> None:
        left = int(query)
        self.send_response(200)
        self.send_header("Content-Length", str(left))
        self.end_headers()
        while left:
            self.wfile.write(BLOCK[: min(left, 65_521)])
            left -= min(left, 65_521)

    def _serve_endless(self, query: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        while True:
            self.wfile.write(BLOCK)

    def _serve_events(self, query: str) -> None:
        state = self.state
        if self.command == "POST":
            with state.changed:
                state.events += 1
                state.changed.notify_all()
            self._answer(200, b"")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        sent = 0
        while True:
            with state.changed:
                while state.events <= sent:
                    state.changed.wait()
            sent += 1
            self.wfile.write(b"data: event %d\n\n" % sent)

    def _serve_connections(self, query: str) -> None:
        self._answer(200, b"%d" % (self.state.connections - 1))

    def _serve_cookies(self, query: str) -> None:
        self._answer(
            302,
            b"",
            ("Location", f"{self.prefix}/echo"),
            ("Set-Cookie", "a=1; Path=/"),
            ("Set-Cookie", "b=2; Path=/; HttpOnly"),
        )

    def _serve_websocket(self, query: str) -> None:
        """RFC 6455; frames come whole here and go back whole."""
        key = self.headers["Sec-WebSocket-Key"].encode()
        accept = base64.b64encode(
            hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest()
        ).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        if "echo" in self.headers.get("Sec-WebSocket-Protocol", ""):
            self.send_header("Sec-WebSocket-Protocol", "echo")
        self.end_headers()
        self.close_connection = True
        while len(head := self.rfile.read(2)) == 2:
            extended = {126: 2, 127: 8}.get(head[1] & 127, 0)
            length = self.rfile.read(extended)
            size = int.from_bytes(length, "big") if extended else head[1] & 127
            mask = self.rfile.read(4)
            key_bytes = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
            masked = int.from_bytes(self.rfile.read(size), "big")
            plain = (masked ^ key_bytes).to_bytes(size, "big")
            self.wfile.write(head[:1] + bytes([head[1] & 127]) + length + plain)
            if head[0] & 15 == 8:
                return


def _pieces(file: BufferedIOBase, size: int) -> Any:
    while size:
        piece = file.read(min(size, 65_536))
        if not piece:
            return
        size -= len(piece)
        yield piece


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def main(words: list[str]) -> None:
    """Serve until the job ends."""
    _Handler.state = _State()
    under = os.environ.get("JARVICE_INGRESSPATH", "") if "prefix" in words else ""
    _Handler.prefix = f"/{under}" if under else ""
    _Server(("0.0.0.0", int(os.environ["JARVICE_SERVICE_PORT"])), _Handler).serve_forever()  # noqa: S104


if __name__ == "__main__":
    main(sys.argv[1:])
