"""Invalid files of weights for the teacher of the small experiment, or for the initial weights of its students."""

import gzip
import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from written_records import record_of

from bad_inputs.case import BadInput, experiment_file, plan
from raykd import models
from raykd.config import to_dict
from raykd.models import ImageSpec
from raykd.models.four_stage_resnet import ResNet
from raykd.models.vit_cifar import ViT
from raykd.store.records import ImportCheck

IMAGES = ImageSpec(10, 16, (0.3, 0.3, 0.3), (0.4, 0.4, 0.4))
Make = Callable[[Path], Sequence[str | Path]]


@cache
def fitting() -> dict[str, Tensor]:
    """Return untrained weights of the small experiment's teacher."""
    return models.build(ResNet(width=8), IMAGES, 0).network.state_dict()


def of(model: ResNet | ViT, images: ImageSpec = IMAGES) -> dict[str, Tensor]:
    return models.build(model, images, 0).network.state_dict()


def with_classes(count: int) -> dict[str, Tensor]:
    return fitting() | {"fc.weight": torch.ones(count, 64), "fc.bias": torch.ones(count)}


def with_changed(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return fitting() | {name: change(fitting()[name])}


def with_prefix(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in fitting().items()}


def torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def hugging_face_folder(folder: Path) -> Sequence[str | Path]:
    (folder / "vit").mkdir()
    (folder / "vit" / "config.json").write_text('{"model_type": "vit"}')
    (folder / "vit" / "model.safetensors").write_bytes(save(fitting()))
    return plan("teacher_checkpoint=vit")(folder)


def header(**changes: Any) -> dict[str, str]:
    """Return the metadata of raykd's header with `changes`."""
    fields = {
        "model": to_dict(ResNet(width=8)),
        "images": {"num_classes": 10, "size": 16, "mean": [0.3] * 3, "std": [0.4] * 3},
        "data": "digits",
        "classes": list("0123456789"),
        "run": "teacher-resnet18-w8-s0-0123456789ab",
        "trained_on": None,
    }
    return {"raykd": json.dumps(fields | changes)}


def written(content: Callable[[], bytes], name: str = "teacher.pth", key: str = "", *settings: str) -> Make:
    """Return `raykd plan` on the small experiment with a teacher from a file with `content`."""

    def make(folder: Path) -> Sequence[str | Path]:
        (folder / name).write_bytes(content())
        return plan(f"teacher_checkpoint={folder / name}{key}", *settings)(folder)

    return make


def file(content: Callable[[], Any], key: str = "") -> Make:
    return written(lambda: torch_bytes(content()), "teacher.pth", key)


def with_header(state: Callable[[], Mapping[str, Tensor]], metadata: Callable[[], dict[str, str]]) -> Make:
    return written(lambda: save(dict(state()), metadata()), "teacher.safetensors")


def start(state: Callable[[], Any]) -> Make:
    """Return `raykd plan` with initial weights of the students from a file."""

    def make(folder: Path) -> Sequence[str | Path]:
        (folder / "start.pth").write_bytes(torch_bytes(state()))
        return plan(f"student.model.weights={folder / 'start.pth'}")(folder)

    return make


def in_a_folder(*names: str) -> Make:
    def make(folder: Path) -> Sequence[str | Path]:
        (folder / "weights").mkdir()
        for name in names:
            (folder / "weights" / name).write_bytes(b"x")
        return plan(f"teacher_checkpoint={folder / 'weights'}")(folder)

    return make


def refused_before(folder: Path) -> Sequence[str | Path]:
    """Return `raykd distill` with a teacher that an earlier command refused because it guesses."""
    from raykd.cli.experiment_file import load_experiment
    from raykd.data.load import load_dataset
    from raykd.spec.plan import make_plan
    from raykd.store.run_store import RunStore

    path = folder / "teacher.pth"
    path.write_bytes(torch_bytes(fitting()))
    text = experiment_file(folder).read_text().replace("seeds=(0,)", f"seeds=(0,), teacher_checkpoint={str(path)!r}")
    experiment = load_experiment(experiment_file(folder, text))
    run = make_plan(experiment, load_dataset("digits", None), folder, ("teacher",)).runs[0]
    run_folder = RunStore(folder / "results").folder(run)
    check = ImportCheck(9.0, 200, "it guesses: 9.0 %")
    run_folder.write_record(record_of(run, status="failed", imported=check))
    return [
        "distill",
        "--experiment",
        folder / "tiny.py",
        "--teacher",
        "resnet18",
        "--results",
        folder / "results",
        "--set",
        "teacher.model.width=8",
    ]


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


DAMAGED = ("truncated or damaged", "copy it again")
SAVE = "save the model's weights: torch.save(model.state_dict(), 'weights.pth')"
MORE = ("holds more than tensors", SAVE)
NO_STATE = ("holds no state dict of tensors", "save model.state_dict()")
NOT_FINITE = ("are NaN or infinite", "name an earlier checkpoint")
DENSE = ("weights must be dense floating-point numbers", "state_dict() in float32")

HEADER = ("was written by another version of raykd, or its header is damaged", "copy it again")
SPLIT = {
    "data_identity": "x",
    "num_images": 1200,
    "val_images": 200,
    "train_images": None,
    "student_images": None,
    "split_seed": 0,
}
HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    name: ({"images": {"num_classes": 10, "size": 16, "mean": [0.3] * 3, "std": [0.4] * 3} | changes}, message)
    for name, changes, message in (
        ("a standard deviation of zero", {"std": [0.0] * 3}, "images.std"),
        ("a mean of two channels", {"mean": [0.3] * 2}, "images.mean"),
        ("a mean of text", {"mean": ["x"] * 3}, "images.mean"),
        ("a mean of NaN", {"mean": [float("nan")] * 3}, "images.mean"),
        ("a mean in values of pixels", {"mean": [120.0] * 3}, "images.mean"),
        ("a size that is text", {"size": "16"}, "images.size"),
    )
} | {
    "classes that are numbers": ({"classes": [*range(10)]}, "'classes'"),
    "classes that are one text": ({"classes": "0123456789"}, "'classes'"),
    "no model": ({"model": None}, "header"),
    "a split of all images": ({"trained_on": SPLIT | {"val_images": 5000}}, "'trained_on'"),
    "a split of text": ({"trained_on": SPLIT | {"val_images": "x"}}, "'trained_on'"),
    "a split that is a number": ({"trained_on": 3}, "header"),
}


