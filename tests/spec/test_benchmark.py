"""The CIFAR-100 benchmark: its experiments, its flags, and published accuracies beside measured ones in the report."""

import re
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_images import encoded, write_parquet

from raykd import models
from raykd.cli.benchmark import MEAN, STD, selected_pairs, with_published_teacher
from raykd.cli.experiment_file import apply_settings, load_experiments
from raykd.cli.prefetch import fetch
from raykd.data.load import load_dataset
from raykd.errors import ConfigError
from raykd.methods import DKD, LogitStandardization, ReviewKD
from raykd.models import ImageSpec, Model
from raykd.report.build import build
from raykd.report.render.terminal import render_text
from raykd.spec.benchmark import benchmark_experiments
from raykd.spec.bundled import EXPERIMENTS
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Run, make_plan
from raykd.spec.published import protocol, published_pairs
from raykd.spec.recipe import SGD
from raykd.store.run_store import RunStore
from raykd.training import latency
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.loop import fit
from raykd.training.teacher.load import load_live_teacher
from raykd.training.teacher.sources import no_teacher

FILE = EXPERIMENTS / "benchmark_cifar100.py"
CPU = torch.device("cpu")
SHORT = (
    "seeds=0",
    "teacher.precision=fp32",
    "student.precision=fp32",
    "data.image_size=8",
    "data.val_images=100",
    "teacher.epochs=1",
    "student.epochs=1",
    "compare=at",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a CIFAR-100 of 200 training and 100 test images with random pixels, in its Parquet layout."""
    folder = tmp_path_factory.mktemp("data")
    for part, count in (("train", 300), ("test", 100)):
        images = [encoded(row + 1000 * (part == "test"), (32, 32)) for row in range(count)]
        labels = {"fine_label": [row % 100 for row in range(count)], "coarse_label": [row % 20 for row in range(count)]}
        write_parquet(folder / "cifar100" / f"{part}-00000-of-00001.parquet", images, labels)
    return folder


def test_every_published_pair_is_an_experiment_with_its_networks_and_recipe() -> None:
    experiments = load_experiments(FILE)
    assert experiments[0].published == "resnet32x4:resnet8x4"
    assert {one.published for one in experiments} == set(published_pairs()) and len(experiments) == 13
    images = ImageSpec(100, 32, MEAN, STD)
    for one in experiments:
        pair = published_pairs()[one.published]
        assert (one.teacher.model, one.student.model) == (
            models.find(pair.teacher_model),
            models.find(pair.student_model),
        )
        is_light = pair.student_model.startswith(("mobilenet", "shufflenet"))
        assert isinstance(one.student.optimizer, SGD) and one.student.optimizer.lr == (0.01 if is_light else 0.05)
        assert one.student.schedule.epochs_of(240) == [150, 180, 210]  # type: ignore[union-attr]
        assert models.num_parameters(one.student.model, images)
    assert len({one.family for one in experiments}) == 13


def test_published_numbers_are_those_of_the_papers() -> None:
    pair = published_pairs()["resnet32x4:resnet8x4"]
    values = {"teacher": 79.42, "baseline": 72.5, "kd": 73.33, "fitnets": 73.5, "crd": 75.51, "dkd": 76.32}
    assert values.items() <= pair.top1.items()
    assert published_pairs()["wrn_40_2:ShuffleV1"].top1["nst"] == 74.89
    dist = {"wrn_40_1": 74.43, "resnet20": 71.75, "resnet8x4": 76.31, "MobileNetV2": 68.66, "ShuffleV1": 76.34}
    dist |= {"ShuffleV2": 77.35}  # by student
    tops = {name.split(":")[1]: one.top1["dist"] for name, one in published_pairs().items() if "dist" in one.top1}
    assert tops == dist


# BETA of mdistiller's configs/cifar100/dkd/*.yaml, else 8 (mdistiller/engine/cfg.py).
DKD_BETAS = {
    "wrn_40_2:wrn_16_2": 6.0,
    "wrn_40_2:wrn_40_1": 6.0,
    "resnet56:resnet20": 2.0,
    "resnet110:resnet32": 2.0,
    "vgg13:vgg8": 6.0,
    "vgg13:MobileNetV2": 6.0,
}


# Base temperature and KD weight in the names of the authors' log files.
STANDARDIZATION = {"vgg13:vgg8": (3.0, 9.0), "vgg13:MobileNetV2": (3.0, 9.0), "ResNet50:MobileNetV2": (3.0, 1.0)}


def test_each_pair_has_the_temperature_of_logit_standardization_of_its_published_result() -> None:
    for one in load_experiments(FILE):
        (method,) = (method for method in one.methods if isinstance(method, LogitStandardization))
        assert (method.temperature, method.weight) == STANDARDIZATION.get(one.published, (2.0, 9.0))


def test_each_pair_has_the_dkd_beta_of_its_published_result() -> None:
    for one in load_experiments(FILE):
        assert [method.beta for method in one.methods if isinstance(method, DKD)] == [DKD_BETAS.get(one.published, 8.0)]


# --kd-loss-weight of the authors' script/reviewKD.sh, 5 for its other pairs. It lists no pair with a VGG or MobileNet.
REVIEW_WEIGHTS = {"resnet56:resnet20": 0.6, "resnet110:resnet32": 1.0, "resnet32x4:ShuffleV2": 8.0}
NO_REVIEW_WEIGHT = ("vgg13:vgg8", "vgg13:MobileNetV2", "ResNet50:MobileNetV2")


def test_each_pair_has_the_weight_of_reviewkd_of_its_published_result() -> None:
    for one in load_experiments(FILE):
        (method,) = (method for method in one.methods if isinstance(method, ReviewKD))
        assert method.weight == REVIEW_WEIGHTS.get(one.published, 5.0)
        published = published_pairs()[one.published].settings["reviewkd"]
        assert published.get("weight") == (None if one.published in NO_REVIEW_WEIGHT else method.weight)


def test_only_methods_with_default_fields_get_the_settings_of_a_pair() -> None:
    base = load_experiments(FILE)[0]
    changed = benchmark_experiments(replace(base, method=DKD(temperature=2.0), compare=(DKD(),)), light_network_lr=0.01)
    pair = next(one for one in changed if one.published == "vgg13:vgg8")
    assert (pair.method, pair.compare) == (DKD(temperature=2.0), (DKD(beta=6.0),))


def test_every_method_has_the_hyperparameters_of_its_published_result() -> None:
    for one in load_experiments(FILE):
        pair = published_pairs()[one.published]
        methods = {method.kind: method for method in one.methods if method.kind in pair.top1}
        fields = {kind: {name: getattr(methods[kind], name) for name in pair.settings[kind]} for kind in methods}
        assert fields == {kind: pair.settings[kind] for kind in methods} and len(methods) >= 10


def test_pairs_are_selected_by_flag_and_the_first_is_the_default() -> None:
    experiments = load_experiments(FILE)
    assert selected_pairs(experiments, None) == [experiments[0]]
    assert [one.family for one in selected_pairs(experiments, ["vgg13:vgg8"])] == ["vgg13_vgg8"]
    assert selected_pairs(experiments, ["vgg13:vgg8", "all"]) == list(experiments)


def test_published_teachers_are_found_in_their_layout_with_their_normalization(tmp_path: Path) -> None:
    experiment = load_experiments(FILE)[0]
    with pytest.raises(ConfigError, match=r"no teacher 'resnet32x4' there; looked for .*vanilla/ckpt_epoch_240"):
        with_published_teacher(experiment, tmp_path)
    file = tmp_path / "resnet32x4_vanilla" / "ckpt_epoch_240.pth"
    file.parent.mkdir()
    file.write_bytes(b"")
    changed = with_published_teacher(experiment, tmp_path)
    with pytest.raises(ConfigError, match=r"--teachers .* and teacher_checkpoint = .* both name a teacher"):
        with_published_teacher(changed, tmp_path)
    assert changed.teacher_checkpoint == str(file)
    assert isinstance(changed.teacher.model, Model)
    assert (changed.teacher.model.mean, changed.teacher.model.std) == (MEAN, STD)


def test_prefetch_explains_where_published_teachers_come_from(data: Path, tmp_path: Path) -> None:
    printed = StringIO()
    fetch(load_experiments(FILE), data, tmp_path, Console(file=printed, width=400))
    assert "fetch_pretrained_teachers.sh downloads them" in printed.getvalue()
    assert "unpack them into a folder DIR and add --teachers DIR" in printed.getvalue()
    assert not [*tmp_path.iterdir()]


def test_a_published_pair_is_refused_for_other_data_and_unknown_names() -> None:
    experiment = load_experiments(FILE)[0]
    with pytest.raises(ConfigError, match=r"published = .*: requires data\.name = cifar100, not cifar10"):
        replace(experiment, data=replace(experiment.data, name="cifar10"))
    with pytest.raises(ConfigError, match=r"published = 'resnet50:resnet8' .*: must be one of wrn_40_2:wrn_16_2"):
        replace(experiment, published="resnet50:resnet8")


def run_without_ray(experiment: Experiment, data: Path, results: Path) -> None:
    torch.set_num_threads(1)  # more wait for each other on a busy machine
    dataset, store = load_dataset("cifar100", data, experiment.data.image_size), RunStore(results)
    plan = make_plan(experiment, dataset, Path("none"))
    store.write_plan(plan)

    def train(run: Run) -> None:
        folder = store.folder(run)
        teacher = load_live_teacher([store.folder(run.teacher)], CPU) if run.teacher else no_teacher
        fit(run, dataset, folder, CPU, teacher)
        evaluate_on_test(run, folder, dataset, choose_compute(CPU, "fp32"))

    for run in plan.runs:
        train(run)


def test_the_report_shows_published_accuracies_beside_the_measured_ones(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "THROUGHPUT", replace(latency.THROUGHPUT, batch_size=16, most=3))
    (experiment,) = apply_settings(selected_pairs(load_experiments(FILE), ["vgg13:vgg8"]), SHORT)
    run_without_ray(experiment, data, tmp_path)
    report = build(tmp_path)
    text = render_text(report)
    assert re.search(r"method +\| +rank +\| top-1 \(%\) \| published", text)
    assert re.search(r"\| at +\|.*\| +71\.43 \|", text) and re.search(r"\| kd +\|.*\| +72\.98 \|", text)
    assert "published for vgg13:vgg8: teacher 74.64 %, baseline 70.36 %" in text
    assert protocol(experiment.data.val_images == 0, experiment.student.keep == "last") in " ".join(text.split())
    page = (tmp_path / "report" / "index.html").read_text()
    assert "published (%)</th>" in page and page.count("72.98") == 1 and "teacher 74.64 %" in page


@pytest.mark.nightly
def test_the_file_plans_the_chosen_pairs_alone(data: Path, tmp_path: Path) -> None:
    settings = [word for setting in SHORT for word in ("--set", setting)]
    arguments = ["--pair", "vgg13:vgg8", "--pair", "vgg13:MobileNetV2", "--plan", "--data-dir", str(data)]
    command = [sys.executable, str(FILE), *arguments, *settings, "--results", str(tmp_path / "results")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    planned = set(re.findall(r"teacher of (\w+):", ended.stdout))
    assert planned == {"vgg13_vgg8", "vgg13_mobilenetv2"}
    assert not (tmp_path / "results").exists()
