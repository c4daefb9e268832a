"""The Ray cluster of one command: the one that RAY_ADDRESS names, as in a Slurm job, or a private one on this machine.

A script or notebook that has called `ray.init` uses its Ray cluster. All other RAY_* variables of the shell are ignored
(raykd/cluster/ray_variables.py).
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from raykd.cluster import ray_variables
from raykd.cluster.group_signals import blocked_in_children, killed_on_error, quick_end
from raykd.cluster.private_folders import remove_abandoned_below, remove_old_sessions
from raykd.cluster.private_ray import commands_folder, private_folder, write_current_cluster
from raykd.cluster.ray_internals import SLOW_START
from raykd.cluster.ray_token import make_token, private_environment
from raykd.cluster.ray_variables import start_timeout_s
from raykd.disk.lookup import find
from raykd.errors import ConfigError, RayNotStarted

_SETTINGS = {
    # Train polls its workers at this interval. With the default of 2 s each trainer would end 3.5 s later.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # The wait for resources, which are free already unless a node is lost; then fewer workers start.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
    # The watcher would be one more process per trainer. The queue requests a stop.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's framed tables
    # The search writes its own files, and the command handles the signals.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    **ray_variables.FEWER_WORKERS,
    **ray_variables.GPU_ORDER,
}
_PREFIXES, _NAMES = (
    ("RAY_", "TUNE_"),
    ("TMPDIR", "no_proxy", "NO_PROXY", *ray_variables.PINNING, *ray_variables.GPU_ORDER),
)  # the variables that a session changes
CODE = Path(__file__).parents[2]  # the folder that raykd is imported from
ANSWER_S = 10.0

_log = logging.getLogger(__name__)
_token = cache(make_token)  # Ray caches the token that it read, so all sessions of a process share one
_open: list[str | None] = []  # the dashboard of the session that this process is in


@contextmanager
def ray_session() -> Iterator[str | None]:
    """Connect to Ray, yield the dashboard's address (None if there is none), and disconnect at the end.

    A nested session uses the Ray cluster of the outer session. If this process has called `ray.init` itself, the
    session uses that Ray cluster and stays connected to it. At the end the environment is as it was before.

    Raises ConfigError when RAY_ADDRESS is not HOST:PORT, no Ray cluster answers there, or RAYKD_START_TIMEOUT_S is not
    a time; RayNotStarted when no Ray cluster can be started.
    """
    if _open:
        yield _open[-1]
        return
    with _kept_environment(), _session_of_connection() if _is_connected() else _new_session() as dashboard:
        yield dashboard


@contextmanager
def _session_of_connection() -> Iterator[str | None]:
    """Yield the dashboard's address of the Ray cluster that this process is connected to."""
    _set_defaults()
    yield _dashboard_of_connection()


@contextmanager
def _new_session() -> Iterator[str | None]:
    """Connect to Ray or start it, yield the dashboard's address, and disconnect at the end. See `ray_session`."""
    address, timeout_s = ray_variables.address_in(os.environ), start_timeout_s(os.environ)
    if ignored := ray_variables.pinning(os.environ):
        _log.warning("%s", ignored)
    ray_variables.clear(os.environ)
    _set_defaults()
    with _shared_ray(address) if address else _private_ray() as settings:
        import ray

        try:
            # Ray's workers import modules from the driver's folder, which a user may edit meanwhile.
            with _kept_handlers(), chdir(CODE), blocked_in_children():
                context = _connect(address or "local", settings, timeout_s)
        except Exception as error:  # errors have many types; the message may contain pages of Ray's log
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            logs = f"; its logs are in {settings['_temp_dir']}/session_latest/logs" if settings else ""
            raise RayNotStarted(f"Ray did not start ({reason[0]}){logs}") from error
        session_folder = None
        if settings:
            session_folder = Path(context.address_info["session_dir"])
            write_current_cluster(Path(os.environ["TMPDIR"]), context.address_info["gcs_address"])
        token = os.environ.get("RAY_AUTH_TOKEN_PATH")
        dashboard = f"http://{context.dashboard_url}" + (f", token in {token}" if token else "")
        _open.append(dashboard if context.dashboard_url else None)
        try:
            yield _open[-1]
        except BaseException:
            session_folder = None  # Ray's logs may state the cause
            raise
        finally:
            _open.pop()
            with quick_end():
                ray.shutdown()
            if session_folder is not None:
                shutil.rmtree(session_folder, ignore_errors=True)


def _set_defaults() -> None:
    """Set raykd's defaults for Ray Train and Tune, except those that the environment has."""
    os.environ.update({name: os.environ.get(name, value) for name, value in _SETTINGS.items()})


def _is_connected() -> bool:
    """Return whether this process has called `ray.init` itself."""
    if "ray" not in sys.modules:
        return False
    import ray

    return ray.is_initialized()


