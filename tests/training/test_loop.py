"""The one loop: golden losses, the best epoch by validation, what the outside hears, and how a run ends early."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import digits, experiment, recipe, run_of, teacher_of
from torch import Tensor

from raykd.data.dataset import Dataset, Split
from raykd.data.loader import Batch
from raykd.errors import ConfigError, Interrupted, RunFailed
from raykd.methods import FeatureKD
from raykd.models.resnet_cifar import ResNet
from raykd.outputs import Outputs
from raykd.plan import Run
from raykd.recipe import SGD, AdamW, Constant, Cosine, MultiStep
from raykd.runs import RunFolder
from raykd.training import loop
from raykd.training.evaluate import Evaluation, evaluate
from raykd.training.loop import EpochReport, Hooks, fit
from raykd.training.teachers import Teacher
from raykd.training.testing import evaluate_on_test, is_tested
from raykd.training.trained import load_trained
from raykd.training.training import Training, make_training

CPU = torch.device("cpu")
GOLDEN = Path(__file__).with_name("golden_losses.txt")


def train(run: Run, folder: RunFolder, teacher: Teacher | None = None, **hooks: Any) -> list[EpochReport]:
    """Train to the end; what `on_epoch` heard."""
    heard: list[EpochReport] = []
    fit(run, digits(), folder, CPU, teacher or teacher_of(run), Hooks(heard.append, **hooks))
    return heard


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
    heard = train(run_of(stage, **method), run_folder)
    golden = {epoch: terms for name, epoch, terms in golden_lines() if name == stage}
    assert len(golden) == len(heard) == 3
    for report in heard:
        found = report.terms | {"val": report.val_loss}
        assert found == pytest.approx(golden[report.epoch], rel=1e-4), f"epoch {report.epoch}"


def golden_of(stage: str, heard: list[EpochReport]) -> str:
    """Lines for golden_losses.txt."""
    return "\n".join(
        " ".join([stage, str(r.epoch), *(f"{n}={v:.8f}" for n, v in (r.terms | {"val": r.val_loss}).items())])
        for r in heard
    )


def test_training_learns(run_folder: RunFolder) -> None:
    run = run_of(
        "baseline", student=recipe(epochs=5, optimizer=SGD(lr=0.1)), data=replace(experiment().data, train_images=None)
    )
    assert train(run, run_folder)[-1].best_val_top1 > 60


def test_every_epoch_is_reported_and_noted_once(run_folder: RunFolder) -> None:
    run = run_of("distilled")
    heard, history = train(run, run_folder), run_folder.history()
    assert [report.epoch for report in heard] == [row["epoch"] for row in history] == [0, 1, 2]
    assert [row["step"] for row in history] == [4, 8, 12]
    for report, row in zip(heard, history, strict=True):
        assert report.run == run.name and report.epochs == 3
        assert set(report.terms) == {"ce", "kd", "loss"}
        assert report.terms["loss"] == pytest.approx(0.5 * report.terms["ce"] + 0.5 * report.terms["kd"], rel=1e-5)
        same = {name: getattr(report, name) for name in ("train_top1", "val_top1", "val_loss", "lr", "images_per_s")}
        assert {**report.terms, **same} == {name: row[name] for name in (*report.terms, *same)}
        assert 0 <= report.train_top1 <= 100 and report.images_per_s > 0
    assert heard[-1].best_val_top1 == max(report.val_top1 for report in heard)
    assert [r.seconds for r in heard] == sorted(r.seconds for r in heard)


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
    heard = train(run_of("baseline", student=recipe(schedule=schedule)), run_folder)
    assert [report.lr for report in heard] == pytest.approx(rates)


def test_each_step_trains_at_the_schedules_rate(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = Training.step

    def noted(self: Training, batch: Batch, weights: dict[str, float]) -> dict[str, Tensor]:
        assert len({group["lr"] for group in self.optimizer.param_groups}) == 1
        rates.append(self.optimizer.param_groups[0]["lr"])
        return step(self, batch, weights)

    monkeypatch.setattr(Training, "step", noted)
    train(run_of("baseline", student=recipe(optimizer=AdamW(lr=0.01), schedule=Cosine(1.0), epochs=2)), run_folder)
    rise = [0.001, 0.25, 0.5, 0.75]
    fall = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates == pytest.approx([0.01 * share for share in (*rise, *fall)])


def test_best_weights_are_those_of_the_best_epoch_by_validation(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, states = iter([50.0, 80.0, 80.0, 70.0]), []

    def scripted(model: Any, split: Split, device: torch.device, precision: str) -> Evaluation:
        states.append({name: tensor.clone() for name, tensor in model.network.state_dict().items()})
        return Evaluation(next(scores), 1.0, len(split))

    monkeypatch.setattr(loop, "evaluate", scripted)
    heard = train(run_of("baseline", student=recipe(epochs=4)), run_folder)
    best = load_file(run_folder.best)
    assert all(torch.equal(best[name], states[1][name]) for name in states[1]), "not the first of the best"
    assert run_folder.record()["best"] == {"epoch": 1, "val_top1": 80.0}
    assert [report.best_val_top1 for report in heard] == [50.0, 80.0, 80.0, 80.0]


@dataclass(frozen=True)
class WatchedDataset(Dataset):
    """Counts who asks for the test set."""

    def __getattribute__(self, name: str) -> Any:
        if name == "test":
            reads.append(name)
        return super().__getattribute__(name)


reads: list[str] = []


def test_test_set_is_read_once_for_a_trained_run_and_never_while_training(run_folder: RunFolder) -> None:
    watched = WatchedDataset(**{field.name: getattr(digits(), field.name) for field in fields(Dataset)})
    reads.clear()
    run = run_of("distilled")
    fit(run, watched, run_folder, CPU, teacher_of(run))
    assert reads == [] and not is_tested(run_folder)
    evaluate_on_test(run_folder, watched, CPU, "fp32")
    assert is_tested(run_folder)
    before = len(reads)
    assert before >= 1
    evaluate_on_test(run_folder, watched, CPU, "fp32")
    assert len(reads) == before, "it was read again"


def test_test_figures_are_of_the_best_weights_and_of_no_others(run_folder: RunFolder) -> None:
    train(run_of("baseline"), run_folder)
    evaluate_on_test(run_folder, digits(), CPU, "fp32")
    expected = evaluate(load_trained(run_folder.best), digits().test, CPU)
    tested = run_folder.test.read_text(encoding="utf-8")
    assert f'"top1": {expected.top1}' in tested and f'"num_images": {len(digits().test)}' in tested
    run_folder.best.write_bytes(run_folder.best.read_bytes() + b"")
    assert is_tested(run_folder)
    content = bytearray(run_folder.best.read_bytes())
    content[-1] ^= 1
    run_folder.best.write_bytes(content)
    assert not is_tested(run_folder)


def test_evaluation_counts_every_image_once_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_training(run_of("baseline"), digits(), CPU, teacher_of(run_of("baseline"))).objective.student
    model.train()
    split = digits().test
    found = evaluate(model, split, CPU)
    assert model.training, "the model's mode was not given back"
    monkeypatch.setattr("raykd.training.evaluate.BATCH_SIZE", 100)
    assert evaluate(model, split, CPU).top1 == found.top1
    model.eval()
    with torch.no_grad():
        logits = model(split.images).logits.double()
    right = (logits.argmax(1) == split.labels).sum().item()
    nll = -logits.log_softmax(1)[torch.arange(len(split)), split.labels].mean().item()
    assert found.top1 == 100 * right / 597 and found.nll == pytest.approx(nll, rel=1e-5) and found.num_images == 597


class Bad:
    """A teacher whose logits are NaN or infinite from one step on."""

    def __init__(self, run: Run, epoch: int, step: int, value: float) -> None:
        self.teacher, self.at, self.value = teacher_of(run), (epoch, step), value

    def __call__(self, batch: Batch) -> Outputs:
        outputs = self.teacher(batch)
        assert outputs is not None
        is_bad = (batch.epoch, batch.step) >= self.at
        return Outputs(outputs.logits * self.value, outputs.embedding) if is_bad else outputs


@pytest.mark.parametrize("every_s", [0, 60], ids=["each step", "rarely"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_stops_the_run_with_epoch_step_and_term(value: float, every_s: float, run_folder: RunFolder) -> None:
    run = run_of("distilled")
    with pytest.raises(RunFailed, match="loss term 'kd' became NaN or infinite in epoch 1, step 2; lower") as caught:
        train(run, run_folder, Bad(run, 1, 2, value), checkpoint_every_s=every_s)
    record = run_folder.record()
    assert (record["status"], record["reason"]) == ("failed", str(caught.value)) and run_folder.status() == "failed"
    assert not run_folder.best.exists()


def test_failed_run_starts_again_from_its_last_good_step_and_ends_as_if_it_never_failed(
    run_folder: RunFolder, tmp_path: Path
) -> None:
    run = run_of("distilled")
    with pytest.raises(RunFailed):
        train(run, run_folder, Bad(run, 1, 2, math.nan), checkpoint_every_s=0)
    heard = train(run, run_folder)
    assert [report.epoch for report in heard] == [1, 2]
    assert run_folder.status() == "done" and run_folder.record()["reason"] is None
    straight = RunFolder(tmp_path / "straight")
    train(run, straight)
    assert straight.best.read_bytes() == run_folder.best.read_bytes()


def test_weights_that_became_nan_in_the_last_step_fail_the_run(run_folder: RunFolder) -> None:
    """The last step's own losses are still finite: only validation sees what its update did."""
    run = run_of("baseline", student=recipe(epochs=1, batch_size=200, optimizer=SGD(lr=1e38)))
    with pytest.raises(RunFailed, match="epoch 0"):
        train(run, run_folder)
    assert run_folder.status() == "failed"


