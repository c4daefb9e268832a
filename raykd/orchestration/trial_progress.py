"""Progress of a search: a live table of its trials in a terminal, lines for each trial in a log."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.table import Table

from raykd.orchestration.progress import LiveTable
from raykd.orchestration.searcher import (
    CONFIGURATION,
    EPOCHS,
    EPOCHS_DONE,
    EXTERNAL_FAILURE,
    FAILED,
    FAILURES,
    INTERRUPTED,
    LINES,
    NUMBER,
)
from raykd.orchestration.worker_warnings import WARNING
from raykd.report.search_wording import (
    configuration_in_words,
    field_name,
    format_value,
    value_in_units,
    values_in_units,
)
from raykd.spec.search import Search
from raykd.store.records import END_STATES
from raykd.store.study import SearchTrial
from raykd.units import duration


@dataclass
class _ShownTrial:
    """A trial of this command, with its last result."""

    number: int
    configuration: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)
    logged_at: float = 0.0
    num_lines: int = 0  # of the worker's lines that are logged


class TrialProgress(LiveTable, Callback):
    """A callback of Tune and a context manager that shows the trials."""

    def __init__(
        self,
        console: Console,
        search: Search,
        before: Iterable[SearchTrial],
        on_step: Callable[[Sequence[Any]], Sequence[str]],
    ) -> None:
        """before: trials of earlier commands. on_step: returns lines for the log; its argument is Tune's trials.

        It is called a few times per second.
        """
        super().__init__(console)
        self._search, self._on_step = search, on_step
        self._running: dict[str, _ShownTrial] = {}
        self._num_ended = dict.fromkeys(END_STATES, 0)
        self._ended_here = 0
        self._warnings: set[str] = set()  # those that are logged
        self._best: tuple[int, tuple[float, ...]] | None = None
        for trial in before:
            if trial.state in END_STATES:
                self._num_ended[trial.state] += 1
                if trial.state == "done":
                    self._note_best(trial.number, trial.values)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune pickles its callbacks for a restore that raykd never does."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for line in self._on_step(trials):
            self.log(line)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        shown = _ShownTrial(trial.config[NUMBER], trial.config[CONFIGURATION], logged_at=time.monotonic())
        if trial.trial_id in self._running:
            self.log(f"trial {shown.number} resumes in another worker")
        self._running[trial.trial_id] = shown
        self.live.update(self._table())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        shown = self._running[trial.trial_id]
        shown.result = dict(result)
        lines = result.get(LINES, ())
        for line in lines[shown.num_lines :]:
            if line not in self._warnings:
                self.log(f"trial {shown.number}  {line}")
            if line.startswith(WARNING):  # the worker of another trial may send the same
                self._warnings.add(line)
        shown.num_lines = max(shown.num_lines, len(lines))
        if not result.get("done") and self.is_due(shown.logged_at):
            shown.logged_at = time.monotonic()
            self.log(self._line(shown))
        self.live.update(self._table())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(self._running.pop(trial.trial_id))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count the failure in the config that the trial's next process receives."""
        trial.set_config(trial.config | {FAILURES: trial.num_failures})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # A worker can die before the trial has started.
        shown = self._running.pop(trial.trial_id, _ShownTrial(trial.config[NUMBER], trial.config[CONFIGURATION]))
        shown.result = {FAILED: "its workers died repeatedly"}
        self._end(shown)

    def _end(self, shown: _ShownTrial) -> None:
        result, name = shown.result, f"trial {shown.number}  {configuration_in_words(shown.configuration)}"
        if EXTERNAL_FAILURE in result:
            self.log(f"{name}  unfinished, to be resumed later: {result[EXTERNAL_FAILURE]}")
            return
        if INTERRUPTED in result:
            self.log(f"{name}  interrupted; its state is saved")
            return
        self._ended_here += 1
        if FAILED in result:
            self._num_ended["failed"] += 1
            self.log(f"{name}  failed: {result[FAILED]}{self._summary()}")
            return
        values = tuple(result[metric] for metric in self._search.metrics)
        metrics = ", ".join(values_in_units(self._search, values))
        if result[EPOCHS_DONE] < result[EPOCHS]:
            self._num_ended["pruned"] += 1
            self.log(f"{name}  stopped after epoch {result[EPOCHS_DONE]}/{result[EPOCHS]}: {metrics}{self._summary()}")
            return
        self._num_ended["done"] += 1
        best = ", the best so far" if self._note_best(shown.number, values) and len(values) == 1 else ""
        self.log(f"{name}  done in {duration(result['seconds'])}: {metrics}{best}{self._summary()}")

    def _note_best(self, number: int, values: tuple[float, ...]) -> bool:
        """Keep the trial if it is the best one by the first metric; return whether it is."""
        sign = 1 if self._search.directions[0] == "max" else -1
        if self._best is not None and sign * values[0] <= sign * self._best[1][0]:
            return False
        self._best = number, values
        return True

    def _summary(self) -> str:
        ended, total = sum(self._num_ended.values()), self._search.num_trials
        left = f", left {duration(self.seconds() / self._ended_here * (total - ended))}" if ended < total else ""
        return f"  ({ended} of {total} ended{left})"

    def _line(self, shown: _ShownTrial) -> str:
        result, metric = shown.result, self._search.metrics[0]
        progress = f"epoch {result[EPOCHS_DONE]:>3}/{result[EPOCHS]}  {metric} {value_in_units(metric, result[metric])}"
        speed = f"{result['images_per_s']:,.0f} images/s"
        return f"trial {shown.number}  {configuration_in_words(shown.configuration)}  {progress}  {speed}"

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        paths, metric = list(self._search.space), self._search.metrics[0]
        for column in ("trial", *(field_name(path) for path in paths), "epoch", metric, "images/s"):
            table.add_column(column, justify="right", no_wrap=True)
        for shown in self._running.values():
            progress, result = ["starting"], shown.result
            if EPOCHS_DONE in result:
                progress = [f"{result[EPOCHS_DONE]}/{result[EPOCHS]}", value_in_units(metric, result[metric])]
                progress.append(f"{result['images_per_s']:,.0f}")
            table.add_row(str(shown.number), *(format_value(shown.configuration[path]) for path in paths), *progress)
        counts = ", ".join(f"{count} {state}" for state, count in self._num_ended.items() if count)
        best = f"; best {value_in_units(metric, self._best[1][0])}, trial {self._best[0]}" if self._best else ""
        table.caption = f"{counts or 'none ended'}, of {self._search.num_trials}{best}"
        return table
