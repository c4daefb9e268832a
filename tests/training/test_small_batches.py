"""Tests of the smallest batches: a method trains on them, or is refused before anything starts."""

from pathlib import Path

import pytest
from nightly import QUICK_METHODS, nightly_unless
from small_runs import digits, experiment, recipe, run_of, train

from raykd.cli.plan_text import worker_differences
from raykd.config import kinds
from raykd.errors import ConfigError, RunFailed
from raykd.methods import CRD, DKD, Method
from raykd.models.vit_cifar import ViT
from raykd.spec.experiment import Data
from raykd.store.run_folder import RunFolder
from raykd.training.network_checks import NetworkChecks
from raykd.training.sums import EpochSums

DATA = Data("digits", val_images=100, train_images=12, image_size=8, crop_padding=1, flip=True)
VIT = ViT(depth=4, width=24, heads=2, patch=2)
# The methods of raykd: tests of custom methods leave custom methods in the process.
NAMES = sorted(
    name for name, cls in kinds(Method).items() if cls.__module__.startswith("raykd.") and name not in ("ce", "deit")
)


NORMALIZES_IMAGES = ("reviewkd", "srrl")  # by batch norm of one value per channel and image, in their adapters


def method_of(name: str) -> Method:
    return CRD(negatives=16) if name == "crd" else Method.from_text(name)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", nightly_unless(lambda name: name in QUICK_METHODS, NAMES))
def test_method_trains_on_a_batch_or_refuses_it(name: str, size: int, tmp_path: Path) -> None:
    """A ViT has no batch norm, so the method alone decides."""
    method = method_of(name)
    settings = {"data": DATA, "teacher": recipe(batch_size=2), "method": method}
    student = recipe(model=VIT, epochs=1, batch_size=size)
    if size < method.min_batch_size:
        with pytest.raises(ConfigError, match=rf"student\.batch_size = {size}: method '{name}' .* requires at least"):
            run_of("distilled", student=student, **settings)
        return
    run = run_of("distilled", student=student, **settings)
    if size == 1 and name in NORMALIZES_IMAGES:
        with pytest.raises(ConfigError, match=rf"student\.batch_size = 1: batch norm of the method '{name}' cannot"):
            NetworkChecks(digits()).require_valid_batch_norm(run, 1)
        return
    (report,) = train(run, RunFolder(tmp_path))
    assert set(report.terms) == {*method.weights(0), "loss"}, "EpochSums refuses what is not finite"


@pytest.mark.parametrize(("size", "workers"), [(1, 1), (2, 2)])
def test_batch_norm_on_one_image_is_refused_before_training(size: int, workers: int) -> None:
    run = run_of("baseline", data=DATA, teacher=recipe(batch_size=2), student=recipe(batch_size=size))
    with pytest.raises(ConfigError, match=rf"student\.batch_size = {size}: batch norm of the model .* cannot train"):
        NetworkChecks(digits()).require_valid_batch_norm(run, workers)
    NetworkChecks(digits()).require_valid_batch_norm(run, 1) if size > 1 else None


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, OPTIONS)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.norm(self.convolution(x)).mean((2, 3)))
"""


@pytest.mark.parametrize("options", ["affine=False", "momentum=None", "track_running_stats=False"])
def test_batch_norm_that_cannot_synchronize_is_refused_before_training(options: str, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(NET.replace("OPTIONS", options))
    student = recipe(model=f"{file}:Net", batch_size=4, sync_batch_norm=True)
    run = run_of("baseline", data=DATA, teacher=recipe(batch_size=2), student=student)
    with pytest.raises(
        ConfigError, match=r"student\.sync_batch_norm = true: 'norm' of the model, BatchNorm2d\(8, .*\)"
    ):
        NetworkChecks(digits()).require_valid_batch_norm(run, num_workers=2)
    NetworkChecks(digits()).require_valid_batch_norm(run, num_workers=1)


def test_nan_before_the_first_update_does_not_blame_the_learning_rate() -> None:
    import torch

    sums = EpochSums(("cc", "loss"), torch.device("cpu"))
    sums.add({"cc": torch.tensor(float("nan")), "loss": torch.tensor(float("nan"))}, 0)
    with pytest.raises(RunFailed, match="'cc' is NaN or infinite in the first step, before any update") as caught:
        sums.means(0, 1)
    assert "learning rate" not in str(caught.value)


@pytest.mark.parametrize(("method", "named"), [(DKD(), ["batch norm"]), (CRD(), ["batch norm", "negatives for CRD"])])
def test_plan_lists_what_each_worker_computes_separately(method: Method, named: list[str]) -> None:
    from dataclasses import replace

    from raykd.spec.experiment import Workers
    from raykd.spec.plan import make_plan

    made = experiment(method=method, workers=Workers(count=2))
    lines = worker_differences(make_plan(made, digits(), Path("none")), digits())
    assert len(lines) == len(named) and all(name in line for name, line in zip(named, lines, strict=True))
    alone = replace(made, workers=Workers())
    assert worker_differences(make_plan(alone, digits(), Path("none")), digits()) == []
