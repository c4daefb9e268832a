"""A plan in this process alone, run after run: what `run_experiments` does on Ray, with torch alone."""

import time
from collections.abc import Callable

import torch

from raykd.data.types import Dataset
from raykd.spec.plan import Plan, Run
from raykd.store.run_store import RunStore
from raykd.training.hooks import NO_HOOKS, Hooks
from raykd.training.teacher.choose import PlannedCache, choose_teacher
from raykd.training.teacher.load import make_filler
from raykd.training.train_one import train_one


def train_plan(
    plan: Plan,
    dataset: Dataset,
    device: torch.device,
    store: RunStore,
    hooks: Hooks = NO_HOOKS,
    on_filled: Callable[[int, float], None] = lambda images, seconds: None,
) -> None:
    """Bring every run to its end, in order; those that are done, and views that are filled, are not done again.

    on_filled: receives the images that the teacher passed to fill a logit cache, and the seconds that it took.
    Raises Interrupted where `hooks.should_stop` returns true, in a run or while a cache is filled.
    """
    for run in plan.runs:
        folder = store.folder(run)
        if folder.status() == "done":
            continue
        reads_cache = bool(run.teachers) and folder.teacher_source_at_start != "live"
        cache = _filled(run, plan, dataset, device, store, hooks, on_filled) if reads_cache else None
        train_one(run, folder, dataset, device, store, cache, hooks)


def _filled(
    run: Run,
    plan: Plan,
    dataset: Dataset,
    device: torch.device,
    store: RunStore,
    hooks: Hooks,
    on_filled: Callable[[int, float], None],
) -> PlannedCache | None:
    """The logit cache that the plan wants, filled by the first run that asks for it; None for a live teacher."""
    trained = [other.name for other in plan.runs if store.status(other) == "done"]
    teachers = [store.folder(teacher) for teacher in run.teachers]
    teaching = choose_teacher(plan, dataset, trained, store.logit_caches, teachers)
    if teaching is None or teaching.cache is None:
        return None
    filler = make_filler(teaching.cache, store, dataset, device)
    began, images = time.monotonic(), 0
    for part in range(teaching.cache.num_parts):
        images += filler.fill(part, should_stop=hooks.should_stop)
    if images:
        on_filled(images, time.monotonic() - began)
    return teaching.cache
