"""Which RAY_* variables of the user's shell reach Ray: none, except those that name a Ray of the user's own.

Ray reads dozens of them (addresses, tokens, hooks, headers, a namespace). One that is left over from another Ray sends
requests, and the token with them, to another machine, or changes how an experiment runs. So every process that raykd
starts gets an environment without them, and raykd sets what it needs.

RAY_ADDRESS=HOST:PORT     an experiment runs on that Ray; RAY_AUTH_* and RAY_TLS_* then say how to enter it
RAYKD_RAY_<name>=value    Ray gets RAY_<name>=value: for a setting of Ray's that a site needs

How long Ray may take to start, on one machine or on the nodes of a Slurm job.
"""

import math
from collections.abc import Mapping, MutableMapping

from raykd.errors import ConfigError

PREFIX, PASSED_ON = "RAY_", "RAYKD_RAY_"
ADDRESS = "RAY_ADDRESS"
LOOPBACK = ("127.0.0.1", "localhost")
# What a driver needs to enter the Ray that RAY_ADDRESS names. Ray sets the last one for a submitted experiment.
_ENTRY_PREFIXES = ("RAY_AUTH_", "RAY_TLS_")
_PLACES = (ADDRESS, "RAY_API_SERVER_ADDRESS", "RAY_AUTH_")
_ENTRY = (ADDRESS, "RAY_USE_TLS", "RAY_COLOR_PREFIX", "RAY_JOB_CONFIG_JSON_ENV_VAR")


def address_in(environ: Mapping[str, str]) -> str | None:
    """HOST:PORT of the Ray that RAY_ADDRESS names; None when the command starts a private one.

    Raises: ConfigError for any other value: for 'auto' Ray would join any Ray of this machine, for others import a
    module.
    """
    address = environ.get(ADDRESS) or "local"
    if address == "local":
        return None
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65_536
    if not host or not is_port or any(letter in host for letter in "/@?# \t\n"):
        raise ConfigError(
            f"RAY_ADDRESS = {address!r}: must be HOST:PORT of a running Ray, such as 10.0.0.2:6379; unset it to start "
            "a private Ray for this command"
        )
    return address


def without_ray(environ: Mapping[str, str]) -> dict[str, str]:
    """A copy of `environ` without RAY_* variables, except those that RAYKD_RAY_* variables set."""
    kept = {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
    passed_on = {name.removeprefix("RAYKD_"): value for name, value in environ.items() if name.startswith(PASSED_ON)}
    settings = {name: value for name, value in passed_on.items() if not name.startswith(_PLACES)}
    return kept | settings | proxy_exceptions(environ)


def clear(environ: MutableMapping[str, str]) -> None:
    """Remove RAY_* variables from `environ` in place, keeping those needed to enter the Ray that RAY_ADDRESS names.

    Raises: ConfigError as `address_in` does.
    """
    kept = without_ray(environ)
    if address := address_in(environ):
        kept |= {name: value for name, value in environ.items() if name.startswith(_ENTRY_PREFIXES) or name in _ENTRY}
        kept |= proxy_exceptions(environ, address.rpartition(":")[0])
    for name in set(environ) - set(kept):
        del environ[name]
    environ.update(kept)


def proxy_exceptions(environ: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """`no_proxy` and `NO_PROXY`, both with what either lists, this machine and `hosts`.

    Ray's clients send the token to its dashboard. Most programs read only one of the two variables.
    """
    listed = ",".join(environ.get(variable, "") for variable in ("no_proxy", "NO_PROXY")).split(",")
    names = dict.fromkeys(name for name in (*map(str.strip, listed), *LOOPBACK, *hosts) if name)
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(names))


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
