"""Compare accuracies: the standard pipeline, raykd in float32, and raykd with its default precision, paired by seed.

    RAYKD_DATA=DIR python tests/benchmarks/accuracy.py [--seeds 5]

The data are 8,000 images of CIFAR-10 averaged to 16x16, with crops and flips. A ResNet-18 of width 32 is the teacher of
a ResNet-8 of width 16, for 10 epochs. Accuracy is test top-1 at the best epoch by validation.
"""

import argparse
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from raykd.bench.standard_pipeline import StandardPipeline
from raykd.bench.without_ray import train_plan
from raykd.data.load import load_dataset
from raykd.data.types import Dataset
from raykd.models import ImageModel
from raykd.models.four_stage_resnet import ResNet
from raykd.spec.experiment import Data, Experiment
from raykd.spec.plan import Run, make_plan
from raykd.spec.recipe import SGD, Cosine, Recipe
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.evaluate import evaluate
from raykd.training.model_file import load_model

CPU = torch.device("cpu")
TEACHER = Recipe(ResNet(width=32), epochs=10, optimizer=SGD(lr=0.1), schedule=Cosine(), precision="fp32")
STUDENT = replace(TEACHER, model=ResNet(blocks=(1, 1, 1, 1), width=16))
DATA = Data("cifar10", image_size=16, train_images=8_000, crop_padding=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = tuple(range(parser.parse_args().seeds))
    dataset = load_dataset("cifar10", Path(os.environ["RAYKD_DATA"]), DATA.image_size)
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder))
        accuracies = {
            precision: _raykd(precision, seeds, dataset, store)
            for precision in ("fp32", choose_compute(CPU, "auto").precision)
        }
        teacher, runs = _trained(seeds, dataset, store)
        accuracies["standard pipeline"] = [_standard(run, dataset, teacher) for run in runs]
    for name, values in accuracies.items():
        print(f"{name:<10}", " ".join(f"{value:.2f}" for value in values), _mean(values))
    for name in ("fp32", *(name for name in accuracies if name == "bf16")):
        pairs = zip(accuracies[name], accuracies["standard pipeline"], strict=True)
        print(f"{name} minus standard pipeline", _mean([value - other for value, other in pairs]))
    if "bf16" in accuracies:
        pairs = zip(accuracies["bf16"], accuracies["fp32"], strict=True)
        print("bf16 minus fp32", _mean([value - other for value, other in pairs]))


def _experiment(precision: str, seeds: tuple[int, ...]) -> Experiment:
    student = replace(STUDENT, precision=precision)
    return Experiment(family="accuracy", data=DATA, teacher=TEACHER, student=student, seeds=seeds)


def _raykd(precision: str, seeds: tuple[int, ...], dataset: Dataset, store: RunStore) -> list[float]:
    plan = make_plan(_experiment(precision, seeds), dataset, Path("none"), ("teacher", "distilled"))
    train_plan(plan, dataset, CPU, store)
    runs = [run for run in plan.runs if run.stage == "distilled"]
    return [_test(load_model(store.folder(run).best), dataset) for run in runs]


def _trained(seeds: tuple[int, ...], dataset: Dataset, store: RunStore) -> tuple[ImageModel, list[Run]]:
    plan = make_plan(_experiment("fp32", seeds), dataset, Path("none"), ("teacher", "distilled"))
    model = load_model(store.folder(plan.runs[0]).best).requires_grad_(False)
    print(f"teacher {_test(model, dataset):.2f} %")
    return model, [run for run in plan.runs if run.stage == "distilled"]


def _standard(run: Run, dataset: Dataset, teacher: ImageModel) -> float:
    torch.manual_seed(run.seed)
    pipeline, best, test = StandardPipeline(run, dataset, teacher, CPU), -1.0, 0.0
    for _ in range(run.recipe.epochs):
        pipeline.epoch()
        if (val := pipeline.validate()) > best:
            best, test = val, _test(pipeline.student, dataset)
    return test


def _test(model: ImageModel, dataset: Dataset) -> float:
    return evaluate(model, dataset.test, choose_compute(CPU, "fp32")).top1


def _mean(values: list[float]) -> str:
    return f"mean {statistics.mean(values):+.2f}, standard deviation {statistics.stdev(values):.2f}"


if __name__ == "__main__":
    main()
