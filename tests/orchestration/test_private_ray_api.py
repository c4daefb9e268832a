"""The private parts of Ray that raykd uses, and why: a new version of Ray that lacks one fails here by its name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import raykd

# Names in raykd's imports. Each one has no public counterpart.
IMPORTED = {
    # cluster/nodes.py: the nodes that are alive. `ray.nodes` requires a driver, and every driver a job in Ray.
    "ray._raylet.GcsClient",
    # orchestration/controllers.py: the creator of each placement group. The public tables leave it out.
    "ray._private.state.state",
    "ray.core.generated.gcs_pb2.PlacementGroupTableData",
    # orchestration/controllers.py: the controller's process. Train calls a public UserCallback after the first report.
    "ray.train.v2._internal.execution.callback.ControllerCallback",
}
# What raykd expects of these names, and of behavior that has no name.
EXPECTED = """
import inspect
from pathlib import Path

from ray._common.utils import get_ray_address_file
from ray._private import node
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

assert state._connect_and_get_accessor
fields = PlacementGroupTableData.DESCRIPTOR.fields_by_name
assert {"placement_group_id", "creator_actor_id", "placement_group_creation_timestamp_ms", "state"} <= set(fields)
assert PlacementGroupTableData.REMOVED != PlacementGroupTableData.CREATED

# Train calls the callbacks of a RunConfig that are no UserCallback, and this one before it creates a placement group.
assert "if not isinstance(cb, UserCallback)" in inspect.getsource(DataParallelTrainer._create_default_callbacks)
assert ControllerCallback.after_controller_start
assert '"after_controller_start"' in inspect.getsource(TrainController._start)
assert "self._start()" in inspect.getsource(TrainController.__init__)

# cluster/private_ray.py writes the file from which Ray's state API reads the address.
assert get_ray_address_file(None).endswith("/ray/ray_current_cluster")

# orchestration/session.py tries again after this message.
from raykd.orchestration.session import SLOW_START
assert SLOW_START in inspect.getsource(node)
"""


def private_imports(file: Path) -> set[str]:
    """Return the private names of Ray that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "ray"}
    return {name for name in found if any(part.startswith("_") or part == "generated" for part in name.split("."))}


def test_every_private_name_of_ray_is_listed_here_with_the_reason() -> None:
    files = Path(raykd.__file__).parent.rglob("*.py")
    assert set().union(*(private_imports(file) for file in files)) == IMPORTED


@pytest.mark.ray
def test_ray_has_the_private_parts_that_raykd_uses() -> None:
    imports = "\n".join(f"from {module} import {name}" for module, _, name in (n.rpartition(".") for n in IMPORTED))
    code = imports + EXPECTED  # in another process, since Ray must not be imported before raykd's session
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
