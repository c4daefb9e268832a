"""A round of trials ends when it must: after a stop, without nodes, and with a process that serves no other trial."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from experiment_runs import NO_DATA
from rich.console import Console
from search_runs import changed, run_search

from raykd.errors import ConfigError, Interrupted
from raykd.orchestration.command import SearchCommand
from raykd.orchestration.options import Options
from raykd.orchestration.parallel_runs import Slots
from raykd.spec.experiment import Workers
from raykd.store.results_folder import RAY
from raykd.store.study import SearchStudy

if TYPE_CHECKING:
    from raykd.orchestration.tuner import RoundControl

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

EPOCHS = 9
ONE = Slots(1, 1, 0.0)


class Round:
    """A study of a few trials, and one round of them with a function in place of the training."""

    def __init__(self, results: Path, trials: int, **changes: Any) -> None:
        self.results = results
        asked = changed(trials=trials, sampler="random", **changes)
        self.log = (results / "log").open("w+")
        self.command = SearchCommand(Options(results, NO_DATA), Console(file=self.log, width=200), asked)
        self.command.folder.path.mkdir(parents=True)
        self.study = SearchStudy(self.command.folder, self.command.search, self.command.default_configuration)

    def run(
        self,
        trial: Callable[[Mapping[str, Any], Any], None],
        should_stop: Callable[[], bool] = lambda: False,
        slots: Slots = ONE,
    ) -> dict[int, str]:
        """trial: its arguments are a trial's config and the actor that requests a stop."""
        from ray import cloudpickle, tune  # here: it imports Ray, which `cluster` must do first

        from raykd.orchestration.trial import resources_of
        from raykd.orchestration.tuner import run_trials

        resources = resources_of(slots)
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a trial's process cannot import this file

        def make_trainable(flag: Any, storage: Path) -> Any:
            return tune.with_resources(tune.with_parameters(trial, flag=flag), resources)

        return run_trials(self.command, self.study, make_trainable, slots, should_stop)

    @property
    def states(self) -> list[str]:
        return [trial.state for trial in self.study.trials()]


def result(epoch: int, top1: float = 50.0) -> dict[str, Any]:
    row = {"epochs_done": epoch, "epochs": EPOCHS, "val_top1": top1, "seconds": 0.0, "images_per_s": 0.0}
    return row | ({"done": True} if epoch == EPOCHS else {})


def trial_in(status: str, trial_id: str = "t0") -> Any:
    return SimpleNamespace(status=status, trial_id=trial_id)


