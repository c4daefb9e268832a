"""Train the runs of a plan one after another in this process, without Ray."""

import time
from collections.abc import Callable

import torch

from raykd.data.types import Dataset
from raykd.spec.plan import Plan
from raykd.store.results_folder import in_use
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
    on_filled: Callable[[int, float], None] = lambda num_passes, seconds: None,
) -> None:
    """Train every run of the plan that is not done, after filling the logit cache that it reads.

    on_filled: called after a cache was filled, with the number of teacher passes and the seconds.
    Raises Interrupted when `hooks.should_stop` returns true, in a run or while a cache is filled.
    """
    with in_use(store.results):  # meanwhile `raykd clean` removes no cache
        trained = {run.name for run in plan.runs if store.status(run) == "done"}
        for run in (run for run in plan.runs if run.name not in trained):
            cache = None
            if run.teachers and store.folder(run).teacher_source_at_start != "live":
                teachers = [store.folder(teacher) for teacher in run.teachers]
                choice = choose_teacher(plan, dataset, trained, store.logit_caches, teachers)
                cache = next((cache for cache in choice.caches if cache.serves(run)), None) if choice else None
            if cache is not None:
                _fill(cache, dataset, device, store, hooks, on_filled)
            train_one(run, store.folder(run), dataset, device, store, cache, hooks)
            trained.add(run.name)


def _fill(
    cache: PlannedCache,
    dataset: Dataset,
    device: torch.device,
    store: RunStore,
    hooks: Hooks,
    on_filled: Callable[[int, float], None],
) -> None:
    """Fill what is missing in `cache`; a cache that an earlier run read is full."""
    filler, started = make_filler(cache, store, dataset, device), time.monotonic()
    num_passes = sum(filler.fill(part, should_stop=hooks.should_stop) for part in range(cache.num_parts))
    if num_passes:
        on_filled(num_passes, time.monotonic() - started)
