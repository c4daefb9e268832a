"""Choose the epoch whose weights a run keeps as its best: the highest validation top-1, the earlier of equal ones.

With a `patience`, a run ends after that many epochs without a new best one (`why_stopped`).

The test split chooses nothing. loop.py calls `keep_if_best` after each epoch, and final_evaluation.py evaluates these
weights.
"""

from collections.abc import Mapping, Sequence

from raykd.errors import plural
from raykd.spec.recipe import Recipe
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


def why_stopped(recipe: Recipe, history: Sequence[Mapping[str, float]]) -> str:
    """Return why a run ends after the epochs in `history`, before its recipe's last one; '' if it continues or is done.

    It depends on the history alone, so that an interrupted run that resumes ends with the same epoch.
    """
    if recipe.patience is None or not history or _num_trained(history) >= recipe.epochs:
        return ""
    best = best_row(history)
    if history[-1]["epoch"] - best["epoch"] < recipe.patience:
        return ""
    return (
        f"no better validation top-1 than {best['val_top1']:.1f} % of epoch {int(best['epoch']) + 1} for "
        f"{plural(recipe.patience, 'epoch')}"
    )


def num_epochs(recipe: Recipe, history: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs of a run: those in `history` if it stopped early, else those of the recipe."""
    return _num_trained(history) if why_stopped(recipe, history) else recipe.epochs


def _num_trained(history: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs in `history`, which may have one twice."""
    return int(history[-1]["epoch"]) + 1
