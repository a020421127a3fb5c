"""How long commands and keystrokes take while somebody moves much, near and far.

The programs that a command starts on the login node share the machine's cores with everything that
moves the bulk. What that alone costs is told by the control: the same text as the daemon's, run
there over OpenSSH's ControlMaster, beside the same bulk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from jarvice_slurmd.slurm.listing import render_list_folder
from jarvice_slurmd.ssh.shell import encode_script, make_nonce, render_invocation
from test.bench import load
from test.bench.figures import Goal, Sample, Section
from test.bench.http_load import render_post
from test.bench.load import Load
from test.bench.meanwhile import Meanwhile, Move, Question, measure
from test.bench.namespaces import NamespaceFailedError, wire
from test.bench.neighbours import ControlMaster, Login
from test.bench.scene import Scene, render_form
from test.bench.throughput import DIRECTIONS
from test.bench.ways import LARGE_BUFFERS, ROUND_TRIP, Service, Way, far_ways, near_ways
from test.bench.websockets import open_sockets, there_and_back

_MOST_TIMES: Final = 3.0
# From here on the control is as slow as the daemon's own: they share what limits them.
_SAME: Final = 0.8

_ROUNDS: Final = 3
_FAR_ROUNDS: Final = 2
# Seconds that a bulk gets to come to its speed.
_RAMP: Final = 0.7
_FAR_RAMP: Final = 2.0
# What the network carries, in bytes a second.
_FAR_RATE: Final = 50e6

_STATUS_SECONDS: Final = 0.7
_LISTING_SECONDS: Final = 2.0
_KEYS_SECONDS: Final = 0.7
_FAR_KEYS_SECONDS: Final = 1.5

_FOLDER: Final = "/usr"
_FOUND: Final = "/data/usr/bin"

_STATUS: Final = "POST /runstatus"
_LISTING: Final = "pvcls"
_CONTROL: Final = "pvcls's text, ControlMaster"


def measure_near(scene: Scene, service: Service, tell: Callable[[str], None]) -> Section:
    """On one machine, whose cores are busy with a bulk."""
    with ExitStack() as stack:
        ways = stack.enter_context(near_ways(scene, service))[:2]
        master = stack.enter_context(ControlMaster(scene.login, scene.folder / "control"))
        ours = ways[0]
        found = measure(
            [
                Question(title=_STATUS, ask=_status(scene, ours)),
                Question(title=_LISTING, ask=_listing(ours)),
                Question(title=_CONTROL, ask=_control(scene.login, master), way=ours),
                *_keystrokes(stack, ways, _KEYS_SECONDS),
            ],
            _moves(ways, DIRECTIONS),
            rounds=_ROUNDS,
            ramp=_RAMP,
            tell=tell,
        )
    return Section(
        title=f"Commands and keystrokes during a bulk transfer ({_ROUNDS} rounds together)",
        table=found.render(),
        remarks=[
            "(100 bytes: there and back over a WebSocket, the bulk through the same forwarder;",
            "ControlMaster runs the text that the daemon runs for pvcls; of a command's time the",
            "machine's share is in all rows, as its cores are shared)",
            *(line for direction in DIRECTIONS for line in _compare(found, direction)),
        ],
        goals=[
            _goal(found, question, direction, "")
            for question in (_STATUS, _LISTING)
            for direction in DIRECTIONS
        ],
        broken=found.broken(),
    )


def measure_far(scene: Scene, service: Service, tell: Callable[[str], None]) -> Section:
    """Over a distance, where it is the network that limits a download, and not the cores."""
    distance = f" at {ROUND_TRIP * 1000:.0f} ms and {_FAR_RATE / 1e6:.0f} MB/s"
    title = f"Commands and keystrokes during a download{distance} ({_FAR_ROUNDS} rounds together)"
    try:
        with ExitStack() as stack:
            over = stack.enter_context(wire(ROUND_TRIP, _FAR_RATE))
            over.set_tcp_buffers(LARGE_BUFFERS)
            ways = stack.enter_context(far_ways(scene, service, over))
            found = measure(
                [
                    Question(title=_STATUS, ask=_status(scene, ways[0])),
                    Question(title=_LISTING, ask=_listing(ways[0])),
                    *_keystrokes(stack, ways, _FAR_KEYS_SECONDS),
                ],
                _moves(ways, DIRECTIONS[:1]),
                rounds=_FAR_ROUNDS,
                ramp=_FAR_RAMP,
                tell=tell,
            )
    except NamespaceFailedError as error:
        goals = [
            Goal(
                text=_goal_text(question, DIRECTIONS[0], distance),
                measured="not measured",
                reached=False,
            )
            for question in (_STATUS, _LISTING)
        ]
        return Section(title=title, table=[("",)], remarks=[f"not measured: {error}"], goals=goals)
    return Section(
        title=title,
        table=found.render(),
        remarks=["(the network queues as much as a round trip carries, and drops what is more)"],
        goals=[_goal(found, question, DIRECTIONS[0], distance) for question in (_STATUS, _LISTING)],
        broken=found.broken(),
    )


def _moves(ways: Sequence[Way], directions: Sequence[str]) -> Sequence[Move]:
    return [
        Move(title=_move_title(direction, way.title), way=way, upload=direction == "upload")
        for direction in directions
        for way in ways
    ]


def _move_title(direction: str, way: str) -> str:
    return f"{direction} through {way}"


def _status(scene: Scene, way: Way) -> Callable[[], Sample]:
    """A question that the snapshot answers."""
    return _http(way, _STATUS_SECONDS, [job.request for job in scene.jobs], '[["n')


def _listing(way: Way) -> Callable[[], Sample]:
    """A question that is a command."""
    request = render_post("/request/pvcls", render_form({"qs": {"path": [_FOLDER]}}))
    return _http(way, _LISTING_SECONDS, [request], _FOUND)


def _http(way: Way, seconds: float, requests: Sequence[str], expected: str) -> Callable[[], Sample]:
    asked = Load(
        technique="http",
        callers=1,
        seconds=seconds,
        port=way.port,
        requests=tuple(requests),
        expected=expected,
    )
    return lambda: load.run(asked, way.namespace)


def _control(login: Login, master: ControlMaster) -> Callable[[], Sample]:
    """The command of `_listing`, byte for byte, without the daemon."""
    script = encode_script(render_list_folder(path=_FOLDER, details=False))
    invocation = render_invocation(script, nonce=make_nonce(), seconds=60)
    asked = Load(
        technique="controlmaster",
        callers=1,
        seconds=_LISTING_SECONDS,
        expected=_FOUND,
        login=login,
        control_socket=str(master.socket),
        command=invocation.exec_line.decode("ascii"),
        stdin=invocation.text.decode("utf-8"),
    )
    return lambda: load.run(asked)


def _keystrokes(stack: ExitStack, ways: Sequence[Way], seconds: float) -> Sequence[Question]:
    """A WebSocket through each way, beside what that way moves."""

    def question(way: Way) -> Question:
        connection = stack.enter_context(open_sockets(way, 1)[0])

        def ask() -> Sample:
            latencies = []
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                latencies.append(there_and_back(connection))
            return Sample(seconds=time.perf_counter() - began, latencies=latencies)

        there_and_back(connection)
        return Question(title=f"100 bytes, {way.title}", ask=ask, way=way)

    return [question(way) for way in ways]


def _goal_text(question: str, direction: str, distance: str) -> str:
    kind = "a download" if direction == "download" else "an upload"
    return f"{question}, p99 during {kind}{distance}: at most {_MOST_TIMES:.0f} x without"


def _goal(found: Meanwhile, question: str, direction: str, distance: str) -> Goal:
    times = found.times(question, _move_title(direction, "daemon"))
    return Goal(
        text=_goal_text(question, direction, distance),
        measured=f"{times:.2f} x",
        reached=times <= _MOST_TIMES,
    )


def _compare(found: Meanwhile, direction: str) -> Sequence[str]:
    """What the control says of a goal that is missed, if it says the same."""
    moved = _move_title(direction, "daemon")
    ours, control = (found.latency(question, moved, 99) for question in (_LISTING, _CONTROL))
    if found.times(_LISTING, moved) <= _MOST_TIMES or control < _SAME * ours:
        return []
    return [
        f"(pvcls, p99 during {moved}: {ours:.0f} ms, and {control:.0f} ms over ControlMaster:",
        "the programs that it starts on the login node wait for CPU)",
    ]
