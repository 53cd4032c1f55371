"""A Noether plugin that submits runs to Slurm."""
