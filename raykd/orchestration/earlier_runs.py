"""Lines of a plan about the runs of other configurations in the folder of its family, which do not count for it."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from raykd.config import to_dict
from raykd.disk.lookup import find, is_file
from raykd.errors import COMMAND, ConfigError, plural
from raykd.spec.plan import Plan
from raykd.spec.stages import Stage
from raykd.store.records import RunRecord, read_plan
from raykd.store.results_folder import DEFAULT_RESULTS
from raykd.store.run_differences import differing_fields, differing_names
from raykd.store.run_folder import RunFolder, planned_folder
from raykd.store.run_store import RunStore

_MAX_READ = 8  # run.json files


def earlier_runs_line(plan: Plan, store: RunStore) -> str:
    """Return how many runs of other configurations the family has, and where those of its last command differ.

    '' without any. It lists one folder and reads few files, however many runs there are. Teachers count only if the
    last command planned them, because other families have their teachers in the same folder.
    """
    folder, planned = store.results / plan.experiment.family, {run.name for run in plan.runs}
    stages = tuple(f"{stage}-" for stage in {run.stage for run in plan.runs} if stage != "teacher")
    others = [path.name for path in find(folder, "*-*") if path.name.startswith(stages) and path.name not in planned]
    last = _runs_of_last_command(plan, store, planned)
    teachers = [run.path.name for run in last if run.path.name.startswith("teacher-") and is_file(run.record_path)]
    count = len({*others, *teachers})
    if not count:
        return ""
    names = _differing_names(plan, _first_of_each_kind(last))
    where = "" if store.results == Path(DEFAULT_RESULTS) else f" --results {shlex.quote(str(store.results))}"
    fields = f"; those of the last command differ in {', '.join(names)}" if names else ""
    verb = "is" if count == 1 else "are"
    return (
        f"{plural(count, 'run')} of other configurations {verb} kept and not counted here{fields}; "
        f"'{COMMAND} runs{where}' lists them"
    )


def _runs_of_last_command(plan: Plan, store: RunStore, planned: set[str]) -> list[RunFolder]:
    """Return the folders of the runs that the family's plan.json names and `plan` does not. They need not exist."""
    family = plan.experiment.family
    stages: list[Stage] = sorted({run.stage for run in plan.runs})
    try:
        before = read_plan(store.results / family / "plan.json")
    except ConfigError:  # damaged, which the run reports
        return []
    return [
        planned_folder(store.results, family, stage, name)
        for stage in stages
        for name in sorted({*before.names_of(stage)} - planned)
    ]


def _first_of_each_kind(folders: Iterable[RunFolder]) -> list[RunRecord]:
    """Return the records of the first runs of each stage, model and method, which differ in their seed alone."""
    records: dict[str, RunRecord] = {}
    for folder in folders:
        kind = folder.path.name.rpartition("-s")[0]
        if kind not in records and len(records) < _MAX_READ and (record := folder.record_if_valid()):
            records[kind] = record
    return list(records.values())


def _differing_names(plan: Plan, records: Iterable[RunRecord]) -> list[str]:
    """Return the fields in which `records` differ from the runs of `plan`, sorted; the seeds if it is only these."""
    names: set[str] = set()
    for record in records:
        planned = [run for run in plan.runs if run.stage == record.stage]
        changes = differing_fields(record.config, record.stage, [to_dict(run) for run in planned])
        has_other_seed = record.seed not in {run.seed for run in planned}
        names.update(differing_names(changes, has_other_seed))
    return sorted(names)
