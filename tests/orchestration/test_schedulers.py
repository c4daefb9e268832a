"""Early stopping over several commands decides as in one: each epoch counts once, and ended trials still count."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from raykd.spec.search import Search, uniform
from raykd.store.records import TrialState
from raykd.store.study import SearchTrial

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

EPOCHS = 9
CURVES = {0: 60.0, 1: 50.0, 2: 70.0, 3: 55.0, 4: 75.0, 5: 65.0, 6: 72.0, 7: 80.0}  # of each trial after 9 epochs
SCHEDULERS = ["asha", "median"]


@dataclass(frozen=True)
class OfTune:
    """What a scheduler sees of Tune's trial."""

    trial_id: str
    config: Mapping[str, Any] = field(hash=False, compare=False)


class Command:
    """One command's scheduler, with trials that report one epoch after another."""

    def __init__(self, name: Any, past: list[SearchTrial]) -> None:
        from raykd.orchestration.schedulers import make_scheduler

        search = Search({"method.alpha": uniform(0, 1)}, scheduler=name, grace_epochs=2)
        self.scheduler = make_scheduler(search, EPOCHS, past)
        self.added: dict[int, OfTune] = {}

    def report(self, number: int, epochs: int) -> str:
        """The decision after so many epochs of a trial."""
        if number not in self.added:
            self.added[number] = OfTune(f"t{number}-{id(self)}", {"number": number})
            self.scheduler.on_trial_add(NOBODY, self.added[number])  # type: ignore[arg-type]
        result = {"epochs_done": epochs, "val_top1": value(number, epochs)}
        decision = self.scheduler.on_trial_result(NOBODY, self.added[number], result)  # type: ignore[arg-type]
        if decision == "STOP" or epochs == EPOCHS:
            self.scheduler.on_trial_complete(NOBODY, self.added[number], result)  # type: ignore[arg-type]
        return decision

    def run(self, number: int, first: int = 1) -> int:
        """Epochs after which a trial is at its end, stopped or not."""
        for epochs in range(first, EPOCHS + 1):
            if self.report(number, epochs) == "STOP":
                return epochs
        return EPOCHS


NOBODY: Any = None


def value(number: int, epochs: int) -> float:
    return CURVES[number] * epochs / EPOCHS


def past_of(number: int, epochs: int, state: TrialState) -> SearchTrial:
    """A trial as the study of an earlier command has it."""
    num_reported = {epoch: value(number, epoch) for epoch in range(1, epochs + 1)}
    return SearchTrial(number, state, {}, (), num_reported, "")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_second_command_decides_like_an_uninterrupted_one(cluster: str, name: str) -> None:
    whole = Command(name, [])
    wanted = [whole.run(number) for number in CURVES]
    assert len(set(wanted)) > 1, "some are stopped and some are not"
    for cut in range(1, len(CURVES)):
        past = [past_of(n, wanted[n], "done" if wanted[n] == EPOCHS else "pruned") for n in range(cut)]
        second = Command(name, past)
        assert [second.run(number) for number in range(cut, len(CURVES))] == wanted[cut:]


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("num_reported", range(1, EPOCHS))
def test_resumed_trial_is_judged_like_an_uninterrupted_one(cluster: str, name: str, num_reported: int) -> None:
    whole = Command(name, [])
    wanted = [whole.run(number) for number in CURVES]
    ended = [past_of(n, wanted[n], "done" if wanted[n] == EPOCHS else "pruned") for n in range(7)]
    second = Command(name, [*ended, past_of(7, num_reported, "running")])
    assert second.run(7, first=1) == wanted[7], "it tells all of its epochs again"
    third = Command(name, [*ended, past_of(7, num_reported, "running")])
    assert third.run(7, first=num_reported) == wanted[7], (
        "it tells the last one again, which may not have been acted upon"
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_epoch_that_was_reported_and_not_acted_on_still_stops_its_trial(cluster: str, name: str) -> None:
    whole = Command(name, [])
    wanted = [whole.run(number) for number in CURVES]
    number = next(n for n, epochs in enumerate(wanted) if epochs < EPOCHS)
    ended = [past_of(n, wanted[n], "done" if wanted[n] == EPOCHS else "pruned") for n in range(number)]
    second = Command(name, [*ended, past_of(number, wanted[number], "running")])
    assert second.report(number, wanted[number]) == "STOP"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_trial_whose_process_failed_reports_no_epoch_twice(
    cluster: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune adds the trial again, and its next process reports the epochs of the first one again."""
    command = Command(name, [])
    inner: Any = command.scheduler._inner  # type: ignore[attr-defined]
    passed_on: list[int] = []
    monkeypatch.setattr(inner, "on_trial_result", lambda _, trial, result: passed_on.append(result["epochs_done"]))
    for epochs in (1, 2, 3):
        command.report(0, epochs)
    trial: Any = command.added[0]
    command.scheduler.on_trial_error(NOBODY, trial)
    command.scheduler.on_trial_add(NOBODY, trial)
    for epochs in (1, 2, 3, 4):
        command.report(0, epochs)
    assert passed_on == [1, 2, 3, 4]


def test_result_without_the_metric_is_no_reason_to_stop(cluster: str) -> None:
    command = Command("asha", [])
    command.report(0, 1)
    trial: Any = command.added[0]
    assert command.scheduler.on_trial_result(NOBODY, trial, {"failed": "loss is NaN", "done": True}) == "CONTINUE"
    command.scheduler.on_trial_complete(NOBODY, trial, {"failed": "loss is NaN", "done": True})
