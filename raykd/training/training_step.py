"""One optimizer step, and what it requires: model, optimizer, loader, teacher and progress as a `TrainState`.

checkpoint.py saves and restores this state.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from raykd import models
from raykd.data.loader import Batch, TrainLoader
from raykd.data.sampling import class_shares
from raykd.data.types import Dataset, Split
from raykd.errors import RunFailed
from raykd.methods import CrossEntropy
from raykd.models import ImageModel
from raykd.outputs import Outputs, Targets
from raykd.spec.experiment import Data
from raykd.spec.plan import Run, train_val_indices
from raykd.training.adapters import NUM_SHOWN, absent_teacher, classifier_of, evaluation_outputs, make_adapter
from raykd.training.checkpoint import Progress
from raykd.training.compute import Compute, note_on_precision, why_not_graph
from raykd.training.failure import explaining_images
from raykd.training.group import SINGLE_WORKER, Group
from raykd.training.half_weights import HalfWeights
from raykd.training.kernel_crop import crop_kernels
from raykd.training.loss_scale import make_scaler, zero_momentum
from raykd.training.model_file import images_of, load_into
from raykd.training.objective import Objective
from raykd.training.optim import groups_of_adapter, make_optimizer
from raykd.training.probe import Bank, bank_of
from raykd.training.sync_batch_norm import synchronize_batch_norm
from raykd.training.teacher.sources import LiveTeacher, Teacher
from raykd.training.weight_average import WeightAverage


@dataclass
class TrainState:
    """Everything that the training of one run requires. A checkpoint has objective, optimizer, progress and best.

    val: this worker's share of the validation split.
    bank: the training images among which k-NN finds the neighbors of the validation images, for a student without a
    classifier.
    omitted: terms of the method that are not computed, because student or teacher has no classifier.
    parallel: the compiled or DDP objective, set by `parallelize`.
    casts_together: whether a captured step casts all weights to 16 bits with one kernel, by half_weights.
    scaler: of the loss, for fp16; see loss_scale.py.
    best: the weights of the best epoch so far.
    """

    run: Run
    compute: Compute
    objective: Objective
    optimizer: torch.optim.Optimizer
    loader: TrainLoader
    val: Split
    teacher: Teacher
    group: Group = SINGLE_WORKER
    bank: Bank | None = None
    omitted: frozenset[str] = frozenset()
    parallel: nn.Module | None = None
    casts_together: bool = True
    half_weights: HalfWeights | None = None
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)
    scaler: GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = make_scaler(self.compute)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Load the moving average of the weights into the student inside the context, if the run has one."""
        if self.objective.average is None:
            yield
            return
        self.group.copy_buffers(self.objective.student)
        with self.objective.average.applied_to(self.objective.student.network):
            yield

    def parallelize(self) -> None:
        """Copy the first worker's state to all workers, and prepare compiled, distributed or captured steps."""
        recipe, objective = self.run.recipe, self.objective
        if recipe.sync_batch_norm and self.group.size > 1:
            synchronize_batch_norm(objective, self.group.process_group)
        module: nn.Module = objective
        if recipe.compile:  # before DDP wraps it: DDP then overlaps its communication with the whole backward pass
            torch.compiler.reset()  # Dynamo compiles a function at most eight times, and a process may train many runs
            torch._dynamo.config.fail_on_recompile_limit_hit = True  # instead of silently falling back to eager
            if self.group.size > 1:  # communication between workers stays outside of compiled graphs
                objective.gather = cast(Any, torch.compiler.disable)(objective.gather)  # torch's has no types
            module = cast(nn.Module, torch.compile(objective))
        has_unused_parameters = not self.run.model.classifier  # such as those of the norm after the last feature map
        self.parallel = self.group.wrap(module, self.compute.device, has_unused_parameters)
        half = self.compute.half
        if self.casts_together and self.uses_cuda_graph and half is not None and not recipe.compile:
            self.half_weights = HalfWeights(objective.student, "student", half)

    def term_weights(self, epoch: int) -> dict[str, float]:
        """Return the weights of the loss terms that are computed in `epoch`."""
        weights = self.run.method.weights(epoch)
        return {name: weight for name, weight in weights.items() if name not in self.omitted}

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether each step is captured and replayed as one CUDA graph."""
        return not self._why_not_graph

    @property
    def _why_not_graph(self) -> str:
        return why_not_graph(self.run, self.compute, self.group.size, self.loader.renderer.is_on_host)

    @property
    def description(self) -> str:
        """Precision, device, teacher, and whether a step is a CUDA graph, such as 'bf16, 2 threads, cached teacher'.

        Eager steps are not mentioned if they are requested or if the device is a CPU.
        """
        teacher = {"live": ", live teacher", "cache": ", cached teacher"}.get(self.teacher.source, "")
        if top := self.teacher.top_classes:
            teacher += f", top {top.kept} of {top.num_classes:,} classes"
        note = note_on_precision(self.compute, self.run.recipe.precision)
        step, reason = self.run.recipe.step, self._why_not_graph
        is_expected = step == "graph" or (step == "auto" and self.compute.device.type == "cuda")
        no_graph = f", no CUDA graph: {reason}" if is_expected else ""
        return f"{self.compute}{note}{teacher}{no_graph if reason else ', one CUDA graph per step'}"

    @torch.no_grad()
    def problem_of_teacher(self, epoch: int, step: int) -> str:
        """Return what is wrong with the teacher's outputs for this worker's batch of a step, or ''."""
        with self.compute.float32_products(), self.compute.autocast():
            outputs = self.teacher(next(self.loader.epoch(epoch, step)))
        return _problem_of(outputs, self.teacher) if outputs is not None else ""

    def step(
        self, batch: Batch, weights: Mapping[str, float | Tensor], progress: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Take one optimizer step and return the unweighted terms and the loss, still on the device.

        weights: the weight of each term of the loss, a number or float32 [] on the device. progress: as in Targets.
        """
        passes = self.run.recipe.gradient_accumulation
        self.optimizer.zero_grad(set_to_none=True)
        results = [
            self._run_pass(part, _targets_of(part, progress), weights, number == passes)
            for number, part in enumerate(batch.parts(passes), 1)
        ]
        terms = results[0]
        if passes > 1:
            terms = {name: torch.stack([result[name] for result in results]).mean(0) for name in terms}
        if self.run.recipe.clip_gradient_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.run.recipe.clip_gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.objective.average is not None:
            self.objective.average.update(self.objective.student.network)
        return terms

    def _run_pass(
        self, part: Batch, targets: Targets, weights: Mapping[str, float | Tensor], is_last: bool
    ) -> dict[str, Tensor]:
        """Add the gradients of the images in `part` to those of the step, and return the terms and the loss.

        Workers average their gradients in the last pass of a step.
        """
        passes = self.run.recipe.gradient_accumulation
        skips_sync = isinstance(self.parallel, DistributedDataParallel) and not is_last
        synchronized = cast(DistributedDataParallel, self.parallel).no_sync() if skips_sync else nullcontext()
        with synchronized, self.compute.float32_products():  # also for the backward pass
            with self.compute.autocast():
                teacher = self.teacher(part)
                terms = self._terms(part.images, targets, teacher)
            loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
            self.scaler.scale(loss / passes if passes > 1 else loss).backward()
            for memory in self.objective.memories:
                memory.remember(self.group.gather)
        return {name: term.detach() for name, term in (terms | {"loss": loss}).items()}

    def _terms(self, *inputs: Any) -> dict[str, Tensor]:
        if self.half_weights is not None:
            return functional_call(self.objective, self.half_weights.cast(), inputs, tie_weights=False)
        return (self.objective if self.parallel is None else self.parallel)(*inputs)


