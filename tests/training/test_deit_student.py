"""A ViT with a distillation token under a teacher, through the one loop and a whole plan on the digits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nightly import nightly_except
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe, run_of, teacher_of, train
from torch import Tensor

from raykd.bench.without_ray import train_plan
from raykd.config.codec import read_checked_json
from raykd.errors import Interrupted
from raykd.methods import DeiT
from raykd.models.vit_cifar import ViT
from raykd.outputs import Outputs
from raykd.spec.plan import make_plan, train_val_indices
from raykd.spec.recipe import AdamW
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.model_file import load_model
from raykd.training.run_record import recorded_run
from raykd.training.training_step import make_train_state

EPOCHS = 30
TOKEN = ViT(depth=2, width=24, heads=2, patch=2, distillation_token=True)
STUDENT = recipe(model=TOKEN, optimizer=AdamW(lr=1e-2), epochs=EPOCHS)
SAME_VIEW = replace(experiment().data, train_images=400, crop_padding=0, flip=False)  # what so small a ViT soon learns


def changes(**more: Any) -> dict[str, Any]:
    return {"student": STUDENT, "method": DeiT(), "teacher": recipe(epochs=8), "data": SAME_VIEW, **more}


def evaluation_outputs(folder: RunFolder, images: Tensor) -> Outputs:
    with torch.no_grad():
        return load_model(folder.best).eval()(images)


@pytest.fixture(scope="module", params=nightly_except([], [DeiT(), DeiT(temperature=3.0)]), ids=["hard", "soft"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """A teacher, a baseline and a distilled student, trained, the teacher in a logit cache."""
    made = experiment(**changes(method=request.param), teacher_source="cache")
    plan, store = make_plan(made, digits(), NO_WEIGHTS), RunStore(tmp_path_factory.mktemp("plan"))
    train_plan(plan, digits(), CPU, store)
    (cache,) = store.logit_caches.iterdir()
    assert (cache / "logits.f16").is_file(), "a logit cache is enough"
    return [store.folder(run) for run in plan.runs]


def test_both_heads_learn_their_targets(folders: list[RunFolder]) -> None:
    teacher, baseline, distilled = folders
    history = distilled.history()
    assert len(history) == EPOCHS and distilled.require_record().compute.teacher == "cache"
    for term in ("ce", "token"):
        assert history[-1][term] < 0.6 * history[0][term], term
    rows, _ = train_val_indices(SAME_VIEW, digits().train.labels)
    images, labels = digits().train.images[rows], digits().train.labels[rows]
    student, predicted = evaluation_outputs(distilled, images), evaluation_outputs(teacher, images).logits.argmax(1)
    for head, target in zip(student.heads, (labels, predicted), strict=True):
        assert (head.argmax(1) == target).float().mean() > 0.6
    assert len(evaluation_outputs(baseline, images).heads) == 2, "a pair differs in the method alone"


def test_test_metrics_use_the_mean_of_both_heads(folders: list[RunFolder]) -> None:
    folder = folders[-1]
    evaluate_on_test(recorded_run(folder), folder, digits(), choose_compute(CPU, "fp32"))
    outputs, labels = evaluation_outputs(folder, digits().test.images), digits().test.labels
    nll = {head: F.cross_entropy(logits, labels).item() for head, logits in named(outputs).items()}
    top1 = 100 * (named(outputs)["mean"].argmax(1) == labels).double().mean().item()
    found = read_checked_json(folder.test)
    assert found["top1"] == pytest.approx(top1) and found["nll"] == pytest.approx(nll["mean"], rel=1e-6)
    heads = (nll["class"], nll["distillation"])
    assert min(abs(nll["mean"] / one - 1) for one in heads) > 3e-5, "figures of one head would be others"


def named(outputs: Outputs) -> dict[str, Tensor]:
    class_head, distillation_head = outputs.heads
    return {"class": class_head, "distillation": distillation_head, "mean": (class_head + distillation_head) / 2}


def test_labels_and_smoothing_apply_to_the_class_head_alone() -> None:
    run = run_of("distilled", **changes(student=replace(STUDENT, label_smoothing=0.1)))
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    batch = next(training.loader.epoch(0))
    student = training.objective.student(batch.images)
    terms = training.step(batch, run.method.weights(0))
    log_p = student.heads[0].log_softmax(1)
    target = torch.full_like(log_p, 0.01).scatter_(1, batch.labels[:, None], 0.91)
    assert terms["ce"].item() == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-5)
    outputs = teacher_of(run)(batch)
    assert outputs is not None
    decided = outputs.logits.argmax(1)[:, None]
    expected = -student.heads[1].log_softmax(1).gather(1, decided).mean()
    assert terms["token"].item() == pytest.approx(expected.item(), rel=1e-5), "no decision of the teacher's is smoothed"
    assert terms["loss"].item() == pytest.approx(0.5 * (terms["ce"] + terms["token"]).item(), rel=1e-6)


def test_baseline_trains_both_heads_on_the_labels() -> None:
    run = run_of("baseline", **changes())
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    batch = next(training.loader.epoch(0))
    training.step(batch, run.method.weights(0))
    gradients = {name: p.grad for name, p in training.objective.student.network.named_parameters()}
    for name in ("head.weight", "head_dist.weight", "dist_token", "cls_token"):
        assert gradients[name] is not None and gradients[name].abs().sum() > 0, name  # type: ignore[union-attr]


@pytest.mark.parametrize("method", [DeiT(), DeiT(temperature=3.0)], ids=["hard", "soft"])
def test_interrupted_run_ends_with_the_same_bits(method: DeiT, tmp_path: Path) -> None:
    student = replace(STUDENT, epochs=3, model=replace(TOKEN, dropout=0.2))
    run, whole, cut = run_of("distilled", **changes(student=student, method=method)), *(tmp_path / n for n in "ab")
    train(run, RunFolder(whole))
    steps = iter(range(12))
    with pytest.raises(Interrupted):
        train(run, RunFolder(cut), should_stop=lambda: next(steps, None) is None)
    train(run, RunFolder(cut))
    assert RunFolder(cut).best.read_bytes() == RunFolder(whole).best.read_bytes()


@pytest.mark.nightly
def test_cached_predictions_equal_a_live_teachers(tmp_path: Path) -> None:
    stores = {}
    for source in ("live", "cache"):
        stores[source] = RunStore(tmp_path / source)
        made = experiment(**changes(student=replace(STUDENT, epochs=6)), teacher_source=source)  # type: ignore[arg-type]
        train_plan(make_plan(made, digits(), NO_WEIGHTS), digits(), CPU, stores[source])
    run = run_of("distilled", **changes(student=replace(STUDENT, epochs=6)))
    live, cache = (stores[source].folder(run) for source in ("live", "cache"))
    assert cache.require_record().compute.teacher == "cache" and live.require_record().compute.teacher == "live"
    assert cache.best.read_bytes() == live.best.read_bytes(), "a decision has no rounding"
