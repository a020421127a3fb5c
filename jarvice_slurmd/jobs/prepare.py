"""From what upstream sends to what sbatch reads: a submission made ready, or refused."""

from __future__ import annotations

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.devices import parse_devices
from jarvice_slurmd.jobs.model import BatchJob, Submission
from jarvice_slurmd.jobs.parameters import Parameters, render_parameters
from jarvice_slurmd.jobs.script import parse_job_text, render_batch_job
from jarvice_slurmd.settings import Settings
from jarvice_slurmd.slurm.commands import render_root


class JobPreparer:
    """Prepares submissions for one cluster; pure but for its settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def prepare(self, submission: Submission) -> BatchJob:
        """Make a submission ready for sbatch; raises `InvalidArgumentsError`."""
        settings = self._settings
        text = parse_job_text(submission.text)
        if text.request.interactive and settings.jobs_domain is None:
            raise InvalidArgumentsError("interactive jobs are not supported on this cluster")
        overlay = parse_devices(text.request.devices).overlay
        parameters = Parameters(
            scratch_dir=settings.scratch_dir,
            global_scratch_dir=settings.global_scratch_dir,
            app_is_in_global_registries=False,
            tmpdir=settings.singularity_tmpdir,
            overlay_size=settings.overlay_size if overlay is None else overlay,
            local_user=settings.ssh_user,
            command=text.command,
            app_image="",
            init_image="",
            app_username="",
            app_password="",
            init_username="",
            init_password="",
            verbose=settings.singularity_verbose,
            http_proxy=settings.http_proxy,
            https_proxy=settings.https_proxy,
            no_proxy=settings.no_proxy,
        )
        secrets = tuple(
            secret for secret in (text.docker_secret, text.container_secret) if secret is not None
        )
        return render_batch_job(
            submission,
            text.request,
            parameters=render_parameters(parameters),
            root=render_root(settings.scratch_dir),
            secrets=secrets,
        )
