"""One trial of a search, as Tune calls it: train the distilled student of one seed with one configuration.

A failure of the configuration itself (NaN, out of memory, an error in a custom method) is the trial's result. After
any other failure (a full disk, a locked folder) the trial stays unfinished, and the search trains it again. Tune sees
an error only if the worker dies or has lost its GPU: another worker then resumes the trial from its checkpoint.

A trial with several workers starts a TorchTrainer. The trial's process then reserves no CPU and no GPU, and Tune
does not count those of its workers, so the search limits the concurrent trials to as many as fit.
"""

import os
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray import tune
from ray.exceptions import RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from raykd.cluster.ray_internals import DEAD_WORKER_ERRORS, ControllerCallback, health_check_cause, unwrapped
from raykd.data.types import Dataset
from raykd.errors import ConfigError, Interrupted, RejectedConfiguration, RunFailed, reason_of
from raykd.models.hf_files import PREFIX as HF_PREFIX
from raykd.orchestration.controllers import failure_of
from raykd.orchestration.options import Options, dataset_of
from raykd.orchestration.parallel_runs import Slots
from raykd.orchestration.process_group import GroupConfig, assigned_gpu
from raykd.orchestration.prometheus import export_metrics
from raykd.orchestration.searcher import (
    CONFIGURATION,
    EPOCHS,
    EPOCHS_DONE,
    EXTERNAL_FAILURE,
    FAILED,
    FAILURES,
    INTERRUPTED,
    LINES,
    NUMBER,
    REPORTED,
)
from raykd.orchestration.worker_link import ANSWER_S, POLL_S, StopPoller
from raykd.orchestration.worker_warnings import warnings_to
from raykd.spec.experiment import PRETRAINED, Experiment
from raykd.spec.overrides import override
from raykd.spec.plan import Plan, Run, make_plan
from raykd.spec.recipe import Recipe
from raykd.spec.search import Search
from raykd.spec.trackers import TENSORBOARD
from raykd.store.run_folder import RunFolder
from raykd.store.study import SearchFolder
from raykd.training.best_epoch import kept_row, num_epochs
from raykd.training.compute import choose_compute, configure_process, device_for, release_memory
from raykd.training.failure import (
    MAX_FAILURES,
    Decision,
    ProcessLostGpu,
    classify_failure,
    decide_trial,
    recorded_error,
)
from raykd.training.group import SINGLE_WORKER, Group, default_group
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.latency import latency
from raykd.training.teacher.choose import PlannedCache
from raykd.training.train_one import Observers, locked, train_one
from raykd.training.training_step import make_model

LOCK_WAIT_S = 60.0  # the worker of a killed command may still be writing the trial's folder
# How long Tune waits for a pruned trial to close its files before it gives up the next trial in that worker.
THREAD_TIMEOUT = ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
_lost_gpu: list[str] = []  # the error after which this process cannot use its GPU, if there was one
END_S = 45.0  # how long after a stop to wait for workers that do not train: they may be starting, or Ray retries
STOPPED = "stopped; rerun the same command to resume"
TRAIN_VARIABLES = "RAY_TRAIN_"
# Ray requires some resource for a trial's process, while the CPUs and GPUs belong to its workers.
MIN_RESOURCES: dict[str, float] = {"memory": 2**20}


@dataclass(frozen=True)
class TrialContext:
    """The context that all trials of a search share.

    folder: the search's folder. slots: each for the workers of one trial. cache: the logit cache that trials read, None
    for a live teacher. stop: the actor that requests a stop. started_in: the folder from which relative paths of the
    experiment start; Tune runs a trial in another working directory. storage: the folder for the files of trainers,
    removed at the end of the command. environment: the driver's `train_variables`.
    """

    experiment: Experiment
    options: Options
    folder: Path
    slots: Slots
    cache: PlannedCache | None
    stop: Any
    started_in: Path
    storage: Path = Path()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def search(self) -> Search:
        assert self.experiment.search is not None
        return self.experiment.search


