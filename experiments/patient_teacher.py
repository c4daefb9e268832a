"""A patient and consistent teacher (Beyer et al. 2022, arXiv:2106.05237): function matching on CIFAR-10.

No labels (alpha 0, temperature 1). Teacher and student see the same pixels: a strong crop, mixed with another image by
a uniformly drawn weight. AdamW with clipped gradients, half a cosine, many epochs. Such views are too many for a
logit cache, so the teacher is live.

The paper trains for 100 to 3,000 epochs on the 68,000 images of Food101, and the longest training is the most accurate.
This file trains for 1,000 epochs; `student.epochs` shortens the training:

sbatch slurm/ray_cluster.slurm experiments/patient_teacher.py
python experiments/patient_teacher.py --set student.epochs=200
"""

from dataclasses import replace

from distill_cnn import experiment as distill

from raykd import KD, AdamW, Augmentation, Cosine, Recipe, main

experiment = replace(
    distill,  # its data and its teacher
    family="patient",
    student=Recipe(
        "resnet8",
        epochs=1_000,
        batch_size=512,
        optimizer=AdamW(lr=3e-3, weight_decay=0.1),  # lr * weight_decay: a step decays a weight by 3e-4 of it
        schedule=Cosine(warmup_epochs=17),  # 1,500 steps
        clip_gradient_norm=1.0,
        augmentation=Augmentation(crop_area=0.05, mixup=1.0),
    ),
    method=KD(alpha=0.0, temperature=1.0),
)

if __name__ == "__main__":
    main(experiment)
