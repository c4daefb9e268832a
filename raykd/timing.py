"""What training/ writes of times and report/ reads: how long passes over a model took, how often usage is written."""

from dataclasses import dataclass

WRITE_EVERY_S = 30.0  # of usage/*.json, so what a kill can cost it


@dataclass(frozen=True)
class Timing:
    """Median, 10th and 90th percentile over `passes` of batch_size images each."""

    median: float
    p10: float
    p90: float
    passes: int
    batch_size: int
