"""The environment variables that the daemon reads, as it says itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jarvice_slurmd.settings import Settings, SettingsError


class _Recorder(Mapping[str, str]):
    """An empty environment that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def known_variables() -> frozenset[str]:
    """Every variable that `Settings` reads, the predecessor's names among them."""
    recorder = _Recorder()
    try:
        Settings.from_environ(recorder)
    except SettingsError:
        return frozenset(recorder.asked)
    raise AssertionError("nothing is required any more")
