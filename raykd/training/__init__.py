"""The training loop and everything that trains one run. Requires torch, but neither Ray nor Slurm."""
