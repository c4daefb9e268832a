"""A results folder with finished runs of the digits that nothing was trained for: real plans and records, small files.

finished(folder)      a teacher, two baselines and two distilled students, which are planned, done and evaluated
"""

from pathlib import Path

from small_runs import experiment, plan_of
from written_records import record_of

from raykd.config.codec import write_record
from raykd.provenance import file_sha256
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Plan, Run
from raykd.store.records import CacheRecord, Metrics
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore

ENDED = "2020-01-02T03:04:05+00:00"
CHECKPOINT = b"c" * 30_000
WEIGHTS = b"w" * 10_000


def finished(results: Path, made: Experiment | None = None) -> Plan:
    """Write the plan of `made`, and each of its runs as a finished and evaluated one."""
    plan, store = plan_of(made or experiment(seeds=(0, 1))), RunStore(results)
    store.make_folder()
    store.write_plan(plan)
    for run in plan.runs:
        finish(store, run)
    return plan


def finish(store: RunStore, run: Run, is_tested: bool = True, **changes: object) -> RunFolder:
    """Write the folder of `run` as a finished one, with weights that differ from those of other runs."""
    folder = store.folder(run)
    folder.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    folder.checkpoint.write_bytes(CHECKPOINT)
    folder.best.write_bytes(WEIGHTS + run.name.encode())
    weights = file_sha256(folder.best)
    teachers = [store.folder(teacher) for teacher in run.teachers]
    taught: dict[str, object] = {"teachers": tuple(teacher.name for teacher in run.teachers)}
    if teachers and teachers[0].best.is_file():
        taught["teacher_sha256"] = file_sha256(teachers[0].best)
    results = {"weights_sha256": weights, "ended": ENDED}
    record = record_of(run, model=run.model.label, method=run.method.kind, **results, **taught, **changes)
    folder.write_record(record)
    if is_tested:
        write_record(folder.test, Metrics(90.0 + run.seed, 0.5, 597, weights_sha256=weights))
    return folder


def interrupt(folder: RunFolder) -> None:
    """Make a finished run an interrupted one, with its checkpoint and without results."""
    folder.best.unlink()
    folder.test.unlink(missing_ok=True)
    folder.update(status="running", best=None, weights_sha256=None, ended=None)


def write_cache(results: Path, teacher: RunFolder, name: str = "0123456789abcdef") -> Path:
    """Write a logit cache of `teacher` and return its folder."""
    folder = RunStore(results).logit_caches / name
    identity, sha256 = "d" * 64, file_sha256(teacher.best)
    write_record(folder / "cache.json", CacheRecord(sha256, identity, 1, True, "fp32", 10, 10, 0, "fp32"))
    (folder / "logits.f16").write_bytes(b"l" * 50_000)
    return folder
