"""Train the runs of a plan one after another in this process, without Ray."""

import time
from collections.abc import Callable, Collection

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
    """Train every run of the plan that is not done, after filling the logit cache that it reads.

    on_filled: called after a cache was filled, with the number of teacher passes and the seconds.

    Raises Interrupted when `hooks.should_stop` returns true, in a run or while a cache is filled.
    """
    trained = {run.name for run in plan.runs if store.status(run) == "done"}
    for run in plan.runs:
        if run.name in trained:
            continue
        reads_cache = bool(run.teachers) and store.folder(run).teacher_source_at_start != "live"
        cache = _planned_cache(run, plan, dataset, store, trained) if reads_cache else None
        if cache is not None:
            _fill(cache, dataset, device, store, hooks, on_filled)
        train_one(run, store.folder(run), dataset, device, store, cache, hooks)
        trained.add(run.name)


def _planned_cache(
    run: Run, plan: Plan, dataset: Dataset, store: RunStore, trained: Collection[str]
) -> PlannedCache | None:
    """Return the logit cache that `run` reads; None for a live teacher."""
    teachers = [store.folder(teacher) for teacher in run.teachers]
    choice = choose_teacher(plan, dataset, trained, store.logit_caches, teachers)
    return None if choice is None else choice.cache


def _fill(
    cache: PlannedCache,
    dataset: Dataset,
    device: torch.device,
    store: RunStore,
    hooks: Hooks,
    on_filled: Callable[[int, float], None],
) -> None:
    """Fill what is missing in `cache`; for the second run that reads it nothing is left."""
    filler, started = make_filler(cache, store, dataset, device), time.monotonic()
    num_passes = sum(filler.fill(part, should_stop=hooks.should_stop) for part in range(cache.num_parts))
    if num_passes:
        on_filled(num_passes, time.monotonic() - started)
