"""The results of trials: size and latency are those of the worker that trains, and early ends are complete."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from experiment_runs import NO_DATA
from search_runs import EXPERIMENT
from small_runs import recipe, teacher_of

from raykd.errors import Interrupted
from raykd.models import ImageModel
from raykd.orchestration.options import Options
from raykd.orchestration.parallel_runs import Slots
from raykd.spec.search import Search, choice
from raykd.store.records import Timing
from raykd.store.study import SearchFolder
from raykd.training import loop
from raykd.training.compute import Compute
from raykd.training.evaluate import Evaluation

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

SEARCH = Search(
    {"method.alpha": choice(0.1, 0.9)},
    sampler="grid",
    scheduler="none",
    trials=2,
    metric=("val_top1", "parameters", "latency_ms"),
    mode=("max", "min", "min"),
    confirm=0,
)
TWO_WORKERS = Slots(1, 1, 0, workers=2, min_workers=2)
ASKED = replace(EXPERIMENT, student=recipe(epochs=2, batch_size=20), teacher_source="live", search=SEARCH)


@pytest.mark.parametrize("channels_last", [True, False])
def test_result_of_several_workers_has_the_latency_that_a_worker_measured(
    channels_last: bool, cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from raykd.orchestration import trial  # imported here, because `cluster` must import Ray first
    from raykd.orchestration.searcher import CONFIGURATION, NUMBER, REPORTED

    measured: list[tuple[str, bool]] = []

    def latency(model: ImageModel, image_size: int, compute: Compute) -> Timing:
        weight = next(weight for weight in model.parameters() if weight.dim() == 4)
        measured.append((str(compute.device), weight.is_contiguous(memory_format=torch.channels_last)))
        median = 7.5 if inside else 99.0
        return Timing(median, median, median, 1, 1)

    asked = replace(ASKED, student=replace(ASKED.student, channels_last=channels_last))
    options = Options(tmp_path, NO_DATA)
    shared = trial.TrialContext(asked, options, tmp_path / "search", TWO_WORKERS, None, None, Path.cwd())
    config: dict[str, Any] = {NUMBER: 0, CONFIGURATION: {"method.alpha": 0.1}, REPORTED: 0}
    inside, reported = [], list[dict[str, Any]]()

    class Trainer:
        def fit(self) -> None:
            inside.append(True)
            trial.train_trial(config, shared, reported.append, lambda: False)
            inside.clear()

    monkeypatch.setattr(trial, "latency", latency)
    monkeypatch.setattr(trial, "export_metrics", lambda *_: None)
    monkeypatch.setattr("raykd.training.train_one.load_teacher", lambda run, *_: teacher_of(run))
    monkeypatch.setattr(trial, "_trainer", lambda *_: Trainer())
    last = trial.train_with_workers(config, shared, lambda: False)
    assert measured == [("cpu", channels_last)], "once, by the worker"
    assert last["latency_ms"] == reported[0]["latency_ms"] == 7.5 and last["parameters"] > 0
    done = SearchFolder(tmp_path / "search").run(0)
    assert done.status() == "done" and not done.checkpoint.exists(), "nothing resumes from it"


@pytest.fixture
def with_trainer(cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that runs a trial of two workers, whose trainer does what the test passes."""
    from raykd.orchestration import trial
    from raykd.orchestration.searcher import CONFIGURATION, NUMBER, REPORTED

    monkeypatch.setattr(trial, "END_S", 0.2)
    monkeypatch.setattr(trial, "POLL_S", 0.05)
    options, storage = Options(tmp_path, NO_DATA), tmp_path / "of-the-tuner"
    shared = trial.TrialContext(ASKED, options, tmp_path / "search", TWO_WORKERS, None, None, Path.cwd(), storage)
    config: dict[str, Any] = {NUMBER: 0, CONFIGURATION: {"method.alpha": 0.1}, REPORTED: 0}

    def run(fit: Callable[..., None], should_stop: Callable[[], bool] = lambda: False) -> None:
        def trainer(config: dict[str, Any], shared: Any, folder: Path) -> Any:
            assert folder.parent == storage
            (folder / "trial0").mkdir(parents=True)
            return SimpleNamespace(fit=partial(fit, config, shared))

        monkeypatch.setattr(trial, "_trainer", trainer)
        try:
            trial.train_with_workers(config, shared, should_stop)
        finally:
            assert list(storage.iterdir()) == [], "the trainer's files are removed"

    return run