def test_diverging_run_fails(run_folder: RunFolder) -> None:
    with pytest.raises(RunFailed, match=r"'ce' became NaN or infinite in epoch 0, step \d"):
        train(run_of("baseline", student=recipe(optimizer=SGD(lr=1e30))), run_folder)


def test_an_error_in_the_code_leaves_its_reason(run_folder: RunFolder) -> None:
    def broken(batch: Batch) -> None:
        raise ZeroDivisionError("in a teacher")

    with pytest.raises(ZeroDivisionError):
        train(run_of("distilled"), run_folder, broken)
    assert (run_folder.status(), run_folder.record()["reason"]) == ("failed", "in a teacher")


def test_a_model_that_cannot_be_built_leaves_its_reason(run_folder: RunFolder) -> None:
    run = run_of("baseline")
    wide = replace(run, recipe=replace(run.recipe, model="vit6", batch_size=201))
    with pytest.raises(ConfigError):
        train(wide, run_folder)
    assert run_folder.status() == "failed" and "batch_size 201" in run_folder.record()["reason"]


def test_done_run_is_left_as_it_is(run_folder: RunFolder) -> None:
    run = run_of("baseline")
    train(run, run_folder)
    before = {path: path.read_bytes() for path in run_folder.path.rglob("*") if path.is_file()}
    assert train(run, run_folder) == []
    assert before == {path: path.read_bytes() for path in run_folder.path.rglob("*") if path.is_file()}


