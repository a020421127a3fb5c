"""What a listener of the tunnel endpoint is given, and the bounds of each of its connections."""

from __future__ import annotations

from attrs import field, frozen
from twisted.internet.interfaces import IProtocolFactory, IReactorTime

from jarvice_slurmd.interactive.forwarding import Rules
from jarvice_slurmd.interactive.interfaces import IRouter
from jarvice_slurmd.interfaces import ITunnelOpener


@frozen(kw_only=True)
class FrontLimits:
    """Bounds of one connection, in bytes and seconds.

    `max_head`: a request's or response's head. `head_timeout`: from the first byte of a head to
    its last. `keep_alive`: between requests; longer than an ingress keeps its own connections.
    `link_wait`: how long a request waits for a lost SSH link. `open_timeout`: for all that comes
    before a job's service is connected. `tunnel_keep`: an unused tunnel's life. `leave_timeout`:
    how long nothing may come for a browser that has half-closed until it counts as gone.
    `linger`: after the last response, for the browser's own close. `close_timeout`: how often it
    is looked whether a browser has taken what is still buffered, and how long it may take while
    the daemon stops; how long a job's service may. Nothing bounds a response, an upload or a
    WebSocket.
    """

    max_head: int = 64 * 1024
    head_timeout: float = 20.0
    keep_alive: float = 75.0
    link_wait: float = 10.0
    open_timeout: float = 30.0
    tunnel_keep: float = 30.0
    leave_timeout: float = 10.0
    linger: float = 5.0
    close_timeout: float = 60.0


@frozen(kw_only=True)
class FrontSettings:
    """What a listener needs; `site` is the API's own, None where the router never says `Api`."""

    router: IRouter
    opener: ITunnelOpener
    clock: IReactorTime
    site: IProtocolFactory | None = None
    rules: Rules = field(factory=Rules)
    limits: FrontLimits = field(factory=FrontLimits)
