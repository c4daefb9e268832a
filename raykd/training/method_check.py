"""Whether a custom method's terms and weights can be trained with: tried on a few images before anything starts."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raykd.errors import ConfigError, plural, shown
from raykd.methods import Method
from raykd.outputs import Outputs, Targets
from raykd.spec.plan import Run, train_val_indices
from raykd.training.adapters import required_outputs
from raykd.training.objective import STANDARD_TERMS

NUM_TRIED = 8  # images, or a batch where that is smaller: terms may compare images, and two are few for that


def require_sound_terms(
    run: Run, labels: Tensor, student: Outputs, teacher: Outputs, adapter: nn.Module | None
) -> None:
    """Raise ConfigError where the terms of the run's method are no finite scalars that depend on the student.

    labels: int64 [N], of the data set's training part. student, teacher: outputs of a few images, on the CPU.
    """
    method, rows = run.method, train_val_indices(run.data, labels)[0][: min(NUM_TRIED, run.recipe.batch_size)]
    num_images, targets = len(rows), Targets(labels[rows], rows)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        student, teacher = (_resembling(outputs, num_images) for outputs in (student, teacher))
        student = _with_grad(student)
        terms = _terms_of(method, student, required_outputs(method, teacher), targets, adapter)
    subject = f"method = {method.title()}: terms()"
    if not isinstance(terms, Mapping):
        raise ConfigError(f"{subject} returns {shown(terms)}; it must return a tensor for each name of a term")
    for name, term in terms.items():
        if wrong := _wrong_with(name, term):
            tried = f"on {plural(num_images, 'image')} and models before training"
            raise ConfigError(f"{subject} gives '{name}' {wrong}; tried {tried}")
    _require_weighed(method, run.recipe.epochs, set(terms))
    if not any(term.requires_grad for term in terms.values()):
        raise ConfigError(f"{subject} gives no term that depends on the student, so nothing would be distilled")
    _require_finite_gradient(method, student, terms)


def _require_finite_gradient(method: Method, student: Outputs, terms: Mapping[str, Tensor]) -> None:
    """Raise ConfigError where a term's gradient is NaN or infinite: the first step would end the run."""
    outputs = [student.logits, student.embedding, *student.features, *student.heads]
    inputs = [tensor for tensor in outputs if tensor is not None]
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        with method.errors_of(f"the gradient of its term '{name}'"):
            found = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
        if not all(bool(gradient.isfinite().all()) for gradient in found if gradient is not None):
            raise ConfigError(
                f"method = {method.title()}: the gradient of its term '{name}' is NaN or infinite; keep roots, "
                "logarithms and divisors away from 0"
            )


def _terms_of(method: Method, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None) -> Any:
    shape = tuple(student.logits.shape)
    with method.errors_of("its labelled()"):
        labelled: Any = method.labelled(student)
        found = tuple(labelled.shape)
    if found != shape:
        raise ConfigError(f"method = {method.title()}: labelled() gives {found}; it must give logits {shape}")
    with method.errors_of("its terms()"):
        return method.terms(student, teacher, targets, adapter)


def _wrong_with(name: str, term: object) -> str:
    """What is wrong with one term, or ''."""
    if name in STANDARD_TERMS:
        return "which is measured for every method alike; rename the term"
    if not isinstance(term, Tensor):
        return f"as {shown(term)}; it must be a tensor"
    if term.shape != () or not term.is_floating_point():
        return f"as a tensor {term.dtype} of shape {list(term.shape)}; it must be one float, the mean over the batch"
    if term.is_meta:
        return "as a tensor without data; it must be computed from the outputs"
    return "" if bool(term.isfinite()) else f"as {term.item()}; it must be finite"


def _require_weighed(method: Method, epochs: int, terms: set[str]) -> None:
    """Every term that is weighed in some epoch is there."""
    for epoch in range(epochs):
        for name in method.weights(epoch):
            if name not in terms | {"ce"}:
                raise ConfigError(
                    f"method = {method.title()}: weights({epoch}) weighs '{name}', and terms() gives "
                    f"{', '.join(map(repr, terms)) or 'none'}; give both the same names"
                )


def _resembling(outputs: Outputs, num_images: int) -> Outputs:
    """Outputs for so many images without another pass: those given, each number times a factor in [0.5, 1.5)."""

    def more(tensor: Tensor) -> Tensor:
        repeated = tensor[torch.arange(num_images) % len(tensor)]
        return repeated * (0.5 + torch.rand_like(repeated))

    return _each(outputs, more)


def _with_grad(outputs: Outputs) -> Outputs:
    """The same numbers as a training has them: with a gradient."""
    return _each(outputs, lambda tensor: tensor.detach().clone().requires_grad_())


def _each(outputs: Outputs, changed: Callable[[Tensor], Tensor]) -> Outputs:
    return Outputs(
        changed(outputs.logits),
        None if outputs.embedding is None else changed(outputs.embedding),
        tuple(changed(maps) for maps in outputs.features),
        tuple(changed(logits) for logits in outputs.heads),
    )
