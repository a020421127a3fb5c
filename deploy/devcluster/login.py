"""The login node: an sshd with keys of its own, and the account whose jobs run."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

from deploy.devcluster import processes, registry
from deploy.devcluster.layout import TEST_USER, Cluster, DevClusterError
from deploy.devcluster.parts import Part, run

PACKAGES = ("openssh-client", "openssh-server")
ADDRESS = "127.0.0.1"

# The first is the one in the daemon's environment; all are authorised.
KEY_TYPES = {"ed25519": (), "ecdsa": ("-b", "256"), "rsa": ("-b", "3072")}


def ensure_user() -> None:
    """Make the test user, who is kept: no password, which "*" says without locking (TRAPS)."""
    try:
        pwd.getpwnam(TEST_USER)
    except KeyError:
        with suppress(DevClusterError):  # another cluster may be making it now
            run(["useradd", "--create-home", "--shell", "/bin/bash", TEST_USER])
    if run(["getent", "shadow", TEST_USER]).split(":")[1] != "*":
        run(["usermod", "-p", "*", TEST_USER])


def shell_packages(cluster: Cluster) -> tuple[str, ...]:
    """The Debian package of a login shell that is not there: named as the shell is."""
    shell = cluster.options.login_shell
    return (Path(shell).name,) if shell and not Path(shell).exists() else ()


def prepare(cluster: Cluster) -> None:
    """Make the keys and write sshd's and ssh's configuration."""
    _make_keys(cluster)
    user_keys = [cluster.ssh / f"user_{kind}.pub" for kind in KEY_TYPES]
    authorized = cluster.ssh / "authorized_keys"
    authorized.write_text("".join(path.read_text() for path in user_keys))
    (cluster.ssh / "known_hosts").write_text(render_known_hosts(cluster))
    (cluster.ssh / "sshd_config").write_text(_render_sshd_config(cluster))
    (cluster.ssh / "config").write_text(_render_client_config(cluster))
    if cluster.options.login_shell or cluster.options.banner is not None:
        wrapper = cluster.ssh / "login_shell"
        wrapper.write_text(_render_login_shell(cluster))
        wrapper.chmod(0o755)
    user = pwd.getpwnam(TEST_USER)
    os.chown(cluster.scratch, user.pw_uid, user.pw_gid)


def render_known_hosts(cluster: Cluster) -> str:
    """The host keys as known_hosts lines (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    host = f"[{ADDRESS}]:{cluster.port('sshd')}"
    keys = [(cluster.ssh / f"host_{kind}.pub").read_text().split()[:2] for kind in KEY_TYPES]
    return "".join(f"{host} {' '.join(key)}\n" for key in keys)


def sshd_part(cluster: Cluster) -> Part:
    """sshd; when it ends, its sessions end too: the login node is gone."""
    return Part(
        name="sshd",
        # Its re-execution of itself wants the whole path.
        argv=("/usr/sbin/sshd", "-D", "-e", "-f", str(cluster.ssh / "sshd_config")),
        prepare=partial(Path("/run/sshd").mkdir, mode=0o755, exist_ok=True),
        answers=partial(_says_hello, cluster),
        members=partial(processes.holding, cluster.port("sshd")),
    )


def _make_keys(cluster: Cluster) -> None:
    kinds = [(whose, kind) for whose in ("host", "user") for kind in KEY_TYPES]
    makers = []
    for whose, kind in kinds:
        words = ["ssh-keygen", "-q", "-N", "", "-C", f"{whose}@{cluster.name}", "-t", kind]
        words += [*KEY_TYPES[kind], "-f", str(cluster.ssh / f"{whose}_{kind}")]
        makers.append(subprocess.Popen(words, stdin=subprocess.DEVNULL))
    statuses = [maker.wait() for maker in makers]
    if any(statuses):
        raise DevClusterError("ssh-keygen failed")


def _render_sshd_config(cluster: Cluster) -> str:
    """sshd_config(5): the first value of a key counts, so the caller's own lines stand first."""
    options = cluster.options
    lines = [*options.sshd_options]
    if options.max_sessions is not None:
        lines.append(f"MaxSessions {options.max_sessions}")
    if options.rekey_limit is not None:
        lines.append(f"RekeyLimit {options.rekey_limit}")
    if options.login_shell or options.banner is not None:
        lines.append(f"ForceCommand {cluster.ssh}/login_shell")
    lines += [f"HostKey {cluster.ssh}/host_{kind}" for kind in KEY_TYPES]
    environ = {
        "PATH": f"{cluster.bin}:/usr/local/bin:/usr/bin:/bin:/usr/games",
        "SLURM_CONF": str(cluster.slurm_conf),
        processes.MARKER: str(cluster.state),
        **(registry.job_environment() if options.registry else {}),
    }
    # One line: of several only the first counts.
    lines.append(" ".join(["SetEnv", *(f"{name}={value}" for name, value in environ.items())]))
    own = "\n".join(lines)
    return f"""\
{own}
Port {cluster.port("sshd")}
ListenAddress {ADDRESS}
PidFile none
AuthorizedKeysFile {cluster.ssh}/authorized_keys
AllowUsers {TEST_USER}
# The folder may be below /tmp, which everybody may write to.
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
PrintLastLog no
LogLevel VERBOSE
Subsystem sftp internal-sftp
"""


def _render_client_config(cluster: Cluster) -> str:
    """`ssh -F <state>/ssh/config login` logs in."""
    return f"""\
Host login
    HostName {ADDRESS}
    Port {cluster.port("sshd")}
    User {TEST_USER}
    IdentityFile {cluster.ssh}/user_ed25519
    IdentitiesOnly yes
    UserKnownHostsFile {cluster.ssh}/known_hosts
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
"""


def _render_login_shell(cluster: Cluster) -> str:
    """What sshd runs in place of the command: the login shell asked for, and what it prints.

    The account's own shell only starts this; what the client sent is parsed by the other.
    """
    options = cluster.options
    shell = shlex.quote(options.login_shell or pwd.getpwnam(TEST_USER).pw_shell)
    banner = ""
    if options.banner is not None:
        text = shlex.quote(options.banner)
        banner = f"printf '%s\\n' {text}\nprintf '%s\\n' {text} >&2\n"
    return f"""\
#!/bin/sh
{banner}SHELL={shell}
export SHELL
[ "${{SSH_ORIGINAL_COMMAND+set}}" ] || exec {shell} -l
command=$SSH_ORIGINAL_COMMAND
unset SSH_ORIGINAL_COMMAND
exec {shell} -c "$command"
"""


def check_shell(cluster: Cluster) -> None:
    """Refuse a login shell that is not there."""
    shell = cluster.options.login_shell
    if shell and not shutil.which(shell):
        raise DevClusterError(f"the login shell {shell} does not exist")


def _says_hello(cluster: Cluster) -> bool:
    try:
        with socket.create_connection((ADDRESS, cluster.port("sshd")), timeout=2) as probe:
            return probe.recv(4) == b"SSH-"
    except OSError:
        return False
