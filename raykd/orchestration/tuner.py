"""The trials of a search through Tune: handed out by the study, compared by the scheduler, stopped by a signal."""

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


def try_all(
    command: SearchCommand,
    study: Study,
    make_trainable: Callable[[Any], Any],
    slots: Slots,
    should_stop: Callable[[], bool],
) -> dict[int, str]:
    """Bring the trials that are left to their ends, or to where `should_stop` finds them; the study knows which.

    make_trainable: given the StopFlag's actor, what Tune calls for each trial.
    Returns why trials are unfinished for a cause outside of their configuration, by number.
    """
    settings, epochs = command.settings, command.experiment.most_epochs
    # Where the driver is: lost with another node, it would take every trial with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    flag: Any = ray.remote(StopFlag).options(num_cpus=0, scheduling_strategy=here).remote()
    searcher, before = StudySearcher(study, settings, should_stop), study.trials()
    told: list[Any] = []

    def step() -> None:
        if should_stop() and not told:
            told.append(flag.set.remote())

    how = tune.TuneConfig(
        num_samples=searcher.num_left,
        max_concurrent_trials=slots.count,
        reuse_actors=slots.workers == 1,  # one that waits for workers of its own cannot be called off
        search_alg=searcher,
        scheduler=make_scheduler(settings, epochs, before),
    )
    # Tune's own files, for this long, in a folder that all nodes see.
    folder = command.options.results.absolute() / ".ray" / uuid.uuid4().hex[:12]
    try:
        with TrialProgress(command.console, settings, before, step) as progress:
            tune.Tuner(make_trainable(flag), tune_config=how, run_config=_run_config(folder, progress)).fit()
    except (RayError, tune.TuneError) as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise RunFailed(f"the search is interrupted ({reason[0]}); rerun the same command to resume") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what Tune knows, the study knows
    return searcher.outside


def _run_config(folder: Path, progress: TrialProgress) -> tune.RunConfig:
    return tune.RunConfig(
        name="trials",
        storage_path=str(folder),
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=MAX_ATTEMPTS - 1),
        callbacks=[progress],
    )
