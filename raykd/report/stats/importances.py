"""The importance of each searched field for the metric: Optuna's fANOVA (Hutter et al. 2014, ICML) over the trials.

A random forest is fitted to (configuration, metric), and its variance is split into shares of the fields. The shares
sum to 1. A large share means that the field matters somewhere in the search space; it does not show a direction. How
reliable it is depends on the number of trials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

from raykd.errors import plural
from raykd.report.read.search_results import SearchSummary, TrialSummary
from raykd.spec.search import Choice, Integer, Space, Uniform

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_TRIALS = 4
MIN_DONE = 2 / 3  # smallest fraction of done trials; with more pruned trials the done ones are a biased selection
SEED = 0
Scored = Sequence[tuple[TrialSummary, float]]  # trials with their first metric


@dataclass(frozen=True)
class Importances:
    """The importances of the searched fields for `metric`.

    shares: by dotted path, the largest first. after: epochs after which the metric was read; None for the end.
    """

    shares: Mapping[str, float]
    metric: str
    num_trials: int
    after: int | None


def importances_of(summary: SearchSummary) -> Importances | None:
    """Return the importances; None with fewer than MIN_TRIALS trials, one field, or equal values in all trials."""
    after, values = comparable_values(summary)
    if len(values) < MIN_TRIALS or len(summary.search.space) < 2 or len({value for _, value in values}) == 1:
        return None
    shares = _fanova(summary.search.space, values)
    return Importances(shares, summary.search.metrics[0], len(values), after) if shares else None


def comparable_values(summary: SearchSummary) -> tuple[int | None, Scored]:
    """Return the trials with their metric: at the end if most trials are done, else after the grace epochs.

    All values are read after the same number of epochs, which is returned first, None for the end. Otherwise they would
    show the epochs, not the configurations.
    """
    done = [trial for trial in summary.trials if trial.state == "done"]
    is_most = len(done) >= MIN_DONE * summary.num_ended
    if (is_most and len(done) >= MIN_TRIALS) or not summary.search.metrics[0].startswith("val_"):
        return None, [(trial, trial.values[0]) for trial in done]
    grace = summary.search.grace_of(summary.record.epochs)
    curves = [(trial, dict(trial.curve)) for trial in summary.trials if trial.state != "failed"]
    return grace, [(trial, curve[grace]) for trial, curve in curves if grace in curve]


def epochs_in_words(after: int | None) -> str:
    """Return when the values of `comparable_values` were read: 'at the last epoch', or 'after 3 epochs'."""
    return "at the last epoch" if after is None else f"after {plural(after, 'epoch')}"


def _fanova(spaces: Mapping[str, Space], values: Scored) -> dict[str, float]:
    import optuna  # here: its import takes longer than writing a report without a search
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    distributions = {path: _distribution(space) for path, space in spaces.items()}
    study = optuna.create_study()  # kept in memory
    for trial, value in values:
        sampled = {path: _as_sampled(space, trial.configuration[path]) for path, space in spaces.items()}
        study.add_trial(optuna.trial.create_trial(params=sampled, distributions=distributions, value=value))
    try:
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=SEED))
    except RuntimeError:  # no tree of the forest has a split
        return {}
    return {path: float(share) for path, share in shares.items()}


def _distribution(space: Space) -> "BaseDistribution":
    """Return the distribution of `_as_sampled` values: logarithms for a log scale, as fANOVA assumes linear scales."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match space:
        case Uniform(low, high, True) | Integer(low, high, True):
            return FloatDistribution(log(low), log(high))
        case Uniform(low, high, _):
            return FloatDistribution(low, high)
        case Integer(low, high, _):
            return IntDistribution(low, high)
        case Choice(values):
            return CategoricalDistribution(values)
    raise AssertionError(f"no distribution for {space.title()}")


def _as_sampled(space: Space, value: Any) -> Any:
    return log(value) if getattr(space, "log", False) else value
