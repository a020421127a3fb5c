"""What the login node's scripts read and remove, run in a real shell on a temporary home."""

from __future__ import annotations

import os

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from jarvice_slurmd.slurm.commands import (
    Status,
    render_root,
    render_tail,
    render_write_check,
)
from jarvice_slurmd.slurm.listing import render_list_folder
from test.properties import names, paths, property_test
from test.slurm.sandbox import Sandbox

_ROOT = render_root(None)


class TailTests(SynchronousTestCase):
    """`render_tail`."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)

    def tail(self, lines: int, limit: int = 1000, name: str = "x") -> tuple[int, bytes]:
        result = self.node.run(render_tail(root=_ROOT, name=name, lines=lines, limit=limit))
        return result.status, result.stdout

    def test_lines(self) -> None:
        """The last ones; 0 means all."""
        self.node.write("x.out", "".join(f"{n}\n" for n in range(10)))
        self.assertEqual(self.tail(2), (0, b"8\n9\n"))
        self.assertEqual(self.tail(100)[1].count(b"\n"), 10)
        self.assertEqual(self.tail(0)[1].count(b"\n"), 10)

    def test_bytes(self) -> None:
        """Never more than the bound, however long the lines."""
        self.node.write("x.out", "a" * 5000 + "\n" + "b" * 5000)
        for lines in (0, 1, 100):
            self.assertEqual(self.tail(lines), (0, b"b" * 1000))

    def test_no_output(self) -> None:
        """None yet, whether the file is empty, not there, or the folder is not there."""
        self.assertEqual(self.tail(5), (Status.NO_OUTPUT, b""))
        self.node.write("x.out", "")
        self.assertEqual(self.tail(5), (Status.NO_OUTPUT, b""))

    def test_no_file(self) -> None:
        """What is no file is no output."""
        (self.node.root / "x.out").mkdir(parents=True)
        self.assertEqual(self.tail(5), (Status.NO_OUTPUT, b""))

    def test_not_mounted(self) -> None:
        """A scratch folder that is not mounted is no job without output."""
        root = render_root(f"{self.node.folder}/scratch/")
        result = self.node.run(render_tail(root=root, name="x", lines=1, limit=1))
        self.assertEqual((result.status, result.stdout), (Status.NO_FOLDER, b""))

    @given(names)
    @property_test(60)
    def test_name(self, name: str) -> None:
        """A file of any name that a job can have."""
        self.node.write(f"{name}.out", f"of {name}\n")
        self.assertEqual(self.tail(1, name=name), (0, f"of {name}\n".encode()))


class WriteCheckTests(SynchronousTestCase):
    """`render_write_check`."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)

    def check(self, root: str = _ROOT) -> tuple[int, bytes]:
        result = self.node.run(render_write_check(root=root))
        return result.status, result.stderr

    def test_writable(self) -> None:
        """Nothing is left; what is not there yet is not made."""
        self.assertEqual(self.check(), (0, b""))
        self.assertEqual(os.listdir(self.node.home), [])
        os.mkdir(f"{self.node.home}/.jarvice")
        self.assertEqual(self.check(), (0, b""))
        self.assertEqual(os.listdir(f"{self.node.home}/.jarvice"), [])

    def test_not_writable(self) -> None:
        """Why not stands in stderr."""
        os.makedirs(f"{self.node.home}/.jarvice/.writable")
        status, stderr = self.check()
        self.assertEqual(status, Status.NO_FOLDER)
        self.assertIn(b".writable", stderr)

    def test_not_mounted(self) -> None:
        """A mount point that is not there is not made."""
        status, stderr = self.check(render_root(f"{self.node.folder}/scratch/"))
        self.assertEqual(status, Status.NO_FOLDER)
        self.assertIn(b"is not there", stderr)
        self.assertFalse(os.path.exists(f"{self.node.folder}/scratch"))


