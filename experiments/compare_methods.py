"""Fifteen methods that distill ResNet-18 into ResNet-8 on CIFAR-10: accuracy, cost, and whether differences are real.

sbatch slurm/ray_cluster.slurm experiments/compare_methods.py
python experiments/compare_methods.py --set compare=dkd,dist,crd --set student.epochs=60
"""

import raykd
from raykd import KD, SGD, Data, Experiment, MultiStep, Recipe, main

sgd = SGD(lr=0.1, momentum=0.9, weight_decay=5e-4)

experiment = Experiment(
    family="methods",
    seeds=(0, 1, 2, 3, 4),
    data=Data("cifar10", val_images=5_000, crop_padding=4, flip=True),
    teacher=Recipe("resnet18", epochs=300, optimizer=sgd, schedule=MultiStep((1 / 2, 3 / 4, 11 / 12))),
    student=Recipe("resnet8", epochs=200, optimizer=sgd, schedule=MultiStep((1 / 2, 3 / 4, 9 / 10))),
    method=KD(alpha=0.5, temperature=4.0),
    compare=(
        raykd.DKD(),
        raykd.DIST(),
        raykd.LogitStandardization(),
        raykd.StandardizedDKD(),
        raykd.HardLabels(),  # the methods so far read the logit cache; those below run the teacher at every step
        raykd.FitNets(),
        raykd.AttentionTransfer(),
        raykd.SimilarityPreserving(),
        raykd.RKD(),
        raykd.PKT(),
        raykd.NST(),
        raykd.VID(),
        raykd.CorrelationCongruence(),
        raykd.CRD(),
    ),
)

if __name__ == "__main__":
    main(experiment)
