"""Run a search's trials with Ray Tune: suggested by the study, pruned by the scheduler, stopped by a signal."""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.errors import RunFailed
from raykd.orchestration.run_queue import MAX_ATTEMPTS
from raykd.orchestration.schedulers import make_scheduler
from raykd.orchestration.search_identity import SearchCommand
from raykd.orchestration.searcher import StudySearcher
from raykd.orchestration.slots import Slots
from raykd.orchestration.trial_progress import TrialProgress
from raykd.orchestration.worker_link import StopFlag
from raykd.store.study import Study


def run_trials(
    command: SearchCommand,
    study: Study,
    make_trainable: Callable[[Any], Any],
    slots: Slots,
    should_stop: Callable[[], bool],
) -> dict[int, str]:
    """Run one round of the trials that are left, until all have ended or `should_stop` returns true.

    make_trainable: returns the function that Tune calls for each trial, given the handle of the StopFlag.

    Returns {trial number: reason} of trials that are unfinished for a cause outside of their configuration. Raises
    RunFailed if Ray fails.
    """
    settings, epochs = command.settings, command.experiment.most_epochs
    # On the driver's node: on another one, its loss would fail every trial.
    on_driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    flag: Any = ray.remote(StopFlag).options(num_cpus=0, scheduling_strategy=on_driver_node).remote()
    searcher, before = StudySearcher(study, settings, should_stop), study.trials()
    stop_requests: list[Any] = []

    def forward_stop() -> None:
        if should_stop() and not stop_requests:
            stop_requests.append(flag.set.remote())

    tune_config = tune.TuneConfig(
        num_samples=searcher.num_left,
        max_concurrent_trials=slots.count,
        reuse_actors=slots.workers == 1,  # a trial that waits for its workers cannot be stopped
        search_alg=searcher,
        scheduler=make_scheduler(settings, epochs, before),
    )
    # Tune's own files, removed afterwards, in a folder that all nodes see.
    folder = command.options.results.absolute() / ".ray" / uuid.uuid4().hex[:12]
    try:
        with TrialProgress(command.console, settings, before, forward_stop) as progress:
            tune.Tuner(make_trainable(flag), tune_config=tune_config, run_config=_run_config(folder, progress)).fit()
    except (RayError, tune.TuneError) as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise RunFailed(f"the search is interrupted ({reason[0]}); rerun the same command to resume") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the study has everything that Tune knows
    return searcher.outside


def _run_config(folder: Path, progress: TrialProgress) -> tune.RunConfig:
    return tune.RunConfig(
        name="trials",
        storage_path=str(folder),
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=MAX_ATTEMPTS - 1),
        callbacks=[progress],
    )
