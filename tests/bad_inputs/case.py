"""One bad input: how to make it, and what the command line must answer."""

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

    name: what is wrong, unique among all cases.
    make: writes the input into an empty folder and returns the words of the command line, without `raykd`.
    says: texts that the one line on stderr contains: the field or file, its value, the remedy.
    exit_code: 2 for a mistake in what was asked for, 1 for a run that failed.
    environ: variables of the shell that differ, from the same folder.
    """

    name: str
    make: Callable[[Path], Sequence[str | Path]]
    says: tuple[str, ...]
    exit_code: int = 2
    environ: Callable[[Path], Mapping[str, str]] = lambda folder: {}


def experiment_file(folder: Path, text: str = EXPERIMENT) -> Path:
    """A small valid experiment on the embedded digits, or `text`, as a file in `folder`."""
    path = folder / "tiny.py"
    path.write_text(text)
    return path


def plan(*settings: str) -> Callable[[Path], Sequence[str | Path]]:
    """`raykd plan` on the small experiment with `settings`, each FIELD=VALUE."""
    return lambda folder: ["plan", experiment_file(folder), *(word for s in settings for word in ("--set", s))]
