"""Call a user's callbacks (spec/callback.py) around the epochs of a run. Nothing that they do fails the run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isnan
from typing import Any

from raykd.config import to_dict
from raykd.errors import Interrupted, RaykdError, reason_of
from raykd.spec.callback import Callback, RunInfo, RunOutcome
from raykd.spec.plan import Run
from raykd.spec.set_paths import settings_of
from raykd.store.run_folder import RunFolder
from raykd.training.checkpoint import progress_of
from raykd.training.hooks import EpochReport


class RunCallbacks:
    """The callbacks of one run, each with an empty state. `log` receives the first error of each one."""

    def __init__(self, callbacks: Sequence[Callback], run: Run, folder: RunFolder, log: Callable[[str], None]) -> None:
        self._callbacks, self._run, self._folder = [replace(callback) for callback in callbacks], run, folder
        self._log = log
        self._failed: set[int] = set()  # positions of the callbacks whose error is logged
        self._best: tuple[int | None, float | None] = (None, None)  # the epoch that is kept, and its validation top-1

    def start(self) -> None:
        """Call `on_run_start`. A run that resumes has its best epoch in the checkpoint."""
        if not self._callbacks:
            return
        run = self._run
        progress = progress_of(self._folder.checkpoint, run.fingerprint)
        if progress is not None and progress.best_epoch >= 0:
            self._best = progress.best_epoch, _known(progress.best_val_top1)
        info = RunInfo(run.name, run.family, run.stage, run.seed, self._folder.path)
        self._call("on_run_start", info, settings_of(to_dict(run), run.stage))

    def epoch(self, report: EpochReport) -> None:
        self._best = report.best_epoch, _known(report.best_val_top1)
        self._call("on_epoch", report)

    def end(self, error: BaseException | None = None) -> None:
        """Call `on_run_end`. error: what ended the training, None if it is done."""
        if error is None:
            best = self._folder.require_record().best
            self._best = (best.epoch, best.val_top1) if best else self._best
            self._call("on_run_end", RunOutcome(self._run.name, "done", *self._best))
            return
        status = "interrupted" if isinstance(error, Interrupted) else "failed"
        reason = str(error) if isinstance(error, RaykdError) else reason_of(error)
        self._call("on_run_end", RunOutcome(self._run.name, status, *self._best, reason))

    def _call(self, name: str, *arguments: Any) -> None:
        for position, callback in enumerate(self._callbacks):
            try:
                with callback.errors_of(f"{name}()"):
                    getattr(callback, name)(*arguments)
            except RaykdError as error:
                if position not in self._failed:
                    self._log(f"{error}; the run continues")
                self._failed.add(position)


def _known(val_top1: float) -> float | None:
    """Return None for the NaN of a run without validation images."""
    return None if isnan(val_top1) else val_top1


@contextmanager
def calling(
    callbacks: Sequence[Callback], run: Run, folder: RunFolder, log: Callable[[str], None]
) -> Iterator[RunCallbacks]:
    """Call `on_run_start`, yield the object that receives epochs, and call `on_run_end` however the block ends.

    A run that is already done calls nothing.
    """
    called = RunCallbacks(callbacks if callbacks and folder.status() != "done" else (), run, folder, log)
    called.start()
    try:
        yield called
    except Exception as error:
        called.end(error)
        raise
    called.end()
