"""How long Ray may take to start, on one machine or on the nodes of a Slurm job."""

from collections.abc import Mapping

from raykd.errors import ConfigError

START_TIMEOUT_S = "180"  # 4 s on a local disk; a cold environment on a busy shared filesystem takes minutes


def start_timeout_s(environ: Mapping[str, str]) -> float:
    """RAYKD_START_TIMEOUT_S, 180 unless set. Raises: ConfigError when it is not a number of seconds."""
    text = environ.get("RAYKD_START_TIMEOUT_S") or START_TIMEOUT_S
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"RAYKD_START_TIMEOUT_S is '{text}': expected seconds, such as 180") from None