def train_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of Ray Train in `environ`.

    A trainer reads them in the process that starts it, which is a trial's. Ray passes them on only from a trainer to
    its workers.
    """
    return {name: value for name, value in environ.items() if name.startswith(TRAIN_VARIABLES)}


def resources_of(slots: Slots) -> tune.PlacementGroupFactory:
    """Return the resources that Tune reserves for a trial in each of `slots`."""
    return tune.PlacementGroupFactory([slots.resources_of_worker if slots.workers == 1 else MIN_RESOURCES])


def run_trial(config: Mapping[str, Any], shared: TrialContext) -> None:
    """Train the distilled student with the configuration in `config`, and report each new epoch to Tune.

    Tune replaces the process when this raises, and tries the trial again. So it raises if another process may succeed.
    The last attempt reports its error instead: Tune would record the trial as failed, whatever the error was.
    """
    os.environ.setdefault(*THREAD_TIMEOUT)
    os.environ.update(shared.environment)
    lines: list[str] = []
    try:
        if _lost_gpu:
            raise ProcessLostGpu("an earlier trial of this process lost the GPU")
        with StopPoller(shared.stop.is_set.remote) as stop:
            if shared.slots.workers > 1:
                last = train_with_workers(config, shared, stop.should_stop)
            else:
                last = train_trial(config, shared, tune.report, stop.should_stop, lines=lines)
    except Exception as error:
        is_last_attempt = config.get(FAILURES, 0) >= MAX_FAILURES
        decision = decide_trial(error, shared.slots.gpus, shared.slots.workers, is_last_attempt)
        if decision.retry == "another process":
            raise
        if decision.ends_process:
            _lost_gpu.append(decision.reason)
        if decision.failure == "code":
            traceback.print_exc()
        last = failed_result(decision) | {LINES: lines}
    finally:
        release_memory()
    tune.report(last | {"done": True})


def failed_result(decision: Decision) -> dict[str, Any]:
    """Return the last result of a trial that ended with an error."""
    if decision.failure is None:
        return {INTERRUPTED: True}
    if decision.retry == "no":
        return {FAILED: decision.reason}
    return {INTERRUPTED: True, EXTERNAL_FAILURE: decision.reason}


def train_trial(
    config: Mapping[str, Any],
    shared: TrialContext,
    report: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    group: Group = SINGLE_WORKER,
    lines: list[str] | None = None,
) -> dict[str, Any]:
    """Train the configuration in `config`, from the last checkpoint if there is one, and return the last result.

    report: receives the result of each epoch that Tune does not have yet, except the last one, which counts only once
    the weights are saved. All workers of `group` report equally often. lines: receives those for the command's log.
    """
    torch.set_num_threads(shared.slots.cpus)
    run, dataset = run_of(config, shared)
    folder, device = SearchFolder(shared.folder).run(config[NUMBER]), device_for(shared.slots.gpus)
    configure_process(device)  # before the latency of the process's first trial is measured
    fixed = group.on_first(lambda: model_metrics(run, dataset, shared.search.metrics, device))
    rows: list[Mapping[str, float]] = []
    lines = [] if lines is None else lines

    def report_row(row: Mapping[str, float]) -> None:
        rows.append(row)
        result = result_of(run.recipe, rows, fixed)
        if config[REPORTED] < result[EPOCHS_DONE] < result[EPOCHS]:
            report(result | {LINES: list(lines)})

    def on_epoch(epoch: EpochReport) -> None:
        if group.is_first:
            export_metrics(run, epoch, device)
        report_row(epoch.row(steps_per_epoch=0))

    has_tensorboard = TENSORBOARD in shared.options.trackers
    callbacks = shared.options.callbacks
    observers = Observers(has_tensorboard, config[CONFIGURATION], callbacks=callbacks, log=lines.append)
    hooks = Hooks(on_epoch, should_stop)
    with warnings_to(lines.append), locked(folder, group, LOCK_WAIT_S):
        for row in group.on_first(folder.history):  # epochs of an earlier command, or of a worker that died
            report_row(row)
        train_one(run, folder, dataset, device, shared.options.store, shared.cache, hooks, group, observers)
        if group.is_first:
            folder.update(model_metrics=fixed)  # read by the process that reports the result
            if not shared.options.keep_checkpoints:
                folder.remove_checkpoint()
    return result_of(run.recipe, rows, fixed) | {LINES: lines}


def run_of(config: Mapping[str, Any], shared: TrialContext) -> tuple[Run, Dataset]:
    """Return the run of a trial with the configuration in `config`, and its data.

    Raises RejectedConfiguration if this configuration cannot be planned, and ConfigError if no configuration can.
    """
    dataset = dataset_of(shared.experiment.data, shared.options)

    def plan(configuration: Mapping[str, Any]) -> Plan:
        experiment = _with_absolute_paths(shared.experiment.with_configuration(configuration), shared.started_in)
        experiment = replace(experiment, seeds=(shared.search.trial_seed,))
        return make_plan(experiment, dataset, shared.options.weights_folder)

    try:
        runs = plan(config[CONFIGURATION]).runs
    except ConfigError as error:
        plan({})  # raises if the cause is not the configuration, such as missing pretrained weights
        raise RejectedConfiguration(str(error)) from error
    return next(run for run in runs if run.stage == "distilled"), dataset


def _with_absolute_paths(experiment: Experiment, folder: Path) -> Experiment:
    """Return `experiment` with absolute paths of weights files; relative ones start from `folder`."""
    checkpoint = experiment.teacher_checkpoint
    if checkpoint and checkpoint != PRETRAINED and not checkpoint.startswith(HF_PREFIX):
        path = folder / Path(checkpoint).expanduser()
        experiment = replace(experiment, teacher_checkpoint=str(path))
    for role in ("teacher", "student"):
        weights = getattr(getattr(experiment, role).model, "weights", "")
        if weights not in ("", "pretrained"):
            experiment = override(experiment, f"{role}.model.weights", str(folder / Path(weights).expanduser()))
    return experiment


def model_metrics(run: Run, dataset: Dataset, metrics: Collection[str], device: torch.device) -> dict[str, float]:
    """Return those of `metrics` that do not depend on the weights: number of parameters, and latency on `device`."""
    values: dict[str, float] = {}
    if "parameters" in metrics:
        values["parameters"] = sum(p.numel() for p in make_model(run, dataset).network.parameters())
    if "latency_ms" in metrics:
        model = make_model(run, dataset)
        if run.recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        compute = choose_compute(device, run.recipe.precision)
        values["latency_ms"] = latency(model, dataset.image_size, compute).median
    return values


def result_of(recipe: Recipe, rows: Sequence[Mapping[str, float]], fixed: Mapping[str, float]) -> dict[str, Any]:
    """Return the result for Tune after the epochs in `rows`, with the validation metrics of the one that is kept.

    rows: rows of the history; a repeated epoch changes nothing. fixed: the `model_metrics` of the run.
    """
    kept, last = kept_row(recipe, rows), rows[-1]
    return {
        EPOCHS_DONE: int(last["epoch"]) + 1,
        EPOCHS: num_epochs(recipe, rows),
        "val_top1": kept["val_top1"],
        "val_loss": kept["val_loss"],
        "seconds": last["seconds"],
        "images_per_s": last["images_per_s"],
        **fixed,
    }


def train_with_workers(
    config: Mapping[str, Any], shared: TrialContext, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Train a trial with several workers, and return its last result.

    Raises Interrupted if the workers stopped before the end, for which a lost connection to the driver is enough, and
    else the failure that the workers left in run.json.
    """
    folder, storage = SearchFolder(shared.folder).run(config[NUMBER]), shared.storage / uuid.uuid4().hex[:12]
    try:
        _fit(_trainer(config, shared, storage), folder, should_stop)
    except Interrupted:
        raise
    except Exception as error:
        if (failure := _workers_failure(folder, error)) is not None:
            raise failure from error
        raise
    finally:
        shutil.rmtree(storage, ignore_errors=True)  # the run's folder has everything that is needed to resume
    if folder.status() != "done":
        raise Interrupted(STOPPED)
    run, _ = run_of(config, shared)
    # The workers computed the metrics of the model, because this process has no GPU.
    rows = folder.history()
    last = result_of(run.recipe, rows, folder.require_record().model_metrics)
    assert last[EPOCHS_DONE] == last[EPOCHS]
    return last


