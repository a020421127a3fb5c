"""Real applications as interactive jobs, used in a real browser through the daemon.

With JARVICE_SCREENSHOTS=<folder> what the browser shows is kept there (`make screenshots`).
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from deploy.demo.upstream import interactive_script
from test.cluster.applications.install import install_jupyter, install_packages
from test.cluster.browser import ENTER, PACKAGES, SHIFT, Browser
from test.cluster.interactive import APPLICATIONS, InteractiveTestCase, interactive_text

DEMO = Path(__file__).parents[2] / "deploy" / "demo"

_DESKTOP = ("tigervnc-standalone-server", "novnc", "websockify", "xterm", "x11-apps")


class ApplicationTestCase(InteractiveTestCase):
    """A test with a browser."""

    timeout = 600

    async def setUp(self) -> None:  # type: ignore[override]
        """Start it."""
        await super().setUp()
        await deferToThread(install_packages, *PACKAGES)
        self.browser = Browser()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.browser.stop()))
        await self.browser.start()

    async def keep_screenshot(self, name: str) -> None:
        """Keep what the browser shows, where that is asked for."""
        folder = os.environ.get("JARVICE_SCREENSHOTS")
        picture = await self.browser.screenshot()
        if folder:
            _write(Path(folder, f"{name}.png"), picture)


class JupyterTests(ApplicationTestCase):
    """JupyterLab, which serves under its prefix: REST, WebSockets and hundreds of small files."""

    async def test_notebook(self) -> None:
        """A notebook is opened at the job's URL, and a cell of it runs on the compute node."""
        programs = await deferToThread(install_jupyter)
        text = (APPLICATIONS / "jupyter.sh").read_text().replace("@PROGRAMS@", str(programs))
        job = await self.start(interactive_text(text))
        url = await self.until_open(job)
        self.assertRegex(
            url, rf"/job{job.number}/lab/tree/notebook\.ipynb\?token=[A-Za-z0-9]{{64}}\Z"
        )
        await self.browser.open(url)
        await self.browser.until("document.body.innerText.includes('Python 3 (ipykernel) | Idle')")

        async def is_in_cell() -> object:
            # Until all of it is laid out a click may hit something else.
            await self.browser.click(".jp-CodeCell .jp-InputArea-editor")
            return await self.browser.run(
                "return document.querySelector('.jp-CodeCell.jp-mod-active .cm-focused') != null"
            )

        await self.until(is_in_cell)
        await self.browser.type(ENTER, holding=SHIFT)
        printed = await self.browser.until(
            "document.querySelector('.jp-OutputArea-output pre')?.innerText"
        )
        self.assertRegex(printed, rf"\Aon n[12] in job {job.jobid}\s*\Z")
        await self.browser.until("document.querySelector('.jp-RenderedSVG > *')")
        await self.keep_screenshot("interactive-jupyter")


class DesktopTests(ApplicationTestCase):
    """noVNC, which serves at `/`."""

    async def check_desktop(self) -> None:
        """A desktop appears at the job's URL, and what is typed arrives in its terminal."""
        await deferToThread(install_packages, *_DESKTOP)
        text = (APPLICATIONS / "desktop.sh").read_text()
        job = await self.start(interactive_text(text))
        await self.browser.open(await self.until_open(job))
        await self.browser.until(
            "document.documentElement.classList.contains('noVNC_connected')"
            " && document.querySelector('canvas').width > 800"
        )
        await self.browser.click("canvas", -100, -100)
        typed = self.cluster.scratch / ".jarvice" / "jobs" / job.jobid / "typed"
        await self.browser.type(f"echo On $PROCESS_NODENAME; squeue; echo yes >{typed}{ENTER}")

        async def has_arrived() -> bool:
            return typed.exists() and typed.read_text() == "yes\n"

        await self.until(has_arrived)


class DesktopByPathTests(DesktopTests):
    """Its prefix is taken off."""

    async def test_desktop(self) -> None:
        """By path."""
        await self.check_desktop()
        await self.browser.until(
            "!document.getElementById('noVNC_status').classList.contains('noVNC_open')"
        )
        await self.keep_screenshot("interactive-novnc")


class DesktopByHostTests(DesktopTests):
    """It has a host to itself."""

    by_host = True

    async def test_desktop(self) -> None:
        """By host."""
        await self.check_desktop()


class ShellTests(ApplicationTestCase):
    """The web shell of `make demo`: server-sent events down, requests up, and a cookie."""

    async def test_shell(self) -> None:
        """A command runs on the node; without the token of the job's URL there is no shell."""
        program = (DEMO / "web_shell.py").read_text()
        script = base64.b64decode(interactive_script(program)["singularity"]).decode()
        job = await self.start(script)
        url = await self.until_open(job)
        self.assertEqual((await self.ask(job, "/?token=wrong")).code, 403)
        self.assertEqual((await self.ask(job, "/output")).code, 404)
        await self.browser.open(url)
        text = "document.getElementById('output').textContent"
        await self.browser.until(f"{text}.includes('$ ')")
        await self.browser.click("#line")
        await self.browser.type(f"echo job=$SLURM_JOB_ID, $((6 * 7)){ENTER}")
        await self.browser.until(f"{text}.includes('job={job.jobid}, 42')")
        await self.keep_screenshot("interactive-shell")


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
