"""Check a custom method's terms and gradients on a few images before anything starts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raykd.errors import ConfigError, plural, shown
from raykd.methods import Method
from raykd.outputs import Outputs, Targets
from raykd.spec.plan import Run, train_val_indices
from raykd.training.adapters import required_outputs
from raykd.training.objective import STANDARD_TERMS, memories_of

NUM_IMAGES = 8  # one batch if it is smaller; more than two images, since terms may compare images


def require_valid_terms(
    run: Run, labels: Tensor, student: Outputs, teacher: Outputs, adapter: nn.Module | None
) -> None:
    """Raise ConfigError unless the terms of the run's method are finite scalars, and one depends on the student.

    labels: int64 [N], of the data set's training split. student, teacher: outputs of a few images, on the CPU.
    """
    method, train = run.method, train_val_indices(run.data, labels)[0]
    index = train[: min(NUM_IMAGES, run.recipe.batch_size)]

    def extend(tensor: Tensor) -> Tensor:
        """Return outputs for all of `index` without another forward pass: repeated, times factors in [0.5, 1.5)."""
        repeated = tensor[torch.arange(len(index)) % len(tensor)]
        return repeated * (0.5 + torch.rand_like(repeated))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student, teacher = student.map(extend), required_outputs(method, teacher.map(extend))
    student = student.map(lambda tensor: tensor.detach().clone().requires_grad_())
    num_steps = run.recipe.epochs * (len(train) // run.recipe.batch_size)
    for step, when in ((0, ""), (num_steps - 1, " in the last step")):
        targets = Targets(labels[index], index, progress=torch.tensor(step / num_steps))
        _require_valid_pass(run, student, teacher, targets, adapter, when)


def _require_valid_pass(
    run: Run, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None, when: str
) -> None:
    """Raise ConfigError if the terms, their gradients or memories fail for a batch. when: for messages."""
    method = run.method
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        terms = _terms_of(method, student, teacher, targets, adapter, when)
    subject = f"method = {method.title()}: terms(){when}"
    if not isinstance(terms, Mapping):
        raise ConfigError(f"{subject} returns {shown(terms)}; it must return a dict from names to tensors")
    for name, term in terms.items():
        if problem := _problem_of(name, term, len(targets.labels)):
            raise ConfigError(f"{subject} returns '{name}'{problem}")
    _require_weighted_terms(method, run.recipe.epochs, set(terms))
    if not any(term.requires_grad for term in terms.values()):
        raise ConfigError(f"{subject} returns no term that depends on the student, so nothing would be distilled")
    _require_finite_gradient(method, student, terms, when)
    _require_memories(method, adapter)


def _require_memories(method: Method, adapter: nn.Module | None) -> None:
    """Raise ConfigError if a memory in `adapter` cannot store the outputs of the pass."""
    with torch.random.fork_rng(devices=[]):
        for memory in memories_of(adapter):
            with method.errors_of(f"remember() of {type(memory).__name__} in its adapter"):
                memory.remember(lambda tensor: tensor[None])


def _require_finite_gradient(method: Method, student: Outputs, terms: Mapping[str, Tensor], when: str) -> None:
    """Raise ConfigError if a term's gradient is NaN or infinite, which would end the run."""
    outputs = [student.logits, student.embedding, *student.features, *student.heads]
    inputs = [tensor for tensor in outputs if tensor is not None]
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        part = f"the gradient of its term '{name}'{when}"
        with method.errors_of(part):
            gradients = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None):
            raise ConfigError(
                f"method = {method.title()}: {part} is NaN or infinite; keep roots, logarithms and divisors away from 0"
            )


def _terms_of(
    method: Method, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None, when: str
) -> Any:
    shape = tuple(student.logits.shape)
    with method.errors_of("its supervised_logits()"):
        logits: Any = method.supervised_logits(student)
        actual = tuple(logits.shape)
    if actual != shape:
        raise ConfigError(
            f"method = {method.title()}: supervised_logits() returns shape {actual}; it must return logits {shape}"
        )
    with method.errors_of(f"its terms(){when}", method.received_outputs):
        return method.terms(student, teacher, targets, adapter)


def _problem_of(name: str, term: object, num_images: int) -> str:
    """Return what is wrong with one term and the remedy, to follow its name, or ''."""
    if name in STANDARD_TERMS:
        return ", which raykd computes for every method; rename the term"
    if not isinstance(term, Tensor):
        return f" as {shown(term)}; it must be a tensor"
    if term.shape != () or not term.is_floating_point():
        return f" as a tensor {term.dtype} of shape {list(term.shape)}; it must be one float, the mean over the batch"
    if term.is_meta:
        return " as a tensor without data; it must be computed from the outputs"
    where = f"on {plural(num_images, 'image')} with untrained models"
    return "" if bool(term.isfinite()) else f" as {term.item()} {where}; it must be finite"


def _require_weighted_terms(method: Method, epochs: int, terms: set[str]) -> None:
    """Raise ConfigError if `weights` names a term in some epoch that `terms` does not return."""
    for epoch in range(epochs):
        for name in method.weights(epoch):
            if name not in terms | {"ce"}:
                raise ConfigError(
                    f"method = {method.title()}: weights({epoch}) has '{name}', and terms() returns "
                    f"{', '.join(map(repr, terms)) or 'none'}; use the same names in both"
                )
