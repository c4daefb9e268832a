"""Write run.json at the start and at the end of a run, and when it fails, and read the run back from it."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor

from raykd.config import from_dict, to_dict
from raykd.data.types import Dataset
from raykd.disk.damage import damaged
from raykd.disk.lookup import is_file
from raykd.errors import ConfigError, Failure, Interrupted, RunFailed
from raykd.methods import CrossEntropy
from raykd.models import ImageModel
from raykd.provenance import file_sha256, hardware, source, this_process, versions
from raykd.spec.plan import Run
from raykd.store.records import Best, ComputeRecord, RunRecord, TopClasses, UnfinishedWarmup
from raykd.store.run_folder import RunFolder, now
from raykd.training.compute import Compute, choose_compute, gpu_name, require_precision, why_not_graph
from raykd.training.failure import classify_failure, is_cause, recorded_reason, rejecting_configuration
from raykd.training.group import Group
from raykd.training.model_file import Header, header_of, save_model
from raykd.training.run_sources import load_network_classes, save_sources
from raykd.training.teacher.sources import Teacher


def require_same_data(name: str, data_identity: str, dataset: Dataset) -> None:
    """Raise ConfigError if `dataset` is not the data set of the run `name`, whose identity is `data_identity`."""
    if dataset.identity != data_identity:
        raise ConfigError(
            f"{name} belongs to other images than these of {dataset.name}; name their folder with --data-dir"
        )


def start_run(
    run: Run, folder: RunFolder, device: torch.device, dataset: Dataset, teacher: Teacher, group: Group
) -> Compute:
    """Write run.json for a run that starts or resumes, and return how to compute it.

    A resumed run keeps its precision and threads, because others would round differently. Raises RunFailed if it is
    partly trained with another teacher, or with another number of workers that may not change, or if its checkpoint has
    no run.json; RejectedConfiguration if the device cannot train in its precision.
    """
    folder.remove_leftovers()
    earlier = folder.record()
    # An attempt that failed before its first checkpoint has no state to resume, and may have run on other hardware.
    resumed = _require_record(folder, earlier) if is_file(folder.checkpoint) else None
    if resumed is not None:
        _require_same_teacher(run, folder, teacher, resumed)
    before = resumed.compute if resumed else None
    precision, threads = (before.precision, before.threads) if before else (run.recipe.precision, None)
    with rejecting_configuration():
        require_precision(precision, run.role, device)
    compute = choose_compute(device, precision, threads)
    save_sources(run, folder)
    record = _compute_record(run, compute, dataset, group, teacher, before)
    folder.write_record(_record_at_start(run, record, gpu_name(device), teacher, earlier))
    return compute


def _record_at_start(
    run: Run, compute: ComputeRecord, gpu: str | None, teacher: Teacher, earlier: RunRecord | None
) -> RunRecord:
    """Return the record of a run in training. earlier: the one that it replaces, if any."""
    return RunRecord(
        name=run.name,
        family=run.family,
        stage=run.stage,
        model=run.model.label,
        method=run.method.kind,
        seed=run.seed,
        fingerprint=run.fingerprint,
        config=to_dict(run),
        status="running",
        started=earlier.started if earlier else now(),
        compute=compute,
        versions=versions(),
        hardware=hardware(gpu),
        git=source(),
        writer=this_process(),
        host=socket.gethostname(),
        resumes=earlier.resumes + 1 if earlier else 0,
        teacher_sha256=teacher.identity,
        teachers=tuple(teacher_run.name for teacher_run in run.teachers),
        starts_as_its_teacher=run.starts_as_its_teacher,
        unfinished_warmup=UnfinishedWarmup(*run.unfinished_warmup) if run.unfinished_warmup else None,
        imported=earlier.imported if earlier else None,
    )


def _compute_record(
    run: Run, compute: Compute, dataset: Dataset, group: Group, teacher: Teacher, before: ComputeRecord | None
) -> ComputeRecord:
    """Return how the run is computed. before: the record of the resumed run, if any."""
    return ComputeRecord(
        device=compute.device.type,
        precision=compute.precision,
        threads=compute.threads,
        workers=_workers(run, group, before.workers if before else ()),
        channels_last=run.recipe.channels_last,
        compiled=run.recipe.compile,
        step="eager" if why_not_graph(run, compute, group.size, not dataset.train.is_in_memory) else "graph",
        teacher=teacher.source or None,
        top_classes=teacher.top_classes,
        # Parts computed by several workers remain in the result even if one worker resumes alone.
        per_worker=before.per_worker if before else None,
    )


def recorded_run(folder: RunFolder) -> Run:
    """Return the run in `folder` from its run.json. Its custom networks are loaded from the copies of their files.

    The file of a custom method may be gone, so CrossEntropy replaces the method: do not use the run's name or
    fingerprint, and do not train it. Raises DamagedFile if this version of raykd cannot read the run.
    """
    config = folder.require_record().config
    load_network_classes(folder)
    try:
        is_custom = "source" in config["method"]
        return from_dict(Run, {**config, "method": to_dict(CrossEntropy())} if is_custom else config)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        reason = f"field 'config' is not a run, or was written by another version of raykd ({error})"
        raise damaged(folder.record_path, reason) from None


def _require_record(folder: RunFolder, record: RunRecord | None) -> RunRecord:
    if record is None:
        raise RunFailed(
            f"{folder.name} cannot resume: run.json is missing beside its checkpoint, so that its teacher, precision "
            f"and threads are unknown; remove {folder.path} and rerun the same command to train it from the start"
        )
    return record


def _require_same_teacher(run: Run, folder: RunFolder, teacher: Teacher, earlier: RunRecord) -> None:
    if earlier.teacher_sha256 != teacher.identity:
        raise RunFailed(
            f"{run.name} is partly trained with a teacher whose weights have changed since; "
            f"remove {folder.path} and rerun the same command to distill from the new weights"
        )
    before, source = earlier.compute.teacher, teacher.source or None
    if before != source:
        # Not 'cache', which a comparison refuses if it needs embeddings; 'auto' returns to the logit cache.
        setting = "live" if before == "live" else "auto"
        raise RunFailed(
            f"{run.name} is partly trained with teacher_source = {before}, and cannot resume with {source}; rerun "
            f"with --set teacher_source={setting} to resume, or remove {folder.path} to train it from the start"
        )
    cached, now_cached = (_describe_cached(top) for top in (earlier.compute.top_classes, teacher.top_classes))
    if cached != now_cached:
        raise RunFailed(
            f"{run.name} is partly trained with cached logits of {cached}, and cannot resume with those of "
            f"{now_cached}; remove {folder.path} to train it from the start"
        )


def _describe_cached(top: TopClasses | None) -> str:
    return f"the top {top.kept} classes" if top else "all classes"


def _workers(run: Run, group: Group, earlier: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of workers that have trained the run, in order, including the current group."""
    if not earlier or earlier[-1] == group.size:
        return earlier or (group.size,)
    if not group.may_shrink:
        raise RunFailed(
            f"{run.name} is partly trained by {earlier[-1]} workers, and cannot resume with {group.size}; rerun with "
            f"--set workers.count={earlier[-1]} to resume, or allow fewer workers with --set workers.min_count=1"
        )
    return (*earlier, group.size)


