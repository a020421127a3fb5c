"""Domain errors: what can go wrong, in the words of the people who must act on it.

No HTTP status stands here; `jarvice_slurmd.web` has the one table from these types to codes.
"Slurm says no" (`SlurmRefusedError`), "Slurm could not be asked" (`SlurmUnavailableError` and the
`RemoteShellError`s) and "the question is wrong" (`InvalidArgumentsError`) are different types,
because they are different answers (DESIGN, "Unknown is a state").
"""


class JarviceSlurmdError(Exception):
    """Any error that this package raises on purpose; its text is one sentence for a person."""


class InvalidArgumentsError(JarviceSlurmdError):
    """A request's arguments can't be right; the text names the field and what would be right."""


class JobStillRunningError(JarviceSlurmdError):
    """The exit status of a job was asked before the job had ended."""


class NoOutputError(JarviceSlurmdError):
    """The job has not written any output yet."""


class NotListableError(JarviceSlurmdError):
    """A folder on the cluster can't be listed; the text is the reason."""


class UnknownJobError(JarviceSlurmdError):
    """Slurm answered, and knows no such job of ours."""


class StorageError(JarviceSlurmdError):
    """The login node answered, but the folders that hold the jobs can't be read or written."""


class SlurmRefusedError(JarviceSlurmdError):
    """Slurm was asked and refused; the text carries Slurm's own words."""


class SlurmOutputError(JarviceSlurmdError):
    """Slurm printed something that this version of the daemon can't read."""


class SlurmUnavailableError(JarviceSlurmdError):
    """The login node answered, but Slurm's controller did not."""


class RemoteShellError(JarviceSlurmdError):
    """A command on the login node yielded no result."""


class NotConnectedError(RemoteShellError):
    """There is no SSH link, so the command was never sent: it did not run."""


class CommandTimedOutError(RemoteShellError):
    """The command was sent and did not end within its bound: its outcome is unknown."""


class LinkLostError(RemoteShellError):
    """The SSH link was lost while the command ran: its outcome is unknown."""


class OutputTooLargeError(RemoteShellError):
    """The command wrote more than its bound; nothing of it is trusted."""


class LoginShellError(RemoteShellError):
    """The account's login shell ended without starting the command: it did not run."""


class TunnelError(JarviceSlurmdError):
    """A connection to a job's port on its compute node could not be opened."""


class ForwardingRefusedError(TunnelError):
    """sshd's configuration forbids forwarding (AllowTcpForwarding, PermitOpen)."""


class TunnelConnectError(TunnelError):
    """sshd tried, and the compute node or its port did not answer."""
