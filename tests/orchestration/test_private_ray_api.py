"""The private parts of Ray that raykd uses: a new version of Ray that lacks one fails here by its name."""

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import raykd
from raykd.cluster import ray_internals
from raykd.cluster.ray_internals import PRIVATE
from raykd.errors import ConfigError

# What raykd expects of these names, and of behavior that has no name.
EXPECTED = """
import inspect
from pathlib import Path

from ray._common.utils import get_ray_address_file
from ray._private import node
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
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

from raykd.cluster.ray_internals import CURRENT_CLUSTER, PRIVATE, SLOW_START, unwrapped
assert get_ray_address_file(None).endswith(f"/{CURRENT_CLUSTER}")
assert SLOW_START in inspect.getsource(node)
cause = ValueError("a mistake")
assert unwrapped(UserExceptionWithTraceback(cause, "Traceback ...")) is cause
assert all(private.load() is not None for private in PRIVATE.values())
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


def test_one_module_imports_private_names_of_ray_and_lists_each() -> None:
    files = Path(raykd.__file__).parent.rglob("*.py")
    found = {file: names for file in files if (names := private_imports(file))}
    listed = {f"{private.module}.{private.name}" for private in PRIVATE.values()}
    assert found == {Path(ray_internals.__file__): listed}


@pytest.mark.parametrize("lacks", ["the name", "the module"])
def test_a_private_name_that_ray_lacks_is_one_line_with_the_reason(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> object:
        if lacks == "the module":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return SimpleNamespace()

    monkeypatch.setattr(ray_internals, "import_module", import_module)
    with pytest.raises(ConfigError, match=r"has no ray\._raylet\.GcsClient, which raykd requires to list") as raised:
        ray_internals.GcsClient  # noqa: B018
    assert "\n" not in str(raised.value) and "ray[default,train,tune]==" in str(raised.value)


def test_an_environment_without_ray_lacks_no_private_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> object:
        raise ModuleNotFoundError("No module named 'ray'", name="ray")

    monkeypatch.setattr(ray_internals, "import_module", import_module)
    with pytest.raises(ModuleNotFoundError):
        ray_internals.GcsClient  # noqa: B018


@pytest.mark.ray
def test_ray_has_the_private_parts_that_raykd_uses() -> None:
    # In another process, since Ray must not be imported before raykd's session.
    done = subprocess.run([sys.executable, "-c", EXPECTED], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