def _problem_of(outputs: Outputs, teacher: Teacher, when: str = "") -> str:
    """Return what is wrong with a teacher's outputs, with the remedy, or ''."""
    embedding = outputs.logits if outputs.embedding is None else outputs.embedding
    if outputs.logits.isfinite().all() and embedding.isfinite().all():
        return ""
    where = "the logit cache that it is read from" if teacher.source == "cache" else "its weights"
    return f"the teacher's outputs are NaN or infinite{when}; check {where}"


def _targets_of(batch: Batch, progress: Tensor | None) -> Targets:
    return Targets(batch.labels, batch.index, batch.mixed, progress)


def class_weights_of(run: Run, dataset: Dataset) -> Tensor | None:
    """Return the weight of each class in the cross-entropy, float32 [C], or None if `class_weights` is 'none'.

    The mean over the run's training images is 1. With 'balanced', a class without images has a weight of 0.
    """
    setting = run.recipe.class_weights
    if setting == "none":
        return None
    indices, _ = train_val_indices(run.data, dataset.train.labels)
    shares = class_shares(indices, dataset.train.labels, dataset.num_classes)
    weights = torch.where(shares > 0, 1 / shares, 0.0) if isinstance(setting, str) else torch.tensor(setting).double()
    return (weights / (weights * shares).sum()).float()


def omitted_terms(run: Run) -> frozenset[str]:
    """Return the terms that are not computed, because the student or its teacher has no classifier."""
    models = (run.model, *(teacher.model for teacher in run.teachers))
    if all(model.classifier for model in models):
        return frozenset()
    terms = run.method.logit_terms or frozenset()
    return terms if run.model.classifier else terms | {"ce"}


