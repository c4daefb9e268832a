"""A user's callbacks, named by file: what they receive, and that nothing they do fails a run."""

import json
import pickle
import re
import sys
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from small_runs import CPU, digits, experiment, recipe, run_of

from raykd.config import custom_file
from raykd.errors import ConfigError, Interrupted, RunDiverged
from raykd.models.weights import save_weights
from raykd.spec.callback import Callback, callbacks_named
from raykd.spec.overrides import override
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training import loop
from raykd.training.evaluate import Evaluation
from raykd.training.hooks import Hooks
from raykd.training.train_one import Observers, train_one

RUN = run_of("baseline")
NOTES = """
from dataclasses import dataclass
from pathlib import Path
from raykd import Callback

@dataclass(frozen=True)
class Notes(Callback):
    file: str = "notes.txt"
    prefix: str = ""

    def on_run_start(self, run, config):
        self.state["lines"] = [f"{self.prefix}start {run.stage} {run.seed} {config['student.epochs']}"]

    def on_epoch(self, report):
        self.state["lines"].append(f"epoch {report.epoch}")

    def on_run_end(self, outcome):
        best = f"{outcome.best_epoch} {outcome.best_val_top1}"
        lines = [*self.state["lines"], f"{outcome.status} {best} {outcome.reason}".strip()]
        Path(self.file).write_text("\\n".join(lines))
"""


def write(folder: Path, text: str = NOTES) -> Path:
    file = folder / "my_callbacks.py"
    file.write_text(text)
    return file


def notes(folder: Path) -> tuple[Path, Callback]:
    """Return the file that the callback Notes writes, and the callback."""
    (loaded,) = callbacks_named(f"{write(folder)}:Notes")
    return folder / "notes.txt", type(loaded)(file=str(folder / "notes.txt"))  # type: ignore[call-arg]


def train(folder: RunFolder, *callbacks: Callback, hooks: Hooks = Hooks(), run: Run = RUN) -> None:  # noqa: B008
    observers = Observers(callbacks=callbacks)
    train_one(run, folder, digits(), CPU, RunStore(folder.path.parent), None, hooks, observers=observers)


def test_a_callback_is_called_at_the_start_after_each_epoch_and_at_the_end(
    run_folder: RunFolder, tmp_path: Path
) -> None:
    file, callback = notes(tmp_path)
    train(run_folder, callback)
    best = run_folder.require_record().best
    assert best is not None
    assert file.read_text().splitlines() == [
        "start baseline 0 3", "epoch 0", "epoch 1", "epoch 2", f"done {best.epoch} {best.val_top1}"
    ]  # fmt: skip
    file.unlink()
    train(run_folder, callback)
    assert not file.exists(), "a run that is done calls nothing"


def test_an_interrupted_run_and_its_resume_call_the_callback(run_folder: RunFolder, tmp_path: Path) -> None:
    file, callback = notes(tmp_path)
    steps = iter(range(1, 100))
    with pytest.raises(Interrupted):
        train(run_folder, callback, hooks=Hooks(should_stop=lambda: next(steps) == 6))
    assert file.read_text().splitlines()[1:2] == ["epoch 0"]
    assert re.match("interrupted 0 [0-9.]+ stopped after epoch 1", file.read_text().splitlines()[-1])
    train(run_folder, callback)
    assert file.read_text().splitlines()[:3] == ["start baseline 0 3", "epoch 1", "epoch 2"], "with an empty state"


@pytest.mark.parametrize(("stop_at", "epoch"), [(1, 1), (3, 2)], ids=["before an epoch ends", "after another epoch"])
def test_the_best_epoch_of_an_interrupted_run_may_be_of_an_earlier_process(
    stop_at: int, epoch: int, run_folder: RunFolder, tmp_path: Path
) -> None:
    file, callback = notes(tmp_path)
    steps, later = iter(range(1, 100)), iter(range(1, 100))
    with pytest.raises(Interrupted):
        train(run_folder, hooks=Hooks(should_stop=lambda: next(steps) == 6))
    with safe_open(run_folder.checkpoint, framework="pt") as opened:
        progress = json.loads(opened.metadata()["progress"]) | {"best_val_top1": 99.5}  # better than later epochs
    save_weights(run_folder.checkpoint, load_file(run_folder.checkpoint), {"progress": json.dumps(progress)})
    with pytest.raises(Interrupted):
        train(run_folder, callback, hooks=Hooks(should_stop=lambda: next(later) == stop_at))
    last = file.read_text().splitlines()[-1]
    assert last.startswith(f"interrupted 0 99.5 stopped after epoch {epoch}")


