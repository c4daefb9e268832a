"""What several workers of a run do differently from one worker, beyond rounding."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from raykd.plan import Run

BATCH_NORM = "batch norm statistics"


def per_worker(run: Run, *modules: nn.Module) -> tuple[str, ...]:
    """Return what each of several workers of `run` computes or draws for itself, in words.

    modules: the networks that are trained: the model and, where there is one, the method's adapter.
    """
    layers = [layer for module in modules for layer in module.modules()]
    parts = []
    if not run.recipe.sync_batch_norm and any(isinstance(layer, _BatchNorm) for layer in layers):
        parts.append(BATCH_NORM)
    if any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in layers):
        parts.append("dropout")
    if run.method.drawn_per_worker:
        parts.append(run.method.drawn_per_worker)
    return tuple(parts)
