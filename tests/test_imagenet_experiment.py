"""experiments/distill_imagenet.py at one hundredth of its size, on generated images in ImageNet's layout."""

from pathlib import Path

import large_photos
import pytest
import torch
from rich.console import Console
from small_runs import CPU

from raykd.bench.without_ray import train_plan
from raykd.cli.experiment_file import load_experiment
from raykd.models.weights import save_weights
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.options import Options, dataset_of
from raykd.spec.bundled import EXPERIMENTS
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override_all
from raykd.spec.plan import Plan, make_plan
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.model_file import load_model

SMALL = {
    "data.val_images": "40",
    "data.image_size": "32",
    "data.views_per_image": "2",
    "teacher.batch_size": "20",
    "student.batch_size": "20",
    "student.epochs": "1",
    "teacher.precision": "fp32",
    "student.precision": "fp32",
    "cached_classes": "4",
    "teacher_source": "cache",  # one epoch is not worth a cache
}
TRAINED_HERE = {"teacher_checkpoint": "none", "teacher.epochs": "3", "teacher.optimizer": "adamw"}

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]


def write_imagenet(place: Path) -> None:
    """Write 8 classes with 25 images in train and 5 in val, in the folders that torchvision reads."""
    for split, first, count in (("train", 0, 200), ("val", 1000, 40)):
        for number in range(first, first + count):
            folder = place / split / f"n{number % large_photos.NUM_CLASSES:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{split}_{number}.JPEG").write_bytes(large_photos.photo(number, (90, 70)))


def train(experiment: Experiment, options: Options, stages: tuple = ("teacher", "baseline", "distilled")) -> Plan:
    options = with_packs([experiment.data], options, print, Console())
    dataset = dataset_of(experiment.data, options)
    plan = make_plan(experiment, dataset, options.weights_folder, stages)
    train_plan(plan, dataset, CPU, RunStore(options.results))
    for run in plan.runs:
        evaluate_on_test(run, RunStore(options.results).folder(run), dataset, choose_compute(CPU, "fp32"))
    return plan


def test_the_experiment_distills_a_pretrained_teacher_from_a_sparse_cache(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    write_imagenet(tmp_path / "data" / "imagenet")
    experiment = override_all(load_experiment(EXPERIMENTS / "distill_imagenet.py"), [*SMALL.items()])
    options = Options(tmp_path / "results", tmp_path / "data")
    store = RunStore(options.results)

    here = train(override_all(experiment, [*TRAINED_HERE.items()]), options, ("teacher",))
    trained = load_model(store.folder(here.runs[0]).best).network
    save_weights(options.weights_folder / "torchvision-resnet34.safetensors", trained.state_dict())

    plan = train(experiment, options)
    teacher, baseline, distilled = (store.folder(run) for run in plan.runs)
    assert teacher.require_record().imported is not None and baseline.status() == "done"
    top = distilled.require_record().compute.top_classes
    assert top is not None and (top.kept, top.num_classes) == (4, 8)
    assert all(folder.test.is_file() for folder in (teacher, baseline, distilled))
