"""Where distilled runs get their teacher's logits: live, step by step, or from a logit cache that is filled before.

    live       sum of the runs' epochs                        passes of the teacher for each image
    logit cache      V (1 - (1 - 1/V)^E), at most V                 E: epochs with views of their own, by seed

Of each teacher, where several teach by their mean. Runs of one seed see the same views, whatever their temperature,
alpha or method, and there are V in all: 3 seeds of 200 epochs are 600 passes live, and 158 of the 162 views of padding
4 and flip.
"""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import torch

from raykd import models
from raykd.data.types import Dataset
from raykd.errors import plural
from raykd.methods.method import Need
from raykd.models import ImageSpec
from raykd.outputs import Outputs
from raykd.provenance import identity_of
from raykd.spec.experiment import CACHEABLE, Data, Experiment
from raykd.spec.plan import Plan, Run
from raykd.store.run_folder import RunFolder
from raykd.training.teacher.cache import CacheKey, LogitCache

WORTH_IT = 0.9  # a logit cache that leaves more than this share of the live passes is no gain
NEARLY_ALL = 0.95  # from this share of the views on all are filled: the rest costs little and serves every later run
MAX_CACHE_BYTES = 2 << 30  # every process that reads it may come to hold it; a GPU does
PASSES_PER_PART = 50_000  # a part is a job: a minute of two CPU cores under a ResNet-18
# 2.5 million passes, about 20 s of an H100 under a ResNet-18: a GPU takes 0.4 s for a CPU's part, and gives its memory
# back after each job. A kill costs no more for it, since a part is written in pieces.
PARTS_PER_GPU_PART = 50


@dataclass(frozen=True)
class PlannedCache:
    """A logit cache that runs will read: whose logits, of which data's views, for {seed: epochs}, or of all views.

    teachers: of several, the mean. precision: the student recipe's, in which its teacher computes too. num_parts: jobs
    that fill it. embedding_width: of the teacher's embedding where the runs ask for it, else 0. least: what a run
    has to need to read it, where it is kept for some alone.
    """

    teachers: tuple[Run, ...]
    data: Data
    precision: str
    epochs: tuple[tuple[int, int], ...]
    whole: bool
    num_parts: int
    embedding_width: int = 0
    least: frozenset[Need] = frozenset()

    def serves(self, run: Run) -> bool:
        """Whether its rows hold all that the method of `run` needs, and are there for it."""
        held = {"logits", "embedding"} if self.embedding_width else {"logits"}
        return self.least <= run.method.needs <= held

    def key(self, dataset: Dataset, teacher_sha256: str) -> CacheKey:
        """Its key, once the teachers' weights are there."""
        return key_of(self.data, self.precision, dataset, teacher_sha256, self.embedding_width)


@dataclass(frozen=True)
class TeacherChoice:
    """What was decided for the distilled runs of one plan, and why, in a sentence. cache: None for a live teacher.

    kept: of a comparison, the logit cache with embeddings that a run is half done under: for methods that need them.
    """

    cache: PlannedCache | None
    reason: str
    kept: PlannedCache | None = None

    @property
    def caches(self) -> tuple[PlannedCache, ...]:
        """Of those that hold all that a run needs it reads the first."""
        return tuple(cache for cache in (self.cache, self.kept) if cache is not None)


def key_of(data: Data, precision: str, dataset: Dataset, teacher_sha256: str, embedding_width: int = 0) -> CacheKey:
    """The key of the logit cache that holds a teacher's logits for `data`, and its embedding where that has a width."""
    return CacheKey(
        teacher_sha256,
        dataset.identity,
        data.crop_padding,
        data.flip,
        precision,
        len(dataset.train.labels),
        dataset.num_classes,
        embedding_width,
    )


def parts_on(cache: PlannedCache, gpus: float, num_slots: int) -> PlannedCache:
    """Return `cache` with the number of parts for workers of `gpus` GPUs, of which `num_slots` fill side by side.

    cache: as `decide` returns it, in parts for CPUs. On GPUs each slot fills equally many parts, of at most
    PARTS_PER_GPU_PART parts for CPUs. So several GPUs share even a logit cache that is one part's work.
    """
    if not gpus:
        return cache
    parts_each = ceil(cache.num_parts / (PARTS_PER_GPU_PART * num_slots))
    return replace(cache, num_parts=min(cache.num_parts, parts_each * num_slots))


