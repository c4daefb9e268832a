"""Bad folders and repositories of Hugging Face transformers: their files, preprocessing, weights and classes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hugging_face import PREPROCESSOR, save_classifier, write_folder

from bad_inputs.case import BadInput, experiment_file

STUDENT, PRETRAINED = "student.model=hf:{folder}/vit", "student.model.weights=pretrained"
TEACHER, IMPORTED = "teacher.model=hf:{folder}/vit", "teacher_checkpoint=hf:{folder}/vit"
Write = Callable[[Path], Any]


def config(**changes: Any) -> Write:
    return lambda folder: write_folder(folder / "vit", **changes)


def preprocessor(**changes: Any) -> Write:
    """Return a function that writes preprocessor_config.json with `changes`, and weights that are not read."""

    def write(folder: Path) -> None:
        write_folder(folder / "vit", preprocessor=PREPROCESSOR | changes)
        (folder / "vit" / "model.safetensors").write_bytes(b"")

    return write


def text(content: str) -> Write:
    """Return a function that writes a folder whose config.json is `content`."""

    def write(folder: Path) -> None:
        (folder / "vit").mkdir()
        (folder / "vit" / "config.json").write_text(content)

    return write


def classifier(*names: str) -> Write:
    return lambda folder: save_classifier(folder / "vit", classes=names)


def split_weights(folder: Path) -> None:
    (write_folder(folder / "vit") / "model.safetensors.index.json").write_text("{}")


def weights_of_another_network(folder: Path) -> None:
    save_classifier(folder / "vit")
    other = json.loads((folder / "vit" / "config.json").read_text()) | {"intermediate_size": 48}
    (folder / "vit" / "config.json").write_text(json.dumps(other))


# name -> (function that writes the folder vit, settings, parts of the message)
FOLDERS: dict[str, tuple[Write, tuple[str, ...], tuple[str, ...]]] = {
    "a folder of transformers that does not exist": (
        lambda folder: None,
        ("student.model=hf:./gone",),
        ("model = hf:./gone: no such folder", "relative to {folder}"),
    ),
    "a folder without config.json": (lambda folder: (folder / "vit").mkdir(), (STUDENT,), ("has no config.json",)),
    "a config.json that is no JSON": (text("{"), (STUDENT,), ("config.json' is no readable JSON", "copy it again")),
    "a config.json that is a list": (text("[]"), (STUDENT,), ("config.json' holds no JSON object",)),
    "a config.json without a model_type": (text("{}"), (STUDENT,), ("its config.json has no model_type",)),
    "a repository with code": (
        config(auto_map={"AutoModel": "model.Model"}),
        (STUDENT,),
        ("its config.json has auto_map, which names code or another repository", "my_net.py:MyNet"),
    ),
    "a backbone of another repository, below the first level": (
        config(vision_config={"layers": [{"backbone": "someone/network"}]}),
        (STUDENT,),
        ("its config.json has vision_config.layers.0.backbone, which names code or another repository",),
    ),
    "an implementation of attention of the Hub": (
        config(vision_config={"attn_implementation": "someone/kernel"}),
        (STUDENT,),
        ("its config.json has vision_config.attn_implementation, which names code",),
    ),
    "a folder of timm": (
        text('{"architecture": "resnet18", "num_classes": 10}'),
        (STUDENT,),
        ("is a network of timm; use timm:resnet18",),
    ),
    "a folder of a language model": (
        text('{"model_type": "bert"}'),
        (STUDENT,),
        ("has no image classifier of model_type 'bert'",),
    ),
    "a folder with a field that its network refuses": (
        config(num_attention_heads="two"),
        (STUDENT,),
        ("its network for images of 16x16 pixels fails with",),
    ),
    "pretrained weights that the folder lacks": (
        config(),
        (STUDENT, PRETRAINED),
        ("hf:{folder}/vit: it has no weights; it must have model.safetensors or pytorch_model.bin",),
    ),
    "weights in several files": (split_weights, (STUDENT, PRETRAINED), ("its weights are split into several files",)),
    "weights of another network": (
        weights_of_another_network,
        (STUDENT, PRETRAINED),
        ("has another architecture", "the model requires (48"),
    ),
    "pixels that are scaled otherwise": (
        preprocessor(rescale_factor=1.0),
        (STUDENT, PRETRAINED),
        ("has rescale_factor = 1.0, and raykd divides pixels by 255", "the fields mean and std"),
    ),
    "pixels that are not scaled": (
        preprocessor(do_rescale=False),
        (STUDENT, PRETRAINED),
        ("has do_rescale = false, and raykd divides pixels by 255",),
    ),
    "pixels that are normalized twice": (
        preprocessor(include_top=True),
        (STUDENT, PRETRAINED),
        ("has include_top, which raykd does not apply",),
    ),
    "a preprocessor without a std": (
        preprocessor(image_std=None),
        (STUDENT, PRETRAINED),
        ("has no image_mean from 0 to 1 with image_std above 0", "the fields mean and std"),
    ),
    "images that are not square": (
        preprocessor(size={"height": 16, "width": 24}),
        (STUDENT,),
        ("its image size is {'height': 16, 'width': 24}, and raykd's images are square", "input_size"),
    ),
    "a repository that is not in the cache": (
        lambda folder: None,
        ("student.model=hf:nobody/nothing",),
        ("hf:nobody/nothing: is no folder, and no repository in the cache", "raykd prefetch"),
    ),
    "a folder as checkpoint of another network": (
        config(),
        (IMPORTED,),
        ("has another network than teacher.model = resnet18-w8", "--set teacher.model=hf:{folder}/vit"),
    ),
    "a teacher of transformers with fewer classes": (
        classifier(*"012345678"),
        (TEACHER, IMPORTED),
        ("has another number of classes: it was trained on 9, and digits has 10",),
    ),
    "a teacher of transformers with classes in another order": (
        classifier(*"1023456789"),
        (TEACHER, IMPORTED),
        ("was trained on classes in another order: its class 0 is '1'",),
    ),
}


def plan(write: Write, settings: Sequence[str]) -> Callable[[Path], Sequence[str | Path]]:
    """Return `raykd plan` with the settings, after `write`."""

    def make(folder: Path) -> Sequence[str | Path]:
        write(folder)
        flags = [word for item in settings for word in ("--set", item.replace("{folder}", str(folder)))]
        return ["plan", experiment_file(folder), *flags]

    return make


def with_flag(folder: Path) -> Sequence[str | Path]:
    """Return `raykd distill` with a folder as the teacher's checkpoint, and another network as its model."""
    checkpoint, file = f"hf:{write_folder(folder / 'vit')}", experiment_file(folder)
    return ["distill", "--experiment", file, "--teacher-checkpoint", checkpoint, "--set", "teacher.model=resnet8"]


CASES = [
    BadInput(
        "a folder as checkpoint beside another network",
        with_flag,
        ("--teacher-checkpoint hf:{folder}/vit and --set teacher.model=resnet8 set the same field",),
    ),
    *(BadInput(name, plan(write, settings), parts) for name, (write, settings, parts) in FOLDERS.items()),
]
