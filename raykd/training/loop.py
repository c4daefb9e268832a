"""The training loop: teachers, baselines and students all use `fit`, with different methods and teachers.

    fit(run, dataset, folder, device, teacher=LiveTeacher(...), hooks=Hooks(print))

A run that is interrupted at any step resumes from its last checkpoint. On a CPU with the same number of threads its
result is bit-identical to that of an uninterrupted one. The loop does not depend on Ray, Slurm or a terminal; they use
`Hooks`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, nan

import torch

from raykd.data.types import Dataset
from raykd.errors import Interrupted, RunDiverged, RunFailed
from raykd.spec.plan import Run
from raykd.store.records import Best
from raykd.store.run_folder import RunFolder
from raykd.training.agreement import Agreement
from raykd.training.best_epoch import keep_weights, why_stopped
from raykd.training.checkpoint import read_checkpoint, save_checkpoint
from raykd.training.compute import configure_process
from raykd.training.cuda_graph import Steps, make_steps
from raykd.training.determinism import cpu_threads, generator_of, step_seeds
from raykd.training.evaluate import Evaluation, evaluate
from raykd.training.failure import explaining_step, rejecting_configuration
from raykd.training.group import SINGLE_WORKER, Group, per_worker_parts
from raykd.training.hooks import CHECKPOINT_EVERY_S, NO_HOOKS, EpochReport, Hooks
from raykd.training.loss_scale import require_scale
from raykd.training.memory import peak_bytes, reset_peak
from raykd.training.optim import learning_rate
from raykd.training.probe import evaluate_neighbors
from raykd.training.run_record import finish_run, recording_failure, require_same_data, start_run
from raykd.training.teacher.imported import import_teacher
from raykd.training.teacher.sources import Teacher, no_teacher
from raykd.training.training_step import TrainState, make_train_state

MAX_SAVE_SHARE = 0.02  # the fraction of the time that checkpoints may take, at the default interval
WRITER_WAIT_S = 1.0  # a status check holds a run's lock briefly


def fit(
    run: Run,
    dataset: Dataset,
    folder: RunFolder,
    device: torch.device,
    teacher: Teacher = no_teacher,
    hooks: Hooks = NO_HOOKS,
    group: Group = SINGLE_WORKER,
) -> None:
    """Start or resume `run` in `folder` and train it to its end. Does nothing if it is done.

    group: the workers that share its batches. All call this with their hooks; the first one's `should_stop` decides.
    If one of several raises anything but Interrupted, the others wait for it and must be ended.

    Raises ConfigError if `dataset` is not the run's; RunDiverged for NaN; OutOfMemory, with a remedy, when a step does
    not fit on the GPU; RunFailed for a folder that another process has locked, and for a teacher that changed since the
    run started; Interrupted if `should_stop` returned true.
    """
    require_same_data(run.name, run.data_identity, dataset)
    with folder.lock(WRITER_WAIT_S) if group.is_first else nullcontext():
        if group.on_first(lambda: folder.status() == "done"):
            return
        compute = group.on_first(lambda: start_run(run, folder, device, dataset, teacher, group))
        with recording_failure(folder, group), explaining_step(run), cpu_threads(compute.threads):
            configure_process(device)
            if run.imported is None:
                _require_one_teacher(teacher, group)
                with rejecting_configuration():
                    training = make_train_state(run, dataset, compute, teacher, group)
                if group.is_first and group.size > 1:
                    parts = ", ".join(per_worker_parts(run, training.objective))
                    folder.update(compute=replace(folder.require_record().compute, per_worker=parts))
                _train(training, dataset, folder, hooks)
            elif group.is_first:
                import_teacher(run, dataset, folder, compute)


def _require_one_teacher(teacher: Teacher, group: Group) -> None:
    """Raise RunFailed if workers have different teachers, as when a node's filesystem still shows an older file."""
    key = teacher.identity, teacher.source
    if key != group.on_first(lambda: key):
        raise RunFailed(f"worker {group.rank} has another teacher than worker 0; rerun the same command to resume")


