"""Build a method's adapter from both networks' outputs for two images.

This happens in the check before anything starts and again when the run starts, with the same inputs, so that a method
which passes the check also trains: outputs of NUM_SHOWN images on the CPU, and only the teacher's outputs that the
method `needs`, since a logit cache has no others.
"""

import torch
from torch import Tensor, nn

from raykd.methods import Method
from raykd.models import ImageModel
from raykd.outputs import Outputs, Targets
from raykd.spec.plan import Run, train_val_indices

NUM_SHOWN = 2  # enough images to show the shapes


def make_adapter(run: Run, labels: Tensor, student: Outputs, teacher: Outputs) -> nn.Module | None:
    """Return the adapter of the run's method on the CPU, initialized from the run's seed; None if it has none.

    labels: int64 [N], of the data set's whole training split. student, teacher: outputs for NUM_SHOWN images.
    """
    indices, _ = train_val_indices(run.data, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        teacher = required_outputs(run.method, teacher)
        return run.method.adapter(student, teacher, Targets(labels[indices], indices))


def absent_teacher(student: Outputs) -> Outputs:
    """Return what `terms` and `adapter` receive in place of a teacher's outputs: logits [B, 0]."""
    return Outputs(student.logits.detach()[:, :0])


def required_outputs(method: Method, teacher: Outputs) -> Outputs:
    """Return the teacher's outputs that `method` needs, on the CPU. A logit cache has no others."""
    return Outputs(
        teacher.logits.cpu(),
        teacher.embedding.cpu() if teacher.embedding is not None and "embedding" in method.needs else None,
        tuple(maps.cpu() for maps in teacher.features) if "features" in method.needs else (),
    )


@torch.no_grad()
def evaluation_outputs(model: ImageModel, images: Tensor) -> Outputs:
    """Return the outputs in evaluation mode of `model`, which is on the CPU and is left in training mode."""
    outputs: Outputs = model.eval()(images.cpu())
    model.train()
    return outputs
