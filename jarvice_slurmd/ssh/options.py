"""The numbers of a link: bounds, patience and limits. Seconds and bytes throughout."""

from __future__ import annotations

from random import Random, SystemRandom

from attrs import field, frozen


@frozen(kw_only=True)
class Destination:
    """A login node, and who we are there."""

    host: str
    port: int
    user: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


@frozen(kw_only=True)
class LinkOptions:
    """How patient a link is, and how much it asks of the login node.

    The defaults fit an sshd with its own defaults (MaxSessions 10, MaxStartups 10:30:100), and
    bring the link back within 15 s of a fault's end: an attempt that the fault swallowed, then the
    longest pause, is `connect_timeout + backoff_max`.
    """

    # TCP, key exchange and authentication together.
    connect_timeout: float = 8.0
    # A command's own bounds where `run` is not given others.
    command_timeout: float = 30.0
    max_output: int = 16 * 1024 * 1024
    # sshd's MaxSessions counts per connection.
    max_sessions: int = 10
    max_connections: int = 3
    # A command waits so long for a free session before another connection is opened...
    queue_patience: float = 0.25
    # ...and one that was not needed for so long is closed again.
    idle_timeout: float = 60.0
    max_queued: int = 1000
    # How long a command waits for a link that is down.
    down_patience: float = 3.0
    # A keep-alive goes out when nothing was heard for an interval; so many without any answer end
    # the connection, after `interval * (max_missed + 1)` of silence.
    keepalive_interval: float = 4.0
    keepalive_max_missed: int = 2
    # Pauses between attempts double from the first to the last, times a random half to one.
    backoff_initial: float = 0.5
    backoff_max: float = 5.0
    # A connection that lasted so long was a good one: the next pause is the first again.
    stable_after: float = 10.0
    # What running commands get to end in when the link is stopped.
    stop_grace: float = 10.0
    rng: Random = field(factory=SystemRandom, repr=False)

    def pause(self, attempt: int) -> float:
        """The seconds to wait before an attempt, after `attempt` that failed in a row."""
        longest = min(self.backoff_max, self.backoff_initial * 2.0 ** min(attempt, 16))
        return longest * self.rng.uniform(0.5, 1.0)
