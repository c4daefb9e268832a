"""Search folders as a search writes them, without training."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from written_records import run_record, search_record

from raykd.config import to_dict
from raykd.config.codec import write_record
from raykd.report.read.search_results import SearchSummary
from raykd.report.read.search_summary import summarize_search
from raykd.report.stats.confirmation import gain_over_baseline, gain_over_default
from raykd.report.stats.paired_interval import PairedGain
from raykd.spec.search import Search, choice, loguniform, uniform
from raykd.store.records import CacheRecord, ComputeRecord, ConfirmationRecord
from raykd.store.study import SearchFolder, SearchStudy, SearchTrial

DEFAULT_CONFIGURATION = {"method.alpha": 0.5, "method.temperature": 4.0}
SPACE = {"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial. curve: the metric after each epoch. seconds: recorded by a done run.

    rows: epochs in the history, one second each, with val_top1 of the curve.
    """

    state: str = "done"
    curve: Sequence[float] = ()
    values: Sequence[float] = ()
    reason: str = ""
    seconds: float = 0.0
    rows: int = 0
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExampleSearch:
    """A search in `path` below the results folder `root`, to be read, changed and confirmed by tests."""

    root: Path
    path: Path

    def summary(self) -> SearchSummary:
        return summarize_search(self.path, self.root)

    def gain_over_default(self) -> PairedGain | None:
        return gain_over_default(self._confirmation())

    def gain_over_baseline(self) -> PairedGain | None:
        return gain_over_baseline(self._confirmation())

    def _confirmation(self) -> ConfirmationRecord:
        confirmation = self.summary().confirmation
        assert confirmation is not None
        return confirmation

    def update(self, **changes: Any) -> None:
        SearchFolder(self.path).update(**changes)

    def confirm(
        self,
        candidates: Mapping[int | None, Sequence[float]],
        baseline: Sequence[float],
        metric: str = "val_top1",
        num_requested: int | None = None,
        recipe_of: int | Literal["winner"] | None = "winner",
        failed: Mapping[int | Literal["baseline"] | None, str] = MappingProxyType({}),
    ) -> None:
        """Write confirmed.json. candidates: {trial, or None for the default configuration: one value per seed}.

        recipe_of: the trial whose student recipe the baseline has. failed: why candidates or the baseline have no
        values.
        """
        record = SearchFolder(self.path).require_record()
        configurations = {trial.number: dict(trial.configuration) for trial in SearchFolder(self.path).trials()} | {
            None: record.default_configuration
        }
        rows = [
            {
                "trial": trial,
                "configuration": configurations[trial],
                "runs": [f"distilled-{trial}"],
                "values": list(values),
                "failed": failed.get(trial),
            }
            for trial, values in candidates.items()
        ]
        sign = -1 if metric == "val_loss" else 1
        eligible = [index for index, row in enumerate(rows) if not row["failed"]]
        winner = max(eligible, key=lambda index: sign * sum(rows[index]["values"]))
        recipe = rows[winner]["configuration"] if recipe_of == "winner" else configurations[recipe_of]
        confirmed = {
            "metric": metric,
            "num_requested": record.search["confirm"] if num_requested is None else num_requested,
            "num_trials": len(configurations) - 1,
            "seeds": record.seeds,
            "candidates": rows,
            "baseline": {
                "trial": None,
                "runs": ["baseline-0"],
                "configuration": {path: value for path, value in recipe.items() if path.startswith("student.")},
                "values": list(baseline),
                "failed": failed.get("baseline"),
            },
            "winner": winner,
        }
        (self.path / "confirmed.json").write_text(json.dumps(confirmed))


