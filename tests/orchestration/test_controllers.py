"""Controllers of trainers: they are killed by their recorded process, and what they leave in Ray is removed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from experiment_runs import wait_until

from raykd.disk.atomic import write_json

# Functions import Ray, which the fixture `cluster` must do first.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("cluster")]

RAYS_DELAY_S = 2.0  # Ray removes a placement group within this time when it does so itself


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[Any]:
    """Controllers of two slots, whose placement groups are removed at the end."""
    from raykd.orchestration.controllers import Controllers

    made = Controllers(tmp_path / "controllers", num_slots=2)
    yield made
    made.remove_abandoned_groups(ended=(0, 1))


def start_owner(controllers: Any, slot: int) -> Any:
    """Start an actor that registers as Train's controllers do, and creates placement groups of a quarter of a CPU."""
    import ray

    class Owner:  # in a function, so that Ray sends it to a process that cannot import this file
        def __init__(self, callback: Any) -> None:
            callback.after_controller_start(None)

        def create(self) -> str:
            from ray.util import placement_group

            group = placement_group([{"CPU": 0.25}])
            assert group.wait(30)
            return group.id.hex()

    return ray.remote(num_cpus=0)(Owner).remote(controllers.register(slot))


def state_of(group: Any) -> str:
    from ray.util import placement_group_table

    return placement_group_table()[group]["state"]


def is_dead(owner: Any) -> bool:
    import ray
    from ray.exceptions import RayActorError

    try:
        ray.get(owner.create.remote())
    except RayActorError:
        return True
    return False


def test_what_a_killed_controller_leaves_is_removed(controllers: Any) -> None:
    import ray

    owner, other = start_owner(controllers, 0), start_owner(controllers, 1)
    left, used = ray.get([owner.create.remote(), other.create.remote()])
    controllers.kill([0])
    wait_until(lambda: is_dead(owner), "the end of the controller")
    time.sleep(RAYS_DELAY_S)
    assert state_of(left) == "CREATED", "Ray removes it by now; remove_abandoned_groups may be obsolete"
    assert controllers.remove_abandoned_groups(ended=[0]) == [0]
    assert (state_of(left), state_of(used)) == ("REMOVED", "CREATED")
    assert controllers.remove_abandoned_groups(ended=[0]) == []


def test_only_the_newest_group_of_a_running_controller_is_kept(controllers: Any) -> None:
    import ray
    from ray.util import placement_group, remove_placement_group

    owner, of_driver = start_owner(controllers, 1), placement_group([{"CPU": 0.25}])
    older, newest = [ray.get(owner.create.remote()) for _ in range(2)]
    assert controllers.remove_abandoned_groups(ended=[0]) == [1]
    assert [state_of(group) for group in (older, newest, of_driver.id.hex())] == ["REMOVED", "CREATED", "CREATED"]
    assert controllers.reservations() == ["none", "held"]
    remove_placement_group(of_driver)


def test_another_process_with_the_recorded_number_is_not_killed(controllers: Any) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    write_json(controllers._file(0), {"actor_id": "ab", "process": child.pid, "started": "1"})
    controllers.kill([0, 1])
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)
    child.kill()
    child.wait()


def test_the_cause_of_a_lost_queue_is_the_last_error_in_rays_text() -> None:
    from ray.exceptions import RayError

    from raykd.orchestration import trainers

    text = (
        "The actor died because of an error raised in its creation task, ray::RunQueue.__init__() (pid=1)\n"
        "ray.exceptions.RaySystemError: System error: No module named 'mymodels'\n"
        "traceback: Traceback (most recent call last):\n"
        "ModuleNotFoundError: No module named 'mymodels'\n\n"
    )
    assert trainers._cause_of(RayError(text)) == "ModuleNotFoundError: No module named 'mymodels'"
    died = "The actor died unexpectedly before finishing this task.\n\tclass_name: RunQueue"
    assert trainers._cause_of(RayError(died)) == "The actor died unexpectedly before finishing this task."
