"""Train some steps of each method with several workers, one process each, and save their state.

python method_stories.py RANK SIZE FOLDER        FOLDER/NAME-RANK.safetensors, the objective's state after STEPS steps
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from several_processes import together
from small_runs import CPU, digits, recipe, run_of, teacher_of

from raykd.methods import (
    CRD,
    DIST,
    PKT,
    RKD,
    SRRL,
    VID,
    CorrelationCongruence,
    FitNets,
    Method,
    ReviewKD,
    SimilarityPreserving,
)
from raykd.models.vit_cifar import ViT
from raykd.spec.recipe import SGD
from raykd.training.compute import choose_compute
from raykd.training.group import SINGLE_WORKER, Group, default_group
from raykd.training.training_step import make_train_state

STEPS = 3
# FitNets' default weight of 100 would amplify rounding visibly within three steps.
METHODS: dict[str, Method] = {
    "vid": VID(),
    "fitnets": FitNets(weight=1.0),
    "reviewkd": ReviewKD(weight=1.0, warmup_epochs=0.0),
    "srrl": SRRL(),
    "cc": CorrelationCongruence(),
    "crd": CRD(negatives=32, dimensions=8),
    "rkd": RKD(),
    "pkt": PKT(),
    "sp": SimilarityPreserving(stages=(0, -1)),
    "dist": DIST(temperature=1.0),
}
# Batch norm, the regressor's included, covers the images of all workers, so that they compute what one worker does.
RESNET = recipe(sync_batch_norm=True, optimizer=SGD(lr=0.05, momentum=0.9))
# A smooth network: rounding can switch a ReLU on or off, and a large weight amplifies that difference.
VIT = recipe(model=ViT(depth=2, width=24, heads=2, patch=2), optimizer=SGD(lr=0.01, momentum=0.9))


def state_after_steps(name: str, group: Group = SINGLE_WORKER) -> dict[str, torch.Tensor]:
    method = METHODS[name]
    run = run_of("distilled", method=method, student=VIT if method.relates_images else RESNET)
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run), group)
    training.parallelize()
    training.objective.train()
    for step, batch in zip(range(STEPS), training.loader.epoch(0), strict=False):
        torch.manual_seed(10 * step + group.rank)  # each rank draws its own negatives, as in the loop
        training.step(batch, run.method.weights(0))
    return {key: tensor.detach().contiguous() for key, tensor in training.objective.state_dict().items()}


def main(rank: int, size: int, folder: Path) -> None:
    with together(rank, size, folder):
        for name in METHODS:
            save_file(state_after_steps(name, default_group()), folder / f"{name}-{rank}.safetensors")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
