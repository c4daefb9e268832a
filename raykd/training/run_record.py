"""What run.json says when a run starts and when it ends."""

import os
import socket
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raykd.config import from_dict, to_dict
from raykd.data.types import Dataset
from raykd.errors import ConfigError, RunFailed
from raykd.methods import CrossEntropy
from raykd.models import ImageModel
from raykd.provenance import file_sha256, hardware, source, versions
from raykd.spec.plan import Run
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
    if folder.checkpoint.is_file():
        _require_same_teacher(run, folder, teacher, earlier)
    # An attempt that failed before its first checkpoint leaves no state to agree with, and may have had other hardware.
    began = earlier.get("compute", {}) if folder.checkpoint.is_file() else {}
    compute = choose_compute(device, began.get("precision") or run.recipe.precision, began.get("threads"))
    workers = _workers(run, group, began["workers"] if began else [])
    folder.update(
        name=run.name,
        family=run.family,
        stage=run.stage,
        model=run.model.label,
        method=run.method.kind,
        seed=run.seed,
        fingerprint=run.fingerprint,
        teacher_sha256=teacher.identity,
        **dict.fromkeys(("reason", "ended", "weights_sha256", "history_sha256")),
        config=to_dict(run),
        status="running",
        started=earlier.get("started") or now(),
        seconds=earlier.get("seconds", 0.0),
        resumes=earlier.get("resumes", -1) + 1,
        writer=f"process {os.getpid()} on {socket.gethostname()}",
        compute=_how(run, device, compute, workers, teacher, began),
        versions=versions(),
        hardware=hardware(_gpu(device)),
        git=source(),
    )
    return compute


def _how(
    run: Run, device: torch.device, compute: Compute, workers: list[int], teacher: Teacher, began: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how the run is computed. began: the same of the partly trained run that is resumed; {} for none."""
    return {
        "device": str(device),
        "threads": compute.threads,
        "workers": workers,
        "precision": compute.precision,
        "channels_last": run.recipe.channels_last,
        "compiled": run.recipe.compile,
        "step": "eager" if why_not_graph(run, compute, workers[-1]) else "graph",
        "teacher": teacher.source or None,
        # What several workers did before stays in the result, also where one worker resumes alone.
        **{name: value for name, value in began.items() if name == "per_worker"},
    }


def note_per_worker(folder: RunFolder, parts: tuple[str, ...]) -> None:
    """Record in run.json what each of the run's workers computes or draws for itself."""
    folder.update(compute=folder.record()["compute"] | {"per_worker": ", ".join(parts)})


def recorded_run(record: Mapping[str, Any]) -> Run:
    """The run that a run.json tells of, but for a method of a person's own: its file may be gone, and the labels'
    cross-entropy stands for it. So not for its name, its fingerprint or training.

    Raises ConfigError for what another version wrote.
    """
    config = record["config"]
    is_own = "source" in config["method"]
    return from_dict(Run, {**config, "method": to_dict(CrossEntropy())} if is_own else config)


def recorded_run_of(folder: RunFolder) -> Run:
    """Return the run in `folder`, as `recorded_run` does. Raises DamagedFile for a run.json that holds none."""
    fields = folder.fields()
    fields.part("config").part("method")
    try:
        return recorded_run(fields.values)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        return fields.refuse(f"field 'config' is no run, or was written by another version of raykd ({error})")


def precision_of(folder: RunFolder) -> str:
    """Return what the run in `folder` was trained in: 'fp32' or 'bf16'."""
    return folder.fields().part("compute").text("precision")


def device_type_of(folder: RunFolder) -> str:
    """Return what the run in `folder` was trained on, which `workers.gpus` decided: 'cpu' or 'cuda'."""
    return torch.device(folder.fields().part("compute").text("device")).type


def _require_same_teacher(run: Run, folder: RunFolder, teacher: Teacher, earlier: Mapping[str, Any]) -> None:
    if earlier.get("teacher_sha256", teacher.identity) != teacher.identity:
        raise RunFailed(
            f"{run.name} is half done under a teacher whose weights have changed since; "
            f"remove {folder.path} to distill from the new ones"
        )
    began, source = earlier.get("compute", {}), teacher.source or None
    if began.get("teacher", source) != source:
        # Never 'cache', which a comparison refuses where embeddings are needed; 'auto' takes the logit cache up again.
        how = "live" if began["teacher"] == "live" else "auto"
        raise RunFailed(
            f"{run.name} is half done under a teacher that was {began['teacher']}, and this would be {source}; go on "
            f"with --set teacher_source={how}, or remove {folder.path} to train it anew"
        )


def _workers(run: Run, group: Group, earlier: list[int]) -> list[int]:
    """How many workers trained the run, one number after another; [1] for nearly all."""
    if not earlier or earlier[-1] == group.size:
        return earlier or [group.size]
    if not group.may_shrink:
        raise RunFailed(
            f"{run.name} is half done by {earlier[-1]} workers, and this would be {group.size}; go on with "
            f"--set workers.count={earlier[-1]}, or let it change with --set workers.min_count=1"
        )
    return [*earlier, group.size]


def finish(
    run: Run,
    folder: RunFolder,
    dataset: Dataset,
    model: ImageModel,
    weights: Mapping[str, Tensor],
    seconds: float,
    best: dict[str, int | float | None],
    header: Header | None = None,
) -> None:
    """Leave the best weights, then say that the run is done: in this order, so that 'done' is never too early.

    weights: of the best epoch, for `model`'s network.
    best: {'epoch': from 0, or None when none was trained, 'val_top1': percent}.
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
