"""How long Ray may take to start, on one machine or on the nodes of a Slurm job."""

import math
from collections.abc import Mapping

from raykd.errors import ConfigError

START_TIMEOUT_S = "180"  # 4 s on a local disk; a cold environment on a busy shared filesystem takes minutes


def start_timeout_s(environ: Mapping[str, str]) -> float:
    """RAYKD_START_TIMEOUT_S, 180 unless set. Raises ConfigError where it is not a positive number of seconds."""
    text = environ.get("RAYKD_START_TIMEOUT_S") or START_TIMEOUT_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"RAYKD_START_TIMEOUT_S is '{text}': expected seconds above 0, such as 180")
    return seconds