def training_labels(run: Run, labels: Tensor) -> Tensor:
    """Return the labels int64 [N] that training reads: zeros if neither the student nor the method learns from them."""
    return labels if run.model.classifier or run.method.reads_labels else torch.zeros_like(labels)


def validation_of(data: Data, dataset: Dataset, device: torch.device, group: Group = SINGLE_WORKER) -> Split:
    """Return this worker's share of the validation split, on the device. Images on disk stay there."""
    indices = train_val_indices(data, dataset.train.labels)[1][group.rank :: group.size]
    return dataset.train.subset(indices).to(device)


def make_model(run: Run, dataset: Dataset) -> ImageModel:
    """Return the run's network with its initial weights, on the CPU."""
    model = models.build(run.model, images_of(dataset), run.seed)
    if run.initial is not None:
        load_into(model, run.model, Path(run.initial.path), run.initial.key, new_head=True)
    return model


def make_train_state(
    run: Run, dataset: Dataset, compute: Compute, teacher: Teacher, group: Group = SINGLE_WORKER
) -> TrainState:
    """Return the state of `run` before its first step."""
    student, device = make_model(run, dataset), compute.device
    # A student without a classifier is evaluated by k-NN on its embedding after each epoch.
    student.request(run.method.read_of_student | (set() if run.model.classifier else {"embedding"}))
    if isinstance(teacher, LiveTeacher) and isinstance(teacher.model, ImageModel):  # not the mean of several teachers
        teacher.model.request(run.method.needs, run.method.teacher_preactivations)
    with explaining_images(run.data):
        loader = _make_loader(run, dataset, teacher, device, group)
    is_baseline = type(run.method) is CrossEntropy
    adapter = None if is_baseline else _adapter_of(run, dataset, student, teacher, loader)
    weights = class_weights_of(run, dataset)
    objective = Objective(student, run.method, adapter, run.recipe.label_smoothing, group, weights)
    if run.recipe.ema_decay is not None:
        objective.average = WeightAverage(student.network, run.recipe.ema_decay)
    objective = objective.to(device)
    if run.recipe.channels_last:
        objective = objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu" and compute.precision == "bf16":
        crop_kernels(objective)
    val = validation_of(run.data, dataset, device, group)
    groups = groups_of_adapter(run.method, adapter, run.recipe.optimizer)
    optimizer = make_optimizer(objective, run.recipe.optimizer, device.type == "cuda", groups)
    if compute.precision == "fp16":
        zero_momentum(optimizer)
    bank = None if run.model.classifier else bank_of(run.data, dataset, device)
    return TrainState(run, compute, objective, optimizer, loader, val, teacher, group, bank, omitted_terms(run))


def _make_loader(run: Run, dataset: Dataset, teacher: Teacher, device: torch.device, group: Group) -> TrainLoader:
    indices, _ = train_val_indices(run.data, dataset.train.labels)
    augmentation = run.recipe.augmentation
    assert not (augmentation.techniques and teacher.source == "cache"), "a logit cache has no rows for augmented pixels"
    return TrainLoader(
        dataset.train.images,
        training_labels(run, dataset.train.labels),
        indices,
        run.data.views,
        run.recipe.batch_size,
        run.seed,
        device,
        rank=group.rank,
        world_size=group.size,
        augmentation=augmentation,
        mean=dataset.mean,
        std=dataset.std,
        passes=run.recipe.gradient_accumulation,
        sampling=run.recipe.sampling,
        repeats=run.recipe.repeats,
    )


def _adapter_of(
    run: Run, dataset: Dataset, student: ImageModel, teacher: Teacher, loader: TrainLoader
) -> nn.Module | None:
    """Return the method's adapter, built from outputs for NUM_SHOWN images of the first batch.

    Raises RunFailed for a broken teacher, which in training would look like a learning rate that is too high.
    """
    batch = next(loader.epoch(0))
    positions = torch.arange(NUM_SHOWN, device=batch.index.device) % len(batch.index)  # a worker's share may have fewer
    batch = Batch(batch.images[positions], batch.labels[positions], batch.index[positions], batch.view[positions])
    of_student = evaluation_outputs(student, batch.images)
    given = teacher(batch)
    assert given is not None or not run.method.needs
    outputs = given or absent_teacher(of_student)
    if problem := _problem_of(outputs, teacher, " in the first batch"):
        raise RunFailed(problem)
    labels = training_labels(run, dataset.train.labels)
    return make_adapter(run, labels, of_student, outputs, lambda: classifier_of(run, teacher.network()))
