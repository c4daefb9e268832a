"""Which runs trained at the same time on the same machine, so that their times depend on each other."""

from collections.abc import Sequence
from datetime import datetime

from raykd.report.read.run_results import ENDED, RunResult


def count_sharing(runs: Sequence[RunResult]) -> tuple[int, int]:
    """Return how many of `runs` have ended with a known time and machine, and how many of these overlapped another.

    A run lasts from its first start to its end, so one that was interrupted also counts in between.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        if run.state in ENDED and (span := _span(run)):
            machine, start, end = span
            spans.setdefault(machine, []).append((start, end))
    num_sharing = sum(_num_overlapping(sorted(group)) for group in spans.values())
    return sum(map(len, spans.values())), num_sharing


def _span(run: RunResult) -> tuple[str, float, float] | None:
    """Return the machine of a run, and its start and end in seconds since 1970; None if one of these is unknown."""
    if run.record is None or run.record.host is None or run.record.ended is None:
        return None
    try:
        start, end = (datetime.fromisoformat(time).timestamp() for time in (run.record.started, run.record.ended))
    except (OSError, OverflowError, ValueError):  # not a time, or not one since 1970
        return None
    return (run.record.host, start, end) if start <= end else None


def _num_overlapping(spans: Sequence[tuple[float, float]]) -> int:
    """Return how many of the spans, sorted by their starts, overlap another.

    Times are whole seconds: a run that starts in the second in which another ends does not overlap it.
    """
    overlapping: set[int] = set()
    longest: int | None = None  # the span that ends last among those before
    for place, (start, end) in enumerate(spans):
        if longest is not None and start < spans[longest][1]:
            overlapping |= {place, longest}
        if longest is None or end > spans[longest][1]:
            longest = place
    return len(overlapping)
