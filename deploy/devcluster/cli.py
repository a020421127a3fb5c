"""The command line of `devcluster`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from deploy.devcluster import cluster as clusters
from deploy.devcluster import slurm
from deploy.devcluster.daemon_environment import daemon_environment, render_exports
from deploy.devcluster.guard import guard, start_guard
from deploy.devcluster.layout import (
    MOST_NODES,
    Cluster,
    DevClusterError,
    Options,
    default_state,
)

# What `status` answers a script, as `systemctl status` does: up, a part is down, no cluster.
_UP, _DEGRADED, _NONE = 0, 1, 4

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run one command; the exit status."""
    arguments = _parser().parse_args()
    state = Path(os.path.abspath(arguments.state or default_state()))
    for number in _SIGNALS:
        signal.signal(number, _interrupted)
    try:
        if os.geteuid() != 0 and arguments.run is not _packages:
            _become_root(state, arguments)
        status: int = arguments.run(state, arguments)
    except DevClusterError as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("devcluster: interrupted", file=sys.stderr)
        return 130
    return status


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    # What was started is ended now; that is done to its end.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _become_root(state: Path, arguments: argparse.Namespace) -> None:
    """Go on as root: jobs run as another user, which only root can have them do.

    Comes back only by raising. Then the packages that `up` lacks are named, too.
    """
    script = str(Path(__file__).with_name("devcluster"))
    if _may_sudo():
        words = ["sudo", "-n", sys.executable, script, *sys.argv[1:], "--state", str(state)]
        os.execvp("sudo", words)  # noqa: S606 - sudo takes words, not a shell's text
    if arguments.run is _up:
        cluster = Cluster(state=state, block=0, options=_options(arguments))
        subprocess.run([clusters.INSTALL_PACKAGES, *clusters.packages(cluster)], check=False)
    raise DevClusterError(
        "this takes root, for jobs run as another user: be root, or let sudo ask no password"
    )


