"""Choose between a live teacher and a logit cache by the number of teacher passes per image.

    live         sum of the runs' epochs
    logit cache  V (1 - (1 - 1/V)^E), at most V     V: views of an image, E: epochs of distinct (seed, epoch) pairs

With several teachers, this is the count for each. Runs of one seed see the same views, whatever their temperature,
alpha or method. Example with padding 4 and flip (V = 162): 3 seeds of 200 epochs are 600 live passes, but show only
158 distinct views. Crop views (data/crop_views.py) have V = data.views_per_image; without it, no two epochs show the
same view, and the teacher is live.
"""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from raykd import models
from raykd.data.sampling import expected_counts
from raykd.data.types import Dataset
from raykd.disk.lookup import is_there
from raykd.errors import plural
from raykd.methods.method import Need
from raykd.provenance import teacher_digest
from raykd.spec.experiment import ALL_CLASSES_UP_TO, CACHEABLE, Data, Experiment
from raykd.spec.plan import Plan, Run, train_val_indices
from raykd.store.run_folder import RunFolder
from raykd.training.adapters import evaluation_outputs
from raykd.training.model_file import images_of
from raykd.training.teacher.cache import CacheKey, LogitCache
from raykd.units import disk_size

WORTH_IT = 0.9  # a cache that needs more than this share of the live passes is not worth filling
NEARLY_ALL = 0.95  # if this fraction of the views is needed, all are filled: the rest is cheap and serves other runs
MAX_CACHE_BYTES = 4 << 30  # each process that reads the cache may hold all of it in memory; a GPU always does
USUAL_TEMPERATURES = (1.0, 2.0, 4.0, 8.0)  # later runs may read a cache at another temperature than the first ones
PASSES_PER_PART = 50_000  # one job fills one part: a minute of two CPU cores with a ResNet-18
# 2.5 million passes, about 20 s of an H100 with a ResNet-18. A GPU needs only 0.4 s for a CPU's part, and releases its
# memory after each job. An interruption does not lose more, since a part is written in pieces.
PARTS_PER_GPU_PART = 50


@dataclass(frozen=True)
class PlannedCache:
    """A logit cache that runs will read, and what has to be filled for them.

    teachers: with several, the cache holds the mean of their logits. precision: of the student recipe; the teacher
    computes in the same. epochs: ((seed, epochs), ...) whose views are filled, unless `holds_all_views`. num_parts:
    number of jobs that fill it. embedding_width: 0 for a cache of logits alone. min_needs: a run reads the cache only
    if its method needs at least these outputs. is_balanced: whether epochs show each class equally often.
    cached_classes: the number of classes whose logits a row keeps; None for all. temperatures: those at which the error
    of such a cache is measured. families: of the experiments whose runs read the cache.
    """

    teachers: tuple[Run, ...]
    data: Data
    precision: str
    epochs: tuple[tuple[int, int], ...]
    holds_all_views: bool
    num_parts: int
    embedding_width: int = 0
    min_needs: frozenset[Need] = frozenset()
    is_balanced: bool = False
    cached_classes: int | None = None
    temperatures: tuple[float, ...] = USUAL_TEMPERATURES
    families: frozenset[str] = frozenset()

    def serves(self, run: Run) -> bool:
        """Return whether `run` reads this cache: it is of the run's family, and has all that the run's method needs."""
        if not run.method.needs:
            return False
        held = {"logits", "embedding"} if self.embedding_width else {"logits"}
        has_classes = self.cached_classes is None or run.method.works_with_top_classes
        return run.family in self.families and self.min_needs <= run.method.needs <= held and has_classes

    def key(self, dataset: Dataset, teacher_sha256: str) -> CacheKey:
        """Return the key of the cache for a trained teacher, see `teacher_identity`."""
        return CacheKey(
            teacher_sha256,
            dataset.identity,
            self.data.crop_padding,
            self.data.flip,
            self.precision,
            len(dataset.train.labels),
            dataset.num_classes if self.teachers[0].model.classifier else 0,
            self.embedding_width,
            self.data.min_crop_area,
            self.data.views_per_image,
            self.cached_classes,
        )


@dataclass(frozen=True)
class TeacherChoice:
    """The teacher source of a plan's distilled runs, and the reason in one line.

    cache: None for a live teacher. embedding_cache: a second cache of a comparison, with embeddings, for partly
    trained runs that started with one.
    """

    cache: PlannedCache | None
    reason: str
    embedding_cache: PlannedCache | None = None

    @property
    def caches(self) -> tuple[PlannedCache, ...]:
        """Caches in order of preference. A run reads the first one that has everything its method needs."""
        return tuple(cache for cache in (self.cache, self.embedding_cache) if cache is not None)


