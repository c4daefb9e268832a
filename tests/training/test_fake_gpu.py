"""A training step keeps to the GPU: no tensor of another device, no value read by the host, not too many launches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from all_methods import all_methods
from fake_gpu import on_fake_gpu
from nightly import nightly_except, nightly_unless
from small_runs import CPU, digits, recipe, run_of, teacher_of
from user_network import UserNet

from raykd.data.augmentation import Augmentation
from raykd.methods import KD, RKD, FeatureKD, Method
from raykd.models.custom_network import Network
from raykd.models.timm_model import Timm
from raykd.models.torchvision_model import Torchvision
from raykd.models.vit_cifar import ViT
from raykd.outputs import Outputs
from raykd.spec.experiment import CACHEABLE
from raykd.spec.plan import Run
from raykd.spec.recipe import AdamW
from raykd.store.records import TopClasses
from raykd.training.compute import Compute
from raykd.training.cuda_graph import DeviceSteps, EagerSteps
from raykd.training.teacher.sources import CachedTeacher, Teacher
from raykd.training.teacher.sparse_rows import RowLayout
from raykd.training.training_step import TrainState, make_train_state

WAYS = nightly_except([DeviceSteps], [EagerSteps, DeviceSteps])  # a GPU takes DeviceSteps where it can
MOST_LAUNCHES = {"kd": 200, "rkd": 250}
MORE_LAUNCHES = {"bf16": 0, "fp16": 22}  # 10 of the loss scaling, 12 copies for cuDNN's batch norm


def run_by(method: Method, **changes: Any) -> Run:
    vit = ViT(depth=2, width=24, heads=2, patch=2, distillation_token=method.needs_distillation_token)
    student = recipe(**({"model": vit} if method.needs_distillation_token else {}), **changes)
    stage = "distilled" if method.needs else "baseline"
    return run_of(stage, method=method if method.needs else KD(), student=student)


def cached(run: Run) -> Teacher:
    """Return a logit cache of random rows, with embeddings where the method of `run` needs them."""
    width = 128 if "embedding" in run.method.needs else 0
    num_views, num_images = run.data.views.count, len(digits().train.labels)
    rows, live = torch.randn(num_images * num_views, 10 + width).half(), teacher_of(run)
    return CachedTeacher(rows, num_views, "", width, load_network=live.network)


def take_steps(training: TrainState, way: Callable[[TrainState], Any], precision: str = "bf16") -> int:
    """Take two steps on a fake GPU without a capture; return the launches of the second."""
    with on_fake_gpu(training, precision) as launches:
        training.parallelize()
        steps = way(training)
        steps._captures = False
        steps.start_epoch(0, 0)
        steps.run_step(0)
        before = launches.count
        steps.run_step(1)
        return launches.count - before


def training_of(run: Run, teacher: Teacher | None = None) -> TrainState:
    return make_train_state(run, digits(), Compute(CPU, "fp32", 1), teacher or teacher_of(run))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "method",
    nightly_unless(lambda method: method.kind in ("kd", "crd"), all_methods()),
    ids=lambda method: method.kind,
)
def test_every_method_keeps_to_the_gpu(method: Method, way: Callable[[TrainState], Any]) -> None:
    run = run_by(method)
    assert take_steps(training_of(run), way) > 0
    if run.teacher is not None and method.needs <= CACHEABLE:
        assert take_steps(training_of(run, cached(run)), way) > 0


@pytest.mark.parametrize("width", nightly_except([0], [0, 128]))
def test_top_classes_are_restored_on_the_gpu(width: int) -> None:
    run = run_by(FeatureKD() if width else KD())
    layout = RowLayout(10, width, kept=3)
    num_views, num_images = run.data.views.count, len(digits().train.labels)
    rows = layout.encode(Outputs(torch.randn(num_images * num_views, 10), torch.randn(num_images * num_views, width)))
    teacher = CachedTeacher(rows, num_views, "", width, TopClasses(3, 10))
    assert take_steps(training_of(run, teacher), DeviceSteps) > 0


AUGMENTATIONS = {
    "crop_area": Augmentation(0.3),
    "cutout": Augmentation(cutout=3),
    "erasing": Augmentation(erasing=0.5),
    "erasing with the mean color": Augmentation(erasing=0.5, erasing_fill="mean"),
    "mixup": Augmentation(mixup=0.8),
    "cutmix": Augmentation(cutmix=1.0),
    "all but RandAugment": Augmentation(0.3, (), 3, 0.8, 1.0, erasing=0.5),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", nightly_except(["all but RandAugment"], AUGMENTATIONS))
def test_every_augmentation_that_a_graph_can_hold_keeps_to_the_gpu(name: str, way: Callable[[TrainState], Any]) -> None:
    assert take_steps(training_of(run_by(KD(), augmentation=AUGMENTATIONS[name])), way) > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "changes",
    [
        {"model": ViT(depth=2, width=24, heads=2, patch=2, dropout=0.1), "optimizer": AdamW()},
        {"model": ViT(depth=2, width=24, heads=2, patch=2, drop_path=0.1), "optimizer": AdamW()},
        {"model": Timm("test_vit", input_size=32, arguments={"drop_path_rate": 0.1, "patch_drop_rate": 0.5})},
        pytest.param(
            {"model": Torchvision("convnext_tiny", input_size=32, arguments={"stochastic_depth_prob": 0.2})},
            marks=pytest.mark.nightly,
        ),
        pytest.param({"model": Timm("vit_tiny_patch16_224", input_size=32)}, marks=pytest.mark.nightly),
        {"model": Network(UserNet)},
        {"clip_gradient_norm": 1.0, "label_smoothing": 0.1},
        pytest.param(
            {
                "ema_decay": 0.9,
                "class_weights": tuple(range(1, 11)),
                "sampling": "balanced",
                "gradient_accumulation": 2,
            },
            marks=pytest.mark.nightly,
        ),
    ],
    ids=[
        "vit",
        "stochastic depth",
        "arguments of timm",
        "arguments of torchvision",
        "timm",
        "custom",
        "clipping",
        "averaged, accumulated, balanced",
    ],
)
@pytest.mark.parametrize("precision", nightly_except(["bf16", "fp16"], ["fp32", "tf32", "bf16", "fp16"]))
def test_every_kind_of_network_keeps_to_the_gpu(
    changes: dict[str, Any], way: Callable[[TrainState], Any], precision: str
) -> None:
    assert take_steps(training_of(run_by(KD(), **changes)), way, precision) > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", [KD(), RKD()], ids=lambda method: method.kind)
def test_a_step_of_a_resnet_8_has_few_launches(method: Method, precision: str) -> None:
    run = run_by(method)
    launches = take_steps(training_of(run, cached(run)), DeviceSteps, precision)
    assert 100 < launches <= MOST_LAUNCHES[method.kind] + MORE_LAUNCHES[precision]


def test_a_value_that_the_host_reads_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = KD.terms

    def reading(*arguments: Any) -> dict[str, torch.Tensor]:
        found = terms(*arguments)
        assert float(found["kd"]) < 1e9
        return found

    monkeypatch.setattr(KD, "terms", reading)
    with pytest.raises(Exception, match="_local_scalar_dense"):
        take_steps(training_of(run_by(KD())), EagerSteps)


def test_a_tensor_of_the_cpu_is_found() -> None:
    training = training_of(run_by(KD()))
    with on_fake_gpu(training, "fp32"):
        batch = next(training.loader.epoch(0))
        with pytest.raises(RuntimeError, match="device"):
            training.step(batch, {"ce": 0.5, "kd": torch.ones(3).to(CPU)})
