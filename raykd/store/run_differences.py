"""The fields in which a run differs from the plan of its family, by the paths that --set takes.

    changed_fields(record, plans, found)   {"data.name": "folder:flowers (its content differs)", "student.epochs": "5"}

Data sets, weights, code and folders of transformers are compared by their content and shown by their names: a data set
that has moved is the same one, and one that was edited is not. Imports neither torch nor optuna.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raykd.data.dataset_names import kind_of
from raykd.spec.set_paths import settings_of
from raykd.spec.stages import Stage
from raykd.store.records import PlanRecord, RunRecord

CONTENT_DIFFERS = " (its content differs)"  # after the name of a file, folder or data set
_HIDDEN = ("seed", "data.storage")  # the seed has a column of its own, and the storage affects no result
_IDENTITIES = ("data_identity", "initial", "imported", "teacher.initial")  # parts of fields that name their content
_ROLES = ("teacher", "student")
_NAMED_KINDS = ("timm", "torchvision")  # models that are named 'KIND:NAME'
_OF_TEACHER = ("teacher_seed", "teacher_seeds", "teacher_checkpoint")


@dataclass(frozen=True)
class _Value:
    """A field's value. shown: as --set takes it. compared: what determines the result, with None for unknown parts.

    kind: the class of a model or method, whose fields another class does not have.
    """

    shown: str
    compared: tuple[str | None, ...]
    kind: str = ""

    def differs_from(self, other: "_Value") -> bool:
        pairs = zip(self.compared, other.compared, strict=False)
        return any(one != two and None not in (one, two) for one, two in pairs)


_MISSING = _Value("none", ("none",))


def changed_fields(
    record: RunRecord, plans: Mapping[str, PlanRecord], found: Mapping[str, RunRecord]
) -> dict[str, str]:
    """Return the fields of a run that differ from its family's plan, {path for --set: value as text}.

    The run is compared with the planned run of its stage that differs least, or if none has started, with the fields of
    the plan's experiment. A teacher belongs to no family, and is compared with all planned teachers. found: the records
    of all runs by name.
    """
    is_teacher = record.stage == "teacher"
    plans_of_run = [plan for plan in plans.values() if is_teacher or plan.family == record.family]
    names = dict.fromkeys(name for plan in plans_of_run for name in plan.names_of(record.stage))
    if started := [found[name].config for name in names if name in found]:
        return differing_fields(record.config, record.stage, started)
    values = _values_of(record.config, record.stage)
    expected = [_planned_values(plan, record.stage, found) for plan in plans_of_run if plan.experiment]
    pairs = [(_only(values, planned), _only(planned, values)) for planned in expected]
    return min((_differing(*pair) for pair in pairs), key=len, default={})


def differing_fields(config: Mapping[str, Any], stage: Stage, planned: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the fields of a run of `stage` that differ from the planned run that differs least; {} without any.

    config, planned: `to_dict(run)`, as run.json has it.
    """
    values = _values_of(config, stage)
    return min((_differing(values, _values_of(one, stage)) for one in planned), key=len, default={})


def _only(values: Mapping[str, _Value], names: Iterable[str]) -> dict[str, _Value]:
    return {name: values[name] for name in names if name in values}


def differing_names(changes: Mapping[str, str], has_other_seed: bool = False) -> list[str]:
    """Return the names of changed fields for a sentence: 'student.epochs', 'the content of data.name'.

    has_other_seed: whether a run has a seed that the plan does not have. It counts if nothing else differs.
    """
    names = [f"the content of {name}" if value.endswith(CONTENT_DIFFERS) else name for name, value in changes.items()]
    return names or (["seeds"] if has_other_seed else [])


def _differing(values: Mapping[str, _Value], expected: Mapping[str, _Value]) -> dict[str, str]:
    """Return those of `values` that differ from the expected ones. The fields of another class do not count."""
    pairs = {name: (values.get(name, _MISSING), expected.get(name, _MISSING)) for name in {**values, **expected}}
    differing = sorted(name for name, (value, planned) in pairs.items() if value.differs_from(planned))
    ignored = [f"{name}." for name in differing if pairs[name][0].kind != pairs[name][1].kind]
    if ("teacher_seed" in values) != ("teacher_seed" in expected):  # one method needs a teacher, the other one does not
        ignored += ["teacher.", *_OF_TEACHER]
    if "data.image_size" in differing:  # it changes the pixels, and with them the identity of the data
        ignored += ["data.name"] if pairs["data.name"][0].shown == pairs["data.name"][1].shown else []
    changes = {}
    for name in differing:
        value, planned = pairs[name]
        if not name.startswith(tuple(ignored)):
            changes[name] = f"{value.shown}{CONTENT_DIFFERS if value.shown == planned.shown else ''}"
    return changes


