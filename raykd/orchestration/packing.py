"""Pack a data set: in processes of this machine, or as tasks on all nodes of a job's Ray cluster."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from raykd.cluster.ray_variables import address_in
from raykd.data.packs.folder import packing_process
from raykd.data.packs.record import PackRecord
from raykd.data.packs.shard import ShardTask, WrittenShard, write_shard
from raykd.data.packs.writer import PackPlan, Runner, pack
from raykd.errors import Interrupted, RunFailed
from raykd.orchestration.packing_processes import KILLED, POLL_S, write_in_processes
from raykd.orchestration.session import num_usable_cpus, ray_session
from raykd.orchestration.stop_signals import stop_signals
from raykd.units import duration

MIN_BYTES = 50_000_000  # a smaller set is packed before other processes have started
_LOG_EVERY_S = 15.0  # seconds between two lines where there is no terminal


def write_pack(plan: PackPlan, console: Console, jobs: int | None = None) -> PackRecord:
    """Write the missing shards of a pack, and return its record.

    jobs: processes of this machine; None for one per CPU, or for all nodes of the Ray cluster that RAY_ADDRESS names.
    Raises what `pack` raises; Interrupted after a signal; RunFailed if processes are killed.
    """
    with stop_signals(console) as stopped, PackProgress(plan.num_images, console) as progress:
        interrupted = Interrupted("stopped while packing; complete shards are kept; rerun the same command to resume")

        def on_wait() -> None:
            """Report that another process packs the same data set, until a signal comes."""
            if stopped.is_set():
                raise interrupted
            progress.report_waiting(plan.folder)

        def run_tasks(tasks: Sequence[ShardTask]) -> Iterator[WrittenShard]:
            """Yield the written shards, until a signal comes."""
            num_left = len(tasks)
            for written in _runner_of(tasks, jobs, stopped.is_set)(tasks):
                num_left -= 1
                yield written
            if num_left:
                raise interrupted

        return pack(plan, run_tasks, progress.report, on_wait)


def _runner_of(tasks: Sequence[ShardTask], jobs: int | None, should_stop: Callable[[], bool]) -> Runner:
    """Return the function that writes `tasks`, until `should_stop` returns true."""
    if jobs is None and address_in(os.environ):
        return partial(write_on_ray, should_stop=should_stop)
    if jobs is None:
        is_small = sum(task.unit.num_bytes for task in tasks) < MIN_BYTES
        jobs = 1 if is_small else num_usable_cpus()
    if jobs == 1:
        return lambda tasks: map(write_shard, takewhile(lambda _: not should_stop(), tasks))
    return partial(write_in_processes, num_processes=jobs, should_stop=should_stop)


def write_on_ray(tasks: Sequence[ShardTask], should_stop: Callable[[], bool] = lambda: False) -> Iterator[WrittenShard]:
    """Yield the shard of each task when a Ray task has written it, until `should_stop` returns true.

    Ray repeats the tasks of a lost node. Raises what `write_shard` raises; RunFailed if Ray gives up on a task.
    """
    with ray_session():
        import ray
        from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

        write = ray.remote(num_cpus=1)(write_shard)
        left: list[Any] = [write.remote(task) for task in tasks]
        try:
            while left and not should_stop():
                done, left = ray.wait(left, timeout=POLL_S)
                yield from (ray.get(written) for written in done)
        except RayTaskError as error:
            raise error.cause from error  # what write_shard raised, without Ray's traceback in its text
        except (WorkerCrashedError, OutOfMemoryError) as error:
            raise RunFailed(KILLED.format(remedy="request more memory per CPU")) from error
        finally:
            for task in left:
                ray.cancel(task, force=True)  # a rerun writes these shards from the start


class PackProgress:
    """A context manager that draws a bar of the packed images in a terminal, and elsewhere logs a line every 15 s."""

    def __init__(self, num_images: int, console: Console) -> None:
        self._console, self._num_images = console, num_images
        self._num_found = self._num_new = 0  # images of earlier attempts, and of this one
        self._started = self._logged = time.monotonic()
        self._is_waiting = False
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images, {task.description}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=num_images)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def report(self, written: WrittenShard, is_new: bool) -> None:
        """Count the images of a shard. is_new: this command has written it."""
        num_images = written.shard.num_images + len(written.damaged)
        self._num_new += num_images if is_new else 0
        self._num_found += 0 if is_new else num_images
        self._bar.update(self._task, completed=self._num_found + self._num_new, description=self.describe_speed())
        if is_new and not self._console.is_terminal and time.monotonic() - self._logged >= _LOG_EVERY_S:
            self._logged = time.monotonic()
            done = f"{self._num_found + self._num_new:,} of {self._num_images:,} images"
            self._console.print(f"{done}, {self.describe_speed()}", highlight=False, markup=False)

    def report_waiting(self, folder: Path) -> None:
        """Print once which other process writes the pack."""
        if not self._is_waiting:
            text = f"waiting for {packing_process(folder)}, which writes the same pack to {folder}"
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._is_waiting = True

    def describe_speed(self) -> str:
        """Return '1,200 images/s, 3 min left', without the images of earlier attempts."""
        if not self._num_new:
            return "resumed"
        per_s = self._num_new / max(1e-9, time.monotonic() - self._started)
        left_s = (self._num_images - self._num_found - self._num_new) / per_s
        return f"{per_s:,.0f} images/s, {duration(left_s)} left"
