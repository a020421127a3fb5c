"""Everything Conch: connections to the login node, commands and tunnels. Knows no Slurm, no HTTP."""
