"""The systemd unit: what it says fits the daemon, and systemd can read it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from configparser import ConfigParser
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from test.deploy.bounds import longest_stop

FOLDER = Path(__file__).parents[2] / "deploy"
UNIT = FOLDER / "systemd" / "jarvice-slurmd.service"


class UnitTests(SynchronousTestCase):
    """deploy/systemd."""

    def setUp(self) -> None:
        unit = ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read(UNIT)
        self.service = dict(unit["Service"])

    def test_command(self) -> None:
        """The image's command, with its listener."""
        found = re.search(r"^ENTRYPOINT (.*)", (FOLDER / "image/Dockerfile").read_text(), re.M)
        assert found is not None
        program, *words = json.loads(found[1])
        expected = [f"/opt/jarvice-slurmd/bin/{program}", *words, "--http", "tcp:8080"]
        self.assertEqual(self.service["ExecStart"].split(), expected)

    def test_stop(self) -> None:
        """It is given the time that a stop takes at most."""
        self.assertGreater(int(self.service["TimeoutStopSec"]), longest_stop())
        self.assertEqual(self.service["KillMode"], "mixed")
        self.assertEqual(self.service["Restart"], "on-failure")

    def test_privileges(self) -> None:
        """No user of the machine's, no capability, nothing to write to."""
        for name, value in (
            ("DynamicUser", "yes"),
            ("NoNewPrivileges", "yes"),
            ("CapabilityBoundingSet", ""),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("PrivateTmp", "yes"),
        ):
            self.assertEqual(self.service[name], value, name)

    def test_no_setting(self) -> None:
        """Settings, secret ones among them, stand in a file of their own."""
        self.assertNotIn("Environment", self.service)
        self.assertNotIn("=JARVICE_", UNIT.read_text())

    def test_verify(self) -> None:
        """systemd-analyze, where there is one, finds nothing wrong; the program is made up."""
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("there is no systemd-analyze here")
        with tempfile.TemporaryDirectory(prefix="jarvice-unit-") as name:
            folder = Path(name)
            unit = folder / UNIT.name
            unit.write_text(UNIT.read_text().replace("/opt/jarvice-slurmd/bin/twistd", "/bin/true"))
            done = subprocess.run(
                ["systemd-analyze", "verify", str(unit)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        self.assertEqual((done.returncode, done.stdout), (0, ""))
