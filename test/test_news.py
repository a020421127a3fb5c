"""The news fragments: towncrier can make NEWS.md of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PROJECT = Path(__file__).parents[1]


class NewsTests(SynchronousTestCase):
    """news/."""

    def test_draft(self) -> None:
        """Each of them is in the draft: its name is one that towncrier knows, and is its own."""
        done = subprocess.run(
            [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "0"],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        draft = " ".join(done.stdout.split())
        for path in (PROJECT / "news").iterdir():
            if not path.name.startswith("."):
                text = " ".join(path.read_text().split())
                self.assertIn(text, draft, path.name)
