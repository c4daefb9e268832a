"""Choose the epoch whose weights a run keeps, by `Recipe.keep`.

    best   the highest validation top-1, the earlier of equal ones
    last   the last epoch, whatever its validation top-1; also for runs without validation images

With a `patience`, a run ends after that many epochs without a new best one (`why_stopped`).

The test split chooses nothing. loop.py calls `keep_weights` after each epoch, and final_evaluation.py evaluates these
weights.
"""

from collections.abc import Mapping, Sequence

from raykd.errors import plural
from raykd.spec.recipe import Recipe
from raykd.training.training_step import TrainState


def keep_weights(training: TrainState, epoch: int, val_top1: float) -> None:
    """Copy the student's weights to `training.best` if the run keeps this epoch of those so far.

    val_top1: in percent; NaN without validation images.
    """
    progress = training.progress
    if training.run.recipe.keep == "last" or val_top1 > progress.best_val_top1:
        progress.best_epoch, progress.best_val_top1 = epoch, val_top1
        weights = training.objective.student.network.state_dict()
        training.best = {name: tensor.detach().clone() for name, tensor in weights.items()}


def kept_row(recipe: Recipe, history: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Return the row of the epoch that is kept, by the same rule.

    history: rows in the order of epochs; a repeated one is equal.
    """
    # max returns the first of equal ones.
    return history[-1] if recipe.keep == "last" else max(history, key=lambda row: row["val_top1"])


def why_stopped(recipe: Recipe, history: Sequence[Mapping[str, float]]) -> str:
    """Return why a run ends after the epochs in `history`, before its recipe's last one; '' if it continues or is done.

    It depends on the history alone, so that an interrupted run that resumes ends with the same epoch.
    """
    if recipe.patience is None or not history or _num_trained(history) >= recipe.epochs:
        return ""
    best = kept_row(recipe, history)  # a patience requires keep = best
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
