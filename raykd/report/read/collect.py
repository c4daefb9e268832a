"""Reads the run folders that a plan names.

An absent file means "not yet" and is no error. A damaged file ends the report with one line that names it, so that no
wrong number reaches a table.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from raykd.config.codec import read_record
from raykd.disk.damage import damaged
from raykd.disk.lookup import find
from raykd.errors import ConfigError, flattened
from raykd.report.read.run_results import Family, History, RunResult, Usage
from raykd.report.read.unplanned import unplanned_runs
from raykd.spec.published import published_pairs
from raykd.spec.stages import STAGES, Stage
from raykd.store.records import Costs, Metrics, RunRecord, UsageFile, read_plan
from raykd.store.run_folder import RunFolder, planned_folder


def collect(results: Path) -> tuple[Family, ...]:
    """Return every family that has a plan under `results`, by name.

    Raises ConfigError if there is no plan, and DamagedFile for a damaged file.
    """
    plans = find(results, "*/plan.json")
    if not plans:
        raise ConfigError(
            f"no plan under '{results}' (expected {results}/<family>/plan.json); start an experiment "
            "first, e.g. python experiments/digits.py, or name the folder that holds its results"
        )
    return tuple(_read_family(plan) for plan in plans)


def _read_family(path: Path) -> Family:
    plan, folder = read_plan(path), path.parent

    def read(stage: Stage, name: str) -> RunResult:
        return _read_run(planned_folder(folder.parent, folder.name, stage, name), stage)

    runs = tuple(read(stage, name) for stage in STAGES for name in plan.stages.get(stage, ()))
    distilled = {run.name: run for run in runs if run.stage == "distilled"}
    compared = {
        method: tuple(distilled.get(name) or read("distilled", name) for name in names)
        for method, names in plan.comparison.items()
    }
    for stage in STAGES:
        _refuse_mixed(path, f"stage '{stage}'", [run for run in runs if run.stage == stage])
    for method, method_runs in compared.items():
        _refuse_mixed(path, f"comparison of '{method}'", method_runs)
    published = published_pairs().get(plan.configuration.published or "")
    family = Family(folder.name, runs, compared, published, plan.command, plan.configuration)
    return replace(family, unplanned=unplanned_runs(folder, plan, family.all_runs))


def _read_run(folder: RunFolder, stage: Stage) -> RunResult:
    path, record = folder.path, folder.record()
    if record is None:
        return RunResult(path.name, stage)
    for name, expected in {"name": path.name, "family": path.parent.name, "stage": stage}.items():
        if (recorded := getattr(record, name)) != expected:
            raise damaged(folder.record_path, f"{name} is '{recorded}', the plan has '{expected}' there")
    history, usage = _read_history(folder), _read_usage(path / "usage")
    if record.status != "done":
        is_running = record.status == "running" and folder.is_held()
        return RunResult(path.name, stage, record, history, usage=usage, is_running=is_running)
    warnings: list[str] = []
    if damage := folder.weights_damage():
        warnings.append(str(damaged(folder.best, damage)))
    test, val = (_read_metrics(file, record, warnings) for file in (folder.test, folder.val))
    costs = _read_costs(folder.costs, record, warnings)
    return RunResult(path.name, stage, record, history, test, val, costs, usage, tuple(warnings))


def _read_metrics(path: Path, record: RunRecord, warnings: list[str]) -> Metrics | None:
    """Return the metrics in `path`; None, with a warning, if they belong to other weights than the run's."""
    metrics = read_record(Metrics, path)
    if metrics is None or record.weights_sha256 in (None, metrics.weights_sha256):
        return metrics
    warnings.append(str(damaged(path, "it belongs to other weights than those in run.json")))
    return None


def _read_costs(path: Path, record: RunRecord, warnings: list[str]) -> Costs | None:
    """Return the costs in `path`; None, with a warning, if they belong to another model than the run's."""
    costs = read_record(Costs, path)
    if costs is None or record.weights_sha256 is None or record.parameters in (None, costs.parameters):
        return costs
    reason = f"it belongs to a model with {costs.parameters} parameters, not {record.parameters}"
    warnings.append(str(damaged(path, reason)))
    return None


def _read_history(folder: RunFolder) -> History | None:
    path, table = folder.history_path, folder.history_table()
    if table is None:
        return None
    try:
        epochs = tuple(table.column("epoch").to_pylist())
        columns = {
            field.name: tuple(table.column(field.name).cast(pa.float64()).fill_null(math.nan).to_pylist())
            for field in table.schema
            if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        }
    except (KeyError, pa.ArrowException) as error:
        raise damaged(path, str(error)) from error
    if not all(isinstance(epoch, int) for epoch in epochs) or list(epochs) != sorted(set(epochs)):
        raise damaged(path, "its epochs are not integers that increase from row to row")
    return History(epochs, columns)


def _refuse_mixed(path: Path, group: str, runs: Sequence[RunResult]) -> None:
    """Raise DamagedFile for a group whose mean would mix methods, or count a seed twice."""
    records = [run.record for run in runs if run.record]
    mixed = sorted({f"{record.model} {record.method}" for record in records})
    if len(mixed) > 1:
        raise damaged(path, f"{group} mixes {' and '.join(mixed)}; use a separate family for each")
    seeds = [record.seed for record in records]
    if len(set(seeds)) != len(seeds):
        raise damaged(path, f"{group} has two runs of one seed (seeds {json.dumps(sorted(seeds))})")


def _read_usage(folder: Path) -> Usage | None:
    """Return the usage of all workers; None if it is not recorded, or only from the middle of the run on."""
    files = [file for path in find(folder, "*.json") if (file := _read_usage_file(path)) is not None]
    pieces = [piece for file in files for piece in file.pieces]
    if not pieces or any(file.since is not None for file in files):
        return None
    joules = [piece.joules for piece in pieces if piece.joules is not None]
    reasons = dict.fromkeys(flattened(piece.joules_missing_reason) for piece in pieces if piece.joules_missing_reason)
    return Usage(
        gpu_seconds=sum(piece.seconds * piece.gpus for piece in pieces),
        joules=sum(joules) if len(joules) == len(pieces) else None,
        joules_missing_reason=tuple(reasons),
    )


def _read_usage_file(path: Path) -> UsageFile | None:
    file, run = read_record(UsageFile, path), path.parents[1].name
    if file is not None and file.run != run:
        raise damaged(path, f"it belongs to the run '{file.run}'")
    return file
