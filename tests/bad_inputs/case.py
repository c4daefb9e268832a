"""One bad input: a function that writes it, and the expected message and exit code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EXPERIMENT = """
from raykd import KD, SGD, Cosine, Data, Experiment, Recipe, ResNet
experiment = Experiment(
    family="tiny", seeds=(0,), data=Data("digits", val_images=200, crop_padding=1, flip=False),
    teacher=Recipe(ResNet(width=8), epochs=1, optimizer=SGD(lr=0.1), schedule=Cosine()),
    student=Recipe(ResNet(blocks=(1, 1, 1, 1), width=8), epochs=1, optimizer=SGD(lr=0.1), schedule=Cosine()),
)
"""


@dataclass(frozen=True)
class BadInput:
    """An input that raykd refuses.

    name: the mistake, unique among all cases.
    make: writes the input into an empty folder and returns the arguments of `raykd`.
    message_parts: texts in the line on stderr: the field or file, its value, the remedy. "{folder}" stands for the
        folder of `make`.
    exit_code: 2 for invalid arguments, configuration or files, 1 for a run that failed.
    environ: environment variables to set, computed from the same folder.
    """

    name: str
    make: Callable[[Path], Sequence[str | Path]]
    message_parts: tuple[str, ...]
    exit_code: int = 2
    environ: Callable[[Path], Mapping[str, str]] = lambda folder: {}


def experiment_file(folder: Path, text: str = EXPERIMENT) -> Path:
    """Write a small valid experiment on the digits, or `text`, into a file in `folder`; return its path."""
    path = folder / "tiny.py"
    path.write_text(text)
    return path


def plan(*settings: str) -> Callable[[Path], Sequence[str | Path]]:
    """Return `raykd plan` on the small experiment with `settings`, each FIELD=VALUE."""
    return lambda folder: ["plan", experiment_file(folder), *(word for s in settings for word in ("--set", s))]
