"""From what upstream sends to what sbatch reads: a submission made ready, or refused. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve

from jarvice_slurmd.errors import InvalidArgumentsError
from jarvice_slurmd.jobs.credentials import (
    Credentials,
    parse_container_secret,
    parse_docker_secret,
)
from jarvice_slurmd.jobs.devices import parse_devices
from jarvice_slurmd.jobs.executor import JobDescription, parse_job, render_node_script
from jarvice_slurmd.jobs.images import ImagePolicy, JobImages, select_images
from jarvice_slurmd.jobs.model import BatchJob, Interactive, JobRequest, Submission
from jarvice_slurmd.jobs.parameters import (
    Parameters,
    render_ingress_path,
    render_parameters,
    render_public_address,
)
from jarvice_slurmd.jobs.script import (
    JobText,
    fill_parameters,
    parse_job_text,
    render_batch_job,
)
from jarvice_slurmd.settings import Settings, split_proxy
from jarvice_slurmd.slurm.commands import render_root
from jarvice_slurmd.slurm.interactive import MAX_WORDS

#: A job's text that names no image runs without a container.
NO_IMAGES = JobImages(init=None, app="")


class JobPreparer:
    """Prepares submissions for one cluster."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policy = ImagePolicy(
            system_registry=settings.system_registry,
            system_repo_base=settings.system_repo_base,
            images_tag=settings.images_tag,
            local_registry=settings.local_registry,
            local_repo_base=settings.local_repo_base,
            registry_proxy_port=settings.registry_proxy_port,
            registry_proxy_repos=settings.registry_proxy_repos,
            global_registries=settings.global_registries,
            init_credentials=(
                Credentials(username=settings.docker_username, password=settings.docker_password)
                if settings.docker_username
                else None
            ),
        )

    def prepare(self, submission: Submission) -> BatchJob:
        """Make a submission ready for sbatch; raises `InvalidArgumentsError`."""
        content = submission.content
        if isinstance(content, str):
            text = parse_job_text(content)
            request, images = text.request, self._images_of_text(text)
            parameters = self._render_parameters(submission, request, images, text.command)
            node_script = fill_parameters(content, parameters)
            secrets = [text.docker_secret, text.container_secret]
            interactive = Interactive()
        else:
            job = parse_job(content)
            interactive = _interactive_of(job)
            request, images = job.request, self._images_of_job(job)
            parameters = self._render_parameters(submission, request, images, "")
            node_script = render_node_script(job, parameters)
            secrets = []
        return render_batch_job(
            submission,
            request,
            node_script=node_script,
            root=render_root(self._settings.scratch_dir),
            interactive=interactive if request.interactive else None,
            secrets=(
                *images.secrets,
                *(secret for secret in secrets if secret),
                *_proxy_secrets(self._settings),
            ),
        )

    def _images_of_text(self, text: JobText) -> JobImages:
        if text.repo is None and not (self._policy.local_registry and text.nae):
            return NO_IMAGES
        return select_images(
            self._policy,
            repo=text.repo,
            nae=text.nae,
            appdefversion=text.appdefversion,
            docker_secret=parse_docker_secret(text.docker_secret),
            container_secrets=parse_container_secret(text.container_secret),
        )

    def _images_of_job(self, job: JobDescription) -> JobImages:
        images = select_images(
            self._policy,
            repo=job.image,
            nae=job.nae,
            docker_secret=job.docker_secret,
            container_secrets=job.container_secrets,
        )
        # A job that runs no init image has no use for the platform's password.
        return images if job.init else evolve(images, init=None, init_credentials=None)

    def _render_parameters(
        self, submission: Submission, request: JobRequest, images: JobImages, command: str
    ) -> str:
        settings = self._settings
        if request.interactive and settings.jobs_domain is None:
            raise InvalidArgumentsError("interactive jobs are not supported on this cluster")
        overlay = parse_devices(request.devices).overlay
        app, init = images.app_credentials, images.init_credentials
        return render_parameters(
            Parameters(
                scratch_dir=settings.scratch_dir,
                global_scratch_dir=settings.global_scratch_dir,
                app_is_in_global_registries=images.app_is_in_global_registries,
                tmpdir=settings.singularity_tmpdir,
                overlay_size=settings.overlay_size if overlay is None else overlay,
                local_user=settings.ssh_user,
                command=command,
                app_image=images.app,
                init_image=images.init or "",
                app_username=app.username_base64 if app else "",
                app_password=app.password_base64 if app else "",
                init_username=init.username_base64 if init else "",
                init_password=init.password_base64 if init else "",
                verbose=settings.singularity_verbose,
                http_proxy=settings.http_proxy,
                https_proxy=settings.https_proxy,
                no_proxy=settings.no_proxy,
                ingress_path=render_ingress_path(settings.jobs_domain or "", submission.number),
                public_address=render_public_address(
                    (request.interactive and settings.jobs_domain) or "",
                    settings.jobs_namespace,
                    submission.number,
                ),
            )
        )


def _interactive_of(job: JobDescription) -> Interactive:
    words = {"url": job.url, "help": job.help, "about": job.about}
    for name, text in words.items():
        if text is not None and len(text) > MAX_WORDS[name]:
            raise InvalidArgumentsError(
                f"job.{name} is {len(text)} characters long; it may have {MAX_WORDS[name]} at most"
            )
    return Interactive(**words, wants_prefix=job.wants_prefix)


def _proxy_secrets(settings: Settings) -> Iterator[str]:
    for proxy in (settings.http_proxy, settings.https_proxy):
        _, credentials, _ = split_proxy(proxy)
        if credentials:
            yield f"{credentials}@"
