"""How much of the bare step's speed the real loop keeps, in images/s; they take turns in one process.

    python tests/benchmarks/loop_efficiency.py [--threads 2] [--rounds 7]

The bare step gets views that were rendered before; the loop orders, renders, seeds, sums, reads, notes and saves as it
does in a run. Between two epochs of the loop, its hook times one round of bare steps. Prints lower quartile, median and
upper quartile of the ratio.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from raykd import KD, SGD, Cosine, CrossEntropy, Data, Recipe, ResNet
from raykd.data.dataset import Dataset, Split
from raykd.plan import Run
from raykd.run_folder import RunFolder
from raykd.training.compute import choose
from raykd.training.loop import EpochReport, Hooks, fit
from raykd.training.teachers import LiveTeacher, Teacher, no_teacher
from raykd.training.training import make_model, make_training

STEPS = 12  # of a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size, width, batch_size in ((32, 64, 128), (32, 16, 128), (16, 8, 64)):
        for kind in ("baseline", "distilled live"):
            ratios = _ratios(size, width, batch_size, kind, arguments.rounds)
            quartiles = [round(quartile, 3) for quartile in statistics.quantiles(ratios, n=4)]
            print(
                json.dumps({"images": size, "width": width, "batch": batch_size, "run": kind, "loop/step": quartiles})
            )


def _ratios(size: int, width: int, batch_size: int, kind: str, rounds: int) -> list[float]:
    dataset = _noise(size, batch_size * STEPS)
    data = Data(val_images=10)
    recipe = Recipe(ResNet(blocks=(1, 1, 1, 1), width=width), rounds + 1, SGD(), Cosine(), batch_size=batch_size)
    method = CrossEntropy() if kind == "baseline" else KD()
    run = Run(family="bench", recipe=recipe, method=method, data=data, data_identity=dataset.identity)
    teacher: Teacher = no_teacher
    if method.needs:
        taught = Recipe(ResNet(width=width), schedule=Cosine())
        model = make_model(Run(family="bench", stage="teacher", recipe=taught, data=data), dataset)
        teacher = LiveTeacher(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    device = torch.device("cpu")
    bare = make_training(run, dataset, choose(device, "auto"), teacher)
    batches = list(bare.loader.epoch(0))
    ratios = []

    def one_round(report: EpochReport) -> None:
        began = time.perf_counter()
        for batch in batches:
            bare.step(batch, method.weights(0))
        ratios.append(report.images_per_s * (time.perf_counter() - began) / (len(batches) * batch_size))

    with tempfile.TemporaryDirectory() as folder:
        fit(run, dataset, RunFolder(Path(folder)), device, teacher, Hooks(one_round))
    return ratios[1:]  # the first warms up


def _noise(size: int, num_images: int) -> Dataset:
    """Images of a CIFAR shape; what is in them does not change the time of a step."""
    images = torch.randint(0, 256, (num_images + 10, 3, size, size), dtype=torch.uint8)
    split = Split(images.contiguous(memory_format=torch.channels_last), torch.arange(num_images + 10) % 10)
    return Dataset("noise", split, split, tuple("0123456789"), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "noise")


if __name__ == "__main__":
    main()
