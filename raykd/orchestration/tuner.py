"""Run the trials of a search with Ray Tune: the study proposes them, the scheduler stops weak ones early."""

import shutil
import threading
import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.errors import RunFailed
from raykd.orchestration.parallel_runs import Slots
from raykd.orchestration.retry import MAX_FAILURES
from raykd.orchestration.schedulers import make_scheduler
from raykd.orchestration.search_identity import SearchCommand
from raykd.orchestration.searcher import StudySearcher
from raykd.orchestration.trial_progress import TrialProgress
from raykd.store.results_folder import RAY
from raykd.store.study import SearchStudy


def run_trials(
    command: SearchCommand,
    study: SearchStudy,
    make_trainable: Callable[[Any], Any],
    slots: Slots,
    should_stop: Callable[[], bool],
) -> dict[int, str]:
    """Train the trials that are left, until all have ended or `should_stop` returns true. The study has their states.

    make_trainable: returns the function that Tune calls for each trial; its argument is the actor that requests a stop.

    Returns why trials are unfinished for a cause outside of their configuration, by number.
    """
    search = command.search
    # The trials poll this actor. It runs on the driver's node: if it were lost with another, every trial would stop.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    flag: Any = ray.remote(threading.Event).options(num_cpus=0, scheduling_strategy=here).remote()
    searcher, before = StudySearcher(study, search, should_stop), study.trials()
    stop_request: list[Any] = []

    def forward_stop() -> None:
        if should_stop() and not stop_request:
            stop_request.append(flag.set.remote())

    tune_config = tune.TuneConfig(
        num_samples=searcher.num_left,
        max_concurrent_trials=slots.count,
        reuse_actors=slots.workers == 1,  # a trial that waits for its workers cannot be interrupted
        search_alg=searcher,
        scheduler=make_scheduler(search, command.experiment.most_epochs, before),
    )
    # Tune's files, for the duration of this command, in a folder that all nodes see.
    folder = command.options.results.absolute() / RAY / uuid.uuid4().hex[:12]
    try:
        with TrialProgress(command.console, search, before, forward_stop) as progress:
            failures = tune.FailureConfig(max_failures=MAX_FAILURES)
            run_config = tune.RunConfig(
                name="trials", storage_path=str(folder), verbose=0, failure_config=failures, callbacks=[progress]
            )
            tune.Tuner(make_trainable(flag), tune_config=tune_config, run_config=run_config).fit()
    except (RayError, tune.TuneError) as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise RunFailed(f"the search is interrupted ({reason[0]}); rerun the same command to resume") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the study has everything that is in it
    return searcher.outside
