"""The gains of a search's winner over the default configuration and over the baseline, paired by seed.

The winner was selected with the same seeds. Its intervals are therefore widened for the number of configurations from
which it was selected, see `comparisons` in paired_interval.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raykd.report.stats.metrics import SEARCH_METRICS
from raykd.report.stats.paired_interval import Pair, PairedGain, paired_gain
from raykd.store.records import ConfirmationRecord


@dataclass(frozen=True)
class WinnerGains:
    """The gains of the winner. They are positive if it is better, also for a loss, and None without results to compare.

    over_default: also None if the default configuration is the winner.
    """

    over_default: PairedGain | None
    over_baseline: PairedGain | None


def winner_gains(confirmation: ConfirmationRecord) -> WinnerGains:
    """Return both gains with their widened intervals.

    The interval over the default configuration is widened for the configurations that the search found. The interval
    over the baseline is widened for all candidates, including the default. Failed candidates are included in both.
    """
    default = confirmation.default
    over_default = None
    if default is not None and default is not confirmation.best_candidate:
        over_default = _gain(confirmation, default.values, confirmation.num_found)
    over_baseline = _gain(confirmation, confirmation.baseline.values, len(confirmation.candidates))
    return WinnerGains(over_default, over_baseline)


def _gain(confirmation: ConfirmationRecord, reference: Sequence[float], comparisons: int) -> PairedGain | None:
    """Return the gain over `reference`, which has one value for each seed, or none after a failure."""
    if not reference:
        return None
    lower_is_better = SEARCH_METRICS[confirmation.metric].lower_is_better
    triples = zip(confirmation.seeds, reference, confirmation.best_candidate.values, strict=True)
    return paired_gain([Pair(*triple, lower_is_better) for triple in triples], "the winner", comparisons)
