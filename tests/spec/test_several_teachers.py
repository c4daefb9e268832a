"""Several teachers of one recipe: each is a separate run, and students learn from the mean of their logits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nightly import nightly_except
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe, train
from torch import Tensor

from raykd import models
from raykd.bench.without_ray import train_plan
from raykd.cli.plan_text import print_plan
from raykd.data.loader import TrainLoader
from raykd.errors import Interrupted, RunFailed
from raykd.models.four_stage_resnet import ResNet
from raykd.orchestration.options import Options
from raykd.provenance import file_sha256, teacher_digest
from raykd.report.build import build
from raykd.report.render.terminal import render_text
from raykd.spec.plan import Plan, Run, make_plan
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.model_file import images_of, load_model
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import choose_teacher
from raykd.training.teacher.load import load_teacher
from raykd.training.teacher.sources import MeanLogits, Teacher

SEEDS = (0, 1, 2)
EPOCHS = 6


def plan_of(**changes: Any) -> Plan:
    several = experiment(teacher=recipe(epochs=2), student=recipe(epochs=EPOCHS), teacher_seeds=SEEDS, **changes)
    return make_plan(several, digits(), NO_WEIGHTS)


def trained(folder: Path, **changes: Any) -> tuple[Plan, RunStore]:
    """Train all runs of the plan."""
    plan, store = plan_of(**changes), RunStore(folder)
    train_plan(plan, digits(), CPU, store)
    return plan, store


@pytest.fixture(scope="module")
def from_cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, RunStore]:
    return trained(tmp_path_factory.mktemp("cache"), teacher_source="cache")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, RunStore]:
    return trained(tmp_path_factory.mktemp("live"), teacher_source="live")


def sha256s(run: Run, store: RunStore) -> list[str]:
    return [file_sha256(store.folder(teacher).best) for teacher in run.teachers]


def mean_logits(run: Run, store: RunStore, images: Tensor) -> Tensor:
    """Return the mean of the logits of each teacher by itself, float64 [B, C]."""
    networks = [load_model(store.folder(teacher).best).eval() for teacher in run.teachers]
    with torch.no_grad():
        return torch.stack([network(images).logits.double() for network in networks]).mean(0)


@pytest.mark.nightly
def test_three_teachers_differ_and_the_student_records_the_identity_of_all(from_cache: tuple[Plan, RunStore]) -> None:
    plan, store = from_cache
    distilled = plan.runs[-1]
    weights = sha256s(distilled, store)
    assert len(set(weights)) == 3 == len(distilled.teachers)
    record = store.folder(distilled).require_record()
    assert record.teacher_sha256 == teacher_digest(weights) and record.compute.teacher == "cache"
    assert record.teacher_sha256 not in weights


def teacher_in(plan: Plan, store: RunStore) -> Teacher:
    teachers = [store.folder(run) for run in plan.runs if run.stage == "teacher"]
    choice = choose_teacher(plan, digits(), (), store.logit_caches, teachers)
    assert choice is not None
    return load_teacher(plan.runs[-1], "", choice.cache, store, digits(), CPU)


@pytest.mark.parametrize(
    ("kind", "rounding"), nightly_except([("from_cache", 2**-11)], [("live", 1e-5), ("from_cache", 2**-11)])
)
def test_targets_are_the_teachers_mean_logits(kind: str, rounding: float, request: pytest.FixtureRequest) -> None:
    plan, store = request.getfixturevalue(kind)
    images, labels = digits().train.images, digits().train.labels
    loader = TrainLoader(images, labels, torch.arange(200), plan.runs[-1].data.views, 50, seed=0, device=CPU)
    batch = next(loader.epoch(0))
    teacher = teacher_in(plan, store)
    if kind == "from_cache":  # only views of images that are trained on are filled
        filled = LogitCache(store.logit_caches, _key(plan, store)).filled()[batch.index, batch.view]
    else:
        filled = torch.ones(50, dtype=torch.bool)
    outputs = teacher(batch)
    assert outputs is not None and outputs.embedding is None and filled.any()
    expected = mean_logits(plan.runs[-1], store, batch.images)
    torch.testing.assert_close(outputs.logits.double()[filled], expected[filled], rtol=rounding, atol=1e-6)


def _key(plan: Plan, store: RunStore) -> Any:
    choice = choose_teacher(
        plan, digits(), (), store.logit_caches, [store.folder(run) for run in plan.runs[-1].teachers]
    )
    assert choice is not None and choice.cache is not None
    return choice.cache.key(digits(), teacher_digest(sha256s(plan.runs[-1], store)))


def test_cache_of_the_mean_equals_live_teachers_over_a_whole_run(
    live: tuple[Plan, RunStore], from_cache: tuple[Plan, RunStore]
) -> None:
    one, other = (store.folder(plan.runs[-1]).history() for plan, store in (live, from_cache))
    assert len(one) == len(other) == EPOCHS
    assert other[0]["kd"] == pytest.approx(one[0]["kd"], rel=1e-4)
    assert [row["kd"] for row in other] == pytest.approx([row["kd"] for row in one], rel=1e-2)


@pytest.mark.parametrize("kind", nightly_except(["from_cache"], ["live", "from_cache"]))
def test_interrupted_run_ends_with_the_same_weights(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    plan, store = request.getfixturevalue(kind)
    run, interrupted = plan.runs[-1], replace(store, results=tmp_path)
    reports = 0

    def should_stop() -> bool:
        nonlocal reports
        reports += 1
        return reports == 9

    with pytest.raises(Interrupted):
        train(run, interrupted.folder(run), teacher_in(plan, store), should_stop=should_stop)
    train(run, interrupted.folder(run), teacher_in(plan, store))
    assert interrupted.folder(run).best.read_bytes() == store.folder(run).best.read_bytes()


def test_partly_trained_run_is_not_resumed_with_teachers_in_another_order(
    from_cache: tuple[Plan, RunStore], tmp_path: Path
) -> None:
    plan, store = from_cache
    run, interrupted = plan.runs[-1], RunStore(tmp_path)
    teacher = teacher_in(plan, store)
    with pytest.raises(Interrupted):
        train(run, interrupted.folder(run), teacher, should_stop=lambda: True)
    first, *rest = sha256s(run, store)
    teacher.identity = teacher_digest([*rest, first])  # type: ignore[misc]
    with pytest.raises(RunFailed, match="partly trained with a teacher whose weights have changed since"):
        train(run, interrupted.folder(run), teacher)


@pytest.mark.nightly
def test_report_has_the_mean_accuracy_of_the_teachers_and_no_warning(from_cache: tuple[Plan, RunStore]) -> None:
    plan, store = from_cache
    for run in plan.runs:
        evaluate_on_test(run, store.folder(run), digits(), choose_compute(CPU, "fp32"))
    store.write_plan(plan)
    report = build(store.results)
    top1 = [json.loads(store.folder(run).test.read_text())["top1"] for run in plan.runs if run.stage == "teacher"]
    assert len(top1) == 3
    headline = json.loads((store.results / "report.json").read_text())["small"]
    assert headline["teacher_accuracy"] == pytest.approx(sum(top1) / 300)
    (summary,) = report.summaries
    assert summary.stage("teacher").num_planned == 3 and not summary.missing
    assert not [line for line in summary.warnings if "distilled from earlier" in line or "teacher_seeds" in line]
    assert "3" in next(line for line in render_text(report).splitlines() if "teacher" in line)


def test_printed_plan_names_every_teacher_of_a_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of()
    print_plan([plan.experiment], Options(tmp_path, tmp_path))
    lines = capsys.readouterr().out.splitlines()
    teachers = [run.name for run in plan.runs[:3]]
    assert [line.split()[0] for line in lines[2:5]] == teachers
    assert lines[6].endswith(f", after {', '.join(teachers)}")
    assert "for each of 3 teachers" in lines[-1]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softened_mean_is_the_geometric_mean_of_the_softened_outputs(temperature: float) -> None:
    """This holds at every temperature, so one logit cache serves all."""
    networks = [models.build(ResNet((1, 1, 1, 1), 8), images_of(digits()), seed).eval() for seed in SEEDS]
    images = digits().train.images[:5]
    with torch.no_grad():
        mean = MeanLogits(networks)(images).logits.double()
        softened = torch.stack([(network(images).logits.double() / temperature).softmax(1) for network in networks])
    geometric = softened.log().mean(0).exp()
    torch.testing.assert_close(
        (mean / temperature).softmax(1), geometric / geometric.sum(1, keepdim=True), rtol=1e-5, atol=0
    )
