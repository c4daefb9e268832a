"""A search over the student's recipe whose store fails for a while: nothing that may pass is a trial's result.

Afterward it ends as any other: with a winner that is compared with baselines of its own recipe.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import get_args

import pytest
from search_runs import EXPERIMENT, Ended, confirmed_in, folder_in, run_search, trials_in
from small_runs import recipe
from written_records import run_record

from raykd.cluster.ray_internals import DEAD_WORKER_ERRORS
from raykd.errors import Failure, RejectedConfiguration, RunLocked
from raykd.spec.recipe import SGD
from raykd.spec.search import Search, choice, uniform
from raykd.store.run_folder import RunFolder
from raykd.store.study import SearchStudy, SearchTrial
from raykd.training.failure import classify_failure, decide_trial

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

LR = "student.optimizer.lr"
SEARCH = Search(
    space={LR: choice(0.001, 0.05)}, sampler="grid", scheduler="none", trials=2, confirm=1, max_concurrent=1
)
STUDENT = recipe(epochs=3, batch_size=20, optimizer=SGD(lr=0.001))
ASKED = replace(EXPERIMENT, student=STUDENT, teacher_source="cache", search=SEARCH)


@dataclass(frozen=True)
class Searched:
    results: Path
    first: Ended
    after_first: list[SearchTrial]
    second: Ended


@pytest.fixture(scope="module")
def searched_twice(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """The first command can write no checkpoint of trial 1, nor TensorBoard files of trial 0; the second can."""
    results = tmp_path_factory.mktemp("failing-store")
    folder = folder_in(results)
    for number, name in ((0, "tensorboard"), (1, "checkpoint")):
        folder.run(number).path.mkdir(parents=True)
        (folder.run(number).path / name).write_text("a file in the place of a folder")
    first = run_search(results, ASKED)
    after_first = trials_in(results)
    (folder.run(1).path / "checkpoint").unlink()
    return Searched(results, first, after_first, run_search(results, ASKED))


@pytest.mark.nightly
def test_a_failure_of_the_store_is_no_trials_result_and_ends_the_command_with_the_reason(
    searched_twice: Searched,
) -> None:
    assert [trial.state for trial in searched_twice.after_first] == ["done", "running"]
    assert searched_twice.first.exit_code == 1
    (line,) = searched_twice.first.error.splitlines()
    assert "1 of 2 trials ended; trial 1 cannot be trained: " in line and "/checkpoint' is not a folder" in line
    assert line.endswith("remove the cause, and rerun the same command to resume")


@pytest.mark.nightly
def test_the_same_command_trains_that_trial_once_the_store_can_be_written(searched_twice: Searched) -> None:
    assert (searched_twice.second.exit_code, searched_twice.second.error) == (0, "")
    assert [trial.state for trial in trials_in(searched_twice.results)] == ["done", "done"]


@pytest.mark.nightly
def test_a_trial_whose_tensorboard_files_cannot_be_written_is_done(searched_twice: Searched) -> None:
    folder = folder_in(searched_twice.results).run(0)
    assert folder.tensorboard.is_file() and folder.status() == "done"


@pytest.mark.nightly
def test_both_students_of_the_report_have_the_winners_recipe(searched_twice: Searched) -> None:
    results = searched_twice.results
    confirmed = confirmed_in(results)
    winner, baseline = confirmed["candidates"][confirmed["winner"]], confirmed["baseline"]
    assert winner["configuration"] == baseline["configuration"] == {LR: 0.05}, (
        "0.001 trains next to nothing in 3 epochs"
    )
    report = json.loads((results / "report.json").read_text())["small"]
    for key, runs in (("student_accuracy_with_kd", winner["runs"]), ("student_accuracy_without_kd", baseline["runs"])):
        records = [json.loads((results / "small" / name / "run.json").read_text()) for name in runs]
        assert {record["config"]["recipe"]["optimizer"]["lr"] for record in records} == {0.05}
        tops = [json.loads((results / "small" / name / "test.json").read_text())["top1"] for name in runs]
        assert report[key] == pytest.approx(mean(tops) / 100, abs=1e-7)
    lrs = {json.loads(path.read_text())["config"]["recipe"]["optimizer"]["lr"] for path in baselines(results)}
    assert lrs == {0.05}, "a baseline of the recipe that lost is not trained"
    page = (results / "report" / "small-search" / "index.html").read_text()
    assert "Winner against the baseline with the winner&#39;s student recipe" in page


def baselines(results: Path) -> list[Path]:
    return sorted(results.glob("small/baseline-*/run.json"))


@pytest.mark.nightly
def test_the_search_names_the_logit_cache_that_its_trials_read(searched_twice: Searched) -> None:
    results = searched_twice.results
    name = folder_in(results).require_record().cache
    assert (results / ".logit_caches" / name / "cache.json").is_file()
    summary = json.loads((results / "report" / "small-search" / "summary.json").read_text())
    assert summary["cost"]["teacher"]["source"] == "cache" and summary["cost"]["teacher"]["views"] > 0


def test_errors_of_a_trials_workers_are_classified() -> None:
    """Ray Train wraps what a worker raises, and one that only missed the others' messages stands beside it."""
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    from raykd.orchestration.trial import _worker_errors  # here: it imports ray, which needs its token first

    locked, missed = RunLocked("locked by process 7 on cn1"), RuntimeError("Connection closed by peer")
    wrapped = {rank: UserExceptionWithTraceback(cause, "...") for rank, cause in enumerate((missed, locked))}
    assert [classify_failure(cause) for cause in _worker_errors(WorkerGroupError("...", wrapped))] == [
        "code",
        "outside",
    ]
    assert _worker_errors(ValueError("none of Ray's")) == []


