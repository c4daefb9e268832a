"""Cases for tests of exact resume: what each run trains, in a child process, and which results must be equal."""

import hashlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from documented_methods import documented_method
from hugging_face import CONFIGS
from methods_by_progress import Annealed
from methods_with_groups import Scaled
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import CPU, curve, digits, recipe, run_of, teacher_of

import raykd.disk.atomic
from raykd.data.augmentation import Augmentation
from raykd.methods import CRD, KD, DeiT, FeatureKD
from raykd.models.four_stage_resnet import ResNet
from raykd.models.hf_model import HuggingFace
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.spec.plan import Run
from raykd.spec.recipe import SGD, AdamW, Cosine, MultiStep
from raykd.spec.stages import Stage
from raykd.store.run_folder import RunFolder
from raykd.training import loop, training_step
from raykd.training.hooks import CHECKPOINT_EVERY_S, Hooks
from raykd.training.loop import fit

_HF_VIT = CONFIGS["vit"] | {"hidden_dropout_prob": 0.2, "image_size": 8, "patch_size": 2}
_SMALL_VIT = ViT(depth=2, width=24, heads=2, patch=2, dropout=0.2)


_CASES: dict[str, tuple[Stage, dict[str, Any]]] = {
    "resnet, sgd": ("baseline", {}),
    "resnet, nesterov, adapter, clipping, smoothing": (
        "distilled",
        {
            "method": FeatureKD(alpha=0.3, feature_weight=0.5),
            "student": recipe(
                optimizer=SGD(lr=0.05, nesterov=True),
                schedule=MultiStep((0.34, 0.67)),
                clip_gradient_norm=1.0,
                label_smoothing=0.1,
            ),
        },
    ),
    "vit, adamw, dropout": (
        "distilled",
        {
            "student": recipe(
                model=_SMALL_VIT, optimizer=AdamW(lr=3e-3, weight_decay=0.1), schedule=Cosine(warmup_epochs=0.5)
            )
        },
    ),
    "resnet, bf16": ("distilled", {"method": KD(alpha=0.1), "student": recipe(precision="bf16", epochs=2)}),
    "resnet of timm whose last images are one pixel, bf16, clipping": (
        "baseline",
        {"student": recipe(model=Timm("test_resnet"), precision="bf16", epochs=2, clip_gradient_norm=1.0)},
    ),
    "resnet, adamw, channels first": ("baseline", {"student": recipe(optimizer=AdamW(), channels_last=False)}),
    "vit, sgd without momentum, bf16": (
        "baseline",
        {"student": recipe(model=_SMALL_VIT, optimizer=SGD(lr=0.05, momentum=0.0), precision="bf16")},
    ),
    "vit with distillation token, hard labels, adamw, dropout": (
        "distilled",
        {
            "method": DeiT(alpha=0.3),
            "student": recipe(model=replace(_SMALL_VIT, distillation_token=True), optimizer=AdamW(lr=3e-3)),
        },
    ),
    "everything augmented": (
        "distilled",
        {"student": recipe(augmentation=Augmentation(0.3, (2, 9), 3, 0.8, 1.0, erasing=0.5)), "method": KD(alpha=0.5)},
    ),
    "averaged, accumulated, balanced": (
        "distilled",
        {
            "method": CRD(ce_weight=0.5, negatives=16),
            "student": recipe(
                ema_decay=0.7,
                gradient_accumulation=5,
                class_weights=tuple(range(1, 11)),
                sampling="balanced",
                augmentation=Augmentation(crop_area=0.3),
                patience=1,
            ),
        },
    ),
    "vit of transformers, adamw, dropout, hook": (
        "distilled",
        {
            "method": FeatureKD(),
            "student": recipe(model=HuggingFace(json.dumps({"config": _HF_VIT})), optimizer=AdamW(lr=3e-3)),
        },
    ),
    "vit of timm, stochastic depth, erasing, repeats, adamw": (
        "distilled",
        {
            "student": recipe(
                model=Timm("test_vit", input_size=32, arguments={"drop_path_rate": 0.3, "drop_rate": 0.2}),
                optimizer=AdamW(lr=3e-3),
                augmentation=Augmentation(erasing=0.5),
                repeats=3,
            )
        },
    ),
    "resnet of 12 layers, adamw, adapter": (
        "distilled",
        {
            "method": FeatureKD(distance="cosine"),
            "student": recipe(model=ResNet((1, 2, 1, 1), 8), optimizer=AdamW(lr=1e-2)),
        },
    ),
    "resnet, fp16, clipping, averaged, accumulated": (
        "distilled",
        {"student": recipe(precision="fp16", clip_gradient_norm=1.0, ema_decay=0.7, gradient_accumulation=5)},
    ),
    "temperature by progress, adamw": (
        "distilled",
        {"method": Annealed(), "student": recipe(optimizer=AdamW(lr=3e-3))},
    ),
    "adapter with its own learning rates, adamw": (
        "distilled",
        {"method": Scaled(), "student": recipe(optimizer=AdamW(lr=3e-3), clip_gradient_norm=1.0)},
    ),
    "self-distillation without a teacher": ("distilled", {"method": documented_method("SelfDistillation")}),
    "memory inside an adapter, accumulated": (
        "distilled",
        {"method": documented_method("QueueContrast", size=120), "student": recipe(gradient_accumulation=2)},
    ),
}
CASES = tuple(_CASES)
FAST_CASES = (
    *CASES[:3],
    "self-distillation without a teacher",
    "adapter with its own learning rates, adamw",
    "temperature by progress, adamw",
    "memory inside an adapter, accumulated",
    "everything augmented",
    "averaged, accumulated, balanced",
    "vit of transformers, adamw, dropout, hook",
    "vit of timm, stochastic depth, erasing, repeats, adamw",
    "resnet of timm whose last images are one pixel, bf16, clipping",
)