def decide(
    plan: Plan,
    dataset: Dataset,
    trained: Collection[str],
    caches: Path,
    teachers: Sequence[RunFolder],
    in_progress_on_cache: Collection[str] = (),
) -> TeacherChoice | None:
    """How the distilled runs left of `plan` are taught, or its search's trials; None where there are none.

    caches: the folder of all logit caches. teachers: the run folders of the plan's teachers. in_progress_on_cache:
    names of runs that are partly trained with a cache. They keep the cache where there can be one, whatever it saves.
    """
    experiment, left = plan.experiment, _distilled_left(plan, trained)
    begun = [run for run in left if run.name in in_progress_on_cache]
    kept, epochs = _kept(plan, dataset, left, begun), _epochs_left(plan, trained)
    if not epochs:
        return TeacherChoice(None, _rest(experiment, left, kept), kept) if kept else None
    passes, by_seed = sum(count for _, count in epochs), _by_seed(epochs)
    visited = num_visited(experiment.data.views.count, sum(by_seed.values()))
    cache = _wanted(plan, dataset, by_seed, experiment.cached_needs)
    key = cache.key(dataset, _sha256(teachers))
    against = _impossible(experiment)
    if not (against or any(_could_read(experiment, run) for run in begun)):
        against = _against(key, caches, visited / passes)
    needed = plural(passes, "teacher pass", "teacher passes")
    asked, each = experiment.teacher_source, f" for each of {len(teachers)} teachers" if len(teachers) > 1 else ""
    if asked == "live" or (asked == "auto" and against):
        live = f"live, {needed} per image{each}: {against or 'teacher_source = live'}"
        return TeacherChoice(None, f"{live}; {_rest(experiment, left, kept)}" if kept else live, kept)
    size = _words(key.size_bytes) + (", embeddings included" if key.embedding_width else "")
    share, views = "all" if cache.whole else f"{visited:.0f} of", plural(experiment.data.views.count, "view")
    saving = f"logit cache with {share} {views} per image instead of {needed}{each} ({size})"
    return TeacherChoice(cache, "; ".join(filter(None, (saving, _rest(experiment, left, kept)))), kept)


def num_visited(num_views: int, epochs: int) -> float:
    """How many of an image's views some epochs show, on average: each shows one, drawn anew."""
    return num_views * (1 - (1 - 1 / num_views) ** epochs)


def _epochs_left(plan: Plan, trained: Collection[str]) -> list[tuple[int, int]]:
    """(seed, epochs) of each distilled run that is to be trained; where the experiment searches, of each trial and of
    each run that confirms one.
    """
    experiment = plan.experiment
    search, epochs = experiment.search, experiment.most_epochs
    if search is not None:
        candidates = search.confirm + 1 if search.confirm else 0  # and the experiment's own setting
        confirmed = [(seed, epochs) for seed in experiment.seeds] * candidates
        return [(search.trial_seed, epochs)] * search.num_trials + confirmed
    return [(run.seed, run.recipe.epochs) for run in _distilled_left(plan, trained) if _could_read(experiment, run)]


def _distilled_left(plan: Plan, trained: Collection[str]) -> list[Run]:
    return [run for run in plan.runs if run.stage == "distilled" and run.name not in trained]


def _could_read(experiment: Experiment, run: Run) -> bool:
    """Of a comparison, a run by a method that needs no more than a logit cache holds."""
    return not experiment.compare or run.method.needs <= experiment.cached_needs


def _kept(plan: Plan, dataset: Dataset, left: Sequence[Run], begun: Sequence[Run]) -> PlannedCache | None:
    """The logit cache with embeddings that one of `begun` goes on under in a comparison, whose own holds none."""
    experiment = plan.experiment
    if experiment.teacher_source == "live" or all(_could_read(experiment, run) for run in begun):
        return None
    served = [run for run in left if run.method.needs <= CACHEABLE and not _could_read(experiment, run)]
    wanted = _wanted(plan, dataset, _by_seed([(run.seed, run.recipe.epochs) for run in served]), CACHEABLE)
    return replace(wanted, least=frozenset({"embedding"}))


