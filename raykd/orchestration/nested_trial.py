"""A trial of several workers: a TorchTrainer of its own inside Tune's trial, which itself has no CPU and no GPU.

Tune counts the trial's workers as nobody's, so the search runs no more trials at once than there is room for: two that
each hold half of their workers would wait for each other for ever.
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import ray.train
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from raykd.errors import Interrupted, RunDiverged, RunFailed
from raykd.orchestration.process_group import GroupConfig
from raykd.orchestration.run_queue import MAX_ATTEMPTS
from raykd.orchestration.searcher import EPOCHS, EPOCHS_DONE, NUMBER
from raykd.orchestration.trial_loop import Results, TrialConfig, run_of, train_trial
from raykd.orchestration.worker_link import StopPoller
from raykd.store.run_folder import RunFolder
from raykd.store.study import SearchFolder
from raykd.training.failure import classify_failure, is_configuration_failure
from raykd.training.group import default_group

# Ray wants something of a trial's own process, and the CPUs are its workers'.
NEXT_TO_NOTHING: dict[str, float] = {"memory": 2**20}


def resources_of(cpus: int, gpus: float, workers: int) -> tune.PlacementGroupFactory:
    """What Tune sets aside for a trial whose workers have so many CPUs and GPUs each."""
    alone: dict[str, float] = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    return tune.PlacementGroupFactory([alone if workers == 1 else NEXT_TO_NOTHING])


def train_by_workers(config: Mapping[str, Any], shared: TrialConfig, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """The trial's last result. Raises Interrupted, or RunFailed with what its workers left in run.json."""
    trainer = _trainer(config, shared)
    folder = SearchFolder(shared.folder).run(config[NUMBER])
    try:
        trainer.fit()
    except Exception as error:
        if (known := _failure(folder, error)) is not None:
            raise known from error
        raise
    if folder.status() != "done" and should_stop():
        raise Interrupted("stopped; rerun the same command to resume")
    run, _ = run_of(config, shared)
    # Measured by the workers: this process has no GPU.
    results = Results(run.recipe.epochs, folder.fields().mapping("model_metrics"))
    for row in folder.history():
        results.after(row)
    assert results.last[EPOCHS_DONE] == results.last[EPOCHS]
    return results.last


def _trainer(config: Mapping[str, Any], shared: TrialConfig) -> TorchTrainer:
    """The trainer of the trial's workers."""
    storage = shared.options.results / ".ray" / uuid.uuid4().hex[:12]
    return TorchTrainer(
        _work,
        train_loop_config={"config": dict(config), "shared": shared},
        torch_config=GroupConfig.of_workers(shared.gpus, storage),
        scaling_config=ScalingConfig(
            num_workers=shared.workers,
            use_gpu=shared.gpus > 0,
            resources_per_worker={"CPU": shared.threads, **({"GPU": shared.gpus} if shared.gpus else {})},
        ),
        run_config=RunConfig(
            name=f"trial{config[NUMBER]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=MAX_ATTEMPTS - 1),
            callbacks=[TuneReportCallback()],
        ),
    )


def _failure(folder: RunFolder, error: Exception) -> RunFailed | None:
    """Return what the trial fails with: what its workers left in run.json, else their own error; None for neither."""
    if folder.status() == "failed":
        record = folder.record()
        reason = record.get("reason") or "no reason recorded"
        return (RunDiverged if is_configuration_failure(record) else RunFailed)(reason)
    causes = _causes(error)
    own = [cause for cause in causes if "NCCL" not in str(cause)]  # NCCL's also mean that another worker has failed
    if outside := [cause for cause in own or causes if classify_failure(cause) == "outside"]:
        return RunFailed(f"{type(outside[0]).__name__}: {outside[0]}")
    return None


def _causes(error: Exception) -> list[Exception]:
    """What the workers raised, without the wrapper in which Ray Train keeps a traceback."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    return [getattr(failure, "_base_exc", failure) for failure in failures]


def _work(given: dict[str, Any]) -> None:
    """What each worker does; the first asks whether to stop, and is heard."""
    config, shared = given["config"], given["shared"]
    with StopPoller(shared.stop.is_set.remote) as stop:
        try:
            train_trial(config, shared, ray.train.report, stop.should_stop, default_group())
        except Interrupted:
            return
