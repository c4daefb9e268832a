"""Tune the baseline's recipe, and three methods with that recipe, by 16 trials each; docs/search.md has all commands.

The last search prints the command that compares the winners with other seeds.

sbatch slurm/ray_cluster.slurm experiments/tune_methods.py --family tune_baseline
sbatch slurm/ray_cluster.slurm experiments/tune_methods.py --family tune_kd --family tune_dkd --family tune_dist
"""

from dataclasses import replace
from functools import partial

from compare_methods import experiment as compare

from raykd import DIST, DKD, KD, Search, loguniform, main, uniform

# Each trial trains beyond the first decay of the learning rate, at epoch 100, before ASHA compares it.
tune = partial(Search, trials=16, grace_epochs=110)
recipe = {"student.optimizer.lr": loguniform(0.01, 0.3), "student.optimizer.weight_decay": loguniform(1e-4, 5e-3)}
kd = {"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)}
dkd = {"method.beta": loguniform(0.5, 16), "method.temperature": loguniform(1, 20)}
dist = {"method.beta": loguniform(0.2, 8), "method.gamma": loguniform(0.2, 8)}

untuned = replace(compare, compare=(), seeds=(10, 11, 12))  # the comparison has other seeds
experiments = (
    replace(untuned, family="tune_baseline", method=KD(alpha=1.0), search=tune(recipe)),  # KD on the labels alone
    replace(untuned, family="tune_kd", method=KD(), search=tune(kd)),
    replace(untuned, family="tune_dkd", method=DKD(), search=tune(dkd)),
    replace(untuned, family="tune_dist", method=DIST(), search=tune(dist)),
)

if __name__ == "__main__":
    main(*experiments)