def make_search(
    root: Path,
    search: Search,
    outcome_of: Callable[[SearchTrial], Outcome],
    default_configuration: Mapping[str, Any] = DEFAULT_CONFIGURATION,
    num_trials: int | None = None,
    epochs: int = 9,
    family: str = "cnn",
    **record: Any,
) -> ExampleSearch:
    """Write a search with `num_trials` started trials. record: replaces fields of search.json."""
    folder = SearchFolder(root / family / search.name)
    fields = {
        "default_configuration": dict(default_configuration),
        "epochs": epochs,
        "fill_seconds": 0.0,
        "cpus": 2,
        "gpus": 0.0,
    } | record
    folder.write_record(search_record(family=family, name=search.name, search=to_dict(search), **fields))
    study = SearchStudy(folder, search, default_configuration)
    for _ in range(search.num_trials if num_trials is None else num_trials):
        trial = study.start_trial()
        outcome = outcome_of(trial)
        for epoch, value in enumerate(outcome.curve, start=1):
            if len(search.metrics) == 1:
                study.report_value(trial.number, epoch, value)
        _write_run(folder, trial.number, outcome, epochs)
        if outcome.state != "running":
            values = outcome.values or list(outcome.curve[-1:])
            study.finish_trial(trial.number, outcome.state, values, outcome.reason)
    return ExampleSearch(root, folder.path)


def write_plan(root: Path) -> None:
    """Write a plan with a teacher only."""
    (root / "cnn" / "plan.json").write_text(json.dumps({"family": "cnn", "stages": {"teacher": ["teacher-s0"]}}))


def write_cache(root: Path, name: str, views: Sequence[int], **key: Any) -> None:
    """Write a logit cache in the folder `name` whose image i has `views[i]` of at most 8 views."""
    folder = root / ".logit_caches" / name
    folder.mkdir(parents=True)
    record = CacheRecord("aa", "bb", 1, True, "fp32", len(views), 10, embedding_width=0, computed_in="fp32")
    write_record(folder / "cache.json", replace(record, **key))
    filled = np.zeros((len(views), 8), bool)
    for image, count in enumerate(views):
        filled[image, :count] = True
    checksums = np.zeros((len(views), 4), np.uint8)
    (folder / "filled.bits").write_bytes(np.concatenate([np.packbits(filled, axis=1), checksums], axis=1).tobytes())


def _write_run(folder: SearchFolder, number: int, outcome: Outcome, epochs: int) -> None:
    run = folder.run(number)
    fields = {
        "status": "done" if outcome.state == "done" else "running",
        "seconds": outcome.seconds,
        "teacher_sha256": "aa",
        "config": {"recipe": {"epochs": epochs}},
        "compute": ComputeRecord("cpu", "fp32", 2, teacher="cache"),
    }
    run.write_record(run_record(**fields | dict(outcome.run)))
    if outcome.rows:
        rows = {
            "epoch": list(range(outcome.rows)),
            "val_top1": [float(value) for value in outcome.curve[: outcome.rows]],
            "seconds": [float(epoch + 1) for epoch in range(outcome.rows)],
        }
        pq.write_table(pa.table(rows), run.path / "history.parquet")


def top1_of(trial: SearchTrial) -> float:
    """Return a top-1 that has its maximum of 90 at alpha = 0.3."""
    return 90 - 40 * (trial.configuration["method.alpha"] - 0.3) ** 2


def learning_curve(top: float, epochs: int) -> list[float]:
    """Return the first `epochs` values of a learning curve that reaches `top` after nine epochs."""
    return [top - 30 * (1 - epoch / 9) ** 2 for epoch in range(1, epochs + 1)]


def outcome_with_asha(trial: SearchTrial) -> Outcome:
    """Finish every third trial in 9 s, fail trial 5, and stop the others after epoch 1 or 3."""
    if trial.number == 5:
        return Outcome("failed", learning_curve(20, 2), reason="NaN in <b>kd</b>\n at \x1b[31mepoch 2", rows=0)
    if trial.number % 3 == 0:
        return Outcome("done", learning_curve(top1_of(trial), 9), seconds=9.0, rows=9)
    epochs = 1 if trial.number % 3 == 1 else 3
    return Outcome("pruned", learning_curve(top1_of(trial), epochs))


def finished_search(root: Path, **changes: Any) -> ExampleSearch:
    """Write twelve trials over alpha and temperature, and a winner that is better than the default."""
    search = Search(**{"space": SPACE, "trials": 12, "grace_epochs": 1, "confirm": 2, **changes})
    example = make_search(root, search, outcome_with_asha)
    example.confirm({None: [85.0, 86.0, 87.0], 3: [86.0, 87.5, 87.5], 6: [84.0, 88.0, 86.0]}, [80.0, 82.0, 81.0])
    write_plan(root)
    return example


GRID = {"method.alpha": choice(0.1, 0.5, 0.9)}