def _fit(trainer: TorchTrainer, folder: RunFolder, should_stop: Callable[[], bool]) -> None:
    """Run `trainer` to its end, and raise its error.

    Raises Interrupted if it has not ended END_S after a stop and no worker trains. Ray may wait for a lost node, and
    the trainer ends with this process.
    """
    errors: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=fit, daemon=True, name="raykd-fit")
    thread.start()
    idle_since = time.monotonic()
    while thread.is_alive():
        thread.join(POLL_S)
        if not should_stop() or folder.status() == "running":
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > END_S:
            raise Interrupted(STOPPED)
    if errors:
        raise errors[0]


class StopBeforeStart(ControllerCallback):
    """End a trainer that is about to start its workers after a stop was requested.

    Ray tries to start them forever while nodes are missing, and without workers nothing in the trainer polls the stop.
    """

    def __init__(self, stop: Any) -> None:
        """stop: the actor that requests a stop."""
        self._stop = stop

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        try:
            is_stopping = ray.get(self._stop.is_set.remote(), timeout=ANSWER_S)
        except RayError:  # the workers would not reach it either, and stop
            is_stopping = True
        if is_stopping:
            raise Interrupted(STOPPED)


def _trainer(config: Mapping[str, Any], shared: TrialContext, storage: Path) -> TorchTrainer:
    return TorchTrainer(
        _work,
        train_loop_config={"config": dict(config), "shared": shared},
        torch_config=GroupConfig.of_workers(shared.slots.gpus, storage),
        scaling_config=ScalingConfig(
            num_workers=shared.slots.workers,
            use_gpu=shared.slots.gpus > 0,
            resources_per_worker=shared.slots.resources_of_worker,
        ),
        run_config=RunConfig(
            name=f"trial{config[NUMBER]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[TuneReportCallback(), StopBeforeStart(shared.stop)],  # pyright: ignore[reportArgumentType]
        ),
    )


