"""The demo: ResNet-18 of width 16 -> ResNet-8 of width 8, on the 1,797 handwritten digits that scikit-learn includes.

A student trains on 100 images and its teacher on 1,000, so the teacher's outputs add to what 100 labels contain.

    python experiments/digits.py
"""

from raykd import KD, SGD, Cosine, Data, Experiment, Recipe, ResNet, Workers, main

experiment = Experiment(
    family="digits",
    seeds=(0, 1, 2, 3, 4),
    data=Data("digits", val_images=200, student_images=100, crop_padding=1, flip=False),
    teacher=Recipe(
        ResNet(blocks=(2, 2, 2, 2), width=16),
        epochs=12,
        batch_size=64,
        optimizer=SGD(lr=0.1),
        schedule=Cosine(),
        precision="fp32",
    ),
    student=Recipe(
        ResNet(blocks=(1, 1, 1, 1), width=8),
        epochs=60,
        batch_size=50,
        optimizer=SGD(lr=0.05),
        schedule=Cosine(),
        precision="fp32",
    ),
    method=KD(alpha=0.5, temperature=4.0),
    workers=Workers(cpus=1),
)

if __name__ == "__main__":
    main(experiment)
