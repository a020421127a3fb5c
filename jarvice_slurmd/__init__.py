"""The JARVICE downstream scheduler for existing Slurm clusters."""