@pytest.mark.parametrize(("val_images", "top1"), [(100, "20.0"), (0, "None")])
def test_the_outcome_of_a_run_that_keeps_its_last_epoch_is_of_that_epoch(
    val_images: int, top1: str, run_folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tops = [30.0, 20.0, 10.0] if val_images else [nan] * 3
    monkeypatch.setattr(loop, "_validate", lambda training, epoch: Evaluation(tops[epoch], 1.0, 100))
    base = experiment()
    data, teacher = replace(base.data, val_images=val_images), replace(base.teacher, keep="last")
    run = run_of("baseline", data=data, teacher=teacher, student=recipe(keep="last"))
    file, callback = notes(tmp_path)
    steps = iter(range(1, 100))
    with pytest.raises(Interrupted):
        train(run_folder, callback, hooks=Hooks(should_stop=lambda: next(steps) == 10), run=run)
    assert re.match(f"interrupted 1 {top1} stopped after epoch 2", file.read_text().splitlines()[-1])


def test_a_failed_run_calls_the_callback_with_the_reason(run_folder: RunFolder, tmp_path: Path) -> None:
    file, callback = notes(tmp_path)

    def diverge(report: object) -> None:
        raise RunDiverged("loss became NaN")

    with pytest.raises(RunDiverged):
        train(run_folder, callback, hooks=Hooks(diverge))
    assert re.fullmatch("failed 0 [0-9.]+ loss became NaN", file.read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('no network')", "ValueError: no network"),
        ("import sys; sys.exit(3)", "sys.exit, code 3"),
        ("import asyncio; raise asyncio.CancelledError()", "CancelledError"),
        ("self.file = 1", "FrozenInstanceError"),
    ],
)
def test_an_error_fails_no_run_and_is_one_line_with_file_and_line(
    body: str, reason: str, run_folder: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, f"{NOTES}\n\n@dataclass(frozen=True)\nclass Bad(Callback):\n    file: str = ''\n\n"
                 f"    def on_epoch(self, report):\n        {body}\n")  # fmt: skip
    train(run_folder, *callbacks_named(f"{file}:Bad"))
    assert run_folder.status() == "done"
    (line,) = capfd.readouterr().out.splitlines()
    number = file.read_text().splitlines().index(f"        {body}") + 1
    assert line.startswith(f"callback Bad in '{file}': on_epoch()") and f"at line {number}" in line
    assert reason in line and line.endswith("; the run continues")


def test_the_text_of_the_file_is_pickled_with_its_fields(tmp_path: Path) -> None:
    file, callback = notes(tmp_path)
    pickled = pickle.dumps(callback)
    (tmp_path / "my_callbacks.py").unlink()
    custom_file._forget(type(callback).__module__.partition(".")[0])  # as in a process that has never loaded the file
    restored = pickle.loads(pickled)  # noqa: S301
    assert type(restored) is not type(callback) and restored.file == str(file)


def test_trackers_and_callbacks_change_no_run(tmp_path: Path) -> None:
    changed = {"tracker": "none", "callbacks": f"{write(tmp_path)}:Notes"}
    assert run_of("distilled", **changed).fingerprint == run_of("distilled").fingerprint


def test_callbacks_are_named_as_text_as_objects_or_both(tmp_path: Path) -> None:
    _, callback = notes(tmp_path)
    text = f"{tmp_path / 'my_callbacks.py'}:Notes"
    default = type(callback)()
    for value, expected in ((text, (default,)), ((text, callback), (default, callback)), (callback, (callback,))):
        assert experiment(callbacks=value).callbacks == expected
    assert override(experiment(), "callbacks", f"{text},{text}").callbacks == (default, default)
    assert override(experiment(callbacks=text), "callbacks", "()").callbacks == ()


def test_a_path_with_the_class_changes_a_field_of_one_callback(tmp_path: Path) -> None:
    _, callback = notes(tmp_path)
    changed = override(experiment(callbacks=callback), "callbacks.Notes.prefix", "> ")
    assert changed.callbacks == (replace(callback, prefix="> "),)  # type: ignore[call-arg]


def test_a_callback_of_the_experiment_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "mine.py", raising=False)

    class Mine(Callback):
        __module__ = "__main__"

    with pytest.raises(ConfigError, match="callback Mine is defined in the experiment file; move it"):
        Mine()
