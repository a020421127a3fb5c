"""The JARVICE downstream scheduler for existing Slurm clusters."""

__version__ = "0.1.0"
