"""The controllers of a command's trainers: kill them, and remove the placement groups that they leave behind.

Ray Train starts one controller for each trainer, on the driver's node. Each one writes its process to a file, so that
this command kills no other process. Ray's state API would find the controllers too, but in the cluster of RAY_ADDRESS,
which need not be the one that this process is connected to.

A controller creates the placement group of its workers. Ray removes a placement group when the job that created it
ends, not when its creator is killed. Train's own cleaner removes only placement groups whose workers have started. If
a worker dies while it starts, Train creates a second placement group and leaves the first one. What is left keeps its
CPUs and GPUs from everything that this command starts later.
"""

import json
import os
import signal
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from raykd.cluster.ray_internals import (
    ControllerCallback,
    PlacementGroupTableData,
    placement_group_table,
    unwrapped,
)
from raykd.disk.atomic import write_json


class Reservation(StrEnum):
    """Whether Ray has reserved the CPUs and GPUs of a slot's workers."""

    NONE = "none"
    REQUESTED = "requested"
    HELD = "held"


class Register(ControllerCallback):
    """Train's callback that writes the process of its controller to `file`, before a placement group is created."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def after_controller_start(self, train_run_context: object) -> None:
        """Write the file. Train calls this in the controller. It fails if the command has removed the folder."""
        actor_id, process = ray.get_runtime_context().get_actor_id(), os.getpid()
        write_json(self._file, {"actor_id": actor_id, "process": process, "started": _started(process)})


class Controllers:
    """The controllers of this command's trainers, one for each slot. folder: of their files, made here."""

    def __init__(self, folder: Path, num_slots: int) -> None:
        self._folder, self._slots = folder, range(num_slots)
        folder.mkdir(parents=True)

    def register(self, slot: int) -> Register:
        """Return the callback for the trainer of `slot`."""
        return Register(self._file(slot))

    def kill(self, slots: Collection[int]) -> None:
        """Kill the controllers of `slots` that have started. They may have ended before."""
        for slot in slots:
            found = _read(self._file(slot))
            if found and _started(found["process"]) == found["started"]:  # else the number is another process's by now
                with suppress(OSError):
                    os.kill(found["process"], signal.SIGKILL)

    def remove_abandoned_groups(self, ended: Collection[int]) -> list[int]:
        """Remove the placement groups that no workers use or will use, and return the slot of each.

        Those are all of the slots `ended`, whose controllers run no more, and all but the newest of every other slot,
        because a controller removes the placement group of its workers before it creates the next.
        """
        abandoned = [
            (slot, group)
            for slot, groups in self._groups().items()
            for group in (groups if slot in ended else groups[:-1])
        ]
        for _, group in abandoned:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
        return [slot for slot, _ in abandoned]

    def reservations(self) -> list[Reservation]:
        """Return for each slot whether its controller holds, or has requested, the CPUs and GPUs of its workers."""
        groups = self._groups()
        return [_reservation(groups.get(slot, [])) for slot in self._slots]

    def _groups(self) -> dict[int, list[Any]]:
        """Return the placement groups of each slot that are not removed, oldest first."""
        slots = {found["actor_id"]: slot for slot in self._slots if (found := _read(self._file(slot)))}
        groups: dict[int, list[Any]] = defaultdict(list)
        if not slots:
            return groups
        for row in placement_group_table():
            group = PlacementGroupTableData.FromString(row)
            slot = slots.get(group.creator_actor_id.hex())
            if slot is not None and group.state != PlacementGroupTableData.REMOVED:
                groups[slot].append(group)
        for created in groups.values():
            created.sort(key=lambda group: group.placement_group_creation_timestamp_ms)
        return groups

    def _file(self, slot: int) -> Path:
        return self._folder / f"{slot}.json"


def _reservation(groups: list[Any]) -> Reservation:
    if not groups:
        return Reservation.NONE
    is_created = groups[-1].state == PlacementGroupTableData.CREATED
    return Reservation.HELD if is_created else Reservation.REQUESTED


def _read(file: Path) -> dict[str, Any] | None:
    """Return what a controller wrote to `file`, None before it has started."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None


def _started(process: int) -> str:
    """Return when a process started, in clock ticks since boot. '' if there is none, and on systems without /proc."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
    except OSError:
        return ""
    return after_name.split()[19]  # field 22 of proc(5); the name before it is field 2


def failure_of(error: BaseException) -> BaseException:
    """Return what a trainer's controller, or one of its workers, raised: `error` of `fit` without Ray's wrappers."""
    if isinstance(error, ControllerError):
        return failure_of(error.controller_failure)
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        return failure_of(unwrapped(next(iter(error.worker_failures.values()))))
    return error.cause if isinstance(error, RayTaskError) else error
