"""Everything Conch: connections to the login node, commands and tunnels; no Slurm, no HTTP."""
