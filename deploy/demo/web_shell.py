"""The demo's interactive application: a shell on the compute node, in a web page.

It is the text of a job, so it is Python's standard library and nothing else. It serves at `/` on
JARVICE_SERVICE_PORT, to whoever brings the token that its address holds.
"""

from __future__ import annotations

import hmac
import json
import os
import pty
import socketserver
import subprocess
import threading
from http import cookies
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>A shell on @NODE@</title>
<style>
body { margin: 0; height: 100vh; display: flex; flex-direction: column; background: #1d2733;
  color: #dfe5ec; font: 15px/1.5 ui-monospace, monospace; }
header { background: #2f74d0; color: #fff; padding: .6rem 1rem; font-family: sans-serif; }
pre { flex: 1; margin: 0; padding: 1rem; overflow: auto; white-space: pre-wrap; }
form { display: flex; padding: .6rem 1rem; background: #16202b; }
input { flex: 1; font: inherit; color: inherit; background: none; border: 0; outline: 0; }
</style>
<header><b>A shell on @NODE@</b>, in Slurm's job @JOB@, through jarvice-slurmd</header>
<pre id="output"></pre>
<form id="form"><span>&gt;&nbsp;</span><input id="line" autocomplete="off" autofocus
  placeholder="squeue, hostname, top -bn1 | head …"></form>
<script>
const output = document.getElementById("output"), line = document.getElementById("line");
const events = new EventSource("output");
events.onmessage = event => {
  output.textContent = (output.textContent + JSON.parse(event.data)).slice(-200000);
  output.scrollTop = output.scrollHeight;
};
events.onerror = () => output.append("\\n[the connection is gone; the page tries again]\\n");
document.getElementById("form").onsubmit = event => {
  event.preventDefault();
  fetch("input", {method: "POST", body: line.value + "\\n"});
  line.value = "";
};
</script></html>
"""

#: How much of what was printed a page that is opened again gets to see, in characters.
_KEPT = 100_000


class Shell:
    """One bash on a terminal of its own; whoever opens the page sees and types into the same."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.printed = ""
        self.count = 0
        self._terminal, far_end = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "PS1": r"\u@$PROCESS_NODENAME \W\$ "}
        subprocess.Popen(
            ["bash", "--norc", "--noediting", "-i"],
            stdin=far_end,
            stdout=far_end,
            stderr=far_end,
            env=environment,
            start_new_session=True,
        )
        os.close(far_end)
        threading.Thread(target=self._read, daemon=True).start()

    def type(self, data: bytes) -> None:
        """Press keys."""
        os.write(self._terminal, data)

    def _read(self) -> None:
        while data := os.read(self._terminal, 65_536):
            text = data.decode("utf-8", "replace").replace("\r\n", "\n")
            with self.changed:
                self.printed = (self.printed + text)[-_KEPT:]
                self.count += len(text)
                self.changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    """The page, what the shell prints as server-sent events, and what is typed."""

    protocol_version = "HTTP/1.1"
    shell: Shell
    token: str

    def do_GET(self) -> None:
        """The page, or the shell's output."""
        parts = urlsplit(self.path)
        if parts.path == "/":
            given = parse_qs(parts.query).get("token", [""])[0]
            if self._knows(given):
                self._answer_page(given)
            else:
                self._answer(403, b"This shell opens with the token that its address holds.\n")
        elif parts.path == "/output" and self._is_allowed():
            self._stream()
        else:
            self._answer(404, b"Nothing is here.\n")

    def do_POST(self) -> None:
        """What is typed."""
        data = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 65_536))
        if self.path != "/input" or not self._is_allowed():
            self._answer(404, b"Nothing is here.\n")
        else:
            self.shell.type(data)
            self._answer(200, b"")

    def log_message(self, *words: object) -> None:
        """Not into the job's output."""

    def _knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())

    def _is_allowed(self) -> bool:
        kept = cookies.SimpleCookie(self.headers.get("Cookie", ""))
        return "shell" in kept and self._knows(kept["shell"].value)

    def _answer_page(self, token: str) -> None:
        page = PAGE.replace("@NODE@", os.environ["PROCESS_NODENAME"])
        page = page.replace("@JOB@", os.environ["SLURM_JOB_ID"])
        cookie = ("Set-Cookie", f"shell={token}; Path=/; HttpOnly; SameSite=Strict")
        self._answer(200, page.encode(), ("Content-Type", "text/html; charset=utf-8"), cookie)

    def _answer(self, status: int, body: bytes, *fields: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*fields, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        shell, seen = self.shell, 0
        while True:
            with shell.changed:
                # Now and then a word that means nothing: so a page that was left is noticed.
                shell.changed.wait_for(lambda: shell.count > seen, timeout=15)  # noqa: B023
                fresh = shell.printed[-(shell.count - seen) :] if shell.count > seen else ""
                seen = shell.count
            try:
                self.wfile.write(f"data: {json.dumps(fresh)}\n\n".encode())
            except OSError:
                return


class Server(socketserver.ThreadingTCPServer):
    """One thread a connection."""

    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves is no news."""


def main() -> None:
    """Say where the shell is to be found, and serve it until the job ends."""
    folder = os.environ["JARVICE_JOB_DIR"]
    with open(f"{folder}/random128") as file:
        Handler.token = file.read()[:32]
    with open(f"{folder}/url.txt", "w") as file:
        file.write("https://%PUBLICADDR%:5902/?token=%RANDOM32%\n")
    Handler.shell = Shell()
    port = int(os.environ["JARVICE_SERVICE_PORT"])
    print(f"a shell waits on port {port} of {os.environ['PROCESS_NODENAME']}", flush=True)
    Server(("0.0.0.0", port), Handler).serve_forever()  # noqa: S104 - it is reached from elsewhere


if __name__ == "__main__":
    main()
