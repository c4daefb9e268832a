"""ResNet-18 -> ResNet-8 on CIFAR-10 with soft targets (Hinton et al. 2015, arXiv:1503.02531).

sbatch slurm/ray_cluster.slurm experiments/distill_cnn.py
python experiments/distill_cnn.py --set method.temperature=2
"""

from raykd import KD, SGD, Data, Experiment, MultiStep, Recipe, main

experiment = Experiment(
    family="cnn",
    seeds=(0, 1, 2),
    data=Data("cifar10", val_images=5_000, crop_padding=4, flip=True),
    teacher=Recipe(
        "resnet18",
        epochs=300,
        batch_size=128,
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        schedule=MultiStep(milestones=(1 / 2, 3 / 4, 11 / 12), gamma=0.1),  # epochs 150, 225, 275
    ),
    student=Recipe(
        "resnet8",
        epochs=200,
        batch_size=128,
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        schedule=MultiStep(milestones=(1 / 2, 3 / 4, 9 / 10), gamma=0.1),  # epochs 100, 150, 180
    ),
    method=KD(alpha=0.5, temperature=4.0),  # alpha: weight of the labels; 1 - alpha: weight of the teacher
)

if __name__ == "__main__":
    main(experiment)
