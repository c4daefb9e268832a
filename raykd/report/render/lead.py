"""The first sentences on a family: which networks are trained how long, by which method, on which images."""

from collections.abc import Sequence

from raykd.errors import flattened, plural
from raykd.report.read.run_results import Family
from raykd.report.stats.summary import FamilySummary
from raykd.spec.stages import Stage
from raykd.store.recorded_config import RecordedData
from raykd.store.records import RunRecord

STUDENTS: tuple[Stage, ...] = ("baseline", "distilled")


def lead_sentences(summary: FamilySummary) -> list[str]:
    """Return the sentences that are known, without full stops. The first may begin with the name of a network."""
    return [*_about_networks(summary), *_about_data(summary.family), *_about_kept_epoch(summary.family)]


def subject(summary: FamilySummary) -> str:
    """Return 'resnet8 distilled from resnet18 on cifar10', or 'family cnn' if that is not known."""
    student, teacher = _student_model(summary), summary.stage("teacher").model
    data = summary.family.data
    if not student or not teacher or data.name is None:
        return f"family {flattened(summary.name)}"
    return f"{flattened(student)} distilled from {flattened(teacher)} on {flattened(data.name)}"


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
    stages: tuple[Stage, ...] = ("teacher",) if stage == "teacher" else STUDENTS
    if any(record.imported for record in _records(family, *stages)):
        return " (imported)"
    planned = family.experiment.teacher if stage == "teacher" else family.experiment.student
    recipes = [record.configuration.recipe for record in _records(family, *stages)] or [planned]
    epochs = {recipe.epochs for recipe in recipes if recipe.values}
    value = epochs.pop() if len(epochs) == 1 else None
    return "" if value is None else f" ({plural(value, 'epoch')})"


def _about_data(family: Family) -> list[str]:
    """Return 'Data: cifar10 with 10,000 training, 5,000 validation and 10,000 test images of 16x16 pixels'."""
    data = family.data
    if data.name is None:
        return []
    counts = [
        *_count(data.student_images or data.train_images or _num_recorded(family, *STUDENTS), "training"),
        *_count(data.val_images or None, "validation"),
        *_count(_common([run.test.num_images for run in family.all_runs if run.test]), "test"),
    ]
    if not counts:
        return [f"Data: {flattened(data.name)}"]
    *first, last = counts
    listed = f"{', '.join(first)} and {last}" if first else last
    size = data.image_size or _common([run.costs.image_size for run in family.all_runs if run.costs])
    pixels = f" of {size}x{size} pixels" if size else ""
    return [f"Data: {flattened(data.name)} with {listed} images{pixels}", *_about_other_training_images(family, data)]


def _about_other_training_images(family: Family, data: RecordedData) -> list[str]:
    """Return a sentence on the teacher's training images if the students train on fewer, and the number is known.

    It is not known before the teacher has ended, and for imported weights.
    """
    if data.student_images is None or any(record.imported for record in _records(family, "teacher")):
        return []
    number = data.train_images or _num_recorded(family, "teacher")
    return [] if number is None else [f"The teacher trains on {number:,} images"]


def _about_kept_epoch(family: Family) -> list[str]:
    """Return a sentence if the students' weights are those of the last epoch, which no validation selected."""
    recipes = [record.configuration.recipe for record in _records(family, *STUDENTS)]
    keeps = {recipe.keep for recipe in recipes or [family.experiment.student] if recipe.values}
    return ["The last epoch of each run is tested"] if keeps == {"last"} else []


def _num_recorded(family: Family, *stages: Stage) -> int | None:
    """Return on how many images all runs of `stages` trained, as recorded."""
    recorded = [record.num_train_images for record in _records(family, *stages)]
    return _common([number for number in recorded if number is not None])


def _count(number: int | None, split: str) -> list[str]:
    return [] if number is None else [f"{number:,} {split}"]


def _common(values: Sequence[int]) -> int | None:
    return values[0] if len(set(values)) == 1 else None


def _records(family: Family, *stages: Stage) -> list[RunRecord]:
    return [run.record for run in family.all_runs if run.record and run.stage in stages]
