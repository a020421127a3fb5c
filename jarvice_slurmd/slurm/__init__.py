"""What Slurm says and understands: commands rendered, output parsed. Pure; imports no Twisted."""
