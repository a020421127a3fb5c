"""`make demo`: a real job on its way from HTTP through the daemon and SSH into Slurm, and back."""
