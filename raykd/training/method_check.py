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
    method, indices = run.method, train_val_indices(run.data, labels)[0][: min(NUM_IMAGES, run.recipe.batch_size)]
    num_images, targets = len(indices), Targets(labels[indices], indices)

    def extend(tensor: Tensor) -> Tensor:
        """Return outputs for `num_images` without another forward pass: repeated, times factors in [0.5, 1.5)."""
        repeated = tensor[torch.arange(num_images) % len(tensor)]
        return repeated * (0.5 + torch.rand_like(repeated))

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        student, teacher = student.map(extend), teacher.map(extend)
        student = student.map(lambda tensor: tensor.detach().clone().requires_grad_())
        terms = _terms_of(method, student, required_outputs(method, teacher), targets, adapter)
    subject = f"method = {method.title()}: terms()"
    if not isinstance(terms, Mapping):
        raise ConfigError(f"{subject} returns {shown(terms)}; it must return a dict from names to tensors")
    for name, term in terms.items():
        if problem := _problem_of(name, term, num_images):
            raise ConfigError(f"{subject} returns '{name}'{problem}")
    _require_weighted_terms(method, run.recipe.epochs, set(terms))
    if not any(term.requires_grad for term in terms.values()):
        raise ConfigError(f"{subject} returns no term that depends on the student, so nothing would be distilled")
    _require_finite_gradient(method, student, terms)
    _require_memories(method, adapter)


def _require_memories(method: Method, adapter: nn.Module | None) -> None:
    """Raise ConfigError if a memory in `adapter` cannot store the outputs of the pass."""
    with torch.random.fork_rng(devices=[]):
        for memory in memories_of(adapter):
            with method.errors_of(f"remember() of {type(memory).__name__} in its adapter"):
                memory.remember(lambda tensor: tensor[None])


def _require_finite_gradient(method: Method, student: Outputs, terms: Mapping[str, Tensor]) -> None:
    """Raise ConfigError if a term's gradient is NaN or infinite, which would end the run in its first step."""
    outputs = [student.logits, student.embedding, *student.features, *student.heads]
    inputs = [tensor for tensor in outputs if tensor is not None]
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        with method.errors_of(f"the gradient of its term '{name}'"):
            gradients = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None):
            raise ConfigError(
                f"method = {method.title()}: the gradient of its term '{name}' is NaN or infinite; keep roots, "
                "logarithms and divisors away from 0"
            )


def _terms_of(method: Method, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None) -> Any:
    shape = tuple(student.logits.shape)
    with method.errors_of("its supervised_logits()"):
        logits: Any = method.supervised_logits(student)
        actual = tuple(logits.shape)
    if actual != shape:
        raise ConfigError(
            f"method = {method.title()}: supervised_logits() returns shape {actual}; it must return logits {shape}"
        )
    with method.errors_of("its terms()", method.received_outputs):
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