class ListFolderTests(SynchronousTestCase):
    """`render_list_folder`: PROTOCOL, pvcls."""

    def setUp(self) -> None:
        self.node = Sandbox()
        self.addCleanup(self.node.remove)
        self.folder = self.node.folder / "data"
        self.folder.mkdir()

    def list(self, path: object, *, details: bool = False) -> list[str]:
        result = self.node.run(render_list_folder(path=str(path), details=details))
        self.assertEqual((result.status, result.stderr), (0, b""))
        return result.stdout.decode("utf-8", "surrogateescape").split("\n")[:-1]

    def test_folders_then_files(self) -> None:
        """Folders end in a slash; what is deeper is not listed; hidden ones are."""
        (self.folder / "sub" / "deeper").mkdir(parents=True)
        for name in ("a", ".hidden", "sub/b"):
            (self.folder / name).touch()
        listed = self.list(self.folder)
        self.assertEqual(listed[0], f"/data{self.folder}/sub/")
        self.assertEqual(
            sorted(listed[1:]), [f"/data{self.folder}/.hidden", f"/data{self.folder}/a"]
        )

    def test_details(self) -> None:
        """Modification time and size before each."""
        (self.folder / "sub").mkdir()
        (self.folder / "a").write_text("12345")
        os.utime(self.folder / "a", (5, 1700000000.75))
        listed = self.list(self.folder, details=True)
        self.assertRegex(listed[0], rf"^\d+ \d+ /data{self.folder}/sub/$")
        self.assertEqual(listed[1], f"1700000000 5 /data{self.folder}/a")

    def test_trailing_slash_and_root(self) -> None:
        """No slash is doubled."""
        (self.folder / "a").touch()
        self.assertEqual(self.list(f"{self.folder}/"), [f"/data{self.folder}/a"])
        self.assertIn("/data/tmp/", self.list("/"))

    def test_links(self) -> None:
        """A link is what it leads to; one that leads nowhere is not listed."""
        (self.folder / "a").touch()
        (self.folder / "link").symlink_to(self.folder / "a")
        (self.folder / "up").symlink_to(self.node.folder)
        (self.folder / "broken").symlink_to("/nonexistent/it")
        listed = self.list(self.folder)
        self.assertEqual(
            set(listed), {f"/data{self.folder}/{name}" for name in ("a", "link", "up/")}
        )

    def test_links_out_of_what_is_allowed(self) -> None:
        """Where folders are configured, what a link in them leads to must be in one of them too."""
        for folder in ("a", "b", "other", "ab", "a\n"):
            (self.folder / folder).mkdir()
            (self.folder / folder / "file").touch()
        (self.folder / "link").symlink_to(self.folder / "b")
        for name in ("b", "other", "ab", "a\n"):
            (self.folder / "a" / f"to {name}").symlink_to(self.folder / name)
        allowed = (f"{self.folder}/gone", f"{self.folder}/a", f"{self.folder}/link/")

        def listed(path: str) -> int:
            script = render_list_folder(
                path=f"{self.folder}/{path}", details=False, allowed=allowed
            )
            result = self.node.run(script)
            self.assertEqual(b"file" in result.stdout, result.status == 0)
            return result.status

        for path in ("a", "a/", "b", "link", "a/to b"):
            self.assertEqual(listed(path), 0, path)
        for path in ("other", "ab", ".", "a/to other", "a/to ab", "a/to a\n"):
            self.assertEqual(listed(path), Status.NOT_LISTABLE, path)
        script = render_list_folder(path=str(self.folder), details=False, allowed=("/",))
        self.assertEqual(self.node.run(script).status, 0)

    def test_empty(self) -> None:
        """An empty folder lists nothing, and is no error."""
        self.assertEqual(self.list(self.folder), [])

    def test_not_listable(self) -> None:
        """What is no folder gives the reason."""
        (self.folder / "file").touch()
        for name, reason in (("gone", b"is not there"), ("file", b"is not a folder")):
            result = self.node.run(render_list_folder(path=f"{self.folder}/{name}", details=False))
            self.assertEqual((result.status, result.stdout), (Status.NOT_LISTABLE, b""))
            self.assertEqual(
                result.stderr.decode().partition(name)[2].partition(",")[0].strip(),
                reason.decode(),
            )

    def test_not_read_to_its_end(self) -> None:
        """A folder whose file system fails is neither empty nor short."""
        (self.folder / "a").touch()
        script = render_list_folder(path=str(self.folder), details=False)
        for text in ('echo "find: .: Stale file handle" >&2; exit 1', "exit 1", "kill -9 $$"):
            self.node.stub("find", text)
            self.assertEqual(self.node.run(script).status, Status.NO_FOLDER, text)

    def test_links_that_lead_nowhere(self) -> None:
        """A link into itself, or to where we may not look, keeps nothing else from being listed."""
        (self.folder / "a").touch()
        (self.folder / "circle").symlink_to(self.folder / "circle")
        self.assertEqual(self.list(self.folder), [f"/data{self.folder}/a"])

    def test_no_action_of_find(self) -> None:
        """A path that spells find's actions is a path; nothing is removed or run."""
        (self.folder / "keep").touch()
        for path in ("/-delete", "/-exec", "/-exec touch {} ;", f"{self.folder}/keep -delete"):
            result = self.node.run(render_list_folder(path=path, details=True))
            self.assertEqual((result.status, result.stdout), (Status.NOT_LISTABLE, b""), path)
        self.assertTrue((self.folder / "keep").exists())

    def test_percent_and_backslash(self) -> None:
        """find's own format characters in the path and in names are shown as they are."""
        folder = self.folder / "100%p\\n %%" / "it's"
        folder.mkdir(parents=True)
        (folder / "%f\\t").touch()
        self.assertEqual(self.list(folder), [f"/data{folder}/%f\\t"])

    @given(paths)
    @property_test(80)
    def test_any_path(self, path: str) -> None:
        """A folder of any path is listed under its own name."""
        folder = f"{self.folder}{path}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/file", "w", encoding="utf-8"):
            pass
        self.assertIn(f"/data{folder}/file", self.list(folder))
