"""Paths of recorded fields, and the paths for --set that change the same fields in an experiment.

    recipe.epochs          of a teacher      teacher.epochs
    recipe.epochs          of a student      student.epochs
    method.kind                              method
    teacher.recipe.epochs  of a student      teacher.epochs, in the teacher's column
    imported.path          of a teacher      teacher_checkpoint

The class of a network (model.kind) and the identities of data and weights (data_identity, initial, imported) cannot be
set and keep their names.
"""

import json
from collections.abc import Mapping
from typing import Any

from raykd.config import dotted
from raykd.spec.stages import Stage

# Fields of a distilled run's teacher that add nothing to what the teacher's runs record.
_REDUNDANT = ("kind", "family", "stage", "method", "teacher", "teacher_seeds", "cached_classes")


def set_path(recorded: str, stage: Stage) -> tuple[Stage, str]:
    """Return the stage that a recorded field configures, and its path for --set; '' for a redundant field.

    recorded: the field's dotted path in the configuration of a run of `stage`.
    """
    section, _, rest = recorded.partition(".")
    if section == "teacher":
        redundant = rest.split(".")[0] in _REDUNDANT
        return "teacher", "" if redundant else "teacher_seed" if rest == "seed" else set_path(rest, "teacher")[1]
    if section == "recipe":
        role = "teacher" if stage == "teacher" else "student"
        recorded = f"{role}.{rest}"
    if recorded == "imported.path":
        return stage, "teacher_checkpoint"
    return stage, recorded if recorded.endswith(".model.kind") else recorded.removesuffix(".kind")


def settings_of(config: Mapping[str, Any], stage: Stage) -> dict[str, str]:
    """Return the configuration of a run of `stage` as {path for --set: value as text}, with that of its teacher.

    config: `to_dict(run)`, as run.json has it. Its data are those of the run, and not those of its teacher. The initial
    weights of the teacher are 'teacher.initial', since 'initial' are those of the run.
    """
    settings = {}
    for recorded, value in dotted(config):
        *above, last = recorded.split(".")
        is_only_kind = last == "kind" and value in (*above[-1:], "run")  # data.kind is always 'data'
        path = recorded if _is_below(recorded, "teacher.initial") else set_path(recorded, stage)[1]
        if _is_below(recorded, "teacher.data") or _is_below(recorded, "teacher.data_identity"):
            continue
        if path and not is_only_kind and path not in ("family", "stage"):
            settings[path] = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return settings


def _is_below(path: str, section: str) -> bool:
    return path == section or path.startswith(f"{section}.")
