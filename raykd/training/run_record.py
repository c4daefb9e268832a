"""What run.json says when a run starts and when it ends."""

import os
import socket
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from raykd.config import from_dict, to_dict
from raykd.data.types import Dataset
from raykd.errors import ConfigError, RunFailed
from raykd.methods import CrossEntropy
from raykd.models import ImageModel
from raykd.provenance import file_sha256, hardware, source, versions
from raykd.spec.plan import Run
from raykd.store.damage import damaged
from raykd.store.records import Best, ComputeRecord, RunRecord
from raykd.store.run_folder import RunFolder, now
from raykd.training.compute import Compute, choose_compute, why_not_graph
from raykd.training.group import SINGLE_WORKER, Group
from raykd.training.model_file import Header, header_of, save_with_header
from raykd.training.teacher.sources import Teacher


def require_same_data(name: str, data_identity: str, dataset: Dataset) -> None:
    """Raise ConfigError when `dataset` is not the one that the fingerprint of the run called `name` names."""
    if dataset.identity != data_identity:
        raise ConfigError(f"{name} is of other images than this {dataset.name}; name its folder with --data-dir")


def start(run: Run, folder: RunFolder, device: torch.device, teacher: Teacher, group: Group = SINGLE_WORKER) -> Compute:
    """Open run.json, or take the run up again. Returns how to compute: as it began, another way rounds otherwise.

    Raises RunFailed when the run is half done under another teacher, or by another number of workers than these
    where they may not shrink: the rest would be another run's.
    """
    folder.remove_leftovers()
    earlier = folder.record()
    # An attempt that failed before its first checkpoint leaves no state to agree with, and may have had other hardware.
    resumed = earlier if folder.checkpoint.is_file() else None
    if resumed is not None:
        _require_same_teacher(run, folder, teacher, resumed)
    before = resumed.compute if resumed else None
    compute = choose_compute(
        device, before.precision if before else run.recipe.precision, before.threads if before else None
    )
    workers = _workers(run, group, before.workers if before else ())
    folder.write_record(
        RunRecord(
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
            compute=_compute_record(run, device, compute, workers, teacher, before),
            versions=versions(),
            hardware=hardware(_gpu(device)),
            git=source(),
            writer=f"process {os.getpid()} on {socket.gethostname()}",
            resumes=earlier.resumes + 1 if earlier else 0,
            teacher_sha256=teacher.identity,
            imported=earlier.imported if earlier else None,
        )
    )
    return compute


def _compute_record(
    run: Run,
    device: torch.device,
    compute: Compute,
    workers: tuple[int, ...],
    teacher: Teacher,
    before: ComputeRecord | None,
) -> ComputeRecord:
    """Return how the run is computed. before: the same of the partly trained run that is resumed."""
    return ComputeRecord(
        device=str(device),
        precision=compute.precision,
        threads=compute.threads,
        workers=workers,
        channels_last=run.recipe.channels_last,
        compiled=run.recipe.compile,
        step="eager" if why_not_graph(run, compute, workers[-1]) else "graph",
        teacher=teacher.source or None,
        # What several workers did before stays in the result, also where one worker resumes alone.
        per_worker=before.per_worker if before else None,
    )


def note_per_worker(folder: RunFolder, parts: tuple[str, ...]) -> None:
    """Record in run.json what each of the run's workers computes or draws for itself."""
    record = folder.require_record()
    folder.write_record(replace(record, compute=replace(record.compute, per_worker=", ".join(parts))))


def recorded_run(folder: RunFolder) -> Run:
    """Return the run in `folder` from its run.json.

    The file of a custom method may be gone, so CrossEntropy replaces the method: do not use its name or fingerprint,
    and do not train it. Raises DamagedFile where run.json holds no run that this version of raykd reads.
    """
    config = folder.require_record().config
    try:
        is_custom = "source" in config["method"]
        return from_dict(Run, {**config, "method": to_dict(CrossEntropy())} if is_custom else config)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        why = f"field 'config' is no run, or was written by another version of raykd ({error})"
        raise damaged(folder.record_path, why) from None


def device_type_of(folder: RunFolder) -> str:
    """Return what the run in `folder` was trained on, which `workers.gpus` decided: 'cpu' or 'cuda'."""
    return torch.device(folder.require_record().compute.device).type


def _require_same_teacher(run: Run, folder: RunFolder, teacher: Teacher, earlier: RunRecord) -> None:
    if earlier.teacher_sha256 != teacher.identity:
        raise RunFailed(
            f"{run.name} is half done under a teacher whose weights have changed since; "
            f"remove {folder.path} to distill from the new ones"
        )
    before, source = earlier.compute.teacher, teacher.source or None
    if before != source:
        # Never 'cache', which a comparison refuses where embeddings are needed; 'auto' takes the logit cache up again.
        how = "live" if before == "live" else "auto"
        raise RunFailed(
            f"{run.name} is half done under a teacher that was {before}, and this would be {source}; go on "
            f"with --set teacher_source={how}, or remove {folder.path} to train it anew"
        )


def _workers(run: Run, group: Group, earlier: tuple[int, ...]) -> tuple[int, ...]:
    """How many workers trained the run, one number after another; (1,) for nearly all."""
    if not earlier or earlier[-1] == group.size:
        return earlier or (group.size,)
    if not group.may_shrink:
        raise RunFailed(
            f"{run.name} is half done by {earlier[-1]} workers, and this would be {group.size}; go on with "
            f"--set workers.count={earlier[-1]}, or let it change with --set workers.min_count=1"
        )
    return (*earlier, group.size)


def finish(
    run: Run,
    folder: RunFolder,
    dataset: Dataset,
    model: ImageModel,
    weights: Mapping[str, Tensor],
    seconds: float,
    best: Best,
    header: Header | None = None,
) -> None:
    """Leave the best weights, then say that the run is done: in this order, so that 'done' is never too early.

    weights: of the best epoch, for `model`'s network.
    header: of weights that were not trained by `run`.
    """
    save_with_header(folder.best, weights, header or header_of(run, dataset))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    history = folder.path / "history.parquet"
    folder.update(
        status="done",
        ended=now(),
        seconds=seconds,
        parameters=parameters,
        best=best,
        weights_sha256=file_sha256(folder.best),
        history_sha256=file_sha256(history) if history.is_file() else None,
    )


def _gpu(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
