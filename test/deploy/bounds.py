"""How long a stop of the daemon may take, by its own bounds."""

from __future__ import annotations

from jarvice_slurmd.daemon import DRAIN_SECONDS, LINK_GRACE_SECONDS
from jarvice_slurmd.ssh import carriers, dispatch


def longest_stop() -> float:
    """Seconds at most, in the order of `DaemonService.stopService`.

    Requests in flight; the tunnels' connections; commands that run, and the link's connections.
    """
    return DRAIN_SECONDS + carriers._CLOSE_PATIENCE + LINK_GRACE_SECONDS + dispatch._CLOSE_PATIENCE
