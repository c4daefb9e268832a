"""DINOv2 ViT-S/14 -> ResNet-18 on CIFAR-100, by the teacher's embedding and without labels.

raykd prefetch experiments/distill_features.py                once, on a node with internet access
sbatch slurm/ray_cluster.slurm experiments/distill_features.py

The baseline trains with labels. A linear probe evaluates the teacher and the distilled students.
"""

from raykd import SGD, Cosine, Data, EmbeddingRegression, Experiment, Recipe, Timm, main

experiment = Experiment(
    family="features",
    seeds=(0, 1, 2),
    data=Data("cifar100", val_images=5_000, crop_padding=4, flip=True),
    # The teacher is not trained: it has no classifier, and its pretrained weights stay as they are.
    teacher=Recipe(Timm("vit_small_patch14_dinov2", input_size=112, weights="pretrained", classifier=False)),
    student=Recipe("resnet18", epochs=200, batch_size=128, optimizer=SGD(lr=0.1), schedule=Cosine()),
    method=EmbeddingRegression(ce_weight=0.0),  # above 0, the students learn from the labels too
)

if __name__ == "__main__":
    main(experiment)
