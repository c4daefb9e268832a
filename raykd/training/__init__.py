"""The one loop. Needs torch alone: no Ray, no Slurm."""