def _workers_failure(folder: RunFolder, error: Exception) -> Exception | None:
    """Return the failure that the workers left in run.json, else one of their errors, or None for an unknown error.

    Interrupted and errors that are outside of the configuration come from the trainer, or before run.json exists.
    """
    if folder.status() == "failed":
        record = folder.require_record()
        return recorded_error(record.failure, record.reason)
    if isinstance(error, ControllerError):  # Ray did not start the workers, or lost them while they connected
        cause = failure_of(error)
        return cause if isinstance(cause, Interrupted) else RunFailed(f"its trainer failed with {reason_of(cause)}")
    causes = _worker_errors(error)
    if rejected := [cause for cause in causes if isinstance(cause, RejectedConfiguration)]:
        return rejected[0]
    # The errors of the other workers follow from the death of one.
    if dead := [cause for cause in causes if type(cause).__name__ in DEAD_WORKER_ERRORS]:
        return RunFailed(f"its workers died repeatedly: {reason_of(health_check_cause(dead[0]))}")
    first_hand = [cause for cause in causes if "NCCL" not in str(cause)] or causes  # NCCL also fails if another fails
    outside = [cause for cause in first_hand if classify_failure(cause) == "outside"]
    return RunFailed(reason_of(outside[0])) if outside else next(iter(first_hand), None)


def _worker_errors(error: Exception) -> list[Exception]:
    """Return the errors of the workers, without the wrapper in which Ray Train keeps a traceback."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    return [unwrapped(failure) for failure in failures]


def _work(loop_config: dict[str, Any]) -> None:
    """Train as one worker of a trial (its `train_loop_per_worker`). Only the first worker's decision to stop counts."""
    config: Mapping[str, Any] = loop_config["config"]
    shared: TrialContext = loop_config["shared"]
    with StopPoller(shared.stop.is_set.remote) as stop:
        try:
            group = default_group(may_shrink=shared.experiment.workers.min_count is not None)
            with assigned_gpu(shared.slots.gpus):
                train_trial(config, shared, ray.train.report, stop.should_stop, group)
        except Interrupted:
            return
