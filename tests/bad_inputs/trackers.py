"""Unknown trackers, and callbacks that cannot be loaded or called."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bad_inputs.case import EXPERIMENT, BadInput, experiment_file, plan

CALLBACK = """
from dataclasses import dataclass
from raykd import Callback

@dataclass(frozen=True)
class Mine(Callback):
    channel: str = "runs"

    def on_epoch(self, report):
        pass
"""

# name -> (text of mine.py, the class, parts of the message)
CALLBACKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a callback file without the class": (CALLBACK, "Mime", ("has no class 'Mime'; did you mean 'Mine'?",)),
    "a callback file that is not Python": ("class Mine(\n", "Mine", ("callback file '", "at line 1 with SyntaxError")),
    "a callback that is no callback": (
        "class Mine:\n    pass\n",
        "Mine",
        ("'Mine' in callback file", "derive it from raykd.Callback"),
    ),
    "a callback with a method of an unknown name": (
        CALLBACK.replace("on_epoch", "on_epoch_end"),
        "Mine",
        ("has 'on_epoch_end', which raykd never calls", "on_run_start, on_epoch, on_run_end"),
    ),
    "a callback with a misspelled method": (
        CALLBACK.replace("on_epoch", "on_epohc"),
        "Mine",
        ("did you mean 'on_epoch'?",),
    ),
    "a callback whose method has another signature": (
        CALLBACK.replace("self, report", "self, epoch, report"),
        "Mine",
        ("callback Mine", "on_epoch(self, epoch, report) must accept (self, report)"),
    ),
    "a callback that is asynchronous": (CALLBACK.replace("def on", "async def on"), "Mine", ("a plain function",)),
    "a callback whose field has no default": (
        CALLBACK.replace(' = "runs"', ""),
        "Mine",
        ("its field 'channel' has no default; give it one",),
    ),
    "a callback without the dataclass decorator": (
        CALLBACK.replace("@dataclass(frozen=True)", ""),
        "Mine",
        ("channel cannot be set; put @dataclass(frozen=True) above the class",),
    ),
    "a callback whose default has another type": (
        CALLBACK.replace('"runs"', "3"),
        "Mine",
        ("channel = 3 in Mine: must be text",),
    ),
    "a callback file that imports what another beside it lacks": (
        "from mine_helpers import y\n" + CALLBACK,
        "Mine",
        ("mine.py' fails at line 1 with ImportError: cannot import name 'y'",),
    ),
}


def _with_callback(text: str, name: str) -> Callable[[Path], Sequence[str | Path]]:
    def make(folder: Path) -> Sequence[str | Path]:
        (folder / "mine_helpers.py").write_text("x = 1\n")
        (folder / "mine.py").write_text(text)
        return ["plan", experiment_file(folder), "--set", f"callbacks=mine.py:{name}"]

    return make


def _two_experiments(folder: Path) -> Sequence[str | Path]:
    other = EXPERIMENT.replace("experiment = ", "other = ").replace('"tiny"', '"other", tracker="none"')
    return ["plan", experiment_file(folder, EXPERIMENT + other + "\nexperiments = (experiment, other)\n")]


CASES = [
    BadInput(
        "an unknown tracker",
        plan("tracker=mlflw"),
        ("tracker = mlflw: 'mlflw' is not one of tensorboard, mlflow, wandb, none; did you mean 'mlflow'?",),
    ),
    BadInput("a tracker twice", plan("tracker=tensorboard,tensorboard"), ("names a tracker twice",)),
    BadInput("no tracker beside another", plan("tracker=none,tensorboard"), ("'none' cannot be combined",)),
    BadInput("an empty list of trackers", plan("tracker="), ("must name one of tensorboard",)),
    BadInput("two experiments with different trackers", _two_experiments, ("tracker differs between experiments",)),
    BadInput("a callback without a file", plan("callbacks=Slack"), ("'Slack' names no class", "my_callbacks.py:Slack")),
    BadInput(
        "a callback file that does not exist", plan("callbacks=no.py:A"), ("callback file 'no.py' does not exist",)
    ),
    *(BadInput(name, _with_callback(text, cls), parts) for name, (text, cls, parts) in CALLBACKS.items()),
]
