"""ResNet-34 -> ResNet-18 on ImageNet-1k with soft targets, the first pair of the published ImageNet tables.

raykd prefetch experiments/distill_imagenet.py                 once, on a node with internet access: the teacher
raykd pack imagenet --resize 256                               once: 1.28 million images, about 45 GB
sbatch slurm/ray_cluster.slurm experiments/distill_imagenet.py --set data.name=packed:imagenet-256

--set data.views_per_image=30 stores the teacher's logits once (about 2.5 GB).
A distilled run then takes about as long as a baseline.
"""

from raykd import KD, SGD, Data, Experiment, MultiStep, Recipe, main

experiment = Experiment(
    family="imagenet",
    seeds=(0,),
    # Random crops of at least 8 % of an image, and the middle 224 of 256 pixels for evaluation.
    data=Data("imagenet", val_images=10_000, image_size=224, crop_padding=0, min_crop_area=0.08, center_crop=0.875),
    teacher=Recipe("torchvision:resnet34", batch_size=512),
    teacher_checkpoint="pretrained",
    student=Recipe(
        "torchvision:resnet18",
        epochs=100,
        batch_size=512,
        optimizer=SGD(lr=0.2, momentum=0.9, weight_decay=1e-4),
        schedule=MultiStep((0.3, 0.6, 0.9)),
    ),
    method=KD(alpha=0.5, temperature=1.0),
)

if __name__ == "__main__":
    main(experiment)
