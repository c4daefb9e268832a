"""The checked plans of experiments, and what the log and `--plan` print about them. Nothing is written or started."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import sqrt
from pathlib import Path

from raykd.data.file_hashes import read_hashes, write_hashes
from raykd.data.types import Dataset
from raykd.disk.lookup import is_file, is_folder
from raykd.errors import ConfigError, plural
from raykd.models.hf_files import PREFIX as HF_PREFIX
from raykd.models.submodules import returns_probabilities
from raykd.models.weights import split_key
from raykd.orchestration.options import Options, dataset_of
from raykd.orchestration.run_states import RunStates
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import member_names
from raykd.spec.plan import Plan, make_plan
from raykd.spec.trackers import require_installed
from raykd.store.migration import require_migrated
from raykd.store.records import CommandParts
from raykd.training.network_checks import NetworkChecks
from raykd.training.teacher.choose import TeacherChoice, choose_teacher
from raykd.training.teacher.imported import require_import_fits

# Fields of the teacher's recipe that also matter for imported weights; the others configure its training.
_OF_IMPORTED_TEACHER = ("model", "precision", "channels_last", "compile")
FEW_VAL_IMAGES = 100  # with fewer, the standard error of a validation top-1 can exceed 5 points


def require_together(experiments: Sequence[Experiment]) -> None:
    """Raise ConfigError for experiments that one command cannot run together.

    Their families must differ. Experiments without a search share one Ray cluster, so their workers, trackers and
    callbacks must be the same. The packages of their trackers must be installed.
    """
    families = [experiment.family for experiment in experiments]
    if repeated := [family for family in families if families.count(family) > 1]:
        raise ConfigError(
            f"family = '{repeated[0]}': two experiments of one family would share a folder and a plan; rename one"
        )
    for name in ("workers", "tracker", "callbacks", "keep_checkpoints"):
        values = [getattr(experiment, name) for experiment in experiments if experiment.search is None]
        if any(value != values[0] for value in values):
            differ = f"{name} {'differs' if name == 'tracker' else 'differ'}"
            raise ConfigError(
                f"{differ} between experiments on one Ray cluster; set the same for all, or run them separately"
            )
    for experiment in experiments:
        require_installed(experiment.tracker)


def plans_of(experiments: Sequence[Experiment], options: Options) -> list[tuple[Plan, Dataset]]:
    """Return the checked plans of experiments that run together, with their data. `--plan` makes the same checks."""
    require_together(experiments)
    return [plan_of(experiment, options) for experiment in experiments]


@contextmanager
def remembering_digests(experiments: Sequence[Experiment], options: Options) -> Iterator[None]:
    """Hash files of weights in this block only if no earlier plan has hashed them, and keep the new digests.

    They are in the folder of decoded images. Without it nothing is kept, because a plan makes no folder.
    """
    if not is_folder(options.decoded):
        yield
        return
    for place in (options.results, options.weights_folder, *_folders_of_weights(experiments)):
        read_hashes(place, options.decoded)
    yield
    write_hashes(options.decoded)


def _folders_of_weights(experiments: Sequence[Experiment]) -> set[Path]:
    """Return the folders of the files of weights that experiments name."""
    texts = {experiment.teacher_checkpoint or "" for experiment in experiments}
    texts |= {getattr(recipe.model, "weights", "") for one in experiments for recipe in (one.teacher, one.student)}
    folders = {Path(text.removeprefix(HF_PREFIX)).expanduser() for text in texts if text.startswith(HF_PREFIX)}
    files = {split_key(text)[0] for text in texts if not text.startswith(HF_PREFIX)}
    return {path.absolute() for path in folders | {file.parent for file in files if is_file(file)}}


def plan_of(experiment: Experiment, options: Options) -> tuple[Plan, Dataset]:
    """Return the plan and its data, after all checks that need no Ray. Nothing is written or started."""
    require_migrated(options.results)
    dataset, store = dataset_of(experiment.data, options), options.store
    plan = checked_plan(experiment, dataset, options)
    for run in plan.runs:
        require_import_fits(run, store.folder(run))
    store.require_writable()
    return plan, dataset


def checked_plan(
    experiment: Experiment, dataset: Dataset, options: Options, checks: NetworkChecks | None = None
) -> Plan:
    """Return the plan on `dataset`. Raises ConfigError for models, weights or methods that do not fit.

    checks: those of plans on `dataset` that were checked before.
    """
    checks = checks or NetworkChecks(dataset)
    plan = make_plan(experiment, dataset, options.weights_folder, options.stages)
    for run in plan.runs:
        checks.outputs_of(run)
    for run in {run.method: run for run in plan.runs if run.stage == "distilled"}.values():
        checks.require_method_fits(run)
    for run in {(run.recipe, run.method): run for run in plan.runs}.values():
        checks.require_valid_batch_norm(run, experiment.workers.count)
    return plan


def teacher_choice_of(plan: Plan, dataset: Dataset, states: RunStates, options: Options) -> TeacherChoice | None:
    """Return the teacher source of the plan's unfinished distilled runs; None if there are no such runs."""
    store = options.store
    teachers = [store.folder(run) for run in plan.runs if run.stage == "teacher"]
    if not teachers:
        return None
    settled = states.trained | states.started_live
    return choose_teacher(plan, dataset, settled, store.logit_caches, teachers, states.in_progress_on_cache)


