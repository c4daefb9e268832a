"""Choose the epoch whose weights a run keeps as its best: the highest validation top-1, the earlier of equal ones.

The test split chooses nothing. loop.py calls `keep_if_best` after each epoch, and final_evaluation.py evaluates what
was kept.
"""

from collections.abc import Mapping, Sequence

from raykd.training.training_step import TrainState


def keep_if_best(training: TrainState, epoch: int, val_top1: float) -> None:
    """Copy the student's weights to `training.best` if `val_top1`, in percent, is the highest so far."""
    progress = training.progress
    if val_top1 > progress.best_val_top1:
        progress.best_epoch, progress.best_val_top1 = epoch, val_top1
        weights = training.objective.student.network.state_dict()
        training.best = {name: tensor.detach().clone() for name, tensor in weights.items()}


def best_row(history: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Return the row of the best epoch, by the same rule. Rows are in the order of epochs; a repeated one is equal."""
    return max(history, key=lambda row: row["val_top1"])  # the first of equal ones