def _planned_values(plan: PlanRecord, stage: Stage, found: Mapping[str, RunRecord]) -> dict[str, _Value]:
    """Return the values that runs of `stage` would have in `plan`, as far as its experiment records them.

    The experiment records neither names nor identities of data. Any planned run in `found` has them.
    """
    experiment, is_teacher = plan.configuration, stage == "teacher"
    # A teacher trains on all images, however many the students train on.
    left_out = "student_images" if is_teacher else ""
    data = {name: value for name, value in experiment.data.values.items() if name != left_out}
    config: dict[str, Any] = {"data": data, "recipe": (experiment.teacher if is_teacher else experiment.student).values}
    if stage == "distilled":
        seed = {} if experiment.values.get("teacher_seeds") else {"seed": experiment.values.get("teacher_seed")}
        config |= {"method": experiment.method.values, "teacher": {"recipe": experiment.teacher.values, **seed}}
    values = _values_of(config, stage)
    if stage == "distilled":
        values.pop("student.model.classifier", None)  # false if nothing would train it
    started = next((found[name] for name in sorted(plan.names) if name in found), None)
    return values if started is None else values | {"data.name": _data_of(settings_of(started.config, started.stage))}


def _values_of(config: Mapping[str, Any], stage: Stage) -> dict[str, _Value]:
    """Return the fields of a run's configuration, by their path for --set."""
    settings = settings_of(config, stage)
    values = {name: _Value(text, (text,)) for name, text in settings.items() if not _is_content(name)}
    values["data.name"] = _data_of(settings)
    if "teacher_checkpoint" in settings:
        identity = settings.get("imported.sha256"), settings.get("imported.key")
        values["teacher_checkpoint"] = _Value(settings["teacher_checkpoint"], identity)
    if "method" in settings:
        source = settings.get("method.source.class"), settings.get("method.source.sha256")
        values["method"] = _Value(settings["method"], (settings["method"], *source), settings["method"])
    for role in _ROLES:
        initial = "teacher.initial" if (role, stage) == ("teacher", "distilled") else "initial"
        values |= _model_of(settings, role, initial)
        if values.get(f"{role}.model", _MISSING).kind in _NAMED_KINDS:
            values.pop(f"{role}.model.name", None)
    return {name: value for name, value in values.items() if name not in _HIDDEN}


def _data_of(settings: Mapping[str, str]) -> _Value:
    """Return the data set: its name, compared by its kind and its content."""
    name = settings.get("data.name", "")
    return _Value(name, (kind_of(name), settings.get("data_identity")))


def _model_of(settings: Mapping[str, str], role: str, initial: str) -> dict[str, _Value]:
    """Return the model of a role and its weights. initial: the path of the weights with which training started."""
    model = f"{role}.model"
    kind = settings.get(f"{model}.kind")
    if kind is None:
        return {}
    values, shown, content = dict[str, _Value](), kind, tuple[str | None, ...]()
    if kind in _NAMED_KINDS:
        shown, content = f"{kind}:{settings.get(f'{model}.name')}", (settings.get(f"{model}.name"),)
    elif kind == "hf":
        below = {name: text for name, text in settings.items() if name.startswith(f"{model}.repository.")}
        shown = f"hf:{below.pop(f'{model}.repository.name', '')}"
        content = (json.dumps(below, sort_keys=True),)
    elif kind == "network":
        source = {name: settings.get(f"{model}.source.{name}") for name in ("file", "class", "sha256")}
        shown, content = f"{source['file']}:{source['class']}", (source["class"], source["sha256"])
    values[model] = _Value(shown, (kind, *content), kind)
    if (weights := settings.get(f"{model}.weights")) is not None:
        started = "file" if weights not in ("", "pretrained") else weights  # an experiment records the path
        shown = settings.get(f"{initial}.path", weights) if started == "file" else weights
        identity = settings.get(f"{initial}.sha256"), settings.get(f"{initial}.key")
        values[f"{model}.weights"] = _Value(shown, (started, *identity))
    return values


def _is_content(name: str) -> bool:
    """Return whether a field is a part of what `_model_of` and `_values_of` compare as the content of another field."""
    section, _, rest = name.partition(".")
    is_of_model = section in _ROLES and rest.startswith(("model.kind", "model.repository.", "model.source."))
    is_identity = any(name == identity or name.startswith(f"{identity}.") for identity in _IDENTITIES)
    return is_identity or is_of_model or name.startswith("method.source.")