def _train(training: TrainState, dataset: Dataset, folder: RunFolder, hooks: Hooks) -> None:
    """Train a run to its end and save the weights of the epoch that it keeps."""
    has_peak = reset_peak(training.compute.device)
    for report in train_epochs(training, folder, hooks):
        hooks.on_epoch(report)
    if training.group.is_first:
        progress = training.progress
        val_top1 = progress.best_val_top1 if training.run.data.val_images else None
        best = Best(progress.best_epoch, val_top1)
        peak = (progress.peak_memory_bytes or None) if has_peak else None
        stopped_early = why_stopped(training.run.recipe, progress.history) or None
        is_on_disk, seconds = training.loader.renderer.is_on_host, max(progress.seconds, 1e-9)
        data_wait = min(1.0, progress.waited_s / seconds) if is_on_disk else None
        num_images = training.loader.num_images
        folder.update(
            peak_memory_bytes=peak, stopped_early=stopped_early, data_wait=data_wait, num_train_images=num_images
        )
        finish_run(training.run, folder, dataset, training.objective.student, training.best, progress.seconds, best)


def train_epochs(training: TrainState, folder: RunFolder, hooks: Hooks) -> Iterator[EpochReport]:
    """Train the remaining epochs from the folder's checkpoint, or from the start, and yield a report for each."""
    # Read by the first worker: the filesystem of another node may still show an older file.
    if checkpoint := training.group.on_first(lambda: read_checkpoint(folder.checkpoint, training.run.fingerprint)):
        checkpoint.restore(training.objective, training.optimizer)
        training.progress, training.best = checkpoint.progress, checkpoint.best
        if checkpoint.progress.loss_scale is not None:
            training.scaler.load_state_dict(checkpoint.progress.loss_scale)
    training.progress.run = training.run.fingerprint
    training.parallelize()
    saver = _Checkpointer(training, folder, hooks.checkpoint_every_s)
    steps, agreement = make_steps(training), Agreement(training.group, training.compute.device)
    for epoch in range(training.progress.epoch, training.run.recipe.epochs):
        if why_stopped(training.run.recipe, training.progress.history):
            break
        means, speed = _run_steps(training, steps, epoch, saver, partial(agreement.decide, hooks.should_stop))
        yield _finish_epoch(training, epoch, means, speed, saver)
    saver.save()


@dataclass(frozen=True)
class _Speed:
    """The speed of an epoch's steps. data_wait: as in EpochReport."""

    images_per_s: float
    data_wait: float | None


def _run_steps(
    training: TrainState, steps: Steps, epoch: int, saver: "_Checkpointer", decide: Callable[..., tuple[bool, ...]]
) -> tuple[dict[str, float], _Speed]:
    """Train the remaining steps of `epoch`. Return the mean of each loss term and of top1, and the speed.

    decide: return whether to stop after this step, and whether the argument is true; see agreement.py.
    """
    progress, num_steps, renderer = training.progress, training.loader.steps_per_epoch, training.loader.renderer
    start_time, first_step, waited_before_s = time.monotonic(), progress.step, renderer.waited_s
    seeds = step_seeds(training.run.seed, epoch, num_steps, training.group.rank)
    generator = generator_of(training.compute.device)
    training.objective.train()
    steps.start_epoch(epoch, first_step)
    if progress.sums is not None:
        steps.sums.restore(progress.sums)
    for step in range(first_step, num_steps):
        generator.manual_seed(seeds[step])
        steps.run_step(step)
        progress.step = step + 1
        stop, save = decide(saver.is_due)
        if stop or save:
            steps.sums.require_finite(epoch)
            progress.sums = steps.sums.to_json()
            saver.save()
        if stop:
            raise Interrupted(f"stopped after epoch {epoch}, step {step}; rerun the same command to resume")
    means = steps.sums.means(epoch, num_steps)  # before the time is read, since it waits for the device
    require_scale(training.scaler, epoch)
    num_images = (num_steps - first_step) * training.run.recipe.batch_size
    seconds, waited_s = max(time.monotonic() - start_time, 1e-9), renderer.waited_s - waited_before_s
    progress.waited_s += waited_s
    return means, _Speed(num_images / seconds, min(1.0, waited_s / seconds) if renderer.is_on_host else None)


