"""Tests of the training loop: golden losses, the best epoch by validation, the test split, reports and records."""

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import CPU, digits, experiment, recipe, run_of, train
from torch import Tensor

from raykd.data.loader import Batch
from raykd.data.types import Split
from raykd.methods import DKD, FeatureKD
from raykd.spec.recipe import SGD, AdamW, Constant, Cosine, MultiStep
from raykd.store.records import Best, ComputeRecord, UnfinishedWarmup
from raykd.store.run_folder import RunFolder
from raykd.training import loop
from raykd.training.compute import EVALUATION_BATCH, choose_compute
from raykd.training.evaluate import Evaluation, evaluate
from raykd.training.final_evaluation import evaluate_on_test, is_tested
from raykd.training.hooks import EpochReport
from raykd.training.model_file import load_model
from raykd.training.teacher.sources import no_teacher
from raykd.training.training_step import TrainState, make_train_state

GOLDEN = Path(__file__).with_name("golden_losses.txt")


def golden_lines() -> Iterator[tuple[str, int, dict[str, float]]]:
    """(stage, epoch, {term: value}) of each line of the file."""
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            stage, epoch, *values = line.split()
            yield stage, int(epoch), {name: float(value) for name, value in (item.split("=") for item in values)}


@pytest.mark.parametrize("stage", ["baseline", "distilled"])
def test_losses_are_the_golden_ones(stage: Any, run_folder: RunFolder) -> None:
    """The file says why the tolerance is 1e-4. To renew it after a change that is meant: print(golden_of(...))."""
    method = {"method": FeatureKD(alpha=0.3, feature_weight=0.5)} if stage == "distilled" else {}
    reports = train(run_of(stage, **method), run_folder)
    golden = {epoch: terms for name, epoch, terms in golden_lines() if name == stage}
    assert len(golden) == len(reports) == 3
    for report in reports:
        found = report.terms | {"val": report.val_loss}
        assert found == pytest.approx(golden[report.epoch], rel=1e-4), f"epoch {report.epoch}"


def golden_of(stage: str, reports: list[EpochReport]) -> str:
    """Lines for golden_losses.txt."""
    return "\n".join(
        " ".join([stage, str(r.epoch), *(f"{n}={v:.8f}" for n, v in (r.terms | {"val": r.val_loss}).items())])
        for r in reports
    )


def test_training_learns(run_folder: RunFolder) -> None:
    run = run_of(
        "baseline", student=recipe(epochs=5, optimizer=SGD(lr=0.1)), data=replace(experiment().data, train_images=None)
    )
    assert train(run, run_folder)[-1].best_val_top1 > 60


def test_every_epoch_is_reported_and_recorded_once(run_folder: RunFolder) -> None:
    run = run_of("distilled")
    reports, history = train(run, run_folder), run_folder.history()
    assert [report.epoch for report in reports] == [row["epoch"] for row in history] == [0, 1, 2]
    assert [row["step"] for row in history] == [4, 8, 12]
    for report, row in zip(reports, history, strict=True):
        assert report.run == run.name and report.epochs == 3
        assert set(report.terms) == {"ce", "kd", "loss"}
        assert report.terms["loss"] == pytest.approx(0.5 * report.terms["ce"] + 0.5 * report.terms["kd"], rel=1e-5)
        same = {name: getattr(report, name) for name in ("train_top1", "val_top1", "val_loss", "lr", "images_per_s")}
        assert {**report.terms, **same} == {name: row[name] for name in (*report.terms, *same)}
        assert 0 <= report.train_top1 <= 100 and report.images_per_s > 0
    assert reports[-1].best_val_top1 == max(report.val_top1 for report in reports)
    assert [r.seconds for r in reports] == sorted(r.seconds for r in reports)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (Constant(), [0.05, 0.05, 0.05]),
        (MultiStep((1 / 3, 2 / 3)), [0.05, 0.005, 0.0005]),
        (Cosine(), [0.05 * 0.5 * (1 + math.cos(math.pi * step / 12)) for step in (3, 7, 11)]),
    ],
    ids=["constant", "multistep", "cosine"],
)
def test_reported_rate_is_that_of_the_epochs_last_step(
    schedule: Any, rates: list[float], run_folder: RunFolder
) -> None:
    reports = train(run_of("baseline", student=recipe(schedule=schedule)), run_folder)
    assert [report.lr for report in reports] == pytest.approx(rates)


