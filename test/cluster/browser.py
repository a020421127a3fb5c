"""A real browser: Chromium without a window, driven over WebDriver (W3C) through chromedriver."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from typing import Any

import treq
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool

from deploy.demo.processes import free_port

reactor: Any = _reactor

#: Debian's.
PACKAGES = ("chromium", "chromium-driver")

#: As root, without a GPU, and asking nobody for anything but what a test opens (TRAPS).
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE *.localhost",
)

#: How WebDriver names an element in JSON (W3C WebDriver §12).
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"

#: Seconds that a page may take for what it is waited for; far more than it ever needs.
PATIENCE = 60.0

#: WebDriver's code points for keys that are no characters (§17.4.2).
ENTER, SHIFT, CONTROL = "\ue007", "\ue008", "\ue009"


class WebDriverError(Exception):
    """The browser could not do what it was told; the text is its own."""


class _Process(ProcessProtocol):
    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self.pid = 0

    def connectionMade(self) -> None:
        """It runs."""
        assert IProcessTransport.providedBy(self.transport)
        self.pid = self.transport.pid

    def processEnded(self, reason: Failure) -> None:
        """It is gone, and with it the browser."""
        self.ended.callback(None)


class Browser:
    """One browser with one window of `width` by `height` pixels; `stop` it when done."""

    def __init__(self, width: int = 1000, height: int = 640) -> None:
        self._size = (width, height)
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self._process = _Process()
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._agent = Agent(reactor, pool=self._pool)
        self._session = ""

    async def start(self) -> None:
        """Start it, its profile empty."""
        port = free_port()
        # A group of its own: what it starts must not outlive it.
        words = ["setsid", "chromedriver", f"--port={port}", "--log-level=OFF"]
        reactor.spawnProcess(
            self._process,
            words[0],
            words,
            env={**os.environ, "HOME": self._profile},
            childFDs={0: "w", 1: "r", 2: "r"},
        )
        url = f"http://127.0.0.1:{port}"
        arguments = [
            *_ARGUMENTS,
            f"--window-size={self._size[0]},{self._size[1]}",
            f"--user-data-dir={self._profile}/profile",
        ]
        wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}
        self._session = f"{url}/session"
        while True:
            try:
                session = await self._call("POST", "", {"capabilities": wanted})
                break
            except ConnectionRefusedError:
                await deferLater(reactor, 0.05)
        self._session = f"{url}/session/{session['sessionId']}"

    async def stop(self) -> None:
        """End it, and remove what it has kept."""
        with contextlib.suppress(Exception):
            await self._call("DELETE", "")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.ended
        await self._pool.closeCachedConnections()
        shutil.rmtree(self._profile, ignore_errors=True)

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self._call("POST", "/url", {"url": url})

    async def run(self, script: str) -> Any:
        """What a function's body returns in the page."""
        return await self._call("POST", "/execute/sync", {"script": script, "args": []})

    async def until(self, expression: str) -> Any:
        """Wait until an expression in the page is true; returns it."""
        deadline = reactor.seconds() + PATIENCE
        while True:
            value = await self.run(f"return ({expression})")
            if value:
                return value
            if reactor.seconds() > deadline:
                text = await self.run("return document.body && document.body.innerText")
                raise WebDriverError(f"{expression} never came true; the page says: {text}")
            await deferLater(reactor, 0.1)

    async def click(self, selector: str, x: int = 0, y: int = 0) -> None:
        """Click on an element: `x` and `y` pixels from its middle."""
        origin = {_ELEMENT: await self._find(selector)}
        moves = [
            {"type": "pointerMove", "duration": 0, "x": x, "y": y, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        await self._act({"type": "pointer", "id": "mouse", "actions": moves})

    async def type(self, text: str, *, holding: str = "") -> None:
        """Press the keys of a text one after another, one more held down meanwhile."""
        actions = [{"type": "keyDown", "value": holding}] if holding else []
        for key in text:
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        actions += [{"type": "keyUp", "value": holding}] if holding else []
        await self._act({"type": "key", "id": "keyboard", "actions": actions})

    async def screenshot(self) -> bytes:
        """The window's picture, a PNG."""
        return base64.b64decode(await self._call("GET", "/screenshot"))

    async def _find(self, selector: str) -> str:
        found = await self._call("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    async def _act(self, source: Mapping[str, object]) -> None:
        await self._call("POST", "/actions", {"actions": [source]})

    async def _call(
        self, method: str, path: str, arguments: Mapping[str, object] | None = None
    ) -> Any:
        body: dict[str, Any] = {} if arguments is None else {"json": arguments}
        response = await treq.request(method, f"{self._session}{path}", agent=self._agent, **body)
        value = (await response.json())["value"]
        if response.code != 200:
            raise WebDriverError(f"{value['error']}: {value['message']}")
        return value
