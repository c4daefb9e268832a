"""Missing, truncated and wrong files: data folders, teacher checkpoints, pretrained weights, results."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from bad_inputs.case import BadInput, experiment_file
from raykd.models import ImageSpec, build, find
from raykd.models.weights import save_weights

Arguments = Sequence[str | Path]
DIGITS = ImageSpec(num_classes=10, size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def plan_data(name: str, write: Callable[[Path], None], data_dir: str = ".") -> Callable[[Path], Arguments]:
    """Return `raykd plan` on the data set `name`, whose files `write` puts into the folder."""

    def make(folder: Path) -> Arguments:
        write(folder)
        return ["plan", experiment_file(folder), "--set", f"data.name={name}", "--data-dir", folder / data_dir]

    return make


def no_files(folder: Path) -> None:
    pass


def truncated_parquet(folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"PAR1 cut short")
    shutil.copy(folder / "train.parquet", folder / "test.parquet")


def parquet_of_another_schema(folder: Path) -> None:
    for part in ("train", "test"):
        pq.write_table(pa.table({"text": ["a"], "target": [1]}), folder / f"{part}.parquet")


def undecodable_image(folder: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / "pets" / part / name).mkdir(parents=True)
            Image.new("RGB", (16, 16), (len(name), 9, 9)).save(folder / "pets" / part / name / "0.png")
    (folder / "pets" / "train" / "dog" / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")


def distill_from(write: Callable[[Path], None], name: str = "teacher.safetensors") -> Callable[[Path], Arguments]:
    """Return `raykd distill` from the checkpoint `name`, which `write` writes."""

    def make(folder: Path) -> Arguments:
        write(folder / name)
        experiment = experiment_file(folder)
        return ["distill", "--teacher", "resnet18", "--experiment", experiment, "--teacher-checkpoint", folder / name]

    return make


def truncated_weights(path: Path) -> None:
    weights_of_another_model(path)
    path.write_bytes(path.read_bytes()[:-100])


def weights_of_another_model(path: Path) -> None:
    save_weights(path, build(find("resnet8"), DIGITS, 0).network.state_dict())


def weights_of_other_classes(path: Path) -> None:
    spec = ImageSpec(num_classes=100, size=16, mean=DIGITS.mean, std=DIGITS.std)
    save_weights(path, build(find("resnet18"), spec, 0).network.state_dict())


def no_weights(path: Path) -> None:
    path.write_bytes(b"not weights at all, but long enough to have a header")


def pickled_module(path: Path) -> None:
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, path)


def results_below_a_file(folder: Path) -> Arguments:
    (folder / "taken").write_text("")
    arguments = ["train-student", "--model", "resnet8", "--experiment", experiment_file(folder)]
    return [*arguments, "--set", "student.batch_size=64", "--results", folder / "taken" / "results"]


def pretrained_teacher(folder: Path) -> Arguments:
    return ["plan", experiment_file(folder), "--set", "teacher.model=vit_tiny", "--data-dir", folder]


CASES = [
    BadInput("a data folder that is missing", plan_data("cifar10", no_files, "gone"), ("{folder}/gone", "prefetch")),
    BadInput("a Parquet file that is truncated", plan_data("cifar10", truncated_parquet), ("{folder}/train.parquet",)),
    BadInput(
        "a Parquet file of another schema",
        plan_data("cifar10", parquet_of_another_schema),
        ("{folder}/train.parquet", "label"),
    ),
    BadInput(
        "an image that cannot be decoded",
        plan_data("folder:pets", undecodable_image),
        ("{folder}/pets/train/dog/1.jpg", "cannot be decoded", "copy or download it again"),
    ),
    BadInput("a results folder below a file", results_below_a_file, ("--results",)),
    BadInput(
        "a teacher checkpoint that is truncated",
        distill_from(truncated_weights),
        ("{folder}/teacher.safetensors", "truncated or damaged"),
    ),
    BadInput(
        "a teacher checkpoint without weights",
        distill_from(no_weights),
        ("{folder}/teacher.safetensors", "truncated or damaged"),
    ),
    BadInput(
        "a teacher checkpoint of another model",
        distill_from(weights_of_another_model),
        ("{folder}/teacher.safetensors", "another architecture"),
    ),
    BadInput(
        "a teacher checkpoint of other classes",
        distill_from(weights_of_other_classes),
        ("{folder}/teacher.safetensors", "number of classes"),
    ),
    BadInput("a pickled module", distill_from(pickled_module, "teacher.pth"), ("holds a whole pickled model",)),
    BadInput("pretrained weights that are missing", pretrained_teacher, ("raykd prefetch",)),
    BadInput("a report without runs", lambda folder: ["report"], ("results",)),
    BadInput("a file of tables without their format", lambda folder: ["report", "--output", "t.tex"], ("--format",)),
    BadInput(
        "a file of tables in a folder that does not exist",
        lambda folder: ["report", "--format", "latex", "--output", folder / "none" / "t.tex"],
        ("{folder}/none/t.tex", "does not exist"),
    ),
    BadInput("a models folder without models", lambda folder: ["report", "--models-dir", folder], ("{folder}",)),
]