def test_a_trainer_that_waits_for_lost_nodes_is_left_after_a_stop(with_trainer) -> None:
    never = threading.Event()
    with pytest.raises(Interrupted):
        with_trainer(lambda *_: never.wait(), should_stop=lambda: True)
    never.set()


def test_workers_that_stopped_by_themselves_leave_the_trial_interrupted(
    with_trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could not reach the driver for a while, which can again be reached when they have ended."""
    from raykd.orchestration import trial

    monkeypatch.setattr(trial, "export_metrics", lambda *_: None)
    monkeypatch.setattr("raykd.training.train_one.load_teacher", lambda run, *_: teacher_of(run))
    reported: list[dict[str, Any]] = []

    def fit(config: dict[str, Any], shared: Any) -> None:
        with suppress(Interrupted):
            trial.train_trial(config, shared, reported.append, lambda: bool(reported))

    with pytest.raises(Interrupted):
        with_trainer(fit)
    assert len(reported) == 1, "one of two epochs"


def test_no_worker_starts_after_a_stop(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from raykd.orchestration import trial

    assert trial.ControllerCallback.before_controller_execute_resize_decision, "Ray calls it before workers start"
    answers = [False, True]
    monkeypatch.setattr(trial.ray, "get", lambda reference, timeout: reference)
    stop = SimpleNamespace(is_set=SimpleNamespace(remote=lambda: answers.pop(0)))
    callback = trial.StopBeforeStart(stop)
    callback.before_controller_execute_resize_decision(None)
    with pytest.raises(Interrupted):
        callback.before_controller_execute_resize_decision(None)


@pytest.mark.nightly
def test_a_trial_that_ends_by_its_patience_is_complete(
    cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its last epoch counts as the last one of its recipe, also for a worker that finds it trained."""
    from raykd.orchestration import trial
    from raykd.orchestration.searcher import CONFIGURATION, EPOCHS, EPOCHS_DONE, NUMBER, REPORTED

    tops = [20.0, 40.0, 30.0, 35.0, 99.0]
    monkeypatch.setattr(loop, "_validate", lambda training, epoch: Evaluation(tops[epoch], 1.0, 100))
    monkeypatch.setattr(trial, "export_metrics", lambda *_: None)
    monkeypatch.setattr("raykd.training.train_one.load_teacher", lambda run, *_: teacher_of(run))
    search = replace(SEARCH, metric=("val_top1",), mode=("max",))
    asked = replace(ASKED, student=recipe(epochs=5, batch_size=20, patience=2), search=search)
    options = Options(tmp_path, NO_DATA)
    shared = trial.TrialContext(asked, options, tmp_path / "search", Slots(1, 1, 0), None, None, Path.cwd())
    config: dict[str, Any] = {NUMBER: 0, CONFIGURATION: {"method.alpha": 0.1}, REPORTED: 0}
    for _ in range(2):
        reported: list[dict[str, Any]] = []
        last = trial.train_trial(config, shared, reported.append, lambda: False)
        assert [(result[EPOCHS_DONE], result[EPOCHS]) for result in reported] == [(1, 5), (2, 5), (3, 5)]
        assert (last[EPOCHS_DONE], last[EPOCHS], last["val_top1"]) == (4, 4, 40.0)
    record = SearchFolder(tmp_path / "search").run(0).require_record()
    assert record.status == "done" and record.stopped_early is not None
