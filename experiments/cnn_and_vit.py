"""Both experiments on one Ray cluster: both families, their teachers, baselines and distilled students, one report.

sbatch slurm/ray_cluster.slurm experiments/cnn_and_vit.py
python experiments/cnn_and_vit.py --set cnn.seeds=0 --set vit.student.epochs=50
"""

from distill_cnn import experiment as cnn
from distill_vit import experiment as vit

from raykd import main

experiments = (cnn, vit)

if __name__ == "__main__":
    main(*experiments)
