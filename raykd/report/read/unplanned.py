"""The evaluated runs in a family's folder that are not in its plan, such as those of an earlier command.

The report leaves them out, and one warning counts them: a reader of a result on the test split must know how many
other configurations were evaluated on it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from raykd.disk.lookup import find, is_file
from raykd.errors import flattened, plural
from raykd.report.read.run_results import RunResult, UnplannedRuns
from raykd.store.records import PlanRecord, RunRecord
from raykd.store.run_differences import changed_fields, differing_names
from raykd.store.run_folder import RunFolder


def unplanned_runs(family: Path, plan: PlanRecord, planned: Sequence[RunResult]) -> UnplannedRuns | None:
    """Return the evaluated runs in the folder `family` that `plan` does not name; None without any.

    planned: the runs of the plan. Only one run.json is read for each run. A damaged one concerns no number of the
    report, so it is skipped.
    """
    found = (folder.record_if_valid() for folder in _unplanned_folders(family, plan))
    records = [record for record in found if record and record.status == "done"]
    if not records:
        return None
    methods = Counter(flattened("baseline" if record.stage == "baseline" else record.method) for record in records)
    fields = _changed_fields(records, plan, planned)
    return UnplannedRuns(tuple(record.name for record in records), dict(sorted(methods.items())), tuple(fields))


def warning_of_unplanned(unplanned: UnplannedRuns | None) -> list[str]:
    """Return the warning about the runs, if there are any."""
    if unplanned is None:
        return []
    count = len(unplanned.names)
    methods = ", ".join(f"{method} {number}" for method, number in unplanned.methods.items())
    are = "is" if count == 1 else "are"
    line = f"{plural(count, 'evaluated run')} in this folder {are} not in the plan, and left out here: {methods}"
    if unplanned.fields:
        line += f". {'It differs' if count == 1 else 'They differ'} from the plan in {', '.join(unplanned.fields)}"
    return [line]


def _unplanned_folders(family: Path, plan: PlanRecord) -> list[RunFolder]:
    """Return the folders of evaluated runs that the plan does not name, without those that are being removed."""
    paths = [path.parent for path in find(family, "*/run.json")]
    folders = [RunFolder(path) for path in paths if path.name not in plan.names and not path.name.startswith(".")]
    return [folder for folder in folders if is_file(folder.test)]


def _changed_fields(records: Sequence[RunRecord], plan: PlanRecord, planned: Sequence[RunResult]) -> list[str]:
    """Return the fields in which runs differ from the most similar planned runs, sorted.

    The seed counts for a run that differs in nothing else.
    """
    started = [run.record for run in planned if run.record]
    seeds = {run.seed for run in planned}
    alike: dict[str, list[RunRecord]] = {}  # runs that differ in their seed alone have the same changes
    for record in records:
        alike.setdefault(json.dumps([record.stage, {**record.config, "seed": None}]), []).append(record)
    fields: set[str] = set()
    for first, *others in alike.values():
        # Runs of another method differ in the method alone, whatever its fields are.
        of_method = [record for record in started if record.method == first.method]
        found = {record.name: record for record in of_method or started}
        changed = changed_fields(first, {plan.family: plan}, found)
        has_other_seed = any(record.seed not in seeds for record in (first, *others))
        fields.update(differing_names(changed, has_other_seed))
    return [flattened(field) for field in sorted(fields)]