def finish_run(
    run: Run,
    folder: RunFolder,
    dataset: Dataset,
    model: ImageModel,
    weights: Mapping[str, Tensor],
    seconds: float,
    best: Best,
    header: Header | None = None,
) -> None:
    """Save the best weights, then set the status to 'done': in this order, so that a done run always has its weights.

    weights: the best epoch's weights of the network of `model`.
    header: the header for imported weights; None for weights that `run` trained.
    """
    save_model(folder.best, weights, header or header_of(run, dataset))
    folder.update(
        status="done",
        ended=now(),
        seconds=seconds,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        best=best,
        weights_sha256=file_sha256(folder.best),
        history_sha256=file_sha256(folder.history_path) if is_file(folder.history_path) else None,
    )


@contextmanager
def recording_failure(folder: RunFolder, group: Group) -> Iterator[None]:
    """Record in run.json why the run failed, and raise the error. An interrupted run keeps the status 'running'.

    So does a run of several workers after an error that may only mean that another worker was lost.
    """
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        if group.is_first and is_cause(error, group.size):
            with suppress(OSError):  # on a full disk; `error` is raised anyway
                folder.update(status="failed", reason=recorded_reason(error), failure=classify_failure(error))
        raise


def record_failure(folder: RunFolder, reason: str, failure: Failure) -> None:
    """Record in run.json a failure that no worker of the run could record, such as that its workers died.

    Does nothing for a run that has not started, is done, or is trained by another process.
    """
    if folder.status() in ("interrupted", "failed"):
        with folder.lock():
            folder.write_record(replace(folder.require_record(), status="failed", reason=reason, failure=failure))