def run_of_case(case: str) -> Run:
    stage, changes = _CASES[case]
    return run_of(stage, **changes)


def train(case: str, folder: Path, hooks: Hooks, threads: int = 1) -> None:
    """Start or resume the case. Teachers are built again, as in a requeued job."""
    run = run_of_case(case)
    torch.set_num_threads(threads)
    fit(run, digits(), RunFolder(folder), CPU, teacher_of(run), hooks)


@dataclass(frozen=True)
class Kill:
    """SIGKILL at the `count`-th time, from 1, that a place is reached."""

    place: str
    count: int


def train_in_child(
    case: str, folder: Path, kill: Kill | None = None, every_s: float = CHECKPOINT_EVERY_S, threads: int = 1
) -> None:
    """The main function of a child process, which may kill itself."""
    if kill is not None:
        arm(kill)
    train(case, folder, Hooks(checkpoint_every_s=every_s), threads)


def _before(original: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """Do not call `original`."""


def _after(original: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    original(*arguments, **named)


def _half(original: Callable[..., Any], path: Path) -> None:
    """Truncate the file that was to be flushed to half its size. Folders are flushed too, and stay as they are."""
    if path.is_file():
        os.truncate(path, path.stat().st_size // 2)


# Where a process can be killed: the owner of a function, its name, and what of the call is still done.
PLACES: dict[str, tuple[Any, str, Callable[..., None]]] = {
    "before a step": (training_step.TrainState, "step", _before),
    "after a step": (training_step.TrainState, "step", _after),
    "before a checkpoint": (loop, "save_checkpoint", _before),
    "half a file": (raykd.disk.atomic, "_flush", _half),
    "before a flush": (os, "fsync", _before),
    "before a rename": (os, "replace", _before),
    "after a rename": (os, "replace", _after),
    "before validation": (loop, "evaluate", _before),
    "after validation": (loop, "evaluate", _after),
    "before the end": (loop, "finish_run", _before),
    "after a write": (raykd.disk.atomic, "write_bytes", _after),
}


def arm(kill: Kill) -> None:
    """Make this process kill itself at `kill`."""
    owner, name, last_act = PLACES[kill.place]
    original, left = getattr(owner, name), kill.count

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left > 0:
            return original(*arguments, **named)
        last_act(original, *arguments, **named)
        return os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, counted)


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that must not depend on interruptions: weights, history without times, optimizer state."""
    run = RunFolder(folder)
    record = run.require_record()
    tensors = load_file(run.checkpoint)
    with safe_open(run.checkpoint, framework="pt") as file:
        assert "progress" in file.metadata()
    return {
        "status": run.status(),
        "best": record.best,
        "threads": record.compute.threads,
        "weights": hashlib.sha256(run.best.read_bytes()).hexdigest(),
        "state": {
            name: hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
            for name, tensor in tensors.items()
        },
        "history": curve(run),
    }
