"""The demo's stand-in for JARVICE's control plane: PROTOCOL §1, asked with treq."""

from __future__ import annotations

import base64
import json
from typing import Any

import treq
from attrs import frozen
from twisted.web.client import Agent


class UpstreamError(Exception):
    """The daemon did not answer 200; the text says what it answered."""


@frozen
class Upstream:
    """Calls one daemon as upstream does; `url` is without a closing slash."""

    url: str
    agent: Agent

    async def get(self, path: str) -> Any:
        """GET an endpoint; returns the decoded JSON."""
        return await self._answer(await treq.get(f"{self.url}{path}", agent=self.agent), path)

    async def post(self, path: str, args: dict[str, object]) -> Any:
        """POST arguments to an endpoint; returns the decoded JSON."""
        return await self._answer(await self._post(path, args), path)

    async def tail(self, path: str, lines: int) -> str:
        """The end of a job's output; empty while there is none."""
        response = await self._post(f"/request/{path}/tail", {"qs": {"lines": [str(lines)]}})
        text = await response.text()
        return str(text) if response.code == 200 else ""

    async def open(self, url: str) -> str:
        """What a browser is shown at an address."""
        response = await treq.get(url, agent=self.agent)
        return str(await response.text())

    async def _post(self, path: str, args: dict[str, object]) -> Any:
        form = {"args": json.dumps(args)}
        return await treq.post(f"{self.url}{path}", data=form, agent=self.agent)

    async def _answer(self, response: Any, path: str) -> Any:
        body = await response.content()
        if response.code != 200:
            raise UpstreamError(f"{path}: {response.code} {body.decode('utf-8', 'replace')}")
        return json.loads(body) if body else None


def hpc_script(text: str) -> dict[str, str]:
    """A job's text as upstream sends it (PROTOCOL §2)."""
    return {"singularity": base64.b64encode(text.encode("utf-8")).decode("ascii")}


def interactive_script(program: str) -> dict[str, str]:
    """The text of an interactive job that runs a Python program on its first node."""
    encoded = base64.b64encode(program.encode("utf-8")).decode("ascii")
    return hpc_script(
        ': <<"JOBOBJ_EOF"\nJOBOBJ_USER=demo\nJOBOBJ_NAE=demo-shell\nJOBOBJ_APPDEFVERSION=2\n'
        "JOBOBJ_INTERACTIVE=True\nJARVICE_CPU_CORES=1\nJOBOBJ_EOF\n{DOWNSTREAM_PARAMETERS}\n"
        f'exec python3 -c "$(echo {encoded} | base64 -d)"\n'
    )
