"""The gains of a search's winner over the default configuration and over the baseline, paired by seed.

The winner was selected with the same seeds. Its intervals are therefore widened for the number of configurations from
which it was selected, see `comparisons` in paired_interval.py.
"""

from collections.abc import Sequence

from raykd.report.stats.metrics import SEARCH_METRICS
from raykd.report.stats.paired_interval import Pair, PairedGain, paired_gain
from raykd.store.records import ConfirmationRecord


def gain_over_default(confirmation: ConfirmationRecord) -> PairedGain | None:
    """Return the winner's gain over the default configuration, which is positive if the winner is better.

    Its interval is widened for the configurations that the search found, failed ones included. None without results to
    compare, or if the default configuration is the winner.
    """
    default = confirmation.default
    if default is None or default is confirmation.best_candidate:
        return None
    return _gain(confirmation, default.values, confirmation.num_found)


def gain_over_baseline(confirmation: ConfirmationRecord) -> PairedGain | None:
    """Return the winner's gain over the baseline; None without results to compare.

    Its interval is widened for all candidates: those that the search found, and the default configuration.
    """
    return _gain(confirmation, confirmation.baseline.values, len(confirmation.candidates))


def _gain(confirmation: ConfirmationRecord, reference: Sequence[float], comparisons: int) -> PairedGain | None:
    """Return the gain over `reference`, which has one value for each seed, or none after a failure."""
    if not reference:
        return None
    lower_is_better = SEARCH_METRICS[confirmation.metric].lower_is_better
    triples = zip(confirmation.seeds, reference, confirmation.best_candidate.values, strict=True)
    return paired_gain([Pair(*triple, lower_is_better) for triple in triples], "the winner", comparisons)