def test_each_step_trains_at_the_schedules_rate(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = TrainState.step

    def noted(self: TrainState, batch: Batch, weights: dict[str, float], progress: Tensor) -> dict[str, Tensor]:
        assert len({group["lr"] for group in self.optimizer.param_groups}) == 1
        rates.append(self.optimizer.param_groups[0]["lr"])
        return step(self, batch, weights, progress)

    monkeypatch.setattr(TrainState, "step", noted)
    train(run_of("baseline", student=recipe(optimizer=AdamW(lr=0.01), schedule=Cosine(1.0), epochs=2)), run_folder)
    rise = [0.001, 0.25, 0.5, 0.75]
    fall = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates == pytest.approx([0.01 * share for share in (*rise, *fall)])


def test_best_weights_are_those_of_the_best_epoch_by_validation(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, states = iter([50.0, 80.0, 80.0, 70.0]), []

    def scripted(model: Any, split: Split, *_: Any) -> Evaluation:
        states.append({name: tensor.clone() for name, tensor in model.network.state_dict().items()})
        return Evaluation(next(scores), 1.0, len(split))

    monkeypatch.setattr(loop, "evaluate", scripted)
    reports = train(run_of("baseline", student=recipe(epochs=4)), run_folder)
    best = load_file(run_folder.best)
    assert all(torch.equal(best[name], states[1][name]) for name in states[1]), "not the first of the best"
    assert run_folder.require_record().best == Best(1, 80.0)
    assert [report.best_val_top1 for report in reports] == [50.0, 80.0, 80.0, 80.0]


def test_test_metrics_are_those_of_the_best_weights(run_folder: RunFolder) -> None:
    run = run_of("baseline")
    train(run, run_folder)
    evaluate_on_test(run, run_folder, digits(), choose_compute(CPU, "fp32"))
    expected = evaluate(load_model(run_folder.best), digits().test, choose_compute(CPU, "fp32"))
    tested = run_folder.test.read_text(encoding="utf-8")
    assert f'"top1": {expected.top1}' in tested and f'"num_images": {len(digits().test)}' in tested
    run_folder.best.write_bytes(run_folder.best.read_bytes() + b"")
    assert is_tested(run_folder)
    content = bytearray(run_folder.best.read_bytes())
    content[-1] ^= 1
    run_folder.best.write_bytes(content)
    assert run_folder.status() == "damaged"
    run_folder.update(weights_sha256="0" * 64)  # as when the run was trained again, to other weights
    assert not is_tested(run_folder)


def test_evaluation_counts_every_image_once_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = choose_compute(CPU, "fp32")
    model = make_train_state(run_of("baseline"), digits(), compute, no_teacher).objective.student
    model.train()
    split = digits().test
    found = evaluate(model, split, compute)
    assert model.training, "the model's mode was not given back"
    monkeypatch.setitem(EVALUATION_BATCH, "cpu", 100)
    assert evaluate(model, split, compute).top1 == found.top1
    model.eval()
    with torch.no_grad():
        logits = model(split.images).logits.double()
    right = (logits.argmax(1) == split.labels).sum().item()
    nll = -logits.log_softmax(1)[torch.arange(len(split)), split.labels].mean().item()
    assert found.top1 == 100 * right / 597 and found.nll == pytest.approx(nll, rel=1e-5) and found.num_images == 597


def test_record_describes_the_run(run_folder: RunFolder) -> None:
    run = run_of("distilled")
    train(run, run_folder)
    record = run_folder.require_record()
    expected = {
        "name": run.name,
        "family": "small",
        "stage": "distilled",
        "model": "resnet8-w8",
        "method": "kd",
        "seed": 0,
        "fingerprint": run.fingerprint,
        "status": "done",
        "resumes": 0,
    }
    assert {name: getattr(record, name) for name in expected} == expected
    assert record.compute == ComputeRecord("cpu", "fp32", torch.get_num_threads(), teacher="live")
    assert record.compute.workers == (1,) and record.compute.step == "eager" and record.compute.channels_last
    weights = sum(tensor.numel() for tensor in load_model(run_folder.best).parameters())
    assert record.parameters == weights
    assert record.ended is not None and record.started <= record.ended and record.seconds > 0
    assert record.writer == f"process {os.getpid()} on {record.host}"
    assert not record.starts_as_its_teacher and record.unfinished_warmup is None


def test_record_has_what_weakens_the_result_of_a_distilled_run(run_folder: RunFolder) -> None:
    run = run_of("distilled", teacher=experiment().student, method=DKD(warmup_epochs=20))
    train(run, run_folder)
    record = run_folder.require_record()
    assert record.starts_as_its_teacher
    assert record.unfinished_warmup == UnfinishedWarmup(20, (run.recipe.epochs - 1) / 20)


def test_repeated_run_has_the_same_bits_and_another_seed_other_bits(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / name) for name in "abc"]
    torch.manual_seed(5)
    train(run_of("distilled"), folders[0])
    torch.manual_seed(6)
    train(run_of("distilled"), folders[1])
    train(run_of("distilled", seeds=(1,)), folders[2])
    one, again, other = (load_file(folder.best) for folder in folders)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])
