"""`twistd jarvice-slurmd`."""

from twisted.application.service import ServiceMaker

jarvice_slurmd = ServiceMaker(
    "jarvice-slurmd",
    "jarvice_slurmd.service",
    "JARVICE downstream scheduler for existing Slurm clusters",
    "jarvice-slurmd",
)