def merge_caches(caches: Sequence[PlannedCache]) -> list[PlannedCache]:
    """Return `caches` with each cache that several families read only once, with the views that any of them needs.

    Their order is kept. Caches of families whose students train on other images are not merged.
    """
    groups: dict[PlannedCache, list[PlannedCache]] = {}
    for cache in caches:
        shared = replace(cache, epochs=(), holds_all_views=False, num_parts=0, temperatures=(), families=frozenset())
        groups.setdefault(shared, []).append(cache)
    return [_merge(group) for group in groups.values()]


def _merge(group: Sequence[PlannedCache]) -> PlannedCache:
    """Return one cache for all families of `group`, whose caches differ in nothing else than these fields."""
    holds_all_views = any(cache.holds_all_views for cache in group)
    epochs = _max_epochs_by_seed([item for cache in group for item in cache.epochs])
    return replace(
        group[0],
        epochs=() if holds_all_views else tuple(sorted(epochs.items())),
        holds_all_views=holds_all_views,
        num_parts=max(cache.num_parts for cache in group),
        temperatures=tuple(sorted({value for cache in group for value in cache.temperatures})),
        families=frozenset().union(*(cache.families for cache in group)),
    )


def split_for_slots(cache: PlannedCache, gpus: float, num_slots: int) -> PlannedCache:
    """Return `cache` with the number of parts that suits `num_slots` concurrent workers of `gpus` GPUs each.

    `choose_teacher` plans parts for CPUs. On GPUs each slot fills equally many parts, each of at most
    PARTS_PER_GPU_PART CPU parts, so that several GPUs share even the work of one part.
    """
    if not gpus:
        return cache
    parts_each = ceil(cache.num_parts / (PARTS_PER_GPU_PART * num_slots))
    return replace(cache, num_parts=min(cache.num_parts, parts_each * num_slots))


def choose_teacher(
    plan: Plan,
    dataset: Dataset,
    settled: Collection[str],
    caches: Path,
    teachers: Sequence[RunFolder],
    in_progress_on_cache: Collection[str] = (),
) -> TeacherChoice | None:
    """Choose the teacher source of the plan's unsettled distilled runs, or of its search's trials; None without any.

    settled: names of the runs that are trained, and of those that keep their live teacher. caches: the folder of all
    logit caches. teachers: the folders of the plan's teachers. in_progress_on_cache: names of partly trained runs that
    started with a cache. They keep it wherever a cache is possible, even if it saves nothing.
    """
    experiment = plan.experiment
    unsettled = [run for run in plan.runs if run.teacher is not None and run.name not in settled]
    in_progress = [run for run in unsettled if run.name in in_progress_on_cache]
    epochs = _epochs_to_train(plan, unsettled)
    if reason := _why_impossible(plan):
        counted = epochs or [(run.seed, run.recipe.epochs) for run in unsettled]
        return TeacherChoice(None, _describe_live(counted, len(teachers), reason)) if counted else None
    embedding_cache = _plan_embedding_cache(plan, dataset, unsettled, in_progress)
    other_runs = _describe_other_runs(plan, unsettled, embedding_cache)
    if not epochs:
        return TeacherChoice(None, other_runs, embedding_cache) if embedding_cache else None
    by_seed = _max_epochs_by_seed(epochs)
    num_views = _num_shown(experiment, dataset, sum(by_seed.values()))
    cache = _plan_cache(plan, dataset, by_seed, experiment.cached_needs)
    are_trained = all(teacher.status() == "done" for teacher in teachers)
    key = cache.key(dataset, teacher_identity(teachers) if are_trained else "")
    if not any(_reads_shared_cache(plan, run) for run in in_progress):
        reason = _why_not_worth_it(experiment, key, caches, num_views / sum(count for _, count in epochs))
    if experiment.teacher_source == "live" or (experiment.teacher_source == "auto" and reason):
        live = _describe_live(epochs, len(teachers), reason or "teacher_source = live")
        return TeacherChoice(None, f"{live}; {other_runs}" if embedding_cache else live, embedding_cache)
    saving = _describe_cached(cache, key, num_views, _describe_passes(epochs, len(teachers)))
    error = _describe_error(experiment, key, caches)
    return TeacherChoice(cache, "; ".join(filter(None, (saving, error, other_runs))), embedding_cache)


def _describe_passes(epochs: Sequence[tuple[int, int]], num_teachers: int) -> tuple[str, str]:
    """Return the passes of live teachers over each image, and ' for each of 3 teachers' with several."""
    passes = plural(sum(count for _, count in epochs), "teacher pass", "teacher passes")
    return passes, f" for each of {num_teachers} teachers" if num_teachers > 1 else ""


