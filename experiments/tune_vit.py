"""Search alpha and temperature for the distilled student of distill_vit.py, by validation top-1.

sbatch slurm/ray_cluster.slurm experiments/tune_vit.py
raykd tune experiments/tune_vit.py --trials 8
"""

from dataclasses import replace

from distill_vit import experiment as distill

from raykd import Search, loguniform, main, uniform

experiment = replace(
    distill,
    search=Search(
        space={"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)},
        trials=16,
        grace_epochs=20,
    ),
)

if __name__ == "__main__":
    main(experiment)