def _finish_epoch(
    training: TrainState, epoch: int, means: dict[str, float], speed: _Speed, saver: "_Checkpointer"
) -> EpochReport:
    """Validate, keep the weights by `Recipe.keep`, append to the history, and move on to the next epoch."""
    recipe, progress, num_steps = training.run.recipe, training.progress, training.loader.steps_per_epoch
    with training.averaged_weights():
        val = _validate(training, epoch)
        # Before on_epoch: a user's callback may reset the peak.
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, peak_bytes(training.compute.device) or 0)
        keep_weights(training, epoch, val.top1)
    train_top1 = means.pop("top1", nan)  # without a classifier
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
        learning_rate(recipe, epoch, num_steps - 1, num_steps),
        speed.images_per_s,
        progress.seconds,
        training.description,
        data_wait=speed.data_wait,
        best_epoch=progress.best_epoch,
    )
    progress.history.append(report.row(num_steps))
    return replace(report, stopped_early=why_stopped(recipe, progress.history))


def _validate(training: TrainState, epoch: int) -> Evaluation:
    """Evaluate on the validation split; without validation images, the result is NaN.

    Raises RunDiverged if the epoch's last update made the weights invalid. Outputs may not depend on the weights that
    are, such as those that a convolution multiplies only with padding, and a file with such weights cannot be loaded.
    """
    student = training.objective.student
    training.group.copy_buffers(student)
    val = Evaluation(nan, nan, 0)
    if training.run.data.val_images:
        if training.bank is None:
            val = evaluate(student, training.val, training.compute, training.group)
        else:
            val = evaluate_neighbors(student, training.bank, training.val, training.compute, training.group)
        if not isfinite(val.nll):
            raise RunDiverged(f"validation loss became NaN or infinite after epoch {epoch}; lower the learning rate")
    are_valid = [parameter.isfinite().all() for parameter in student.parameters()]
    are_valid += [~buffer.isnan().any() for buffer in student.buffers()]  # a mask of attention may have -inf
    if not bool(torch.stack(are_valid).all()):
        raise RunDiverged(f"weights became NaN or infinite after epoch {epoch}; lower the learning rate")
    return val


class _Checkpointer:
    """Write checkpoints when they are due, on the first worker, and count the training time.

    The interval is longer than `every_s` if a checkpoint takes more than MAX_SAVE_SHARE of it: the GPU waits for it.
    """

    def __init__(self, training: TrainState, folder: RunFolder, every_s: float) -> None:
        self._training, self._folder, self._every_s, self._stretch = training, folder, every_s, 1.0
        self._counted = time.monotonic()
        self._saved: float | None = None  # the first step is saved immediately, which reveals a full disk early

    def is_due(self) -> bool:
        return self._saved is None or time.monotonic() - self._saved >= self._every_s * self._stretch

    def count_seconds(self) -> None:
        moment = time.monotonic()
        self._training.progress.seconds += moment - self._counted
        self._counted = moment

    def save(self) -> None:
        """Write the history, then the checkpoint, so that the history has every epoch of the checkpoint."""
        self.count_seconds()
        started, training, progress = time.monotonic(), self._training, self._training.progress
        if training.group.is_first:
            progress.loss_scale = training.scaler.state_dict() or None
            if progress.history:
                self._folder.write_history(progress.history)
            save_checkpoint(self._folder.checkpoint, training.objective, training.optimizer, training.best, progress)
        self._saved = time.monotonic()
        self._stretch = max(1.0, (self._saved - started) / (MAX_SAVE_SHARE * CHECKPOINT_EVERY_S))