def _dashboard_of_connection() -> str | None:
    """Return the dashboard's address of the Ray cluster that this process is connected to."""
    import ray

    with _kept_handlers():  # Ray sets its handler of SIGTERM even if the process is connected
        context = ray.init(ignore_reinit_error=True, logging_level=logging.ERROR)
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


@contextmanager
def _kept_environment() -> Iterator[None]:
    """Restore the variables that a session sets or removes. A Tuner of the user that follows would read them too."""

    def is_changed_here(name: str) -> bool:
        return name.startswith(_PREFIXES) or name in _NAMES

    before = {name: value for name, value in os.environ.items() if is_changed_here(name)}
    try:
        yield
    finally:
        for name in [name for name in os.environ if is_changed_here(name) and name not in before]:
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Restore what Ray replaces: the handler of SIGTERM, since Ray's ends without saving, and sys.excepthook."""
    handler, hook = signal.getsignal(signal.SIGTERM), sys.excepthook
    try:
        yield
    finally:
        sys.excepthook = hook
        if threading.current_thread() is threading.main_thread():  # only there are handlers set, by Ray too
            signal.signal(signal.SIGTERM, handler)


def _connect(address: str, settings: dict[str, Any], timeout_s: float) -> Any:
    """Call `ray.init` until it succeeds or `timeout_s` is over. Ray itself tries for 30 s only.

    Ray leaves the processes of a failed start running, even after `ray.shutdown`, so they are killed here.
    """
    import ray

    deadline, folder = time.monotonic() + timeout_s, settings.get("_temp_dir", "")
    while True:
        try:
            with killed_on_error(folder) if folder else nullcontext():
                return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **settings)
        except Exception as error:  # Ray has no specific type for this error
            if SLOW_START not in str(error) or time.monotonic() > deadline:
                raise
            ray.shutdown()


@contextmanager
def _shared_ray(address: str) -> Iterator[dict[str, Any]]:
    """Yield no settings for `ray.init`. Raises ConfigError if nothing listens there: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); unset it to start a private Ray cluster for "
            "this command"
        ) from None
    yield {}


@contextmanager
def _private_ray() -> Iterator[dict[str, Any]]:
    """Make the folder and the token of a private Ray cluster, and yield its settings for `ray.init`.

    It sets the variables by which Ray finds the folder and the token. Ray reads its environment once, when it is
    imported, so this must come first.
    """
    if "ray" in sys.modules and not _token.cache_info().currsize:
        raise ConfigError(
            "ray was imported before raykd started its private Ray cluster, so that cluster could not require a token; "
            "restart Python and leave `import ray` out, or call ray.init() to use your Ray cluster"
        )
    commands = commands_folder(os.environ)
    tempfile.gettempdir()  # it caches TMPDIR, so this process keeps its own for its files
    remove_abandoned_below(commands.parent)
    remove_old_sessions(commands / "ray")
    folder = commands / f"command-{secrets.token_hex(4)}"
    with private_folder(folder, _token()):
        os.environ |= private_environment(folder)
        dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
        yield dashboard | {"_temp_dir": str(commands / "ray")} | _usable_cpus() | _visible_gpus()


def _usable_cpus() -> dict[str, int]:
    """Return the number of CPUs for `ray.init` if this process may use only some, as in the shell of `srun --pty`.

    Ray would count all CPUs of the machine, and runs would share the few that they may use.
    """
    num_cpus = num_usable_cpus()
    return {"num_cpus": num_cpus} if num_cpus < (os.cpu_count() or 1) else {}


def _visible_gpus() -> dict[str, int]:
    """Return the number of GPUs for `ray.init` if torch sees any.

    Ray would count those of NVIDIA's management library (NVML), which containers may lack, and train on the CPU.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    return {"num_gpus": num_gpus} if num_gpus else {}


def private_node() -> dict[str, float] | None:
    """Return at most the resources of the private Ray cluster that `ray_session` would start; None if it starts none.

    Ray may find fewer, for example where a container limits the CPUs. Does not import ray.
    """
    if _open or _is_connected() or ray_variables.address_in(os.environ):
        return None
    import torch

    devices = [path for path in find(Path("/dev"), "nvidia*") if path.name.removeprefix("nvidia").isdecimal()]
    return {"CPU": num_usable_cpus(), "GPU": max(torch.cuda.device_count(), len(devices))}


def alive_nodes() -> list[dict[str, float]]:
    """Return the resources of each node that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def actor_on_driver(kind: type, *arguments: Any) -> Any:
    """Start an actor on the driver's node: if it were lost with another node, every run would stop."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=here).remote(*arguments)


def num_usable_cpus() -> int:
    """Return the number of CPUs that this process may use; on macOS, which has no affinity, all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
