"""The trackers of one command: a thread that copies run folders into them while the runs train.

    with Tracking(("mlflow",), results, log) as tracking:
        tracking.watch(family, lambda: folders)
        ...                                             # the runs train, in other processes or here
        tracking.attach(family, read_report)

The run folders are the only source: what a folder has and a tracker lacks is copied every COPY_EVERY_S seconds, in the
process that the user started. So training never waits for a tracker, no other node needs its package, its password or
its network, and one process writes its files. An epoch is copied once it is saved (training/hooks.py: at most
CHECKPOINT_EVERY_S later), so a run that resumes logs no epoch twice. What fails is logged once and tried again, by this
command and by later ones.
"""

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from filelock import Timeout

from raykd.disk.atomic import make_folder
from raykd.disk.file_lock import acquire, lock_at
from raykd.errors import Interrupted, reason_of
from raykd.spec.trackers import PACKAGES
from raykd.store.run_folder import RunFolder
from raykd.trackers.copier import Copier, Parent, Watched
from raykd.trackers.tracker import State, Tracker

Attachment = tuple[Sequence[Path], Mapping[str, float]]  # files, and values by name
FOLDER = ".trackers"  # in the results folder
COPY_EVERY_S = 5.0
CLOSE_S, CLOSE_INTERRUPTED_S = 60.0, 10.0  # how long a command waits at its end; Slurm soon kills a preempted one
ABORT_S = 2.0
_PASSWORD = re.compile(r"//[^/@\s]+@")  # user:password@ in a URL
LOCK_WAIT_S = 5.0


class Tracking:
    """Copies the runs of one command into its trackers. Nothing that a tracker does ends or delays the command."""

    def __init__(self, names: Iterable[str], results: Path, log: Callable[[str], None]) -> None:
        """names: all trackers of the experiment; those that training writes by itself are left out.

        results: an absolute path, as all others that the thread receives.
        """
        self._names = [name for name in names if name in PACKAGES]
        self._folder, self._log = results / FOLDER, log
        self._watched: list[Watched] = []
        self._attached: list[tuple[Parent, Callable[[], Attachment]]] = []
        self._copiers: dict[str, Copier] = {}
        self._failed: set[str] = set()  # trackers whose error is logged
        self._closing = threading.Event()
        self._end_state: State = "done"
        self._thread = threading.Thread(target=self._copy_until_closed, name="raykd-trackers", daemon=True)

    def watch(self, parent: Parent, find: Callable[[], Iterable[RunFolder]], are_trials: bool = False) -> None:
        """Copy the run folders that `find` returns, which is called in every pass."""
        self._watched.append(Watched(parent, find, are_trials))

    def attach(self, parent: Parent, read: Callable[[], Attachment]) -> None:
        """Store what `read` returns with the parent, at the end of the block."""
        self._attached.append((parent, read))

    def __enter__(self) -> Self:
        if self._names:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Copy the rest, for CLOSE_S at most. A thread that still waits for a server then ends with the process."""
        if not self._names:
            return
        if kind is not None:
            self._end_state = "interrupted" if issubclass(kind, Interrupted) else "failed"
        self._closing.set()
        limit_s = CLOSE_S if kind is None else CLOSE_INTERRUPTED_S
        self._thread.join(limit_s)
        if self._thread.is_alive():
            for name in self._names:
                self._note(name, f"not finished within {limit_s:.0f} s")
            for copier in list(self._copiers.values()):
                copier.tracker.abort()
            self._thread.join(ABORT_S)

    def _copy_until_closed(self) -> None:
        while not self._closing.wait(COPY_EVERY_S):
            self._copy_into_all(is_last=False)
        self._copy_into_all(is_last=True)
        for name, copier in self._copiers.items():
            try:
                copier.tracker.close()
            except Exception as error:  # noqa: BLE001 - a tracker's package may raise anything
                self._note(name, reason_of(error))

    def _copy_into_all(self, is_last: bool) -> None:
        for name in self._names:
            try:
                make_folder(self._folder)
                with acquire(lock_at(self._folder / ".lock"), LOCK_WAIT_S):
                    self._copy(name, is_last)
            except Timeout:  # another command is copying; the last pass of the later one copies what is missing
                continue
            except Exception as error:  # noqa: BLE001 - a tracker's package may raise anything
                self._note(name, reason_of(error))

    def _copy(self, name: str, is_last: bool) -> None:
        if name not in self._copiers:
            self._copiers[name] = Copier(make_tracker(name, self._folder))
        copier = self._copiers[name]
        copier.copy(list(self._watched), self._end_state if is_last else None)
        if is_last:
            for parent, read in self._attached:
                copier.attach(parent, *read())
            copier.end_parents(self._end_state)
            if self._attached:
                self._log(f"tracker {name}: {copier.tracker.where}")

    def _note(self, name: str, reason: str) -> None:
        """Log the first failure of a tracker. A password in the server's address is not logged."""
        if name not in self._failed:
            shown_reason = _PASSWORD.sub("//", reason)
            self._log(
                f"tracker {name} fails ({shown_reason}); training continues, and what is missing is added once it works"
            )
        self._failed.add(name)


def make_tracker(name: str, folder: Path) -> Tracker:
    """Return the tracker with this name, which writes local files to `folder`. Imports its package."""
    if name == "mlflow":
        from raykd.trackers.mlflow_tracker import MLflow

        return MLflow(folder)
    from raykd.trackers.wandb_tracker import WandB

    return WandB(folder)