def _may_sudo() -> bool:
    try:
        return subprocess.run(["sudo", "-n", "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        nodes=arguments.nodes,
        accounting=arguments.accounting,
        login_shell=arguments.login_shell,
        banner=arguments.banner,
        max_sessions=arguments.max_sessions,
        rekey_limit=arguments.rekey_limit,
        sshd_options=tuple(arguments.sshd_option),
        min_job_age=arguments.min_job_age,
        kill_wait=arguments.kill_wait,
        slurm_options=tuple(arguments.slurm_option),
        apptainer=arguments.apptainer,
        registry=arguments.registry,
    )


def _up(state: Path, arguments: argparse.Namespace) -> int:
    cluster = clusters.up(state, _options(arguments))
    if arguments.owner is not None:
        start_guard(cluster, arguments.owner)
    return _status(state, arguments)


def _packages(state: Path, arguments: argparse.Namespace) -> int:
    cluster = Cluster(state=state, block=0, options=_options(arguments))
    print("\n".join(clusters.packages(cluster)))
    return 0


def _down(state: Path, arguments: argparse.Namespace) -> int:
    found = clusters.down(state, keep=arguments.keep)
    print(f"{state}: {'down' if found else 'there is no cluster'}")
    return 0


def _guard(state: Path, arguments: argparse.Namespace) -> int:
    guard(state, arguments.owner)
    return 0


def _status(state: Path, _arguments: argparse.Namespace) -> int:
    try:
        cluster = clusters.find(state)
    except DevClusterError as error:
        print(error)
        return _NONE
    pids = {part.name: part.pid(cluster) for part in clusters.parts(cluster)}
    states = slurm.node_states(cluster) if pids["slurmctld"] else {}
    print(f"cluster {cluster.name} in {state}")
    for name, pid in pids.items():
        address = ""
        if name in cluster.node_names:
            address = f"  {cluster.node_address(name)}  {states.get(name, 'unknown')}"
        elif name == "sshd":
            address = f"  ssh -F {cluster.ssh}/config login"
        print(f"  {name:<10} {f'up, pid {pid}' if pid else 'down':<16}{address}".rstrip())
    return _UP if all(pids.values()) else _DEGRADED


def _env(state: Path, _arguments: argparse.Namespace) -> int:
    print(render_exports(daemon_environment(clusters.find(state))), end="")
    return 0


def _start(state: Path, arguments: argparse.Namespace) -> int:
    clusters.start(clusters.find(state), arguments.part)
    return 0


def _stop(state: Path, arguments: argparse.Namespace) -> int:
    clusters.stop(clusters.find(state), arguments.part, kill=arguments.kill)
    return 0


def _nodes(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_NODES:
        raise argparse.ArgumentTypeError(f"1 to {MOST_NODES} nodes")
    return number


def _options_parser() -> argparse.ArgumentParser:
    """What `_options` reads."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--nodes", type=_nodes, default=2, metavar="N", help="compute nodes (2)")
    options.add_argument(
        "--accounting", action="store_true", help="MariaDB, slurmdbd, a real sacct"
    )
    options.add_argument("--login-shell", metavar="PATH", help="the shell that gets the commands")
    options.add_argument("--banner", metavar="TEXT", help="printed before every command's output")
    options.add_argument("--max-sessions", type=int, metavar="N", help="sshd's MaxSessions")
    options.add_argument("--rekey-limit", metavar="X", help="sshd's RekeyLimit")
    options.add_argument(
        "--sshd-option", action="append", default=[], metavar="'KEY VALUE'", help="of sshd_config"
    )
    options.add_argument("--min-job-age", type=int, default=10, metavar="S", help="MinJobAge (10)")
    options.add_argument("--kill-wait", type=int, default=5, metavar="S", help="KillWait (5)")
    options.add_argument(
        "--slurm-option", action="append", default=[], metavar="KEY=VALUE", help="of slurm.conf"
    )
    options.add_argument("--apptainer", action="store_true", help="singularity on every node")
    options.add_argument("--registry", action="store_true", help="an image registry of its own")
    return options


def _parser() -> argparse.ArgumentParser:
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument("--state", metavar="DIR", help=f"its folder (default: {default_state()})")
    parser = argparse.ArgumentParser(
        prog="devcluster", description="A private Slurm cluster on this machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    options = _options_parser()
    up = commands.add_parser("up", parents=[state, options], help="start a cluster")
    up.set_defaults(run=_up)
    up.add_argument("--owner", type=int, metavar="PID", help="go down when that process ends")
    needs = commands.add_parser(
        "packages", parents=[state, options], help="print the Debian packages that `up` needs"
    )
    needs.set_defaults(run=_packages)

    down = commands.add_parser("down", parents=[state], help="end it and remove its folder")
    down.set_defaults(run=_down)
    down.add_argument("--keep", action="store_true", help="leave the folder, with the logs")

    status = commands.add_parser("status", parents=[state], help="say what runs (4: no cluster)")
    status.set_defaults(run=_status)
    env = commands.add_parser("env", parents=[state], help="print the daemon's environment")
    env.set_defaults(run=_env)

    guarding = commands.add_parser("guard", parents=[state])  # without help: `up --owner` uses it
    guarding.set_defaults(run=_guard)
    guarding.add_argument("--owner", type=int, required=True)

    start = commands.add_parser("start", parents=[state], help="start one part, wait until up")
    start.set_defaults(run=_start)
    start.add_argument("part", help="sshd, slurmctld, slurmdbd, n1, n2…")
    stop = commands.add_parser("stop", parents=[state], help="stop one part, wait until down")
    stop.set_defaults(run=_stop)
    stop.add_argument("part", help="sshd, slurmctld, slurmdbd, n1, n2…")
    stop.add_argument("--kill", action="store_true", help="by SIGKILL")
    return parser
