"""The text of `raykd runs`, `raykd runs show`, `raykd runs rm` and `raykd clean`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raykd.cli.run_list import Row, search_row
from raykd.config.codec import read_if_valid
from raykd.disk.lookup import below, is_file
from raykd.errors import COMMAND, flattened, one_line, plural
from raykd.spec.stages import TRIALS
from raykd.store.cleaning import KINDS, Cleaning
from raykd.store.records import Costs, Metrics
from raykd.store.results_folder import LOGIT_CACHES, disk_bytes
from raykd.store.run_catalog import Catalog, CatalogRun, CatalogSearch
from raykd.store.run_references import References
from raykd.units import age, disk_size

MAX_LISTED = 8  # entries of one kind
MAX_VALUE = 100  # characters of a field's value
_COLUMNS = ("RUN", "FAMILY", "STAGE", "MODEL", "METHOD", "SEED", "STATUS", "VAL", "TEST", "SIZE", "AGE")
_NUMBERS = ("SEED", "VAL", "TEST", "SIZE", "AGE")


def list_text(rows: Sequence[Row], searches: Sequence[Row], catalog: Catalog) -> str:
    """Return a line per run, then its differing fields in the words of --set and its tags; searches; and the sum."""
    cells = [_COLUMNS, *(tuple(map(str, _cells(row))) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    lines = []
    for line, row in zip(cells, (None, *rows), strict=True):
        padded = (
            f"{cell:>{width}}" if title in _NUMBERS else f"{cell:<{width}}"
            for title, cell, width in zip(_COLUMNS, line, widths, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
        lines += [f"    {note}" for note in (_notes(row) if row else ())]
    if not rows:
        has_none = not catalog.runs and not searches
        lines = ["this folder has no runs; name another with --results" if has_none else "no runs are listed"]
    lines += ["", *map(search_line, searches)] if searches else []
    recorded = {run.name for run in catalog.runs}
    missing = len({name for plan in catalog.plans.values() for name in plan.names} - recorded)
    total = disk_size(sum(row["size_bytes"] for row in (*rows, *searches)))
    lines += ["", f"{plural(len(rows), 'run')}, {total}; VAL and TEST are top-1 in percent; + marks planned runs"]
    if missing:
        lines.append(f"not started yet: {plural(missing, 'planned run')}; '{COMMAND} plan NAME' lists them")
    return _joined(lines)


def _cells(row: Row) -> Iterable[Any]:
    yield f"{row['run']}{' +' if row['planned'] else ''}"
    yield row["family"]
    for name in ("stage", "model", "method", "seed"):
        yield "" if row[name] is None else row[name]
    yield row["status"]
    for name in ("val_top1", "test_top1"):
        yield "" if row[name] is None else f"{row[name]:.2f}"
    yield disk_size(row["size_bytes"])
    yield age(row["age_s"])


def _notes(row: Row) -> Iterable[str]:
    if changes := ", ".join(f"{name}={flattened(value, MAX_VALUE)}" for name, value in row["changes"].items()):
        yield f"differs in {changes}"
    if row["tags"]:
        yield f"tags {', '.join(row['tags'])}"


def search_line(row: Row) -> str:
    """Return the line of a search: its trials by state, the best validation top-1, its size and age."""
    states = ", ".join(f"{count} {state}" for state, count in row["trials"].items()) or "no trials"
    best = "" if row["val_top1"] is None else f", best validation top-1 {row['val_top1']:.2f}"
    state = "unfinished" if row["unfinished"] else "finished"
    size, since = disk_size(row["size_bytes"]), age(row["age_s"])
    return f"search {row['family']}/{row['search']}: {states}{best}; {state}, {size}, {since} old"


def run_facts(run: CatalogRun, catalog: Catalog) -> dict[str, Any]:
    """Return all that `raykd runs show` prints, for JSON: the record, metrics, files, and who refers to the run."""
    references, folder = References(catalog), run.folder
    files = sorted(path for path in below(folder.path) if is_file(path) and path.name != ".lock")
    is_teacher = run.stage == "teacher"
    status = folder.status() if run.record else run.status
    caches = references.caches_of(run, catalog.results / LOGIT_CACHES) if is_teacher else []
    return {
        "folder": str(folder.path),
        "status": run.status if status == "interrupted" else status,  # a trial may be pruned
        "record": asdict(run.record) if run.record else None,
        "changes": dict(run.changes),
        "tags": list(run.tags),
        "val": _numbers(folder.val),
        "test": _numbers(folder.test),
        "costs": _costs(folder.costs),
        "files": {str(path.relative_to(folder.path)): disk_bytes(path) for path in files},
        "size_bytes": run.size_bytes,
        "plans": references.plans_of(run),
        "students": [one.full_name for one in references.students_of(run)] if is_teacher else [],
        "needed_by": references.needing_teacher(run) if is_teacher else [],
        "logit_caches": {str(path): disk_bytes(path) for path in caches},
    }


def _numbers(path: Path) -> dict[str, float] | None:
    metrics = read_if_valid(Metrics, path)
    return dict(metrics.numbers) if metrics else None


def _costs(path: Path) -> dict[str, float] | None:
    costs = read_if_valid(Costs, path)
    if costs is None:
        return None
    return {"parameters": costs.parameters, "flops": costs.flops, "latency_ms": costs.latency_ms.median}


def show_text(facts: dict[str, Any]) -> str:
    """Return the facts of one run as aligned lines."""
    record = facts["record"]
    rows: list[tuple[str, str]] = [("folder", facts["folder"]), ("status", facts["status"])]
    if record:
        seeds = f"{record['stage']}, {record['model']}, method {record['method']}, seed {record['seed']}"
        times = f"{record['started']} to {record['ended'] or '(not ended)'}, {record['seconds']:.0f} s of training"
        rows += [("run", seeds), ("time", times), ("writer", record["writer"])]
        if record["reason"]:
            rows.append(("reason", flattened(record["reason"])))
        if record["teachers"]:
            rows.append(("teachers", ", ".join(record["teachers"])))
    rows += [("differs in", f"{name}={flattened(value, MAX_VALUE)}") for name, value in facts["changes"].items()]
    rows += [("tags", " ".join(facts["tags"]))] if facts["tags"] else []
    for split in ("val", "test", "costs"):
        if facts[split]:
            rows.append((split, ", ".join(f"{name} {value:.6g}" for name, value in facts[split].items())))
    rows += [("plan", ", ".join(facts["plans"]) or "no plan names this run")]
    for title, names in {"student": facts["students"], "needed by": facts["needed_by"]}.items():
        rows += [(title, name) for name in names]
    rows += [("logit cache", f"{path} ({disk_size(size)})") for path, size in facts["logit_caches"].items()]
    rows += [("file", f"{name} ({disk_size(size)})") for name, size in facts["files"].items()]
    rows.append(("size", disk_size(facts["size_bytes"])))
    width, lines, before = max(len(title) for title, _ in rows), [], ""
    for title, text in rows:
        lines.append(f"{'' if title == before else title:<{width}}  {text}")
        before = title
    return _joined(lines)


def search_removal_text(search: CatalogSearch, pages: Sequence[Path], results: Path, now: float) -> str:
    """Return the line of a search, a line per folder and file that is removed with its size, and what is kept.

    pages: folders of the report that are removed with it.
    """
    folder = search.folder.path
    others = [path for path in sorted(folder.iterdir()) if path.name not in (TRIALS, ".lock")]
    trials = sorted(folder.glob(f"{TRIALS}/*"))
    paths = [*others, *pages, *trials[:MAX_LISTED]]
    lines = [f"  {path.relative_to(results)} ({disk_size(disk_bytes(path))})" for path in paths]
    lines += [f"  and {len(trials) - MAX_LISTED} more trials"] if len(trials) > MAX_LISTED else []
    if search.confirming:
        lines.append(f"  kept: {plural(len(search.confirming), 'run')} of the family, which confirmed configurations")
    return _joined([search_line(search_row(search, now)), *lines])


def removal_text(runs: Sequence[CatalogRun]) -> str:
    """Return one line per run with its size and what is lost, and the sum."""
    lines = []
    for run in runs:
        top1 = "" if run.test_top1 is None else f", test top-1 {run.test_top1:.2f}"
        planned = ", in the family's plan" if run.is_planned else ""
        lines.append(f"{run.full_name}: {run.status}{top1}{planned}, {disk_size(run.size_bytes)}")
    total = disk_size(sum(run.size_bytes for run in runs))
    return _joined([*lines, f"{plural(len(runs), 'run')}, {total}"])


def cleaning_text(found: Cleaning, results: Path) -> str:
    """Return what may be removed by kind with sizes, what is kept for which runs, and the sum."""
    lines = []
    for kind in KINDS:
        entries = [item for item in found.removable if item.kind == kind]
        if not entries:
            continue
        lines.append(f"{kind:<13} {disk_size(found.size_of(kind)):>9}  {plural(len(entries), 'entry', 'entries')}")
        lines += [f"  {item.path.relative_to(results)} ({disk_size(item.size_bytes)})" for item in entries[:MAX_LISTED]]
        lines += [f"  and {len(entries) - MAX_LISTED} more"] if len(entries) > MAX_LISTED else []
    for path, names in found.kept:
        first, *others = names
        more = f" and {len(others)} more" if others else ""
        lines.append(f"kept: {path.relative_to(results)} ({disk_size(disk_bytes(path))}), needed by {first}{more}")
    if found.is_used:
        lines.append("kept: caches, decoded data and leftovers, because a command trains in this folder now")
    total = disk_size(sum(item.size_bytes for item in found.removable))
    return _joined([*lines, f"{'total':<13} {total:>9}" if found.removable else "nothing to remove"])


def _joined(lines: Iterable[str]) -> str:
    """Join lines for a terminal. A name with an escape sequence could hide lines, such as those above a question."""
    return "\n".join(map(one_line, lines))