def nested(depth: int) -> dict[str, Any]:
    """Return a state dict inside `depth` mappings."""
    return {"a": nested(depth - 1)} if depth else dict(fitting())


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def arrays() -> bytes:
    """Return the teacher's weights in NumPy's format."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in fitting().items()})
    return buffer.getvalue()


CASES = [
    BadInput(
        "a teacher that is not there",
        plan("teacher_checkpoint=gone.pth"),
        ("'", "gone.pth' does not exist", "check the path"),
    ),
    BadInput(
        "a teacher below a home folder that is not there",
        plan("teacher_checkpoint=~/raykd-gone.pth"),
        ("raykd-gone.pth' does not exist",),
    ),
    BadInput(
        "a key of a teacher that is not there", plan("teacher_checkpoint=gone.pth#model"), ("gone.pth' does not exist",)
    ),
    BadInput("an empty folder for a teacher", in_a_folder(), ("weights' is a folder; name a file of weights",)),
    BadInput(
        "a folder with weights for a teacher",
        in_a_folder("best.safetensors", "notes.txt"),
        ("is a folder; name a file in it, such as best.safetensors",),
    ),
    BadInput("an empty file of weights", written(lambda: b""), DAMAGED),
    BadInput(
        "a pointer of Git LFS for weights",
        written(lambda: b"version https://git-lfs.github.com/spec/v1\n"),
        ("teacher.pth' ",),
    ),
    BadInput(
        "a web page for weights",
        written(lambda: b"<!DOCTYPE html><html></html>", "teacher.safetensors"),
        ("is a web page or XML and not the file itself; download it again",),
    ),
    BadInput("half a safetensors file", written(lambda: save(fitting())[:200_000], "teacher.safetensors"), DAMAGED),
    BadInput("half a zip file", written(lambda: torch_bytes(fitting())[:200_000]), DAMAGED),
    BadInput(
        "weights compressed by gzip", written(lambda: gzip.compress(torch_bytes(fitting()), 1)), ("teacher.pth' ",)
    ),
    BadInput(
        "a plain pickle of arrays", written(lambda: pickle.dumps({"conv1.weight": np.ones(3)})), ("teacher.pth' ",)
    ),
    BadInput("a whole pickled module", file(lambda: nn.DataParallel(nn.Linear(3, 3))), ("is a whole pickled", SAVE)),
    BadInput(
        "a pickled module under state_dict",
        file(lambda: {"state_dict": nn.Linear(3, 3), "epoch": 3}),
        ("holds a whole pickled model as 'state_dict', and is not loaded", SAVE),
    ),
    BadInput("a function beside good weights", file(lambda: {"model": fitting(), "hook": Code()}), MORE),
    BadInput("an epoch and no weights", file(lambda: {"epoch": 3, "acc": 98.6}), NO_STATE),
    BadInput("a list of tensors", file(lambda: [torch.ones(3)]), NO_STATE),
    BadInput("an optimizer alone", file(lambda: {"optimizer": {"state": {"conv1.weight": torch.ones(3)}}}), NO_STATE),
    BadInput(
        "arrays of NumPy in place of tensors",
        file(lambda: {"model": {"conv1.weight": np.ones((8, 3, 3, 3))}}),
        ("teacher.pth' holds",),
    ),
    BadInput(
        "tensors of something else",
        file(lambda: {"net": {"a.weight": torch.ones(3)}}),
        ("it lacks conv1.weight and has a.weight",),
    ),
    BadInput(
        "a teacher of another width",
        file(lambda: of(ResNet(width=12))),
        ("another architecture, width or stem: conv1.weight is (12, 3, 3, 3), the model requires (8, 3, 3, 3)",),
    ),
    BadInput(
        "a teacher that is deeper",
        file(lambda: of(ResNet((3, 2, 2, 2), 8))),
        ("it has layer1.2.conv1.weight, which the model lacks",),
    ),
    BadInput(
        "a teacher that is flatter",
        file(lambda: {"model": of(ResNet((1, 2, 2, 2), 8))}),
        ("it lacks layer1.1.conv1.weight",),
    ),
    BadInput(
        "a stem and a head of ImageNet",
        file(lambda: with_classes(1000) | {"conv1.weight": torch.ones(8, 3, 7, 7)}),
        ("conv1.weight is (8, 3, 7, 7)", "number of classes differs too"),
    ),
    BadInput(
        "a head of 100 classes",
        file(lambda: with_classes(100)),
        ("another number of classes", "fc.bias is (100,), the model requires (10,)"),
    ),
    BadInput(
        "a head by another name",
        file(lambda: {name.replace("fc.", "head."): x for name, x in fitting().items()}),
        ("it lacks fc.weight and has head.weight",),
    ),
    BadInput(
        "a prefix and no head",
        file(lambda: {n: x for n, x in with_prefix("model.").items() if "fc" not in n}),
        ("it lacks fc.weight",),
    ),
    BadInput(
        "student and teacher in one file",
        file(lambda: {"student": fitting(), "teacher": with_changed("fc.bias", lambda x: x + 1)}),
        ("several state dicts that fit: student, teacher", "teacher.pth#teacher'"),
    ),
    BadInput(
        "a key that the file has not",
        file(lambda: {"model": fitting()}, "#modle"),
        ("has no state dict 'modle': known are model; did you mean 'model'?",),
    ),
    BadInput(
        "a key of a file with one state dict", file(fitting, "#model"), ("has no state dict 'model': known are none",)
    ),
    BadInput(
        "NaN in a teacher",
        file(lambda: with_changed("conv1.weight", lambda x: x * float("nan"))),
        ("216 of the 216 values of conv1.weight", *NOT_FINITE),
    ),
    BadInput(
        "one infinite weight in a wrapped teacher",
        file(lambda: {"net": with_changed("fc.bias", lambda x: x.index_fill(0, torch.tensor([3]), float("inf")))}),
        ("1 of the 10 values of fc.bias", *NOT_FINITE),
    ),
    BadInput(
        "NaN in a running mean",
        written(lambda: save(with_changed("layer3.0.bn2.running_mean", lambda x: x / 0)), "teacher.safetensors"),
        ("32 of the 32 values of layer3.0.bn2.running_mean", *NOT_FINITE),
    ),
    BadInput(
        "float64 too large for float32",
        file(lambda: with_changed("fc.weight", lambda x: x.double() + 1e200)),
        ("640 of the 640 values of fc.weight", *NOT_FINITE),
    ),
    BadInput(
        "int8 weights",
        file(lambda: with_changed("conv1.weight", lambda x: x.to(torch.int8))),
        ("conv1.weight is int8", *DENSE),
    ),
    BadInput(
        "boolean weights", file(lambda: with_changed("fc.weight", lambda x: x > 0)), ("fc.weight is bool", *DENSE)
    ),
    BadInput(
        "complex weights",
        file(lambda: with_changed("fc.weight", lambda x: x.to(torch.complex64))),
        ("fc.weight is complex64", *DENSE),
    ),
    BadInput(
        "sparse weights",
        file(lambda: with_changed("layer1.0.conv1.weight", lambda x: x.to_sparse())),
        ("layer1.0.conv1.weight is sparse (sparse_coo)", *DENSE),
    ),
    BadInput(
        "weights without data",
        file(lambda: with_changed("fc.weight", lambda x: x.to("meta"))),
        ("fc.weight is without data", *DENSE),
    ),
    BadInput(
        "a negative variance",
        file(lambda: with_changed("bn1.running_var", lambda x: -x)),
        ("bn1.running_var has negative values",),
    ),
    BadInput(
        "a header with classes in another order",
        with_header(fitting, lambda: header(classes=list("1023456789"))),
        ("classes in another order: its class 0 is '1', and that of digits is '0'",),
    ),
    BadInput(
        "a header with fewer classes",
        with_header(fitting, lambda: header(classes=list("012345678"))),
        ("another number of classes: it was trained on 9, and digits has 10",),
    ),
    BadInput(
        "a header of another kind of model",
        with_header(lambda: of(ViT(1, 24, 2)), lambda: header(model=to_dict(ViT(1, 24, 2)))),
        ("trained as vit1-w24, and teacher.model is resnet18-w8",),
    ),
    BadInput(
        "a header of a wider model",
        with_header(fitting, lambda: header(model=to_dict(ResNet(width=16)))),
        ("width = 16, not 8; use --set teacher.model.width=16",),
    ),
    BadInput(
        "a header that is no JSON",
        with_header(fitting, lambda: {"raykd": "{"}),
        ("teacher.safetensors' was written by another version of raykd",),
    ),
    BadInput(
        "a header without its fields",
        with_header(fitting, lambda: header(images={})),
        ("teacher.safetensors' was written by another version of raykd",),
    ),
    *(
        BadInput(f"a header with {name}", with_header(fitting, partial(header, **changes)), (*HEADER, message))
        for name, (changes, message) in HEADERS.items()
    ),
    BadInput("a header that is nested", with_header(fitting, lambda: {"raykd": "[" * 100_000}), HEADER),
    BadInput("a header that is a list", with_header(fitting, lambda: {"raykd": "[1]"}), HEADER),
    BadInput(
        "a head of another width",
        file(lambda: with_changed("fc.weight", lambda x: x.t().contiguous())),
        ("another architecture, width or stem: fc.weight is (64, 10), the model requires (10, 64)",),
    ),
    BadInput(
        "a state dict of upper-case names",
        file(lambda: {name.upper(): tensor for name, tensor in fitting().items()}),
        ("it lacks conv1.weight and has CONV1.WEIGHT",),
    ),
    BadInput("a state dict nested seven deep", file(lambda: nested(7)), NO_STATE),
    BadInput("a state dict in a tuple", file(lambda: (fitting(), 3)), NO_STATE),
    BadInput(
        "a quantized weight",
        file(lambda: with_changed("fc.weight", lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8))),
        ("fc.weight is qint8", *DENSE),
    ),
    BadInput("an archive of NumPy arrays", written(arrays), ("is an archive of NumPy arrays; make tensors of them",)),
    BadInput("a NumPy array", written(lambda: b"\x93NUMPY" + bytes(99)), ("is a file of a NumPy array; make tensors",)),
    BadInput(
        "a zip archive of something else",
        written(lambda: zipped({"a/readme.txt": b"x"})),
        ("is a zip archive and no file of weights; unpack it",),
    ),
    BadInput(
        "a checkpoint in a zip archive",
        written(lambda: zipped({"teacher.pth": torch_bytes(fitting())})),
        ("is a zip archive and no file of weights; unpack it",),
    ),
    BadInput(
        "a TorchScript archive",
        written(lambda: zipped({"net/constants.pkl": b"\x80\x02).", "net/data.pkl": b"\x80\x02)."})),
        ("is a TorchScript archive; save its weights: torch.save(torch.jit.load('", "').state_dict(), 'weights.pth')"),
    ),
    BadInput(
        "an archive of torch.export",
        written(lambda: zipped({"net/models/model.json": b"{}"}), "teacher.pt2"),
        (
            "is an archive of torch.export; save its weights: torch.save(torch.export.load('",
            "teacher.pt2').state_dict,",
        ),
    ),
    BadInput(
        "text in place of weights",
        written(lambda: b"hello world"),
        ("teacher.pth' is truncated or damaged (KeyError)",),
    ),
    BadInput(
        "a folder of Hugging Face as checkpoint",
        hugging_face_folder,
        (
            "weights file 'vit' is a folder of Hugging Face transformers",
            "set the model to hf:vit",
            "teacher_checkpoint=hf:vit",
        ),
    ),
    BadInput("a file of Keras", written(lambda: b"\x89HDF\r\n\x1a\n" + bytes(99)), ("is an HDF5 file, as Keras",)),
    BadInput("a GGUF file", written(lambda: b"GGUF" + bytes(99)), ("is a GGUF file; save the network's state_dict()",)),
    BadInput(
        "an index of shards",
        written(lambda: b'{"metadata": {}, "weight_map": {}}', "model.safetensors.index.json"),
        ("is JSON text and no weights; name the file of weights beside it",),
    ),
    BadInput(
        "JSON in place of safetensors",
        written(lambda: b'{"a": 1}', "teacher.safetensors"),
        ("is JSON text and no weights",),
    ),
    BadInput(
        "a mean without a standard deviation",
        written(lambda: torch_bytes(fitting()), "teacher.pth", "", "teacher.model.mean=0.5,0.5,0.5"),
        ("mean = (0.5, 0.5, 0.5) in ResNet: requires both mean and std",),
    ),
    BadInput(
        "a mean in values of pixels",
        plan("teacher.model.mean=125.3,123.0,113.9"),
        ("mean = (125.3, 123.0, 113.9)", "divide pixel values by 255"),
    ),
    BadInput(
        "a mean of two channels", plan("teacher.model.mean=0.5,0.5"), ("mean = (0.5, 0.5)", "must be three numbers")
    ),
    BadInput(
        "a standard deviation of zero",
        plan("teacher.model.std=0.5,0,0.5"),
        ("std = (0.5, 0.0, 0.5)", "above 0 up to 1"),
    ),
    BadInput(
        "NaN in the weights that a student starts from",
        start(lambda: of(ResNet((1, 1, 1, 1), 8)) | {"bn1.bias": torch.full((8,), float("nan"))}),
        ("start.pth' cannot be used: 8 of the 8 values of bn1.bias", *NOT_FINITE),
    ),
    BadInput(
        "a student that starts from a deeper network",
        start(lambda: OrderedDict(fitting())),
        ("start.pth' has another architecture: it has layer1.1.conv1.weight",),
    ),
    BadInput(
        "a teacher that an earlier command refused because it guesses",
        refused_before,
        ("teacher_checkpoint = ", "it guesses: 9.0 %"),
    ),
]
