"""How long passes over a model took: what costs.json holds, written by training/ and read by report/."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Median, 10th and 90th percentile over `passes` of batch_size images each."""

    median: float
    p10: float
    p90: float
    passes: int
    batch_size: int
