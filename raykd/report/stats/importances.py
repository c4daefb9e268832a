"""Which of the searched fields moves the metric: Optuna's fANOVA (Hutter et al. 2014, ICML) over a search's trials.

A forest is fitted to (setting, metric), and its variance is split into the share of each field: fractions that sum
to 1. A share says that the field matters somewhere in the searched space, not which way, and how sure it is depends
on the number of trials.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

from raykd.report.read.search_records import SearchSummary, TrialSummary
from raykd.spec.search import Choice, Integer, Space, Uniform

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LEAST_TRIALS = 4
LEAST_DONE = 2 / 3  # of the trials that ended: where more were stopped, those that are done are a selection
SEED = 0


@dataclass(frozen=True)
class Importances:
    """shares: of each field's dotted path, the largest first.

    after: epochs after which the trials' metric was taken; None where it is that of their end.
    """

    shares: Mapping[str, float]
    metric: str
    num_trials: int
    after: int | None


def importances_of(summary: SearchSummary) -> Importances | None:
    """None of fewer than LEAST_TRIALS trials, of one field, and where the metric is the same in all trials."""
    after, values = _values_of(summary)
    if len(values) < LEAST_TRIALS or len(summary.search.space) < 2 or len({value for _, value in values}) == 1:
        return None
    shares = _fanova(summary.search.space, values)
    return Importances(shares, summary.search.metrics[0], len(values), after) if shares else None


def _values_of(summary: SearchSummary) -> tuple[int | None, list[tuple[Mapping[str, Any], float]]]:
    """Settings with the metric at their end where most came so far, else after the epochs that each trial is left.

    Values of trials at different ages would tell the epochs that they had rather than their settings.
    """
    done = [trial for trial in summary.trials if trial.state == "done"]
    is_most = len(done) >= LEAST_DONE * summary.num_ended
    if (is_most and len(done) >= LEAST_TRIALS) or not summary.search.metrics[0].startswith("val_"):
        return None, [(trial.setting, trial.values[0]) for trial in done]
    grace = summary.search.grace_of(summary.epochs)
    at_grace = [(trial.setting, dict(trial.curve)[grace]) for trial in summary.trials if _came_to(trial, grace)]
    return grace, at_grace


def _came_to(trial: TrialSummary, epochs: int) -> bool:
    return trial.state != "failed" and epochs in dict(trial.curve)


def _fanova(spaces: Mapping[str, Space], values: list[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    import optuna  # here: they take longer to import than a report without a search to write
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    distributions = {path: _distribution(space) for path, space in spaces.items()}
    study = optuna.create_study()  # in memory
    for setting, value in values:
        drawn = {path: _as_drawn(space, setting[path]) for path, space in spaces.items()}
        study.add_trial(optuna.trial.create_trial(params=drawn, distributions=distributions, value=value))
    try:
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=SEED))
    except RuntimeError:  # no tree found anything to split
        return {}
    return {path: float(share) for path, share in shares.items()}


def _distribution(space: Space) -> "BaseDistribution":
    """Of `_as_drawn`'s values. fANOVA itself weighs a field's values evenly, so a log scale has to be in them."""
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


def _as_drawn(space: Space, value: Any) -> Any:
    return log(value) if getattr(space, "log", False) else value
