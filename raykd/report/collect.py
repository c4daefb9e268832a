"""Run folders in, typed records out: what a plan names, as far as it is on disk.

A file that is absent means "not yet" and is no error. A file that is there and cannot be what it should be
ends the report with one line that names it: a number from a torn file must not reach a table.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raykd.errors import ConfigError
from raykd.report.fields import Fields, corrupt
from raykd.report.measured import read_costs, read_score, read_usage
from raykd.report.records import Best, Family, History, Record, RunResult, one_line
from raykd.run_folder import RunFolder
from raykd.stages import STAGES, Stage


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


def _read_family(plan: Path) -> Family:
    fields = Fields.read(plan)
    folder = plan.parent
    if fields.text("family") != folder.name:
        fields.refuse(f"family is '{fields.text('family')}', the folder is '{folder.name}'")
    stages = fields.mapping("stages")
    for stage in stages:
        if stage not in STAGES:
            fields.refuse(f"unknown stage '{stage}': a plan has {', '.join(STAGES)}")
    runs = tuple(_read_run(folder / name, stage) for stage in STAGES for name in _run_names(fields, stages, stage))
    compared = _read_compared(fields, folder, {run.name: run for run in runs if run.stage == "distilled"})
    for stage in STAGES:
        _refuse_mixed(fields, f"stage '{stage}'", [run for run in runs if run.stage == stage])
    for method, of_method in compared.items():
        _refuse_mixed(fields, f"comparison of '{method}'", of_method)
    return Family(folder.name, runs, compared)


def _read_compared(plan: Fields, folder: Path, known: Mapping[str, RunResult]) -> dict[str, tuple[RunResult, ...]]:
    """Distilled runs by method; an older plan compares nothing."""
    named = plan.optional("comparison", plan.mapping) or {}
    return {
        method: tuple(
            known.get(name) or _read_run(folder / name, "distilled") for name in _run_names(plan, named, method)
        )
        for method in named
    }


def _run_names(fields: Fields, stages: Mapping[str, Any], stage: str) -> list[str]:
    names = stages.get(stage, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        fields.refuse(f"stage '{stage}' is not a list of run names")
    for name in names:
        # A path would lead out of the family's folder; what cannot be printed, into the terminal's controls.
        if name in ("", "..") or Path(name).name != name or not name.isprintable():
            fields.refuse(f"'{name}' is not the name of a run's folder")
    if len(set(names)) != len(names):
        fields.refuse(f"stage '{stage}' names a run twice")
    return names


def _read_run(folder: Path, stage: Stage) -> RunResult:
    fields = Fields.read_if_there(folder / "run.json")
    if fields is None:
        return RunResult(folder.name, stage)
    record = _read_record(fields, folder, stage)
    history, usage = _read_history(folder / "history.parquet"), read_usage(folder / "usage")
    if record.status != "done":
        return RunResult(folder.name, stage, record, history, usage=usage)
    score, val = read_score(folder / "test.json"), read_score(folder / "val.json")
    return RunResult(folder.name, stage, record, history, score, val, read_costs(folder / "costs.json"), usage)


def _read_record(fields: Fields, folder: Path, stage: Stage) -> Record:
    for key, expected in {"name": folder.name, "family": folder.parent.name, "stage": stage}.items():
        if fields.text(key) != expected:
            fields.refuse(f"{key} is '{fields.text(key)}', its place in the plan says '{expected}'")
    status = fields.text("status")
    if status not in ("running", "done", "failed"):
        fields.refuse(f"status is '{status}', not running, done or failed")
    if status == "running" and not RunFolder(folder).is_held():
        status = "interrupted"  # a process that was killed could not say so
    return Record(
        model=fields.text("model"),
        method=fields.text("method"),
        seed=fields.count("seed"),
        fingerprint=fields.text("fingerprint"),
        status=cast(Any, status),
        seconds=fields.number("seconds", low=0),
        started=fields.text("started"),
        ended=fields.optional_text("ended"),
        reason=fields.optional_text("reason"),
        parameters=fields.optional("parameters", fields.count),
        best=fields.optional("best", lambda _: _best(fields)),
        config=fields.mapping("config"),
        compute=fields.mapping("compute"),
        versions=fields.mapping("versions"),
        hardware=fields.mapping("hardware"),
        git=fields.optional("git", fields.mapping),
        teacher_sha256=fields.optional_text("teacher_sha256"),
        peak_memory_bytes=fields.optional("peak_memory_bytes", fields.count),
        import_cautions=_import_cautions(fields),
    )


def _import_cautions(record: Fields) -> tuple[str, ...]:
    found = record.optional("imported", record.mapping) or {}
    cautions = found.get("cautions", [])
    if not isinstance(cautions, list) or not all(isinstance(caution, str) for caution in cautions):
        record.refuse("field 'imported.cautions' is not a list of texts")
    return tuple(one_line(caution, 600) for caution in cautions)


def _best(record: Fields) -> Best:
    fields = Fields(record.path, record.mapping("best"))
    return Best(fields.optional("epoch", fields.count), fields.number("val_top1", low=0, high=100))


def _read_history(path: Path) -> History | None:
    try:
        table = pq.ParquetFile(path).read()
        epochs = tuple(table.column("epoch").to_pylist())
        columns = {
            field.name: tuple(table.column(field.name).cast(pa.float64()).fill_null(math.nan).to_pylist())
            for field in table.schema
            if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        }
    except FileNotFoundError:
        return None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise corrupt(path, str(error)) from error
    if not all(isinstance(epoch, int) for epoch in epochs) or list(epochs) != sorted(set(epochs)):
        raise corrupt(path, "its epochs are not whole numbers that increase from row to row")
    return History(epochs, columns)


def _refuse_mixed(plan: Fields, what: str, runs: Sequence[RunResult]) -> None:
    """A mean over two methods, or over one seed twice, would be a number of nothing."""
    records = [run.record for run in runs if run.record]
    settings = sorted({f"{record.model} {record.method}" for record in records})
    if len(settings) > 1:
        plan.refuse(f"{what} mixes {' and '.join(settings)}; give each its own family")
    seeds = [record.seed for record in records]
    if len(set(seeds)) != len(seeds):
        plan.refuse(f"{what} has two runs of one seed (seeds {json.dumps(sorted(seeds))})")
