"""An experiment on the digits with runs of some seconds, for jobs, and the check of their weights."""

from pathlib import Path

from small_runs import CPU, NO_WEIGHTS, digits, trained_teacher_of

from raykd.cli.experiment_file import apply_settings, load_experiments
from raykd.spec.bundled import EXPERIMENTS
from raykd.spec.plan import Run, make_plan
from raykd.spec.stages import STAGES, Stage
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.loop import fit

# For experiments/digits.py: one seed, and an epoch takes some hundredths of a second.
SMALL = (
    "seeds=0",
    "data.image_size=8",
    "data.train_images=200",
    "teacher.model.blocks=1,1,1,1",
    "teacher.model.width=8",
    "teacher.batch_size=50",
)
# Some seconds per run, long enough to be interrupted.
SETTINGS = (*SMALL, "teacher.epochs=400", "student.epochs=400", "workers.cpus=1", "workers.gpus=0")


def words(results: Path, settings: tuple[str, ...] = SETTINGS) -> list[str]:
    """Return the arguments of the batch script."""
    return ["experiments/digits.py", "--results", str(results), *(w for s in settings for w in ("--set", s))]


def runs(stages: tuple[Stage, ...] = STAGES, settings: tuple[str, ...] = SETTINGS) -> tuple[Run, ...]:
    """Return the runs of the experiment, teacher first."""
    (experiment,) = apply_settings(load_experiments(EXPERIMENTS / "digits.py"), settings)
    return make_plan(experiment, digits(), NO_WEIGHTS, stages).runs


def assert_undisturbed(run: Run, results: Path, folder: Path) -> None:
    """Assert that the run's weights equal, bit for bit, those of a training in `folder` without Slurm and Ray."""
    straight = RunFolder(folder / run.name)
    store = RunStore(results)
    teacher = trained_teacher_of(run, store.folder(run.teacher or run), store.logit_caches)
    fit(run, digits(), straight, CPU, teacher)
    assert store.folder(run).best.read_bytes() == straight.best.read_bytes(), run.name
