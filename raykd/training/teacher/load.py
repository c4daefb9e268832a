"""The teacher of a run or of a trial, and what fills its logit cache. In one place: its layout decides its last bits.

Several teach by the mean of their logits: live, or from one logit cache that holds it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from raykd.data.types import Dataset
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.float32_head import keep_head_in_float32
from raykd.training.model_file import load_model
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import PlannedCache, weights_of
from raykd.training.teacher.fill import Filler, asked_of
from raykd.training.teacher.sources import LiveTeacher, MeanLogits, Teacher, damage_in_words, no_teacher, read_cache


def teacher_of(
    run: Run,
    teacher_source_at_start: str,
    wanted: PlannedCache | None,
    store: RunStore,
    dataset: Dataset,
    device: torch.device,
) -> Teacher:
    """Return the teacher of `run`: the `wanted` cache if there is one, else live.

    A partly trained run keeps the source that it started with.

    Raises RunFailed for a logit cache with holes.
    """
    if not run.teachers:
        return no_teacher
    if wanted is None or teacher_source_at_start == "live":
        return teacher_from(_folders(run.teachers, store), device)
    return read_cache(run, dataset, _cache(wanted, store, dataset), device)


def filler_of(wanted: PlannedCache, store: RunStore, dataset: Dataset, device: torch.device) -> Filler:
    """What fills the parts of `wanted` on `device`."""
    cache = _cache(wanted, store, dataset, choose_compute(device, wanted.precision).precision)
    model = _model(_folders(wanted.teachers, store), device)
    return Filler(wanted, dataset, cache, model, choose_compute(device, cache.precision))


def is_full(wanted: PlannedCache, store: RunStore, dataset: Dataset, say: Callable[[str], None] = print) -> bool:
    """Return whether nothing is left to fill of `wanted`. say: receives a line about damaged images."""
    teachers = _folders(wanted.teachers, store)
    if any(teacher.status() != "done" for teacher in teachers):
        return False
    if not LogitCache.exists(store.logit_caches, wanted.key(dataset, weights_of(teachers))):
        return False
    cache = _cache(wanted, store, dataset)
    filled, damaged = cache.check()
    if num_damaged := int(damaged.sum()):
        say(f"{damage_in_words(cache, num_damaged)}; they are filled again where runs need them")
    return not bool((asked_of(wanted, dataset) & ~filled).any())


def teacher_from(folders: Sequence[RunFolder], device: torch.device) -> LiveTeacher:
    """The best weights of the run in each of `folders`, live."""
    identity = weights_of(folders)  # first: it refuses weights that are not those that the runs left
    return LiveTeacher(_model(folders, device), identity)


def _cache(wanted: PlannedCache, store: RunStore, dataset: Dataset, precision: str = "") -> LogitCache:
    key = wanted.key(dataset, weights_of(_folders(wanted.teachers, store)))
    return LogitCache(store.logit_caches, key, precision)


def _folders(teachers: Sequence[Run], store: RunStore) -> list[RunFolder]:
    return [store.folder(run) for run in teachers]


def _model(folders: Sequence[RunFolder], device: torch.device) -> nn.Module:
    """Return the network, or the mean of several: channels-last, as the loader's images are, its head in float32."""
    models = [load_model(folder.best).to(device) for folder in folders]
    model = models[0] if len(models) == 1 else MeanLogits(models)
    keep_head_in_float32(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