def _describe_live(epochs: Sequence[tuple[int, int]], num_teachers: int, reason: str) -> str:
    passes, each = _describe_passes(epochs, num_teachers)
    return f"live, {passes} per image{each}: {reason}"


def _describe_cached(cache: PlannedCache, key: CacheKey, num_views: float, live: tuple[str, str]) -> str:
    """Return what the cache holds, what it replaces, and its size. num_views: those that are filled, on average."""
    rounded = f"{num_views:.0f}" if round(num_views) < key.num_views else f"{num_views:.1f}"
    share = "all" if cache.holds_all_views else f"{rounded} of"
    parts = [disk_size(key.size_bytes)]
    if key.cached_classes is not None:
        parts.append(f"top {key.cached_classes} of {key.num_classes:,} classes")
    parts += ["embeddings included"] if key.embedding_width else []
    saving = f"logit cache with {share} {plural(key.num_views, 'view')} per image instead of {''.join(live)}"
    return f"{saving} ({', '.join(parts)})"


def _describe_error(experiment: Experiment, key: CacheKey, caches: Path) -> str:
    """Return the error of a cache of the top classes, or what to expect before it is measured; '' if all are kept."""
    if key.cached_classes is None:
        return ""
    if key.teacher_sha256 and LogitCache.exists(caches, key) and (error := LogitCache(caches, key).describe_error()):
        return error
    highest = max(experiment.temperatures)
    expected = f"at temperature {highest:g} the classes that are not kept get too much probability in total"
    return expected if highest > 1 else ""


