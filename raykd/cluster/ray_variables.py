"""The RAY_* variables of Ray's environment: which variables of the user's shell are kept, and raykd's settings for Ray.

Ray reads dozens of RAY_* variables (addresses, tokens, hooks, headers, a namespace). A variable left over from another
Ray cluster can send requests, and the token with them, to another machine, or change how an experiment runs. Every
process that raykd starts therefore has an environment without these variables, to which raykd adds what the process
needs. The user has three settings:

RAY_ADDRESS=HOST:PORT     run the experiment on that Ray cluster; RAY_AUTH_* and RAY_TLS_* are then kept, to connect
RAYKD_RAY_<name>=value    set RAY_<name>=value for Ray, if a site needs one of Ray's settings
RAYKD_START_TIMEOUT_S=s   how long Ray may take to start, on one machine or on each node of a Slurm job
"""

import math
from collections.abc import Mapping, MutableMapping

from raykd.errors import ConfigError, one_line, shortened

PREFIX, PASSED_ON = "RAY_", "RAYKD_RAY_"
ADDRESS = "RAY_ADDRESS"
LOOPBACK = ("127.0.0.1", "localhost")
# With each node Ray starts an idle Python worker per CPU, and all import Ray concurrently. raykd uses a few per run.
FEWER_WORKERS = {"RAY_worker_maximum_startup_concurrency": "16"}
# Slurm writes to CUDA_VISIBLE_DEVICES the numbers of the GPUs in the order of their PCI buses
# (https://slurm.schedmd.com/gres.html). By default CUDA numbers the fastest GPU first, and on a node with GPUs of
# several types it would use another one than the job's.
GPU_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
START_TIMEOUT_S = "180"  # 4 s on a local disk; minutes in a cold environment on a busy shared filesystem
# The variables with which a driver connects to RAY_ADDRESS. Ray sets the last one for a submitted experiment.
_CONNECTION_PREFIXES = ("RAY_AUTH_", "RAY_TLS_")
_CONNECTION = (ADDRESS, "RAY_USE_TLS", "RAY_COLOR_PREFIX", "RAY_JOB_CONFIG_JSON_ENV_VAR")
# With them OpenMP binds the first thread of each process to the first CPU, so that all runs would share that CPU.
PINNING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_NOT_PASSED_ON = (ADDRESS, "RAY_API_SERVER_ADDRESS", "RAY_AUTH_")  # RAYKD_RAY_* must not redirect requests


def address_in(environ: Mapping[str, str]) -> str | None:
    """Return the HOST:PORT in RAY_ADDRESS, or None if the command starts a private Ray cluster.

    Raises ConfigError for any other value. For 'auto' Ray would join any Ray cluster of this machine, and for other
    values it would import a module.
    """
    address = environ.get(ADDRESS) or "local"
    if address == "local":
        return None
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65_536
    if not host or not is_port or any(letter in host for letter in "/@?# \t\n"):
        raise ConfigError(
            f"RAY_ADDRESS = {address!r}: must be HOST:PORT of a running Ray cluster, such as 10.0.0.2:6379; unset it "
            "to start a private Ray cluster for this command"
        )
    return address


def without_ray(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of `environ` without RAY_* variables, except those that RAYKD_RAY_* variables set.

    It has the `proxy_exceptions` of this machine, and no variables that bind processes to CPUs.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(PREFIX) and name not in PINNING}
    passed_on = {name.removeprefix("RAYKD_"): value for name, value in environ.items() if name.startswith(PASSED_ON)}
    settings = {name: value for name, value in passed_on.items() if not name.startswith(_NOT_PASSED_ON)}
    return kept | settings | proxy_exceptions(environ)


def pinning(environ: Mapping[str, str]) -> str:
    """Return 'OMP_PROC_BIND=true: ignored, ...' for the variables that bind processes to CPUs, '' if there are none."""
    found = ", ".join(f"{name}={one_line(shortened(environ[name]))}" for name in PINNING if name in environ)
    return f"{found}: ignored, because all runs would compute on the same CPU" if found else ""


def clear(environ: MutableMapping[str, str]) -> None:
    """Remove RAY_* variables in place, except those that connect to RAY_ADDRESS. Raises ConfigError."""
    kept = without_ray(environ)
    if address := address_in(environ):
        kept |= {
            name: value
            for name, value in environ.items()
            if name.startswith(_CONNECTION_PREFIXES) or name in _CONNECTION
        }
        kept |= proxy_exceptions(environ, address.rpartition(":")[0])
    for name in set(environ) - set(kept):
        del environ[name]
    environ.update(kept)


def proxy_exceptions(environ: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """Return `no_proxy` and `NO_PROXY`, both with the hosts that either lists, this machine and `hosts`.

    Ray's clients send the token to its dashboard, and must not send it through a proxy. Most programs read only one of
    the two variables.
    """
    listed = ",".join(environ.get(variable, "") for variable in ("no_proxy", "NO_PROXY")).split(",")
    names = dict.fromkeys(name for name in (*map(str.strip, listed), *LOOPBACK, *hosts) if name)
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(names))


def start_timeout_s(environ: Mapping[str, str]) -> float:
    """Return RAYKD_START_TIMEOUT_S, by default 180 s. Raises ConfigError unless it is a positive number."""
    text = environ.get("RAYKD_START_TIMEOUT_S") or START_TIMEOUT_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"RAYKD_START_TIMEOUT_S = '{text}': must be a number of seconds greater than 0, such as 180")
    return seconds
