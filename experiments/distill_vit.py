"""ViT-Tiny (pretrained, 224x224) -> a 6-layer ViT (32x32, patch 4) on CIFAR-10 with soft targets.

raykd prefetch experiments/distill_vit.py                once, on a node with internet access
sbatch slurm/ray_cluster.slurm experiments/distill_vit.py
"""

from raykd import KD, AdamW, Cosine, Data, Experiment, Recipe, main

experiment = Experiment(
    family="vit",
    seeds=(0, 1, 2),
    data=Data("cifar10", val_images=5_000, crop_padding=4, flip=True),
    teacher=Recipe(
        "vit_tiny", epochs=100, batch_size=128, optimizer=AdamW(lr=1e-3, weight_decay=0.05), schedule=Cosine()
    ),
    student=Recipe("vit6", epochs=150, batch_size=128, optimizer=AdamW(lr=1e-3, weight_decay=0.05), schedule=Cosine()),
    method=KD(alpha=0.5, temperature=4.0),  # alpha: weight of the labels; 1 - alpha: weight of the teacher
)

if __name__ == "__main__":
    main(experiment)