def test_stop_ends_a_round_whose_trials_cannot_start(cluster: str, tmp_path: Path) -> None:
    """Another command has all CPUs. Tune alone waits until every trial has ended."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    others = placement_group([{"CPU": 2}])
    ray.get(others.ready())
    made = Round(tmp_path, trials=2)
    started = time.monotonic()
    made.run(lambda config, flag: None, should_stop=lambda: "running" in made.states)
    remove_placement_group(others)
    assert time.monotonic() - started < 30
    assert made.states == ["running"], "the trial is resumed by the next command"


def test_round_leaves_no_actor_behind(cluster: str, tmp_path: Path) -> None:
    from ray.util.state import list_actors

    def trial(config: Mapping[str, Any], flag: Any) -> None:
        from ray import tune

        tune.report(result(EPOCHS))

    made = Round(tmp_path, trials=1, scheduler="none")
    made.run(trial)
    assert made.states == ["done"]
    alive: list[Any] = list_actors(filters=[("state", "=", "ALIVE"), ("class_name", "=", "Event")])
    assert not alive


@pytest.mark.nightly
def test_stop_ends_a_round_whose_trials_wait_for_their_workers(cluster: str, tmp_path: Path) -> None:
    """One of two CPUs is free, and Ray tries to start two workers again and again."""
    import ray
    from ray import tune
    from ray.util.placement_group import placement_group, remove_placement_group

    from raykd.orchestration.trial import TrialContext, resources_of, run_trial, train_variables
    from raykd.orchestration.tuner import run_trials

    made, folder = Round(tmp_path, trials=1), Path.cwd()
    command, slots = made.command, Slots(1, 1, 0.0, 2, 2)

    def make_trainable(flag: Any, storage: Path) -> Any:
        context = command.experiment, command.options, command.folder.path, slots
        shared = TrialContext(*context, None, flag, folder, storage, train_variables(os.environ))
        return tune.with_resources(tune.with_parameters(run_trial, shared=shared), resources_of(slots))

    waited_at: list[float] = []

    def should_stop() -> bool:
        """Return whether Ray waits for the CPUs of both workers, or has waited."""
        groups = ray.util.placement_group_table().values() if not waited_at else ()
        if any(group["state"] == "PENDING" and len(group["bundles"]) == 2 for group in groups):
            waited_at.append(time.monotonic())
        return bool(waited_at)

    others = placement_group([{"CPU": 1}])
    ray.get(others.ready())
    run_trials(command, made.study, make_trainable, slots, should_stop)
    remove_placement_group(others)
    assert time.monotonic() - waited_at[0] < 30
    assert made.states == ["running"]
    made.log.seek(0)
    assert "interrupted; its state is saved" in made.log.read(), "its trainer has ended"
    groups = {group["state"] for group in ray.util.placement_group_table().values()}
    assert groups <= {"REMOVED"}, "no group of workers waits for the CPUs"
    assert list((tmp_path / RAY).iterdir()) == []


@pytest.mark.nightly
def test_pruned_trial_that_does_not_end_in_time_blocks_no_other_trial(cluster: str, tmp_path: Path) -> None:
    """The next trial is given the same process, in which the first one still runs."""

    def trial(config: Mapping[str, Any], flag: Any) -> None:
        import os
        import time

        from ray import tune

        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "4"
        number = config["number"]
        try:
            for epoch in range(1, EPOCHS + 1):
                tune.report(result(epoch, top1=10.0 if number == 1 else 50.0))
        finally:
            if number == 1:
                time.sleep(30)  # as a file on a server that does not answer

    made = Round(tmp_path, trials=4, grace_epochs=1)
    started = time.monotonic()
    made.run(trial)
    assert time.monotonic() - started < 90
    assert made.states == ["done", "pruned", "running", "done"]
    made.log.seek(0)
    assert "trial 2 unfinished, to be resumed later: its worker was still busy" in made.log.read()


@pytest.mark.nightly
def test_trial_that_loses_each_gpu_is_tried_three_times_and_stays_unfinished(cluster: str, tmp_path: Path) -> None:
    def trial(config: Mapping[str, Any], flag: Any) -> None:
        from types import SimpleNamespace
        from typing import Any

        from raykd.orchestration import trial as module

        def train_trial(*_: object, **__: object) -> None:
            with tries.open("a") as file:
                file.write("tried\n")
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

        module.train_trial = train_trial  # type: ignore[assignment]
        shared: Any = SimpleNamespace(slots=Slots(1, 1, 1.0), stop=flag, environment={})
        module.run_trial(config, shared)

    tries, made = tmp_path / "tries", Round(tmp_path, trials=1)
    outside = made.run(trial)
    assert tries.read_text().splitlines() == ["tried"] * 3
    assert made.states == ["running"]
    assert "CUDA error: uncorrectable ECC error encountered" in outside[0]


@pytest.fixture
def controlled(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Controlled":
    return Controlled(tmp_path, monkeypatch)


class Controlled:
    """The control of a round on nodes of a test's choice, and the requests that it made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from raykd.orchestration import tuner
        from raykd.orchestration.searcher import StudySearcher

        monkeypatch.setattr(tuner, "NODES_POLL_S", 0.0)
        monkeypatch.setattr(tuner, "LOST_AFTER_S", 0.0)
        monkeypatch.setattr(tuner.ray, "nodes", lambda: self.nodes)
        made = Round(folder, trials=3)
        self.nodes: list[dict[str, Any]] = [self.node(), self.node()]
        self.requests: list[bool] = []
        self.is_stopping = False
        flag = SimpleNamespace(set=SimpleNamespace(remote=lambda: self.requests.append(True) or True))
        self.searcher = StudySearcher(made.study, made.command.search, lambda: self.is_stopping)
        self.control: RoundControl = tuner.RoundControl(
            flag, self.searcher, Slots(1, 1, 0.0, 2, 2), lambda: self.is_stopping
        )

    @staticmethod
    def node(is_alive: bool = True) -> dict[str, Any]:
        return {"Alive": is_alive, "Resources": {"CPU": 1.0}}


