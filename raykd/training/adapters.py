"""A method's adapter, made of what both networks say of two images: before anything is trained, and then again.

Both times alike, so that a method which passes the check passes later: NUM_SHOWN images whatever the batch, all tensors
on the CPU, the images that the run trains on, and of the teacher what the method `needs` and no more, since a logit
cache holds no more.
"""

import torch
from torch import Tensor, nn

from raykd.methods import Method
from raykd.models import ImageModel
from raykd.outputs import Outputs, Targets
from raykd.spec.plan import Run, train_val_indices

NUM_SHOWN = 2  # to show shapes


def make_adapter(run: Run, labels: Tensor, student: Outputs, teacher: Outputs) -> nn.Module | None:
    """The adapter of the run's method for two models' shapes, on the CPU, its weights from the run's seed.

    labels: int64 [N], of the dataset's whole training part. student, teacher: of NUM_SHOWN images, on any device.
    """
    rows, _ = train_val_indices(run.data, labels)
    taught = required_outputs(run.method, teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return run.method.adapter(student, taught, Targets(labels[rows], rows))


def required_outputs(method: Method, teacher: Outputs) -> Outputs:
    """Of the teacher's outputs what `method` needs, on the CPU: a logit cache holds no more."""
    return Outputs(
        teacher.logits.cpu(),
        teacher.embedding.cpu() if teacher.embedding is not None and "embedding" in method.needs else None,
        tuple(maps.cpu() for maps in teacher.features) if "features" in method.needs else (),
    )


@torch.no_grad()
def evaluation_outputs(model: ImageModel, images: Tensor) -> Outputs:
    """Of evaluation, on the CPU, where `model` is; it is left in training mode."""
    outputs: Outputs = model.eval()(images.cpu())
    model.train()
    return outputs
