"""The CIFAR-100 benchmark of RepDistiller (Tian et al. 2020, arXiv:1910.10699): 13 pairs of networks, 14 methods.

As in the papers, runs train on all 50,000 images and keep their last epoch. Without --pair, it has the first pair.

    sbatch slurm/ray_cluster.slurm experiments/benchmark_cifar100.py --pair vgg13:vgg8 --set compare=fitnets,crd
    python experiments/benchmark_cifar100.py --pair all --teachers published_teachers --plan
"""

import raykd
from raykd import KD, SGD, Data, Experiment, MultiStep, Recipe, benchmark_experiments, main

sgd, schedule = SGD(lr=0.05, momentum=0.9, weight_decay=5e-4), MultiStep((150 / 240, 180 / 240, 210 / 240))
experiment = Experiment(
    family="resnet32x4_resnet8x4",
    published="resnet32x4:resnet8x4",
    seeds=(0, 1, 2),
    data=Data("cifar100", val_images=0, crop_padding=4, flip=True),
    teacher=Recipe("cifar_resnet32x4", epochs=240, batch_size=64, optimizer=sgd, schedule=schedule, keep="last"),
    student=Recipe("cifar_resnet8x4", epochs=240, batch_size=64, optimizer=sgd, schedule=schedule, keep="last"),
    method=KD(alpha=0.1, temperature=4.0),
    compare=(
        raykd.DKD(),
        raykd.FitNets(),
        raykd.AttentionTransfer(),
        raykd.SimilarityPreserving(),
        raykd.CorrelationCongruence(),
        raykd.VID(),
        raykd.RKD(),
        raykd.PKT(),
        raykd.NST(),
        raykd.CRD(),
        raykd.ReviewKD(),
        raykd.DIST(),
        raykd.LogitStandardization(),
    ),
)
experiments = benchmark_experiments(experiment, light_network_lr=0.01)  # for MobileNets and ShuffleNets

if __name__ == "__main__":
    main(*experiments)
