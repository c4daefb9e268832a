"""Results folders of the earlier layout, in which families did not share teachers.

<results>/<family>/teacher-...     is now <results>/teachers/teacher-..., which all families share
<results>/.before_migration/       teachers that another run replaces; nothing refers to them any more
<results>/.migration.json          MigrationRecord, while a migration is in progress

`raykd/training/migration.py` moves them. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raykd.disk.lookup import find, is_file
from raykd.errors import COMMAND, ConfigError, plural
from raykd.spec.stages import TEACHERS

JOURNAL = ".migration.json"
SET_ASIDE = ".before_migration"


@dataclass(frozen=True)
class Move:
    """One run folder that is renamed. source, target: paths below the results; equal for the trials of a search.

    name: of the run that plans name in its place, '' for none. fingerprint: of the run; '' if its files stay as they
    are, because it is set aside. teacher_sha256: of the weights that its teacher has after the migration.
    """

    source: str
    target: str
    name: str = ""
    fingerprint: str = ""
    teacher_sha256: str = ""

    @property
    def family(self) -> str:
        """The family in whose folder the run was."""
        return Path(self.source).parts[0]

    @property
    def is_trial(self) -> bool:
        return self.source == self.target


@dataclass(frozen=True)
class MigrationRecord:
    """.migration.json: everything that a migration changes, so that it is completed after an interruption.

    fingerprints: of each teacher, before and after. notes: sentences about runs that are not simply renamed.
    """

    moves: tuple[Move, ...] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def problem(self) -> str:
        paths = [Path(path) for move in self.moves for path in (move.source, move.target)]
        is_below = all(not path.is_absolute() and ".." not in path.parts and len(path.parts) > 1 for path in paths)
        return "" if is_below else "a path is not below the results folder"


def old_teachers(results: Path) -> list[Path]:
    """Return the folders of teachers that are in the folder of a family, by family and name."""
    found = find(results, "*/teacher-*/run.json")
    return sorted(path.parent for path in found if path.parts[-3] != TEACHERS)


def require_migrated(results: Path) -> None:
    """Raise ConfigError, with the command to run, if the results have the earlier layout or are partly migrated."""
    command = f"{COMMAND} migrate --results {results}"
    if is_file(results / JOURNAL):
        raise ConfigError(f"the migration of '{results}' was interrupted; run {command} to complete it")
    if folders := old_teachers(results):
        teachers = plural(len(folders), "teacher")
        raise ConfigError(
            f"'{results}' has {teachers} in the folders of families, where an earlier version of raykd wrote them; "
            f"run {command} to share them and keep all runs"
        )
