"""Tests of model files with their headers, and of TensorBoard files."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import CPU, digits, recipe, run_of, teacher_of

from raykd import models
from raykd.errors import ConfigError
from raykd.models import Model
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.loop import fit
from raykd.training.model_file import header_of, images_of, load_model, read_header, save_model
from raykd.training.tensorboard import TensorBoard


@pytest.mark.parametrize(
    "model",
    [ResNet((1, 1, 1, 1), 8), ViT(1, 24, 2, 2), Timm("test_vit", input_size=32, weights="file")],
    ids=lambda m: m.label,
)
def test_loaded_model_has_the_logits_of_the_saved_one(model: Model, tmp_path: Path) -> None:
    run = replace(run_of("baseline"), recipe=recipe(model=model))
    network = models.build(run.model, images_of(digits()), 3).eval()
    save_model(tmp_path / "a.safetensors", network.network.state_dict(), header_of(run, digits()))
    loaded = load_model(tmp_path / "a.safetensors").eval()
    images = digits().test.images[:4]
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, network(images).logits)


def test_header_describes_the_weights(tmp_path: Path) -> None:
    run = run_of("distilled")
    state = models.build(run.model, images_of(digits()), 0).network.state_dict()
    save_model(tmp_path / "a.safetensors", state, header_of(run, digits()))
    header = read_header(tmp_path / "a.safetensors")
    assert header is not None
    assert (header.model, header.run, header.data) == (run.model, run.name, "digits")
    assert header.images == images_of(digits()) and header.classes == tuple("0123456789")


def test_teacher_is_loaded_as_it_was_trained(run_folder: RunFolder) -> None:
    """The distilled student's teacher is the teacher's best.safetensors and nothing else of its folder."""
    run = run_of("teacher")
    fit(run, digits(), run_folder, CPU)
    loaded, best = load_model(run_folder.best).network.state_dict(), load_file(run_folder.best)
    assert loaded.keys() == best.keys() and all(torch.equal(loaded[name], best[name]) for name in best)


def test_files_that_raykd_did_not_write_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:30])
    (tmp_path / "a.pth").write_bytes(b"x")
    for name, words in (
        ("a.safetensors", "has no header that names its model"),
        ("a.pth", "has no header that names its model"),
        ("cut.safetensors", "truncated or damaged"),
        ("none.safetensors", "does not exist"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            load_model(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("header", ["{", "[]", "{}", json.dumps({"model": {"kind": "resnet"}, "images": {}})])
def test_damaged_header_is_refused(header: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"raykd": header})
    with pytest.raises(ConfigError, match=r"a\.safetensors") as caught:
        load_model(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_epoch_once_even_after_a_resume(run_folder: RunFolder) -> None:
    run, reports = run_of("distilled"), list[EpochReport]()

    def train(stop_at: int) -> None:
        steps = iter(range(1, 100))
        with closing(TensorBoard(run_folder.tensorboard)) as board:

            def on_epoch(report: EpochReport) -> None:
                board.add(report)
                reports.append(report)

            fit(run, digits(), run_folder, CPU, teacher_of(run), Hooks(on_epoch, lambda: next(steps) == stop_at))

    with pytest.raises(Exception, match="stopped after epoch 1"):
        train(stop_at=6)
    train(stop_at=0)
    written = scalars(run_folder.tensorboard)
    assert [step for step, _ in written["top1/val"]] == [0, 1, 2]
    assert {"loss/ce", "loss/kd", "loss/loss", "loss/val", "top1/train", "lr", "images_per_s"} < written.keys()
    by_epoch = {report.epoch: report for report in reports}
    assert dict(written["loss/kd"]) == pytest.approx({e: report.terms["kd"] for e, report in by_epoch.items()})


def test_hparams_show_the_best_epoch_and_not_the_last(run_folder: RunFolder) -> None:
    values = (50.0, 80.0, 60.0)
    with closing(TensorBoard(run_folder.tensorboard, {"method.alpha": 0.3})) as board:
        for epoch, value in enumerate(values):
            best = max(values[: epoch + 1])
            board.add(EpochReport("run", epoch, 3, {"loss": 1.0}, value, value, 1.0, best, 0.1, 1.0, 1.0))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    content = EventAccumulator(str(run_folder.tensorboard)).Reload().PluginTagToContent("hparams")
    assert b"top1/best_val" in content["_hparams_/experiment"] and b"top1/val" not in content["_hparams_/experiment"]
    assert scalars(run_folder.tensorboard)["top1/best_val"] == [(0, 50.0), (1, 80.0), (2, 80.0)]
