"""The gains of a search's winner over the default configuration and over the baseline, paired by seed.

The winner was selected with these same seeds, so its intervals are widened by the number of configurations that it was
selected from: see `comparisons` in paired_interval.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raykd.report.stats.metrics import SEARCH_METRICS
from raykd.report.stats.paired_interval import Pair, PairedGain, paired_gain
from raykd.store.records import ConfirmationRecord

WINNER = "the winner"


@dataclass(frozen=True)
class WinnerGains:
    """Gains of the winner, positive where it is better, also for a loss. None where a side has no results.

    over_default is None too where the default configuration is the winner.
    """

    over_default: PairedGain | None
    over_baseline: PairedGain | None


def winner_gains(confirmation: ConfirmationRecord) -> WinnerGains:
    """Return both gains with their widened intervals.

    The winner over the default configuration was selected from the configurations that the search found; the winner
    over the baseline was selected from all candidates, the default included. Candidates that failed were tried, and
    count.
    """
    default = confirmation.default
    over_default = None
    if default is not None and default is not confirmation.best_candidate:
        over_default = _gain(confirmation, default.values, confirmation.num_found)
    over_baseline = _gain(confirmation, confirmation.baseline.values, len(confirmation.candidates))
    return WinnerGains(over_default, over_baseline)


def _gain(confirmation: ConfirmationRecord, reference: Sequence[float], comparisons: int) -> PairedGain | None:
    if not reference:
        return None
    less_is_better = SEARCH_METRICS[confirmation.metric].less_is_better
    triples = zip(confirmation.seeds, reference, confirmation.best_candidate.values, strict=True)
    return paired_gain([Pair(*triple, less_is_better) for triple in triples], WINNER, comparisons)
