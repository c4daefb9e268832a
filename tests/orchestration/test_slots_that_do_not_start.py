"""Slots whose workers cannot start immediately: the command is stopped, the Ray cluster is busy, or the workers die."""

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from experiment_runs import run_here, wait_until
from small_runs import experiment

from raykd.errors import Interrupted
from raykd.spec.experiment import Workers

# Functions import Ray, which the fixture `cluster` must do first.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.nightly,
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("cluster"),
]

WHOLE = Workers(cpus=2)  # the shared Ray cluster has two CPUs
HALF = Workers(cpus=1)


def live_groups() -> list[str]:
    """Return the states of the placement groups that are not removed."""
    from ray.util import placement_group_table

    return [row["state"] for row in placement_group_table().values() if row["state"] != "REMOVED"]


@contextmanager
def cpus_in_use(number: int) -> Iterator[Callable[[], None]]:
    """Reserve CPUs of the Ray cluster, as another program does. Yield a function that frees them early."""
    from ray.util import placement_group, remove_placement_group

    group = placement_group([{"CPU": number}])
    assert group.wait(60)
    try:
        yield lambda: remove_placement_group(group)
    finally:
        remove_placement_group(group)


def in_thread(act: Callable[[], Any]) -> None:
    threading.Thread(target=act, daemon=True).start()


def test_stopped_command_frees_what_its_starting_workers_would_use(tmp_path: Path) -> None:
    def stop() -> None:
        wait_until(lambda: "CREATED" in live_groups(), "the placement group of the workers")
        os.kill(os.getpid(), signal.SIGTERM)

    in_thread(stop)
    ended = run_here([experiment(workers=WHOLE)], tmp_path, ("baseline",))
    assert ended.exit_code == Interrupted.exit_code
    assert live_groups() == []


def test_command_on_a_busy_cluster_logs_what_it_waits_for_and_starts_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raykd.orchestration import slot_watch

    monkeypatch.setattr(slot_watch, "WAIT_LOG_S", 1.0)
    log = io.StringIO()
    with cpus_in_use(1) as free:

        def free_once_logged() -> None:
            wait_until(lambda: "the run waits for" in log.getvalue(), "the line about waiting")
            free()

        in_thread(free_once_logged)
        ended = run_here([experiment(workers=WHOLE)], tmp_path, ("baseline",), log)
    assert ended.exit_code == 0
    assert any(line.endswith("the run waits for 2 CPUs; free on this Ray cluster: 1 of 2 CPUs") for line in ended.lines)


def test_command_ends_without_a_slot_that_never_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raykd.orchestration import trainers

    monkeypatch.setattr(trainers, "END_S", 200.0)
    began = time.monotonic()
    with cpus_in_use(1):
        ended = run_here([experiment(workers=HALF, seeds=(0, 1))], tmp_path, ("baseline",))
        assert any(line.startswith("2 runs side by side") for line in ended.lines)
        assert live_groups() == ["CREATED"], "the other program's only"
    assert ended.exit_code == 0
    assert time.monotonic() - began < 150.0


@pytest.fixture
def deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a file with as many bytes as workers are to die when they join their process group."""
    from raykd.orchestration.process_group import GroupConfig, _GroupBackend

    file = tmp_path / "deaths"

    def die() -> None:
        if left := file.stat().st_size:
            file.write_bytes(b"." * (left - 1))
            os._exit(1)

    class DyingBackend(_GroupBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(die)
            super().on_start(worker_group, backend_config)

    class DyingConfig(GroupConfig):
        @property
        def backend_cls(self) -> type[DyingBackend]:  # pyright: ignore[reportIncompatibleMethodOverride]
            return DyingBackend

    monkeypatch.setattr("raykd.orchestration.trainers.GroupConfig", DyingConfig)
    return file


def test_worker_that_dies_while_it_starts_is_replaced(tmp_path: Path, deaths: Path) -> None:
    deaths.write_bytes(b"..")
    ended = run_here([experiment(workers=WHOLE)], tmp_path, ("baseline",))
    assert (ended.exit_code, ended.errors) == (0, [])
    assert deaths.stat().st_size == 0 and live_groups() == []


def test_command_fails_when_workers_die_again_and_again_while_they_start(
    tmp_path: Path, deaths: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raykd.orchestration import slot_watch

    monkeypatch.setattr(slot_watch, "MAX_FAILED_STARTS", 2)
    deaths.write_bytes(b"." * 100)
    ended = run_here([experiment(workers=WHOLE)], tmp_path, ("baseline",))
    assert ended.exit_code == 1
    assert "its trainer failed: its workers died 2 times while they started; out of memory" in "\n".join(ended.errors)
    assert live_groups() == []
