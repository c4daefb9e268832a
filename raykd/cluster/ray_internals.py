"""The private parts of Ray that raykd uses, each with its reason. None of them has a public counterpart.

    from raykd.cluster.ray_internals import ControllerCallback

Importing this module does not import Ray: a name is imported when it is first used. If a future version of Ray lacks
one, the command ends with the name and the reason (`_Private.load`); what happens without each of the others stands
beside it. tests/orchestration/test_private_ray_api.py checks all of them against the installed Ray.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.environment import reinstall_command
from raykd.errors import ConfigError

if TYPE_CHECKING:
    from ray._private.state import state as ray_state
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue] - pyright cannot read that module
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
    from ray.train.v2._internal.execution.callback import ControllerCallback

__all__ = ["ControllerCallback", "GcsClient", "PlacementGroupTableData", "ray_state"]

# ---- Names that raykd imports ----


@dataclass(frozen=True)
class _Private:
    """A private name of Ray. reason: why raykd requires it, after 'which raykd requires'."""

    module: str
    name: str
    reason: str

    def load(self) -> Any:
        """Import the name. Raises ConfigError if the installed Ray lacks it."""
        try:
            return getattr(import_module(self.module), self.name)
        except (AttributeError, ModuleNotFoundError) as error:
            if error.name == "ray":  # it is not installed
                raise
            raise ConfigError(
                f"Ray {version('ray')} has no {self.module}.{self.name}, which raykd requires {self.reason}; install "
                f"an earlier Ray: {reinstall_command('ray[default,train,tune]==2.60.0')}"
            ) from error


PRIVATE = {
    # The client of `ray status`. `ray.nodes` requires a driver, and every driver is a job in Ray.
    "GcsClient": _Private("ray._raylet", "GcsClient", "to list the nodes of a Slurm job"),
    # `ray.util.placement_group_table` reads the same table, but leaves out the creators.
    "ray_state": _Private("ray._private.state", "state", "to list the placement groups"),
    "PlacementGroupTableData": _Private(
        "ray.core.generated.gcs_pb2", "PlacementGroupTableData", "to find the creators of placement groups"
    ),
    # Train calls the public UserCallback only after the first report, and not in the controller.
    "ControllerCallback": _Private(
        "ray.train.v2._internal.execution.callback", "ControllerCallback", "to find and stop a trainer's controller"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in PRIVATE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return PRIVATE[name].load()


def placement_group_table() -> list[bytes]:
    """Return Ray's table of placement groups, each a serialized PlacementGroupTableData. Empty if Ray does not answer.

    This process must have called `ray.init`.
    """
    from ray.exceptions import RayError

    state = PRIVATE["ray_state"].load()
    try:
        return state._connect_and_get_accessor().get_placement_group_table()
    except (RayError, RuntimeError):
        return []


# ---- Names and texts that raykd compares ----

# The classes of errors of a Train worker that was killed or is unreachable. Without them, another error of the same
# failure counts: a trial then ends as failed instead of unfinished.
DEAD_WORKER_ERRORS = ("WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError")
# A part of Ray's message after a slow start, which is tried again. Without it, the command ends instead.
SLOW_START = "timed out during startup"
# The file from which Ray's state API and its commands read the cluster's address, below their temporary folder. Without
# it, they may read the address of another cluster of this user.
CURRENT_CLUSTER = Path("ray") / "ray_current_cluster"


def unwrapped(error: Exception) -> Exception:
    """Return what a worker raised, without the wrapper in which Ray Train keeps its traceback.

    The wrapper has no public attribute. Without the private one, a trial's reason names the wrapper.
    """
    return getattr(error, "_base_exc", error)


def health_check_cause(error: Exception) -> Exception:
    """Return why Train could not reach a worker; `error` itself if the attribute is missing."""
    return getattr(error, "health_check_failure", error)