def _rest(experiment: Experiment, left: Sequence[Run], kept: PlannedCache | None) -> str:
    """Of a comparison, how runs are taught for which a logit cache is not enough; '' where there are none."""
    others = [run for run in left if not _could_read(experiment, run)]
    with_embeddings = sum(kept.serves(run) for run in others) if kept else 0
    live = len(others) - with_embeddings
    some = f"logit cache with embeddings for {plural(with_embeddings, 'run')}, because one of them started with it"
    rest = f"live for {plural(live, 'run')} whose methods need more"
    return "; ".join(([some] if with_embeddings else []) + ([rest] if live else []))


def _by_seed(epochs: Sequence[tuple[int, int]]) -> dict[int, int]:
    """The most epochs of each seed."""
    return {seed: count for count, seed in sorted((count, seed) for seed, count in epochs)}


def _wanted(plan: Plan, dataset: Dataset, by_seed: dict[int, int], held: frozenset[Need]) -> PlannedCache:
    experiment = plan.experiment
    views = experiment.data.views
    visited = num_visited(views.count, sum(by_seed.values()))
    whole = visited >= NEARLY_ALL * views.count
    kept = len(dataset.train.labels) - experiment.data.val_images
    asked = (experiment.data.student_images, experiment.data.train_images, kept)
    num_images = min(number for number in asked if number is not None)
    teachers = tuple(run for run in plan.runs if run.stage == "teacher")
    passes = len(teachers) * num_images * (views.count if whole else visited)
    num_parts = max(1, min(num_images, round(passes / PASSES_PER_PART)))
    epochs = () if whole else tuple(sorted(by_seed.items()))
    width = _embedding_width(teachers[0], dataset) if "embedding" in held else 0
    return PlannedCache(teachers, experiment.data, experiment.student.precision, epochs, whole, num_parts, width)


def _embedding_width(teacher: Run, dataset: Dataset) -> int:
    """Channels of its embedding, seen on a black image: it need not be trained yet."""
    size = dataset.image_size
    model = models.build(teacher.model, ImageSpec(dataset.num_classes, size, dataset.mean, dataset.std), seed=0).eval()
    with torch.no_grad():
        outputs: Outputs = model(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    assert outputs.embedding is not None
    return outputs.embedding.shape[1]


def _impossible(experiment: Experiment) -> str:
    """Why no logit cache can teach its runs, or ''."""
    if (more := experiment.needs - CACHEABLE) and not experiment.compare:
        needed = ", ".join(sorted(more))
        return f"the method needs the teacher's {needed}, and a logit cache holds only logits and embeddings"
    if experiment.augmented:
        return f"a logit cache holds plain views, and students train with {', '.join(experiment.augmented)}"
    return ""


def _against(key: CacheKey, caches: Path, share: float) -> str:
    """What speaks against a logit cache that could be, or ''."""
    if key.teacher_sha256 and LogitCache.exists(caches, key):
        return ""
    cache = "a logit cache with embeddings" if key.embedding_width else "a logit cache"
    if key.size_bytes > MAX_CACHE_BYTES:
        return f"{cache} would need {_words(key.size_bytes)}"
    if key.size_bytes > _free_bytes(caches):
        return f"{cache} of {_words(key.size_bytes)} does not fit on the disk of the results"
    if share > WORTH_IT:
        return f"{cache} would still need {share:.0%} of them"
    return ""


def _words(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:,.0f} KiB"


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def weights_of(teachers: Sequence[RunFolder]) -> str:
    """Return the SHA-256 of the weights of teachers that are trained, hex; of several a digest of theirs.

    Raises DamagedFile where the weights are not those that the teacher's run left.
    """
    return identity_of([teacher.weights_sha256() for teacher in teachers])


def _sha256(teachers: Sequence[RunFolder]) -> str:
    """Of the teachers' weights; '' before all are trained."""
    return weights_of(teachers) if all(teacher.status() == "done" for teacher in teachers) else ""