def test_done_run_whose_weights_were_deleted_lays_them_down_again_untrained(run_folder: RunFolder) -> None:
    run = run_of("baseline")
    train(run, run_folder)
    weights = run_folder.best.read_bytes()
    run_folder.best.unlink()
    assert run_folder.status() == "interrupted"
    assert train(run, run_folder) == []
    assert run_folder.status() == "done" and run_folder.best.read_bytes() == weights


def test_run_that_is_written_elsewhere_is_not_touched(run_folder: RunFolder) -> None:
    with RunFolder(run_folder.path).writer(), pytest.raises(RunFailed, match="is being written by"):
        train(run_of("baseline"), run_folder)
    assert run_folder.status() == "not started"


def test_record_says_what_the_run_was(run_folder: RunFolder) -> None:
    run = run_of("distilled")
    train(run, run_folder)
    record = run_folder.record()
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
    assert {name: record[name] for name in expected} == expected
    assert record["compute"] == {"device": "cpu", "threads": torch.get_num_threads(), "precision": "fp32"}
    weights = sum(tensor.numel() for tensor in load_trained(run_folder.best).parameters())
    assert record["parameters"] == weights
    assert record["started"] <= record["ended"] and record["seconds"] > 0


def test_resumes_are_counted_and_seconds_add_up(run_folder: RunFolder) -> None:
    run = run_of("baseline")
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(run, run_folder, should_stop=lambda: time.sleep(0.05) or True)
    train(run, run_folder)
    record = run_folder.record()
    assert record["resumes"] == 2 and record["seconds"] > 0.1
    assert run_folder.history()[-1]["seconds"] <= record["seconds"]


