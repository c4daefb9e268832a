"""Ray inside a Slurm job: the only room that reads SLURM_* or starts a process."""
