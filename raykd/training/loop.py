"""The one loop: teacher, baseline and student are the same `fit`, with another method and teacher.

    fit(run, dataset, folder, device, teacher=LiveTeacher(...), hooks=Hooks(print))

A run cut off at any step goes on from its last checkpoint and, on a CPU with the same number of threads, ends
with the same bits as one that was never cut off. Nothing here knows of Ray, Slurm or a terminal: they call
`on_epoch`, or are called by it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from math import isfinite

import torch

from raykd.data.types import Dataset
from raykd.errors import Interrupted, RaykdError, RunDiverged, RunFailed
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.training.checkpoint import read_checkpoint, save_checkpoint
from raykd.training.compute import configure_process
from raykd.training.determinism import cpu_threads, generator_of, step_seeds
from raykd.training.evaluate import Evaluation, evaluate
from raykd.training.failure import classify_failure, rejecting_configuration
from raykd.training.group import SINGLE_WORKER, Group, per_worker_parts
from raykd.training.hooks import NO_HOOKS, EpochReport, Hooks
from raykd.training.memory import peak_bytes, reset_peak
from raykd.training.optim import learning_rate
from raykd.training.run_record import finish, note_per_worker, require_same_data, start
from raykd.training.state import TrainState, make_train_state
from raykd.training.steps import Steps, make_steps
from raykd.training.teacher.imported import import_teacher
from raykd.training.teacher.sources import Teacher, no_teacher

WRITER_WAIT_S = 1.0  # who only looks how far a run is has its lock for an instant


def fit(
    run: Run,
    dataset: Dataset,
    folder: RunFolder,
    device: torch.device,
    teacher: Teacher = no_teacher,
    hooks: Hooks = NO_HOOKS,
    group: Group = SINGLE_WORKER,
) -> None:
    """Train `run` from where its folder stands to its end; a run that is done is left as it is.

    group: the workers that share its batches. All call this, each with its hooks; the first's `should_stop` decides.
    Of several, one that raises anything but Interrupted leaves the others waiting: end them too.

    Raises ConfigError when `dataset` is not the run's; RunFailed for NaN, for a folder that another process writes,
    and for a teacher that changed under a half-done run; Interrupted when `should_stop` said so.
    """
    require_same_data(run.name, run.data_identity, dataset)
    with folder.writer(WRITER_WAIT_S) if group.is_first else nullcontext():
        if group.on_first(lambda: folder.status() == "done"):
            return
        compute = group.on_first(lambda: start(run, folder, device, teacher, group))
        with _recorded(folder, group) if group.is_first else nullcontext(), cpu_threads(compute.threads):
            configure_process(device)
            if run.imported is None:
                _require_one_teacher(teacher, group)
                with rejecting_configuration():
                    training = make_train_state(run, dataset, compute, teacher, group)
                if group.is_first and group.size > 1:
                    note_per_worker(folder, per_worker_parts(run, training.objective))
                _train(training, dataset, folder, hooks)
            elif group.is_first:
                import_teacher(run, dataset, folder, compute)


def _require_one_teacher(teacher: Teacher, group: Group) -> None:
    """Raises RunFailed: nodes may see different files, where one still has an older one in memory."""
    mine = teacher.identity, teacher.source
    if mine != group.on_first(lambda: mine):
        raise RunFailed(f"worker {group.rank} was given another teacher than worker 0")


def _train(training: TrainState, dataset: Dataset, folder: RunFolder, hooks: Hooks) -> None:
    """Bring a run to its end and leave its best weights."""
    is_counted = reset_peak(training.compute.device)
    for report in train_epochs(training, folder, hooks):
        hooks.on_epoch(report)
    if training.group.is_first:
        progress = training.progress
        best = {"epoch": progress.best_epoch, "val_top1": progress.best_val_top1}
        folder.update(peak_memory_bytes=(progress.peak_memory_bytes or None) if is_counted else None)
        finish(training.run, folder, dataset, training.objective.student, training.best, progress.seconds, best)


def train_epochs(training: TrainState, folder: RunFolder, hooks: Hooks) -> Iterator[EpochReport]:
    """Train the epochs that are left, from the folder's last checkpoint or from the start; one report each."""
    # The first worker's: another node may still have an older file in memory.
    if checkpoint := training.group.on_first(lambda: read_checkpoint(folder.checkpoint, training.run.fingerprint)):
        checkpoint.restore(training.objective, training.optimizer)
        training.progress, training.best = checkpoint.progress, checkpoint.best
    training.progress.run = training.run.fingerprint
    training.parallelize()
    saver = _Saver(training, folder, hooks.checkpoint_every_s)
    steps = make_steps(training)
    for epoch in range(training.progress.epoch, training.run.recipe.epochs):
        yield _epoch(training, steps, epoch, saver, hooks)
    saver.save()


