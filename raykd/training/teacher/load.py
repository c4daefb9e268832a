"""Load the teacher of a run, live or cached, and make the filler of its logit cache.

With several teachers, a student learns from the mean of their logits: computed live, or held by one cache. Both kinds
come from `_load_model`, since the memory layout decides the last bits of the logits.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from raykd.data.sampling import Balanced
from raykd.data.types import Dataset
from raykd.errors import RunFailed
from raykd.methods.method import Need
from raykd.spec.plan import Run, train_val_indices
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.float32_head import keep_head_in_float32
from raykd.training.model_file import load_model
from raykd.training.teacher.cache import LogitCache, visited_views
from raykd.training.teacher.choose import PlannedCache, teacher_identity
from raykd.training.teacher.fill import Filler, views_to_fill
from raykd.training.teacher.sources import CachedTeacher, LiveTeacher, MeanLogits, Teacher, no_teacher


def load_teacher(
    run: Run,
    source_at_start: str,
    planned: PlannedCache | None,
    store: RunStore,
    dataset: Dataset,
    device: torch.device,
) -> Teacher:
    """Load the teacher of `run`: from the `planned` cache if there is one, else live.

    source_at_start: 'live' for a partly trained run with a live teacher. It never switches to the cache, because their
    rounding differs. Raises RunFailed if the cache lacks views that the run needs.
    """
    if not run.teachers:
        return no_teacher
    if planned is None or source_at_start == "live":
        return load_live_teacher(_folders(run.teachers, store), device)
    folders = _folders(run.teachers, store)
    return load_cached_teacher(run, dataset, _open_cache(planned, store, dataset), device, folders)


def load_live_teacher(folders: Sequence[RunFolder], device: torch.device) -> LiveTeacher:
    """Load the best weights of the trained teachers in `folders`. Raises DamagedFile."""
    identity = teacher_identity(folders)  # first, because it refuses damaged weights
    return LiveTeacher(_load_model(folders, device), identity)


def load_cached_teacher(
    run: Run, dataset: Dataset, cache: LogitCache, device: torch.device, folders: Sequence[RunFolder] = ()
) -> CachedTeacher:
    """Load the teacher of `run` from `cache`: copied to a GPU, or mapped from the file on a CPU.

    folders: of the trained teachers, for methods that read the teacher's classifier.

    Raises RunFailed if views that the run needs are missing or damaged.
    """
    filled, damaged = cache.check()
    indices, _ = train_val_indices(run.data, dataset.train.labels)
    if not filled[indices].all():
        _require_filled(run, dataset, cache, filled, damaged)
    key, top_classes = cache.key, cache.top_classes(run.method.soft_temperature)
    return CachedTeacher(
        cache.rows().to(device),
        key.num_views,
        key.teacher_sha256,
        key.embedding_width,
        top_classes,
        lambda: load_model(folders[0].best) if len(folders) == 1 else None,
    )


def _require_filled(run: Run, dataset: Dataset, cache: LogitCache, filled: Tensor, damaged: Tensor) -> None:
    """Raise RunFailed unless each view that `run` shows is `filled`, bool [N, V]. damaged: bool [N]."""
    indices, _ = train_val_indices(run.data, dataset.train.labels)
    sampler = Balanced(indices, dataset.train.labels) if run.recipe.sampling == "balanced" else None
    epochs = {run.seed: run.recipe.epochs}
    needed = visited_views(run.data.views, indices, cache.key.num_images, epochs, sampler)
    if num_damaged := int((needed.any(dim=1) & damaged).sum()):
        raise RunFailed(f"{_describe_damage(cache, num_damaged)}; rerun the same command to fill them again")
    if missing := int((needed & ~filled).sum()):
        raise RunFailed(
            f"logit cache '{cache.folder}' lacks {missing} of the {int(needed.sum())} views that {run.name} needs; "
            "rerun the same command to fill them, or use --set teacher_source=live"
        )


def make_filler(planned: PlannedCache, store: RunStore, dataset: Dataset, device: torch.device) -> Filler:
    """Return the filler of the parts of `planned`, computing on `device`."""
    cache = _open_cache(planned, store, dataset, choose_compute(device, planned.precision).precision)
    needs: Collection[Need] = {"embedding"} if planned.embedding_width else ()
    model = _load_model(_folders(planned.teachers, store), device, needs)
    return Filler(planned, dataset, cache, model, choose_compute(device, cache.precision))


def is_full(planned: PlannedCache, store: RunStore, dataset: Dataset, log: Callable[[str], None] = print) -> bool:
    """Return whether nothing of `planned` is left to fill. Damaged images are logged, and count as not filled."""
    teachers = _folders(planned.teachers, store)
    if any(teacher.status() != "done" for teacher in teachers):
        return False
    if not LogitCache.exists(store.logit_caches, planned.key(dataset, teacher_identity(teachers))):
        return False
    cache = _open_cache(planned, store, dataset)
    filled, damaged = cache.check()
    if num_damaged := int(damaged.sum()):
        log(f"{_describe_damage(cache, num_damaged)}; they are filled again where runs need them")
    return not bool((views_to_fill(planned, dataset) & ~filled).any())


def _describe_damage(cache: LogitCache, num_damaged: int) -> str:
    return f"logit cache '{cache.folder}' is damaged: {num_damaged} images do not match their checksums"


def _open_cache(planned: PlannedCache, store: RunStore, dataset: Dataset, precision: str = "") -> LogitCache:
    key = planned.key(dataset, teacher_identity(_folders(planned.teachers, store)))
    return LogitCache(store.logit_caches, key, precision)


def _folders(teachers: Sequence[Run], store: RunStore) -> list[RunFolder]:
    return [store.folder(run) for run in teachers]


def _load_model(folders: Sequence[RunFolder], device: torch.device, needs: Collection[Need] = ()) -> nn.Module:
    """Return the network, or the mean of several: channels-last like the loader's images, with a float32 head."""
    models = [load_model(folder.best).to(device) for folder in folders]
    for network in models:
        network.request(needs)
    model = models[0] if len(models) == 1 else MeanLogits(models)
    keep_head_in_float32(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