@pytest.mark.parametrize("failure", get_args(Failure))
def test_a_failure_that_the_workers_of_a_trial_recorded_keeps_its_kind(failure: Failure, tmp_path: Path) -> None:
    """So that a trial out of memory on a shared GPU is tried again, whichever of its workers had no memory."""
    from ray.train import WorkerGroupError

    from raykd.orchestration.trial import _workers_failure  # here: it imports ray, which needs its token first

    folder = RunFolder(tmp_path)
    folder.write_record(run_record(status="failed", failure=failure, reason="what the workers found"))
    error = _workers_failure(folder, WorkerGroupError("...", {0: RuntimeError("Connection closed by peer")}))
    assert error is not None
    assert (classify_failure(error), str(error)) == (failure, "what the workers found")


def test_a_configuration_that_all_workers_of_a_trial_reject_is_the_trials_result(tmp_path: Path) -> None:
    """They reject it before run.json exists, as a GPU without TF32 does."""
    from ray.train import WorkerGroupError

    from raykd.orchestration.trial import _workers_failure  # here: it imports ray, which needs its token first

    error = WorkerGroupError("...", {rank: RejectedConfiguration("student.precision = tf32: ...") for rank in (0, 1)})
    failure = _workers_failure(RunFolder(tmp_path), error)
    assert failure is not None and classify_failure(failure) == "rejected"


def test_an_error_in_the_code_of_one_worker_is_not_a_lost_gpu_of_the_others(tmp_path: Path) -> None:
    """They report an error of NCCL, which alone would be one."""
    from ray.train import WorkerGroupError

    from raykd.orchestration.trial import _workers_failure  # here: it imports ray, which needs its token first

    lost, mistake = RuntimeError("NCCL communicator was aborted on rank 0"), ValueError("a custom method's mistake")
    folder = RunFolder(tmp_path)
    assert _workers_failure(folder, WorkerGroupError("...", {0: lost, 1: mistake})) is mistake
    assert "NCCL" in str(_workers_failure(folder, WorkerGroupError("...", {0: lost})))


def test_an_error_of_the_trainer_itself_is_outside_of_the_configuration(tmp_path: Path) -> None:
    """Ray does not retry it, and it is neither a RayError nor one of raykd's."""
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError, FailureConfig
    from ray.train.v2._internal.execution.failure_handling import FailureDecision, create_failure_policy

    from raykd.orchestration.trial import _workers_failure, failed_result  # here: it imports ray, as above

    cause = RuntimeError("gloo could not connect to 10.0.0.2\nmore lines")
    error = ControllerError(RayTaskError("_join", "ray::_join() (pid=7)\nTraceback ...", cause).as_instanceof_cause())
    assert create_failure_policy(FailureConfig(max_failures=2)).make_decision(error) is FailureDecision.RAISE
    failure = _workers_failure(RunFolder(tmp_path), error)
    assert failure is not None
    reason = "its trainer failed with RuntimeError: gloo could not connect to 10.0.0.2"
    assert failed_result(decide_trial(failure, gpus=0, workers=2)) == {"interrupted": True, "outside": reason}