def _epoch(training: TrainState, steps: Steps, epoch: int, saver: "_Saver", hooks: Hooks) -> EpochReport:
    """Train `epoch` from the step it stands at, validate, and note the result in `training.progress`."""
    recipe, progress, num_steps = training.run.recipe, training.progress, training.loader.steps_per_epoch
    began, first_step = time.monotonic(), progress.step
    seeds = step_seeds(training.run.seed, epoch, num_steps, training.group.rank)
    generator = generator_of(training.compute.device)
    training.objective.train()
    steps.begin(epoch, first_step)
    if progress.sums is not None:
        steps.sums.restore(progress.sums)
    for step in range(first_step, num_steps):
        generator.manual_seed(seeds[step])
        steps.take(step)
        progress.step = step + 1
        stop, save = training.group.broadcast_flags(hooks.should_stop(), saver.is_due())
        if stop or save:
            steps.sums.require_finite(epoch)
            progress.sums = steps.sums.to_json()
            saver.save()
        if stop:
            raise Interrupted(f"stopped after epoch {epoch}, step {step}; the same command goes on")
    means = steps.sums.means(epoch, num_steps)
    rate = (num_steps - first_step) * recipe.batch_size / max(time.monotonic() - began, 1e-9)
    return _note(training, epoch, means, learning_rate(recipe, epoch, num_steps - 1, num_steps), rate, saver)


def _note(
    training: TrainState, epoch: int, means: dict[str, float], lr: float, rate: float, saver: "_Saver"
) -> EpochReport:
    """Validate, keep the best, append the epoch's row, and stand at the next epoch's first step."""
    recipe, progress = training.run.recipe, training.progress
    val = _validate(training, epoch)
    # Read before on_epoch: what shows an epoch's memory outside begins to count anew there.
    progress.peak_memory_bytes = max(progress.peak_memory_bytes, peak_bytes(training.compute.device) or 0)
    if val.top1 > progress.best_val_top1:
        progress.best_epoch, progress.best_val_top1 = epoch, val.top1
        training.best = {
            name: tensor.detach().clone() for name, tensor in training.objective.student.network.state_dict().items()
        }
    train_top1 = means.pop("top1")
    saver.count_seconds()
    progress.epoch, progress.step, progress.sums = epoch + 1, 0, None
    report = EpochReport(
        training.run.name,
        epoch,
        recipe.epochs,
        means,
        train_top1,
        val.top1,
        val.nll,
        progress.best_val_top1,
        lr,
        rate,
        progress.seconds,
        training.how,
    )
    progress.history.append(report.row(training.loader.steps_per_epoch))
    return report


def _validate(training: TrainState, epoch: int) -> Evaluation:
    """Raises RunDiverged when the epoch's last update broke the weights, which none of its own losses can tell."""
    student = training.objective.student
    training.group.copy_buffers(student)
    val = evaluate(student, training.val, training.compute, training.group)
    if not isfinite(val.nll):
        raise RunDiverged(f"validation loss became NaN or infinite after epoch {epoch}; lower the learning rate")
    return val


class _Saver:
    """Writes checkpoints when they are due, where this worker is the first, and counts the seconds spent."""

    def __init__(self, training: TrainState, folder: RunFolder, every_s: float) -> None:
        self._training, self._folder, self._every_s = training, folder, every_s
        self._counted = time.monotonic()
        self._saved: float | None = None  # the first step is saved at once: a full disk shows before the night does

    def is_due(self) -> bool:
        return self._saved is None or time.monotonic() - self._saved >= self._every_s

    def count_seconds(self) -> None:
        moment = time.monotonic()
        self._training.progress.seconds += moment - self._counted
        self._counted = moment

    def save(self) -> None:
        """History first: a checkpoint never knows of an epoch that the history lacks."""
        self.count_seconds()
        training, progress = self._training, self._training.progress
        if training.group.is_first:
            if progress.history:
                self._folder.write_history(progress.history)
            save_checkpoint(self._folder.checkpoint, training.objective, training.optimizer, training.best, progress)
        self._saved = time.monotonic()


@contextmanager
def _recorded(folder: RunFolder, group: Group) -> Iterator[None]:
    """Leave the reason in run.json when the run fails; one that was cut off stays open.

    So does one that may only have lost a worker: to the others that looks like any error of a library.
    """
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        if group.size > 1 and not isinstance(error, RaykdError):
            raise
        with suppress(OSError):  # on a full disk; `error` says so
            folder.update(status="failed", reason=f"{error}" or type(error).__name__, failure=classify_failure(error))
        raise
