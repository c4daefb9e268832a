"""Run folders in, typed records out: what a plan names, as far as it is on disk.

A file that is absent means "not yet" and is no error. A file that is there and cannot be what it should be
ends the report with one line that names it: a number from a torn file must not reach a table.

What a run used, over all its workers and resumes.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from raykd.errors import ConfigError, flattened
from raykd.report.read.records import Family, History, RunResult, Usage
from raykd.spec.stages import STAGES, Stage
from raykd.store.codec import read_record
from raykd.store.damage import damaged
from raykd.store.records import Costs, Metrics, RunRecord, UsageFile, read_plan
from raykd.store.run_folder import RunFolder


def collect(results: Path) -> tuple[Family, ...]:
    """Every family that has a plan under `results`, by name.

    Raises: ConfigError when there is no plan; RaykdError naming the file when one is corrupt.
    """
    plans = sorted(results.glob("*/plan.json"))
    if not plans:
        raise ConfigError(
            f"no plan under '{results}' (looked for {results}/<family>/plan.json); start an experiment "
            "first, e.g. python experiments/digits.py, or name the folder that holds its results"
        )
    return tuple(_read_family(plan) for plan in plans)


def _read_family(path: Path) -> Family:
    plan, folder = read_plan(path), path.parent
    runs = tuple(_read_run(folder / name, stage) for stage in STAGES for name in plan.stages.get(stage, []))
    known = {run.name: run for run in runs if run.stage == "distilled"}
    compared = {
        method: tuple(known.get(name) or _read_run(folder / name, "distilled") for name in names)
        for method, names in plan.comparison.items()
    }
    for stage in STAGES:
        _refuse_mixed(path, f"stage '{stage}'", [run for run in runs if run.stage == stage])
    for method, of_method in compared.items():
        _refuse_mixed(path, f"comparison of '{method}'", of_method)
    return Family(folder.name, runs, compared)


def _read_run(folder: Path, stage: Stage) -> RunResult:
    record = RunFolder(folder).record()
    if record is None:
        return RunResult(folder.name, stage)
    _require_planned(record, folder, stage)
    history, usage = _read_history(folder), read_usage(folder / "usage")
    if record.status != "done":
        is_running = record.status == "running" and RunFolder(folder).is_held()
        return RunResult(folder.name, stage, record, history, usage=usage, is_running=is_running)
    cautions: list[str] = []
    if why := RunFolder(folder).weights_damage():
        cautions.append(str(damaged(folder / "best.safetensors", why)))
    score, val = (_of_weights(folder / name, record, cautions) for name in ("test.json", "val.json"))
    costs = _of_model(folder / "costs.json", record, cautions)
    return RunResult(folder.name, stage, record, history, score, val, costs, usage, tuple(cautions))


def _of_weights(path: Path, record: RunRecord, cautions: list[str]) -> Metrics | None:
    """Return the scores in `path`; None, with a caution, where they are of other weights than the run left."""
    score = read_record(Metrics, path)
    if score is None or record.weights_sha256 in (None, score.weights_sha256):
        return score
    cautions.append(str(damaged(path, "it is of other weights than those in run.json")))
    return None


def _of_model(path: Path, record: RunRecord, cautions: list[str]) -> Costs | None:
    """Return the costs in `path`; None, with a caution, where they are of another model than the run's."""
    costs = read_record(Costs, path)
    if costs is None or record.weights_sha256 is None or record.parameters in (None, costs.parameters):
        return costs
    cautions.append(str(damaged(path, f"it is of a model of {costs.parameters} parameters, not {record.parameters}")))
    return None


def _require_planned(record: RunRecord, folder: Path, stage: Stage) -> None:
    """Raise DamagedFile where the run is not the one that the plan names."""
    for name, expected in {"name": folder.name, "family": folder.parent.name, "stage": stage}.items():
        if (recorded := getattr(record, name)) != expected:
            raise damaged(folder / "run.json", f"{name} is '{recorded}', its place in the plan says '{expected}'")


def _read_history(folder: Path) -> History | None:
    path, table = folder / "history.parquet", RunFolder(folder).history_table()
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
        raise damaged(path, "its epochs are not whole numbers that increase from row to row")
    return History(epochs, columns)


def _refuse_mixed(path: Path, what: str, runs: Sequence[RunResult]) -> None:
    """A mean over two methods, or over one seed twice, would be a number of nothing."""
    records = [run.record for run in runs if run.record]
    settings = sorted({f"{record.model} {record.method}" for record in records})
    if len(settings) > 1:
        raise damaged(path, f"{what} mixes {' and '.join(settings)}; give each its own family")
    seeds = [record.seed for record in records]
    if len(set(seeds)) != len(seeds):
        raise damaged(path, f"{what} has two runs of one seed (seeds {json.dumps(sorted(seeds))})")


def read_usage(folder: Path) -> Usage | None:
    """Return the sum of the files in `folder`, a run's usage/; None where a part of the run is in none of them.

    Raises DamagedFile.
    """
    files = [file for path in sorted(folder.glob("*.json")) if (file := _read(path)) is not None]
    pieces = [piece for file in files for piece in file.pieces]
    if not pieces or any(file.since is not None for file in files):
        return None
    known = [piece.joules for piece in pieces if piece.joules is not None]
    reasons = dict.fromkeys(flattened(piece.no_joules_because) for piece in pieces if piece.no_joules_because)
    return Usage(
        gpu_seconds=sum(piece.seconds * piece.gpus for piece in pieces),
        joules=sum(known) if len(known) == len(pieces) else None,
        no_joules_because=tuple(reasons),
    )


def _read(path: Path) -> UsageFile | None:
    file, run = read_record(UsageFile, path), path.parents[1].name
    if file is not None and file.run != run:
        raise damaged(path, f"it is of the run '{file.run}'")
    return file
