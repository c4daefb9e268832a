"""Train one run in its folder. A Ray Train worker, a trial of a search and the script without Ray all call this.

    train_one(run, folder, dataset, device, RunStore(results), logit_cache, Hooks(on_epoch, should_stop))

The steps: lock the folder, choose the teacher, train, and write TensorBoard files and usage if requested.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from raykd.data.types import Dataset
from raykd.disk.lookup import is_file
from raykd.errors import RunFailed, RunLocked
from raykd.spec.callback import Callback
from raykd.spec.plan import Run
from raykd.store.results_folder import in_use
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.callbacks import calling
from raykd.training.failure import explaining_teacher
from raykd.training.group import SINGLE_WORKER, Group, require_separate_gpus
from raykd.training.hooks import NO_HOOKS, EpochReport, Hooks
from raykd.training.loop import WRITER_WAIT_S, fit
from raykd.training.teacher.choose import PlannedCache
from raykd.training.teacher.load import load_teacher
from raykd.training.tensorboard import TensorBoard
from raykd.training.usage import record_usage


@dataclass(frozen=True)
class Observers:
    """What follows the training of a run and does not change its result: TensorBoard, usage, the user's callbacks.

    tensorboard: whether to write TensorBoard files. hyperparameters: a trial's configuration for TensorBoard.
    gpus: the GPUs of this worker, whose usage is measured; None writes no usage file. callbacks: those of the user,
    whose errors `log` receives.
    """

    tensorboard: bool = False
    hyperparameters: Mapping[str, Any] | None = None
    gpus: float | None = None
    callbacks: tuple[Callback, ...] = ()
    log: Callable[[str], None] = print


NO_OBSERVERS = Observers()


def train_one(
    run: Run,
    folder: RunFolder,
    dataset: Dataset,
    device: torch.device,
    store: RunStore,
    cache: PlannedCache | None,
    hooks: Hooks = NO_HOOKS,
    group: Group = SINGLE_WORKER,
    observers: Observers = NO_OBSERVERS,
) -> None:
    """Start or resume `run` in `folder`, and train it to its end. All workers of `group` call this.

    cache: the logit cache that a distilled run reads, None for a live teacher. `hooks.on_epoch` is called in every
    worker; the first worker writes the files.

    Raises what `fit` raises; ConfigError for several workers on MIG instances of one node; OutOfMemory, with a remedy,
    when the teacher does not fit on the GPU; RunLocked in all workers when another process has locked the folder.
    """
    require_separate_gpus(group, device)
    with ExitStack() as stack:
        stack.enter_context(in_use(store.results))
        stack.enter_context(locked(folder, group))
        # Read by the first worker only: the filesystem of another node may still show an older file.
        source_at_start = group.on_first(lambda: folder.teacher_source_at_start)
        with explaining_teacher(run):
            teacher = load_teacher(run, source_at_start, cache, store, dataset, device)
        board = stack.enter_context(closing(TensorBoard(folder.tensorboard, observers.hyperparameters)))
        if observers.gpus is not None:
            is_started = group.is_first and (is_file(folder.checkpoint) or is_file(folder.best))
            stack.enter_context(record_usage(folder.usage(group.rank), device, observers.gpus, is_started))
        user_callbacks = observers.callbacks if group.is_first else ()
        callbacks = stack.enter_context(calling(user_callbacks, run, folder, observers.log))

        def on_epoch(report: EpochReport) -> None:
            if group.is_first and observers.tensorboard:
                board.add(report)
            callbacks.epoch(report)
            hooks.on_epoch(report)

        fit(run, dataset, folder, device, teacher, replace(hooks, on_epoch=on_epoch), group)


@contextmanager
def locked(folder: RunFolder, group: Group = SINGLE_WORKER, wait_s: float = WRITER_WAIT_S) -> Iterator[None]:
    """Hold the lock of `folder` in the first worker of `group`. The lock is reentrant within a process.

    Raises RunLocked in all workers when another process still holds it after `wait_s` seconds.
    """

    def lock() -> str:
        """Lock the folder. If that fails, return which process holds the lock, else ''."""
        try:
            stack.enter_context(folder.lock(wait_s))
        except RunFailed:
            return f"locked by {folder.holder}"
        return ""

    with ExitStack() as stack:
        if reason := group.on_first(lock):
            raise RunLocked(reason)
        yield