def test_search_requires_all_workers_of_a_trial(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other runs may start with fewer workers (`min_count`)."""
    from raykd.orchestration.run_search import _slots

    def command(workers: Workers) -> SearchCommand:
        return SearchCommand(Options(tmp_path, NO_DATA), Console(), replace(changed(), workers=workers))

    monkeypatch.setattr("raykd.orchestration.trainers.alive_nodes", lambda: [{"CPU": 8.0, "GPU": 1.0}] * 3)
    assert _slots(command(Workers(count=2, min_count=1)), num_concurrent=1) == Slots(1, 8, 1, 2, 2)
    message = r"workers\.count = 5, .*the nodes have room for 3 .*workers\.min_count does not apply to the trials"
    with pytest.raises(ConfigError, match=message):
        _slots(command(Workers(count=5, min_count=2)), num_concurrent=1)


def test_search_without_room_for_a_trials_workers_trains_nothing(cluster: str, tmp_path: Path) -> None:
    ended = run_search(tmp_path, replace(changed(), workers=Workers(count=5, min_count=2, cpus=1)))
    (line,) = ended.error.splitlines()
    assert ended.exit_code == 2 and "workers.count = 5" in line and "the nodes have room for 2" in line
    assert not list(tmp_path.rglob("run.json"))


def test_round_is_stopped_when_the_nodes_have_no_room_for_one_trial(controlled: Controlled) -> None:
    control, running = controlled.control, [trial_in("RUNNING")]
    control.on_step(running)
    assert not controlled.requests and not control.shortage
    controlled.nodes[1] = controlled.node(is_alive=False)
    time.sleep(0.01)
    control.on_step(running)
    assert controlled.requests == [True] and not control.stop_all(), "the trial saves first"
    control.on_step([trial_in("TERMINATED"), trial_in("PENDING", "t1")])
    assert control.stop_all()
    assert "the others have room for 1 of 2 workers that a trial requires; rerun the same command" in control.shortage


def test_stop_is_requested_once_and_ends_the_round_when_no_trial_runs(controlled: Controlled) -> None:
    control = controlled.control
    control.on_step([trial_in("PENDING")])
    assert not control.stop_all()
    controlled.is_stopping = True
    for _ in range(2):
        control.on_step([trial_in("RUNNING"), trial_in("PENDING", "t1")])
        assert not control.stop_all()
    control.on_step([trial_in("TERMINATED"), trial_in("PENDING", "t1")])
    assert control.stop_all() and controlled.requests == [True]


def test_missing_resources_are_logged_once_if_no_trial_starts(
    controlled: Controlled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.orchestration.tuner.START_WAIT_S", 0.0)
    lines = []
    for _ in range(3):
        time.sleep(0.01)
        lines += controlled.control.on_step([trial_in("PENDING")])
    (line,) = lines
    assert "each requires 2 workers of 1 CPU; " in line and " of 2 CPUs are free" in line


def test_trial_that_tune_gives_up_in_silence_makes_room_for_another(controlled: Controlled) -> None:
    from ray.tune.search import ConcurrencyLimiter

    limited: Any = ConcurrencyLimiter(controlled.searcher, max_concurrent=1)
    assert limited.suggest("t0")["number"] == 0
    assert limited.suggest("t1") is None, "as many trials run as may"
    limited.on_trial_complete("t0", result(EPOCHS))
    assert limited.suggest("t1")["number"] == 1
    (line,) = controlled.control.on_step([trial_in("TERMINATED"), trial_in("ERROR", "t1")])
    assert line.startswith("trial 1 unfinished, to be resumed later")
    assert controlled.control.on_step([trial_in("ERROR", "t1")]) == []
    assert limited.suggest("t2")["number"] == 2


def test_lost_nodes_interrupt_the_search(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes have never had room for two workers of two CPUs each."""
    from raykd.orchestration import tuner

    def trial(config: Mapping[str, Any], flag: Any) -> None:
        import time

        import ray
        from ray import tune

        while not ray.get(flag.is_set.remote()):
            time.sleep(0.1)
        tune.report({"interrupted": True, "done": True})

    monkeypatch.setattr(tuner, "LOST_AFTER_S", 1.0)
    with pytest.raises(Interrupted, match="room for 1 of 2 workers that a trial requires"):
        Round(tmp_path, trials=1).run(trial, slots=Slots(1, 2, 0.0, 2, 2))
