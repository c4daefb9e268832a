"""Ray inside a Slurm job. Only this package reads SLURM_* variables or starts processes."""
