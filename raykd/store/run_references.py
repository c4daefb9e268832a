"""Which runs and searches still need a teacher, a logit cache or decoded data, so that nothing they need is removed.

A planned run needs its teachers until it is trained and evaluated. Any other partly trained run needs them until it is
trained, because its command may be rerun. Imports no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from raykd.config.codec import read_if_valid
from raykd.disk.lookup import find
from raykd.provenance import teacher_digest
from raykd.store.records import CacheRecord
from raykd.store.run_catalog import Catalog, CatalogRun


@dataclass(frozen=True)
class References:
    """The references between the entries of a catalog."""

    catalog: Catalog

    def students_of(self, teacher: CatalogRun) -> list[CatalogRun]:
        """Return all runs and trials that were trained with `teacher`, finished ones included."""
        return [run for run in self.catalog.all_runs if _was_taught_by(run, teacher)]

    def needing_teacher(self, teacher: CatalogRun) -> list[str]:
        """Return the names of the runs and searches that still need `teacher`, with their families."""
        needing = {run.full_name: None for run in self.students_of(teacher) if not run.search and _is_left(run)}
        for family, plan in self.catalog.plans.items():
            if teacher.name in plan.stages.get("teacher", ()):
                needing |= dict.fromkeys(f"{family}/{name}" for name in self._students_left(family))
                needing |= dict.fromkeys(f"{family}/{name}" for name in self._searches_left(family))
        return list(needing)

    def plans_of(self, run: CatalogRun) -> list[str]:
        """Return the families whose plan names `run`."""
        return [family for family, plan in self.catalog.plans.items() if run.name in plan.names]

    def needing_cache(self, cache: Path) -> list[str]:
        """Return the names of the runs and searches that may still read the logit cache in the folder `cache`.

        A damaged cache is needed by all that are left, since its teacher is unknown.
        """
        teacher, needing = _teacher_of_cache(cache / "cache.json"), list[str]()
        for family in self.catalog.plans:
            if teacher is None or teacher == self._teachers_of_plan(family):
                left = [*self._students_left(family), *self._searches_left(family)]
                needing += [f"{family}/{name}" for name in left]
        for search in self.catalog.searches:
            if search.is_unfinished and search.cache == cache.name:
                needing.append(search.full_name)
        for run in self.catalog.runs:
            if _is_left(run) and teacher and run.record and run.record.teacher_sha256 == teacher:
                needing.append(run.full_name)
        return list(dict.fromkeys(needing))

    def caches_of(self, teacher: CatalogRun, caches: Path) -> list[Path]:
        """Return the logit caches in the folder `caches` with outputs of `teacher` alone."""
        weights = _sha256(teacher)
        paths = find(caches, "*/cache.json") if weights else []
        return [path.parent for path in paths if _teacher_of_cache(path) == weights]

    def needed_data(self) -> frozenset[str] | None:
        """Return the identities of the data that unfinished runs and searches read; None if one is unknown."""
        identities: set[str] = set()
        for family in self.catalog.plans:
            planned = self.catalog.plans[family].names
            runs = [run for run in self.catalog.runs if run.family == family or run.name in planned]
            if not any(map(_is_left, runs)) and not self._planned_left(family) and not self._searches_left(family):
                continue
            of_family = {run.record.configuration.data_identity for run in runs if run.record}
            if not of_family or None in of_family:
                return None
            identities |= {str(identity) for identity in of_family}
        return frozenset(identities)

    def _students_left(self, family: str) -> list[str]:
        """Return the planned distilled runs of `family` that are not trained and evaluated."""
        plan = self.catalog.plans[family]
        names = plan.names_of("distilled")
        return [name for name in self._planned_left(family) if name in names]

    def _planned_left(self, family: str) -> list[str]:
        """Return the planned runs of `family` that are not trained and evaluated, sorted."""
        finished = {run.name for run in self.catalog.runs if run.status == "done" and run.test_top1 is not None}
        return sorted(self.catalog.plans[family].names - finished)

    def _searches_left(self, family: str) -> list[str]:
        return [one.name for one in self.catalog.searches if one.family == family and one.is_unfinished]

    def _teachers_of_plan(self, family: str) -> str | None:
        """Return the identity of the weights of the planned teachers of `family`; None if one is not trained."""
        known = {run.name: _sha256(run) for run in self.catalog.runs}
        weights = [known.get(name) for name in self.catalog.plans[family].stages.get("teacher", ())]
        return teacher_digest([one for one in weights if one]) if weights and all(weights) else None


def _is_left(run: CatalogRun) -> bool:
    """Return whether a run has started and is not trained to its end."""
    return run.status != "done"


def _was_taught_by(student: CatalogRun, teacher: CatalogRun) -> bool:
    record = student.record
    if record is None or student.stage != "distilled":
        return False
    is_same = bool(record.teacher_sha256) and record.teacher_sha256 == _sha256(teacher)
    return is_same or teacher.name in record.teachers


def _sha256(run: CatalogRun) -> str | None:
    return run.record.weights_sha256 if run.record else None


def _teacher_of_cache(path: Path) -> str | None:
    record = read_if_valid(CacheRecord, path)
    return record.teacher_sha256 if record else None