def _num_shown(experiment: Experiment, dataset: Dataset, epochs: int) -> float:
    """Return the expected number of distinct views per image that students see in `epochs` epochs, summed over seeds.

    Balanced epochs show images of small classes often and those of large ones rarely. If trials differ in their
    sampling, it is the number of all views.
    """
    num_views, samplings = _num_views(experiment), experiment.samplings
    if len(samplings) > 1:
        return num_views
    if samplings == {"shuffle"}:
        return num_visited(num_views, epochs)
    indices, _ = train_val_indices(experiment.data, dataset.train.labels)
    values, counts = expected_counts(indices, dataset.train.labels).unique(return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return sum(count * num_visited(num_views, epochs * showings) for showings, count in pairs) / len(indices)


def _num_views(experiment: Experiment) -> int:
    """Return the number of views of each image, which must be finite."""
    count = experiment.data.views.count
    assert count is not None, "without a number of views there is no cache to plan"
    return count


def num_visited(num_views: int, epochs: float) -> float:
    """Return the expected number of distinct views per image, if each of `epochs` draws one of `num_views`."""
    return num_views * (1 - (1 - 1 / num_views) ** epochs)


def _epochs_to_train(plan: Plan, unsettled: Sequence[Run]) -> list[tuple[int, int]]:
    """Return (seed, epochs) of each run that reads the shared cache; of a search, of each trial and confirming run."""
    experiment = plan.experiment
    search, epochs = experiment.search, experiment.most_epochs
    if search is not None and experiment.needs:
        num_candidates = search.confirm + 1 if search.confirm else 0  # one is the experiment's default configuration
        confirming = [(seed, epochs) for seed in experiment.seeds] * num_candidates
        return [(search.trial_seed, epochs)] * search.num_trials + confirming
    return [(run.seed, run.recipe.epochs) for run in unsettled if _reads_shared_cache(plan, run)]


def _reads_shared_cache(plan: Plan, run: Run) -> bool:
    """Return whether the experiment's cache holds what the run needs. Some methods of a comparison need more."""
    has_classes = plan.cached_classes is None or run.method.works_with_top_classes
    return not plan.experiment.compare or (run.method.needs <= plan.experiment.cached_needs and has_classes)


def _plan_embedding_cache(
    plan: Plan, dataset: Dataset, unsettled: Sequence[Run], in_progress: Sequence[Run]
) -> PlannedCache | None:
    """Plan a comparison's second cache, with embeddings, if one of the runs `in_progress` started with one."""
    experiment = plan.experiment
    if experiment.teacher_source == "live" or all(_reads_shared_cache(plan, run) for run in in_progress):
        return None
    served = [run for run in unsettled if run.method.needs <= CACHEABLE and not _reads_shared_cache(plan, run)]
    by_seed = _max_epochs_by_seed([(run.seed, run.recipe.epochs) for run in served])
    return replace(_plan_cache(plan, dataset, by_seed, CACHEABLE), min_needs=frozenset({"embedding"}))


def _describe_other_runs(plan: Plan, unsettled: Sequence[Run], embedding_cache: PlannedCache | None) -> str:
    """Describe the teacher source of a comparison's runs that need more than the cache; '' without such runs."""
    others = [run for run in unsettled if not _reads_shared_cache(plan, run)]
    num_cached = sum(embedding_cache.serves(run) for run in others) if embedding_cache else 0
    num_live = len(others) - num_cached
    cached = f"logit cache with embeddings for {plural(num_cached, 'run')}, because one of them started with it"
    live = f"live for {plural(num_live, 'run')} whose methods need more"
    return "; ".join(([cached] if num_cached else []) + ([live] if num_live else []))


def _max_epochs_by_seed(epochs: Sequence[tuple[int, int]]) -> dict[int, int]:
    return {seed: count for count, seed in sorted((count, seed) for seed, count in epochs)}


def _plan_cache(plan: Plan, dataset: Dataset, by_seed: dict[int, int], needs: frozenset[Need]) -> PlannedCache:
    """Plan a cache that holds the outputs `needs`. by_seed: {seed: epochs}, whose views are filled."""
    experiment = plan.experiment
    count = _num_views(experiment)
    num_views = _num_shown(experiment, dataset, sum(by_seed.values()))
    holds_all_views = num_views >= NEARLY_ALL * count
    num_train = len(dataset.train.labels) - experiment.data.val_images
    limits = (experiment.data.student_images, experiment.data.train_images, num_train)
    num_images = min(limit for limit in limits if limit is not None)
    teachers = tuple(run for run in plan.runs if run.stage == "teacher")
    passes = len(teachers) * num_images * (count if holds_all_views else num_views)
    num_parts = max(1, min(num_images, round(passes / PASSES_PER_PART)))
    epochs = () if holds_all_views else tuple(sorted(by_seed.items()))
    width = _embedding_width(teachers[0], dataset) if "embedding" in needs else 0
    return PlannedCache(
        teachers,
        experiment.data,
        experiment.student.precision,
        epochs,
        holds_all_views,
        num_parts,
        width,
        is_balanced="balanced" in experiment.samplings,
        cached_classes=plan.cached_classes,
        temperatures=tuple(sorted({*USUAL_TEMPERATURES, *experiment.temperatures})),
        families=frozenset({experiment.family}),
    )


def _embedding_width(teacher: Run, dataset: Dataset) -> int:
    """Return the embedding's number of channels in a forward pass; the teacher may still be untrained."""
    model = models.build(teacher.model, images_of(dataset), seed=0)
    model.request({"embedding"})
    outputs = evaluation_outputs(model, dataset.train.images[:1])
    assert outputs.embedding is not None
    return outputs.embedding.shape[1]


def _why_impossible(plan: Plan) -> str:
    """Return why no logit cache can serve the experiment's runs, or ''."""
    experiment = plan.experiment
    if (more := experiment.needs - CACHEABLE) and not experiment.compare:
        needs = ", ".join(sorted(more))
        return f"the method needs the teacher's {needs}, and a logit cache holds only logits and embeddings"
    if plan.cached_classes is not None and (needing := experiment.methods_of_all_classes):
        is_for_some = experiment.compare and len(needing) < len(experiment.methods)
        all_classes = (
            f"method {needing[0]} reads the logits of all classes, and cached_classes = {plan.cached_classes}; "
            "--set cached_classes=all"
        )
        return experiment.why_never_cached if is_for_some else all_classes
    return experiment.why_never_cached


def _why_not_worth_it(experiment: Experiment, key: CacheKey, caches: Path, share: float) -> str:
    """Return why a cache that needs `share` of the live passes is not worth its size or time, or ''."""
    if key.teacher_sha256 and LogitCache.exists(caches, key):
        return ""
    cache = "a logit cache" + (" with embeddings" if key.embedding_width else "")
    if key.cached_classes is not None:
        cache += f" of the top {plural(key.cached_classes, 'class', 'classes')}"
    elif key.num_classes > ALL_CLASSES_UP_TO:
        reader = next((f", which {method} reads," for method in experiment.methods_of_all_classes), "")
        cache += f" of all {key.num_classes:,} classes{reader}"
    if key.size_bytes > MAX_CACHE_BYTES:
        return f"{cache} would need {disk_size(key.size_bytes)}"
    if key.size_bytes > _free_bytes(caches):
        return f"{cache} of {disk_size(key.size_bytes)} does not fit on the disk of the results"
    if share > WORTH_IT:
        return f"{cache} would still need {share:.0%} of them"
    return ""


def _free_bytes(folder: Path) -> int:
    while not is_there(folder):
        folder = folder.parent
    return shutil.disk_usage(folder).free


def teacher_identity(teachers: Sequence[RunFolder]) -> str:
    """Return the SHA-256 of the trained teachers' weights, in hex; with several, a digest of all.

    Raises DamagedFile if weights are not those that the teacher's run saved.
    """
    return teacher_digest([teacher.weights_sha256() for teacher in teachers])
