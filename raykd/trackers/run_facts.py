"""What a tracker receives of a run folder, read from its files."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

from raykd.config.codec import read_record
from raykd.spec.set_paths import settings_of
from raykd.store.records import Metrics, RunRecord
from raykd.store.run_folder import RunFolder
from raykd.trackers.tracker import Epoch, State, TrackedRun
from raykd.training.tensorboard import BEST, scalars_of

Stamp = tuple[tuple[int, int], ...]


def stamp_of(folder: RunFolder) -> Stamp:
    """Return time and size of the files that a tracker copies, which change whenever they are replaced."""
    return tuple(_stamp(path) for path in (folder.record_path, folder.history_path, folder.test))


def _stamp(path: Any) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def tracked_run(record: RunRecord, name: str, kind: str, group: str) -> TrackedRun:
    """Return the run that `record` describes, under the name and kind that trackers show."""
    started = datetime.fromisoformat(record.started).timestamp()
    settings = settings_of(record.config, record.stage)
    return TrackedRun(name, kind, group.partition("/")[0], group, settings, started)


def epochs_of(history: Sequence[Mapping[str, Any]], keeps_last: bool) -> list[Epoch]:
    """Return the epochs in the rows of history.parquet. keeps_last: whether the run keeps its last epoch."""
    tops = [row["val_top1"] for row in history]  # NaN without validation images
    best = tops if keeps_last else accumulate(tops, max)
    return [
        Epoch(int(row["epoch"]), row["seconds"], scalars_of(row, best_val_top1))
        for row, best_val_top1 in zip(history, best, strict=True)
    ]


def state_of(record: RunRecord, folder: RunFolder, is_last: bool) -> State:
    """Return the state of a run. is_last: whether the command ends, so that a run that no process trains is left."""
    if record.status == "running":
        return "interrupted" if is_last and not folder.is_held() else "running"
    return record.status


def results_of(record: RunRecord, folder: RunFolder, has_epochs: bool) -> dict[str, float]:
    """Return the results of a finished run: its best epoch, and the metrics of the test split once they are known."""
    test = read_record(Metrics, folder.test)
    results = {f"test/{name}": value for name, value in test.numbers.items()} if test else {}
    if record.best is not None and record.best.val_top1 is not None and not has_epochs:  # imported weights
        results[BEST] = record.best.val_top1
    if record.best is not None and record.best.epoch is not None:
        results["best_epoch"] = record.best.epoch
    return results
