"""plan.json of a family: which runs its report is about, by stage, and by method where several are compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from raykd.spec.stages import STAGES, Stage
from raykd.store.codec import Fields, write_record


@dataclass(frozen=True)
class PlanFile:
    """The content of plan.json. stages and comparison hold names of run folders beside the file."""

    path: Path
    stages: Mapping[Stage, list[str]]
    comparison: Mapping[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> "PlanFile":
        """Read `path`, which may be missing: then nothing is planned. Raises DamagedFile."""
        fields = Fields.read_if_exists(path)
        if fields is None:
            return cls(path, {}, {})
        family = path.parent.name
        if fields.text("family") != family:
            fields.refuse(f"family is '{fields.text('family')}', the folder is '{family}'")
        stages, comparison = fields.mapping("stages"), fields.optional("comparison", fields.mapping) or {}
        for stage in stages:
            if stage not in STAGES:
                fields.refuse(f"unknown stage '{stage}': a plan has {', '.join(STAGES)}")
        for of_stage, names in (*stages.items(), *comparison.items()):
            _require_names(fields, of_stage, names)
        return cls(path, cast(Mapping[Stage, list[str]], stages), comparison)

    def write(self, experiment: Mapping[str, Any]) -> None:
        """Replace the file. experiment: the settings that the runs are of."""
        values = {"stages": self.stages, "comparison": self.comparison, "experiment": experiment}
        write_record(self.path, {"family": self.path.parent.name, **values})

    @property
    def names(self) -> set[str]:
        """All runs that it names."""
        return {name for names in (*self.stages.values(), *self.comparison.values()) for name in names}

    def refuse(self, why: str) -> NoReturn:
        """Raise DamagedFile with the reason `why`."""
        Fields(self.path, {}).refuse(why)


def _require_names(fields: Fields, stage: str, names: Iterable[Any]) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        fields.refuse(f"stage '{stage}' is not a list of run names")
    for name in names:
        # A path would lead out of the family's folder; what cannot be printed, into the terminal's controls.
        if name in ("", "..") or Path(name).name != name or not name.isprintable():
            fields.refuse(f"'{name}' is not the name of a run's folder")
    if len(set(names)) != len(names):
        fields.refuse(f"stage '{stage}' names a run twice")
