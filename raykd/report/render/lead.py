"""The first sentences on a family: which networks are trained how long, by which method, on which images."""

from collections.abc import Mapping, Sequence
from typing import Any

from raykd.errors import flattened, plural
from raykd.report.read.records import Family
from raykd.report.stats.summary import FamilySummary
from raykd.spec.stages import Stage
from raykd.store.records import RunRecord


def lead_sentences(summary: FamilySummary) -> list[str]:
    """Return the sentences that are known, without full stops. The first may begin with the name of a network."""
    return [*_about_networks(summary), *_about_data(summary.family), *_about_kept_epoch(summary.family)]


def subject(summary: FamilySummary) -> str:
    """Return 'resnet8 distilled from resnet18 on cifar10', or 'family cnn' if that is not known."""
    student, teacher = _student_model(summary), summary.stage("teacher").model
    data = _data_of(summary.family).get("name")
    if not student or not teacher or not isinstance(data, str):
        return f"family {flattened(summary.name)}"
    return f"{flattened(student)} distilled from {flattened(teacher)} on {flattened(data)}"


def _student_model(summary: FamilySummary) -> str | None:
    return summary.stage("distilled").model or summary.stage("baseline").model


def _about_networks(summary: FamilySummary) -> list[str]:
    """Return 'resnet8 (15 epochs) distilled from resnet18 (30 epochs) with kd'; nothing without both networks."""
    family, teacher, student = summary.family, summary.stage("teacher"), summary.stage("distilled")
    student_model = _student_model(summary)
    if not teacher.model or not student_model:
        return []
    teachers = f"{teacher.num_planned} teachers {teacher.model}" if teacher.num_planned > 1 else teacher.model
    line = (
        f"{flattened(student_model)}{_epochs(family, 'baseline')} distilled from "
        f"{flattened(teachers)}{_epochs(family, 'teacher')}"
    )
    if student.method:
        line += f" with {flattened(student.method)}"
    if len(family.compared) > 1:
        line += f", one of {len(family.compared)} compared methods"
    return [line]


def _epochs(family: Family, stage: Stage) -> str:
    """Return ' (15 epochs)' as planned, ' (imported)', or '' if it is not known."""
    stages: tuple[Stage, ...] = ("teacher",) if stage == "teacher" else ("baseline", "distilled")
    if any(record.imported for record in _records(family, *stages)):
        return " (imported)"
    role = family.experiment.get("teacher" if stage == "teacher" else "student")
    recipes = [record.config.get("recipe") for record in _records(family, *stages)] or [role]
    epochs = {recipe.get("epochs") for recipe in recipes if isinstance(recipe, Mapping)}
    value = epochs.pop() if len(epochs) == 1 else None
    return f" ({plural(value, 'epoch')})" if isinstance(value, int) else ""


def _about_data(family: Family) -> list[str]:
    """Return 'Data: cifar10 with 10,000 training, 5,000 validation and 10,000 test images of 16x16 pixels'."""
    data = _data_of(family)
    name = data.get("name")
    if not isinstance(name, str):
        return []
    counts = [
        *_count(_num_training_images(family, data, "baseline", "distilled"), "training"),
        *_count(data.get("val_images") or None, "validation"),
        *_count(_common([run.test.num_images for run in family.all_runs if run.test]), "test"),
    ]
    if not counts:
        return [f"Data: {flattened(name)}"]
    *first, last = counts
    listed = f"{', '.join(first)} and {last}" if first else last
    size = data.get("image_size") or _common([run.costs.image_size for run in family.all_runs if run.costs])
    pixels = f" of {size}x{size} pixels" if isinstance(size, int) else ""
    return [f"Data: {flattened(name)} with {listed} images{pixels}", *_about_other_training_images(family, data)]


def _data_of(family: Family) -> Mapping[str, Any]:
    """Return the recorded fields of the students' data, or those of the plan; {} without any."""
    recorded = [record.config.get("data") for record in _records(family, "baseline", "distilled")]
    data = (recorded or [family.experiment.get("data")])[0]
    return data if isinstance(data, Mapping) else {}


def _about_other_training_images(family: Family, data: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the teacher's training images if the students train on fewer, and the number is known.

    It is not known before the teacher has ended, and for imported weights.
    """
    if data.get("student_images") is None or any(record.imported for record in _records(family, "teacher")):
        return []
    number = _num_training_images(family, {**data, "student_images": None}, "teacher")
    return [] if number is None else [f"The teacher trains on {number:,} images"]


def _about_kept_epoch(family: Family) -> list[str]:
    """Return a sentence if the students' weights are those of the last epoch, which no validation selected."""
    recipes = [record.config.get("recipe") for record in _records(family, "baseline", "distilled")]
    keeps = {recipe.get("keep") for recipe in recipes or [family.experiment.get("student")] if recipe}
    return ["The last epoch of each run is tested"] if keeps == {"last"} else []


def _num_training_images(family: Family, data: Mapping[str, Any], *stages: Stage) -> int | None:
    """Return how many images the runs of `stages` train on: as planned, or as recorded if all images are planned."""
    for name in ("student_images", "train_images"):
        if isinstance(number := data.get(name), int):
            return number
    recorded = [record.num_train_images for record in _records(family, *stages)]
    return _common([number for number in recorded if number is not None])


def _count(number: Any, split: str) -> list[str]:
    return [f"{number:,} {split}"] if isinstance(number, int) else []


def _common(values: Sequence[int]) -> int | None:
    return values[0] if len(set(values)) == 1 else None


def _records(family: Family, *stages: Stage) -> list[RunRecord]:
    return [run.record for run in family.all_runs if run.record and run.stage in stages]
