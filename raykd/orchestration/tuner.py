"""Run the trials of a search with Ray Tune: the study proposes them, the scheduler stops weak ones early."""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial

from raykd.disk.lookup import is_folder
from raykd.errors import Interrupted, RunFailed
from raykd.orchestration.command import SearchCommand
from raykd.orchestration.parallel_runs import Slots, free_resources, lost_nodes_reason
from raykd.orchestration.run_queue import LOST_AFTER_S
from raykd.orchestration.schedulers import make_scheduler
from raykd.orchestration.searcher import StudySearcher
from raykd.orchestration.session import actor_on_driver, alive_nodes
from raykd.orchestration.trial_progress import TrialProgress
from raykd.store.study import SearchFolder, SearchStudy
from raykd.training.failure import MAX_FAILURES

NODES_POLL_S = 2.0
START_WAIT_S = 60.0  # the wait for the first trial after which the log states which resources are missing


def _keep(_: int) -> bool:
    return True


def remove_checkpoint(folder: SearchFolder, number: int) -> bool:
    """Remove the checkpoint of an ended trial, which resumes no more. Return False while its process has it locked.

    Tune ends the function of a pruned trial while it reports an epoch, so that it cannot do this itself.
    """
    run = folder.run(number)
    try:
        if is_folder(run.path):
            with run.lock():
                run.remove_checkpoint()
    except (RunFailed, OSError):
        return False
    return True


def run_trials(
    command: SearchCommand,
    study: SearchStudy,
    make_trainable: Callable[[Any, Path], Any],
    slots: Slots,
    should_stop: Callable[[], bool],
) -> dict[int, str]:
    """Train the trials that are left, until all have ended or `should_stop` returns true. The study has their states.

    make_trainable: returns the function that Tune calls for each trial. Its arguments are the actor that requests a
    stop, and the folder for files that this command needs only while it runs.

    Returns why trials are unfinished for a cause outside of their configuration, by number. Raises Interrupted when
    nodes are lost and the others have no room for one trial.
    """
    flag, folder = actor_on_driver(threading.Event), command.options.new_ray_folder()  # the trials poll the flag
    remove = _keep if command.options.keep_checkpoints else partial(remove_checkpoint, command.folder)
    searcher, before = StudySearcher(study, command.search, should_stop, remove), study.trials()
    control = RoundControl(flag, searcher, slots, should_stop)
    tune_config = tune.TuneConfig(
        num_samples=searcher.num_left,
        max_concurrent_trials=slots.count,
        reuse_actors=slots.workers == 1,  # a trial that waits for its workers cannot be interrupted
        search_alg=searcher,
        scheduler=make_scheduler(command.search, command.experiment.most_epochs, before),
    )
    try:
        with TrialProgress(command.console, command.search, before, control.on_step) as progress:
            run_config = _run_config(folder, progress, control)
            tune.Tuner(make_trainable(flag, folder), tune_config=tune_config, run_config=run_config).fit()
    except (RayError, tune.TuneError) as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise RunFailed(f"the search is interrupted ({reason[0]}); rerun the same command to resume") from error
    finally:
        searcher.remove_checkpoints()  # of the trials that ended last
        ray.kill(flag)  # it would live as long as the driver, which may be a notebook
        shutil.rmtree(folder, ignore_errors=True)  # the study has everything that is in it
    if control.shortage:
        raise Interrupted(control.shortage)
    return searcher.outside


def _run_config(folder: Path, progress: TrialProgress, stopper: tune.Stopper) -> tune.RunConfig:
    failures = tune.FailureConfig(max_failures=MAX_FAILURES)
    return tune.RunConfig(
        name="trials",
        storage_path=str(folder),
        verbose=0,
        failure_config=failures,
        callbacks=[progress],
        stop=stopper,
    )


class RoundControl(tune.Stopper):
    """Stop a round of trials upon request, or when the nodes have no room for a trial any more.

    The trials that run save and end. Tune would then wait for the trials that have not started, which is forever if the
    cluster is busy. This ends the round once no trial runs.
    """

    def __init__(self, flag: Any, searcher: StudySearcher, slots: Slots, should_stop: Callable[[], bool]) -> None:
        self._flag, self._searcher, self._slots, self._should_stop = flag, searcher, slots, should_stop
        self._num_running = 0
        self._stop_request: Any = None
        self._nodes_polled_at = float("-inf")
        self._short_since = time.monotonic()
        self._waiting_since: float | None = self._short_since
        self.shortage = ""  # why the round was stopped, if nodes are lost

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune pickles its configuration for a restore that raykd never does."""
        return {}

    def stop_all(self) -> bool:
        """Return whether Tune is to end all trials now."""
        return self._stop_request is not None and not self._num_running

    def on_step(self, trials: Sequence[Trial]) -> list[str]:
        """Request the stop if it is due, and return lines for the log. Tune calls this a few times per second."""
        self._num_running = sum(trial.status == Trial.RUNNING for trial in trials)
        if self._stop_request is None and (self._should_stop() or self._are_nodes_lost()):
            self._stop_request = self._flag.set.remote()
        lines = [
            f"trial {number} unfinished, to be resumed later: its worker was still busy with the trial before it"
            for number in self._searcher.release(trials)
        ]
        return lines + self._describe_wait(trials)

    def _are_nodes_lost(self) -> bool:
        """Return whether the nodes that are alive have had no room for a trial for LOST_AFTER_S."""
        now, slots = time.monotonic(), self._slots
        if now - self._nodes_polled_at < NODES_POLL_S:
            return False
        self._nodes_polled_at = now
        reason = lost_nodes_reason(alive_nodes(), slots, "trial", slots.workers)
        if not reason:
            self._short_since = now
        elif now - self._short_since > LOST_AFTER_S:
            self.shortage = reason
        return bool(self.shortage)

    def _describe_wait(self, trials: Sequence[Trial]) -> list[str]:
        """Return a line with the missing resources once no trial could start for START_WAIT_S."""
        if self._num_running or not any(trial.status == Trial.PENDING for trial in trials):
            self._waiting_since = time.monotonic()
        elif self._waiting_since is not None and time.monotonic() - self._waiting_since > START_WAIT_S:
            self._waiting_since = None  # one line is enough
            unused = free_resources(self._slots, ray.available_resources(), ray.cluster_resources())
            required = self._slots.resources_of_run
            return [
                f"no trial has started for {START_WAIT_S:.0f} s: each requires {required}; {unused} are free, and the "
                "others belong to trials that are starting or to other commands"
            ]
        return []
