"""Small finished runs of every kind of model, and the logits that their exports are compared with."""

import json
from pathlib import Path
from typing import Any

import torch
from hugging_face import CONFIGS
from nightly import nightly_unless
from PIL import Image
from small_runs import CPU, IMAGE_SIZE, NO_WEIGHTS, WIDTH, digits, experiment, recipe, run_of, train, trained_teacher_of
from torch import Tensor

from raykd.data.load import load_dataset
from raykd.methods import KD, DeiT, Method
from raykd.models import Model
from raykd.models.four_stage_resnet import ResNet
from raykd.models.hf_model import HuggingFace
from raykd.models.timm_model import Timm
from raykd.models.torchvision_model import Torchvision
from raykd.models.vit_cifar import ViT
from raykd.models.wide_resnet import WideResNet
from raykd.spec.experiment import Data
from raykd.spec.plan import make_plan
from raykd.spec.recipe import SGD
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.loop import fit
from raykd.training.model_file import load_model
from raykd.training.teacher.sources import no_teacher

MODELS: dict[str, Model] = {
    "resnet": ResNet(blocks=(1, 2, 1, 1), width=WIDTH),
    "vit": ViT(depth=2, width=16, heads=2, patch=4, dropout=0.1, drop_path=0.1),
    "vit_token": ViT(depth=2, width=16, heads=2, patch=4, distillation_token=True),
    "timm_vit": Timm(  # a fixed input size, to which it resizes
        "test_vit", input_size=32, arguments={"global_pool": "avg", "class_token": False, "drop_path_rate": 0.1}
    ),
    "timm_convnet": Timm("test_byobnet", input_size=32),
    "wide_resnet": WideResNet(depth=10, factor=1),
    "torchvision": Torchvision("squeezenet1_1.IMAGENET1K_V1", input_size=32, arguments={"dropout": 0.1}),
    "mnasnet": Torchvision("mnasnet0_5", input_size=32),
    "hf_vit": HuggingFace(json.dumps({"config": CONFIGS["vit"]}), arguments={"num_attention_heads": 4}),
    "hf_resnet": HuggingFace(json.dumps({"config": CONFIGS["resnet"]})),
}
RECIPES: dict[str, dict[str, Any]] = {"mnasnet": {"optimizer": SGD(lr=0.005)}}
METHODS: dict[str, Method] = {"vit_token": DeiT()}  # the others use KD
IN_TIMM = ("vit", "vit_token", "timm_vit", "timm_convnet")  # the kinds of models that the format timm accepts
FORMATS_OF = {kind: ("safetensors", "onnx", "torch-export") + ("timm",) * (kind in IN_TIMM) for kind in MODELS}
PRIVATE = "alices-secret-place"  # a folder on the machine that trained
ALL_CASES = [(kind, form) for kind in MODELS for form in FORMATS_OF[kind]]
CASES = nightly_unless(lambda case: case in (("resnet", "safetensors"), ("timm_vit", "timm")), ALL_CASES)


class Students(dict[str, RunFolder]):
    """A student of each model by its kind, distilled from one teacher; trained and tested when it is first read."""

    def __init__(self, results: Path) -> None:
        super().__init__()
        self._store = RunStore(results)

    def __missing__(self, kind: str) -> RunFolder:
        student = recipe(model=MODELS[kind], **RECIPES.get(kind, {}))
        run = run_of("distilled", student=student, method=METHODS.get(kind, KD()))
        assert run.teacher is not None
        teacher, self[kind] = self._store.folder(run.teacher), self._store.folder(run)
        if teacher.status() != "done":
            train(run.teacher, teacher)
            evaluate_on_test(run.teacher, teacher, digits(), choose_compute(CPU, "fp32"))
        train(run, self[kind], trained_teacher_of(run, teacher, self._store.logit_caches))
        evaluate_on_test(run, self[kind], digits(), choose_compute(CPU, "fp32"))
        return self[kind]


def train_on_custom_images(root: Path) -> RunFolder:
    """Train a ViT on digits in one folder per class, named by an absolute path below `root`."""
    place = write_digits(root / PRIVATE / "flowers")
    data = Data(f"folder:{place}", val_images=3, image_size=IMAGE_SIZE, crop_padding=1)
    dataset = load_dataset(data.name, None, IMAGE_SIZE)
    student = recipe(model=ViT(depth=1, width=16, heads=2), epochs=1, batch_size=5)
    plan = make_plan(experiment(data=data, teacher=student, student=student), dataset, NO_WEIGHTS, ["baseline"])
    folder = RunFolder(root / "results" / "small" / plan.runs[0].name)
    fit(plan.runs[0], dataset, folder, CPU, no_teacher)
    return folder


def write_digits(place: Path) -> Path:
    """Write 12 training and 6 test images in three classes."""
    labels = digits().test.labels.tolist()
    for part, first, count in (("train", 0, 4), ("test", 4, 2)):
        for label in range(3):
            (place / part / f"class{label}").mkdir(parents=True)
            rows = [row for row, other in enumerate(labels) if other == label][first : first + count]
            for row in rows:
                pil_images()[row].save(place / part / f"class{label}" / f"{row}.png")
    return place


@torch.no_grad()
def logits_of(folder: RunFolder, images: Tensor) -> Tensor:
    """Return the logits of the run's best weights in raykd, float32."""
    return load_model(folder.best).eval()(images).logits


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a fraction of the largest logit."""
    assert logits.shape == expected.shape and logits.dtype == expected.dtype == torch.float32
    return ((logits - expected).abs().max() / expected.abs().max()).item()


def pil_images() -> list[Image.Image]:
    """Return the digits' test images as PIL images."""
    return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in digits().test.images]
