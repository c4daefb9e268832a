"""Some steps of a method by several workers, each a process of its own: what every one of them then holds.

python method_stories.py RANK SIZE FOLDER        FOLDER/NAME-RANK.safetensors, the objective's state after STEPS steps
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from several_processes import together
from small_runs import CPU, digits, recipe, run_of, teacher_of

from raykd.methods import CRD, DIST, PKT, RKD, VID, CorrelationCongruence, FitNets, Method, SimilarityPreserving
from raykd.recipe import SGD
from raykd.training.compute import choose
from raykd.training.group import ALONE, Group, all_workers
from raykd.training.training import make_training

STEPS = 3
# At the default weights of FitNets and DIST three steps make rounding large enough to see.
METHODS: dict[str, Method] = {
    "vid": VID(),
    "fitnets": FitNets(weight=1.0),
    "cc": CorrelationCongruence(),
    "crd": CRD(negatives=32, dimensions=8),
    "rkd": RKD(),
    "pkt": PKT(weight=1000.0),
    "sp": SimilarityPreserving(weight=100.0, stages=(1, -1)),
    "dist": DIST(beta=0.5, gamma=0.5),
}
# Batch norm, the regressor's too, over the images of all: then what workers do together is what one does.
STUDENT = recipe(sync_batch_norm=True, optimizer=SGD(lr=0.05, momentum=0.9))


def state_after_steps(name: str, group: Group = ALONE) -> dict[str, torch.Tensor]:
    run = run_of("distilled", method=METHODS[name], student=STUDENT)
    training = make_training(run, digits(), choose(CPU, "fp32"), teacher_of(run), group)
    training.go_parallel()
    training.objective.train()
    for batch, _ in zip(training.loader.epoch(0), range(STEPS), strict=False):
        torch.manual_seed(10 * batch.step + group.rank)  # negatives are drawn apart, as in the loop
        training.step(batch, run.method.weights(0))
    return {key: tensor.detach().contiguous() for key, tensor in training.objective.state_dict().items()}


def main(rank: int, size: int, folder: Path) -> None:
    with together(rank, size, folder):
        for name in METHODS:
            save_file(state_after_steps(name, all_workers()), folder / f"{name}-{rank}.safetensors")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