def test_workers_that_died_are_no_result_of_their_trial(tmp_path: Path) -> None:
    """The other workers fail because they lose the connection."""
    from ray.exceptions import ActorDiedError
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import (
        UserExceptionWithTraceback,
        WorkerHealthCheckFailedError,
        WorkerHealthCheckTimeoutError,
    )

    from raykd.orchestration.trial import _workers_failure, failed_result  # here: it imports ray, as above

    assert (WorkerHealthCheckFailedError.__name__, WorkerHealthCheckTimeoutError.__name__) == DEAD_WORKER_ERRORS

    died = WorkerHealthCheckFailedError("A worker health check failed.\n...", ActorDiedError())
    closed = UserExceptionWithTraceback(RuntimeError("Connection closed by peer"), "...")
    for failures in ({1: died}, {0: closed, 1: died}):
        failure = _workers_failure(RunFolder(tmp_path), WorkerGroupError("...", failures))
        assert failure is not None
        assert (
            "its workers died repeatedly: ActorDiedError: "
            in failed_result(decide_trial(failure, gpus=0, workers=2))["outside"]
        )


def test_a_mistake_in_the_code_of_a_trials_workers_is_its_result_with_the_reason(tmp_path: Path) -> None:
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    from raykd.orchestration.trial import _workers_failure, failed_result  # here: it imports ray, as above

    mistake = UserExceptionWithTraceback(ValueError("a custom method's mistake"), "Traceback ...")
    failure = _workers_failure(RunFolder(tmp_path), WorkerGroupError("...", {0: mistake, 1: mistake}))
    assert failure is not None
    assert failed_result(decide_trial(failure, gpus=0, workers=2)) == {
        "failed": "ValueError: a custom method's mistake"
    }


def test_a_round_starts_no_more_trials_after_some_failures_of_the_store(tmp_path: Path) -> None:
    from raykd.orchestration.searcher import (
        EXTERNAL_FAILURE,
        INTERRUPTED,
        MAX_OUTSIDE,
        StudySearcher,
    )  # imports ray, as above

    search = Search(space={"method.alpha": uniform(0, 1)}, trials=10, sampler="random", scheduler="none")
    folder = folder_in(tmp_path)
    folder.path.mkdir(parents=True)
    study = SearchStudy(folder, search, {"method.alpha": 0.5})
    searcher = StudySearcher(study, search, lambda: False)
    for count in range(MAX_OUTSIDE):
        assert searcher.suggest(f"t{count}")["number"] == count
        searcher.on_trial_complete(f"t{count}", {INTERRUPTED: True, EXTERNAL_FAILURE: "OSError: no space left"})
    assert searcher.suggest("t9") == "FINISHED"
    assert searcher.outside == dict.fromkeys(range(MAX_OUTSIDE), "OSError: no space left")
    assert [trial.state for trial in study.trials()] == ["running"] * MAX_OUTSIDE
    again = StudySearcher(study, search, lambda: False)
    assert again.suggest("t0")["number"] == 0, "unfinished trials come first"


def test_the_checkpoint_of_a_pruned_trial_is_removed_once_its_process_has_left_it(tmp_path: Path) -> None:
    """Tune ends the function of a pruned trial, which therefore does not remove it; it is never resumed."""
    from raykd.orchestration.searcher import EPOCHS, EPOCHS_DONE, StudySearcher
    from raykd.orchestration.tuner import remove_checkpoint

    search = Search(space={"method.alpha": uniform(0, 1)}, trials=2, sampler="random", scheduler="none")
    folder = folder_in(tmp_path)
    folder.path.mkdir(parents=True)
    study = SearchStudy(folder, search, {"method.alpha": 0.5})
    searcher = StudySearcher(study, search, lambda: False, partial(remove_checkpoint, folder))
    for number in range(2):
        searcher.suggest(f"t{number}")
        folder.run(number).checkpoint.parent.mkdir(parents=True)
        folder.run(number).checkpoint.touch()
    row = {EPOCHS_DONE: 1, EPOCHS: 3, "val_top1": 50.0, "seconds": 1.0}
    with folder.run(0).lock():
        searcher.on_trial_complete("t0", row)
    assert [trial.state for trial in study.trials()] == ["pruned", "running"]
    assert [folder.run(number).checkpoint.exists() for number in range(2)] == [True, True], "its process had the lock"
    searcher.remove_checkpoints()
    assert [folder.run(number).checkpoint.exists() for number in range(2)] == [False, True]