def test_jumping_clock_changes_no_result(
    run_folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, straight = run_of("baseline"), RunFolder(tmp_path / "straight")
    train(run, straight)
    jumps = iter([0.0, 1e9, -1e9, 5.0, 1e12] * 100)
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(jumps))
    monkeypatch.setattr("raykd.training.records.now", lambda: "1970-01-01T00:00:00+00:00")
    heard = train(run, run_folder)
    assert all(math.isfinite(report.images_per_s) for report in heard)
    assert straight.best.read_bytes() == run_folder.best.read_bytes()


def test_same_run_again_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / name) for name in "abc"]
    torch.manual_seed(5)
    train(run_of("distilled"), folders[0])
    torch.manual_seed(6)
    train(run_of("distilled"), folders[1])
    train(run_of("distilled", seeds=(1,)), folders[2])
    one, again, other = (load_file(folder.best) for folder in folders)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_threads_of_the_process_are_given_back(run_folder: RunFolder) -> None:
    """A worker trains run after run: what one of them keeps must not become the next one's."""
    before = torch.get_num_threads()
    run_folder.update(compute={"threads": before + 1})
    seen = []
    run = run_of("baseline", student=recipe(epochs=1))
    train(run, run_folder, should_stop=lambda: seen.append(torch.get_num_threads()) or False)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_imported_teacher_is_measured_and_laid_down_untrained(tmp_path: Path) -> None:
    source = RunFolder(tmp_path / "source")
    trained = run_of("teacher")
    train(trained, source)
    run = run_of("teacher", teacher_checkpoint=str(source.best))
    folder = RunFolder(tmp_path / "imported")
    assert train(run, folder) == []
    assert folder.status() == "done" and folder.history() == []
    assert folder.record()["best"] == {"epoch": None, "val_top1": source.record()["best"]["val_top1"]}
    ours, theirs = load_file(folder.best), load_file(source.best)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_imported_teacher_of_another_shape_fails_with_its_reason(tmp_path: Path) -> None:
    source, folder = RunFolder(tmp_path / "source"), RunFolder(tmp_path / "imported")
    train(run_of("baseline"), source)
    wrong = run_of("teacher", teacher_checkpoint=str(source.best), teacher=recipe(model=ResNet((1, 1, 1, 1), 5)))
    with pytest.raises(ConfigError, match="another architecture"):
        train(wrong, folder)
    assert folder.status() == "failed" and "another architecture" in folder.record()["reason"]