def data_lines(plan: Plan, dataset: Dataset) -> list[str]:
    """Return the lines that describe the plan's data, with how many images of each part it uses."""
    data = plan.experiment.data
    return dataset.description(data.val_images, data.train_images, data.student_images)


def warning_lines(plan: Plan, command: CommandParts | None = None) -> list[str]:
    """Return a line for each fact that weakens the plan's results, such as warm-ups that do not end.

    command: the command line that sets fields of the experiment, if there is one.
    """
    students = [run for run in plan.runs if run.stage == "distilled"]
    first_runs = {run.method: run for run in reversed(students)}
    paths = ("method", *(f"compare.{name}" for name in member_names(plan.experiment.compare)))
    lines = [
        f"warning: {method.title()} has a warm-up of {warmup[0]:g} epochs, and students train for "
        f"{run.recipe.epochs}, so its terms reach {100 * warmup[1]:.0f} % of their weights ({path}.warmup_epochs)"
        for path, method in zip(paths, plan.experiment.methods, strict=True)
        if (run := first_runs.get(method)) and (warmup := run.unfinished_warmup)
    ]
    data, recipes = plan.experiment.data, [run.recipe for run in plan.runs if run.imported is None]
    if 0 < data.val_images < FEW_VAL_IMAGES and any(recipe.keep == "best" for recipe in recipes):
        error = 50 / sqrt(data.val_images)
        lines.append(
            f"warning: {plural(data.val_images, 'validation image')} (data.val_images) select the epoch of each run, "
            f"and the standard error of their top-1 is up to {error:.0f} points; use more, or keep the last epoch "
            "(teacher.keep=last and student.keep=last)"
        )
    if seeds := sorted({run.seed for run in students if run.starts_as_its_teacher}):
        lines.append(
            f"warning: students of seed {', '.join(map(str, seeds))} start from the initial weights of their teacher, "
            "which is the same network with the same seed, and stay closer to it; use other seeds for teachers"
        )
    lines += [
        f"warning: {role}.model = {model.label}: its outputs are probabilities, at least 0 with sum 1, and raykd "
        "applies the softmax itself; remove the softmax at the end of forward(), so that it returns logits"
        for role, model in dict.fromkeys((run.role, run.model) for run in plan.runs)
        if returns_probabilities(model)
    ]
    return lines + _settings_without_effect(plan, command.settings if command else {})


def _settings_without_effect(plan: Plan, settings: Mapping[str, str]) -> list[str]:
    """Return a warning about fields of the training of a teacher that is imported. They are part of its fingerprint."""
    imported = next((run.imported for run in plan.runs if run.imported is not None), None)
    used = (*_OF_IMPORTED_TEACHER, *(("keep",) if plan.experiment.data.val_images == 0 else ()))
    names = [name for name in settings if name.startswith("teacher.") and name.split(".")[1] not in used]
    names += ["teacher_seed"] if "teacher_seed" in settings else []
    if imported is None or not names:
        return []
    have, them = ("has", "it") if len(names) == 1 else ("have", "them")
    return [
        f"warning: {', '.join(names)} {have} no effect, because the teacher is imported from {imported.path}; leave "
        f"{them} out, since other values give the teacher and its students other names, and train the students again"
    ]
