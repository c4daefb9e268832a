"""Slots whose workers do not start: what is logged, what is repaired, and when a slot is given up."""

from types import SimpleNamespace
from typing import Any

import pytest

from raykd.orchestration.parallel_runs import Slots
from raykd.orchestration.run_queue import RunQueue

# Functions import Ray, which the fixture `cluster` must do first.
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("cluster")]

NONE, REQUESTED, HELD = "none", "requested", "held"
TOTAL = {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("states", "slots", "line"),
    [
        (
            [REQUESTED],
            Slots(1, 8, 0),
            "the run waits for 8 CPUs; free on this Ray cluster: 3 of 16 CPUs",
        ),
        (
            [REQUESTED, HELD],
            Slots(3, 8, 1),
            "1 of 3 runs side by side waits for 8 CPUs and 1 GPU; free on this Ray cluster: 3 of 16 CPUs and "
            "0 of 2 GPUs",
        ),
        (
            [REQUESTED, NONE],
            Slots(2, 4, 0.5, 2, 2),
            "2 of 2 runs side by side wait for 2 workers of 4 CPUs and 0.5 GPUs; free on this Ray cluster: "
            "3 of 16 CPUs and 0 of 2 GPUs",
        ),
        (
            [HELD],
            Slots(1, 8, 1),
            "the run waits for workers that are still starting; if it takes minutes, see the Ray workers' logs",
        ),
    ],
)
def test_line_about_slots_that_have_not_started(states: list[str], slots: Slots, line: str) -> None:
    from raykd.orchestration.controllers import Reservation
    from raykd.orchestration.slot_watch import waiting_line

    assert waiting_line([Reservation(state) for state in states], slots, {"CPU": 3.0}, TOTAL) == line


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A watch over two slots that checks and logs at each call. abandoned: slots of the groups to be removed next."""
    import ray

    from raykd.orchestration import slot_watch
    from raykd.orchestration.controllers import Reservation

    monkeypatch.setattr(slot_watch, "CHECK_S", 1e-9)
    monkeypatch.setattr(slot_watch, "WAIT_LOG_S", 0.0)
    monkeypatch.setattr(slot_watch, "WAIT_LOG_EVERY_S", 0.0)
    made = SimpleNamespace(abandoned=[], lines=[], queue=ray.remote(num_cpus=0)(RunQueue).remote([]))
    controllers: Any = SimpleNamespace(
        remove_abandoned_groups=lambda ended: made.abandoned,
        reservations=lambda: [Reservation.HELD, Reservation.REQUESTED],
    )
    made.watch = slot_watch.SlotWatch(made.queue, Slots(2, 1, 0), controllers, made.lines.append)
    return made


def test_only_slots_that_have_not_started_are_logged(watched: SimpleNamespace) -> None:
    import ray

    ray.get(watched.queue.is_stopping.remote(0))  # a heartbeat
    assert watched.watch.check(ended=()) == {}
    assert watched.watch.check(ended=[1]) == {}
    (line,) = watched.lines
    assert line.startswith("1 of 2 runs side by side waits for 1 CPU; free on this Ray cluster: ")


def test_slot_whose_workers_die_again_and_again_while_they_start_is_given_up(watched: SimpleNamespace) -> None:
    from raykd.orchestration.slot_watch import MAX_FAILED_STARTS

    watched.abandoned = [1]
    for _ in range(MAX_FAILED_STARTS - 1):
        assert watched.watch.check(ended=()) == {}
    (slot, reason), *others = watched.watch.check(ended=()).items()
    assert slot == 1 and reason.startswith("its workers died 5 times while they started") and others == []
    assert watched.watch.check(ended=[1]) == {}
