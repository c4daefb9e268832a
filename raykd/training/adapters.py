"""Build a method's adapter from both networks' outputs for two images.

This happens in the check before anything starts and again when the run starts, with the same inputs, so that a method
which passes the check also trains: outputs of NUM_SHOWN images on the CPU, and only the teacher's outputs that the
method `needs`, since a logit cache has no others.

If the adapter contains a TeacherClassifier, the weights of the teacher's last layer are loaded into it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from raykd.errors import ConfigError
from raykd.methods import Method, TeacherClassifier
from raykd.models import ImageModel
from raykd.models.submodules import SubmoduleModel
from raykd.outputs import Outputs, Targets
from raykd.spec.plan import Run, train_val_indices

NUM_SHOWN = 2  # enough images to show the shapes
_TOLERANCE = 1e-3  # of logits, relative to the largest: rounding, and not another layer


def make_adapter(
    run: Run, labels: Tensor, student: Outputs, teacher: Outputs, classifier: Callable[[], nn.Linear]
) -> nn.Module | None:
    """Return the adapter of the run's method on the CPU, initialized from the run's seed; None if it has none.

    labels: int64 [N], of the data set's whole training split. student, teacher: outputs for NUM_SHOWN images.
    classifier: returns that of the teacher. It is called only for an adapter with a TeacherClassifier.
    """
    indices, _ = train_val_indices(run.data, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        teacher = required_outputs(run.method, teacher)
        adapter = run.method.adapter(student, teacher, Targets(labels[indices], indices))
    for part in adapter.modules() if adapter is not None else ():
        if isinstance(part, TeacherClassifier):
            part.load(classifier())
    return adapter


def classifier_of(run: Run, teacher: ImageModel | None, outputs: Outputs | None = None) -> nn.Linear:
    """Return the layer of the run's teacher that computes its logits from its embedding.

    teacher: None if there is none, or several. outputs: of the teacher, with its embedding; if given, the layer must
    compute the logits from the embedding.

    Raises ConfigError unless it is one linear layer.
    """
    subject = f"method = {run.method.title()}: requires the teacher's classifier"
    if teacher is None or run.teacher is None:
        several, none = "several teachers; leave teacher_seeds out", "no teacher; add logits to the needs of the method"
        count = none if run.teacher is None else several
        raise ConfigError(f"{subject}, and the students have {count}")
    heads = teacher.heads()
    (head,) = heads if len(heads) == 1 else (None,)
    if isinstance(head, nn.Linear) and (outputs is None or _computes_logits(head, outputs)):
        return head
    model = run.teacher.model
    named = model.embedding if isinstance(model, SubmoduleModel) else ""
    other = "use another teacher or method"
    remedy = f"leave teacher.model.embedding = {named} out, or {other}" if named else other
    raise ConfigError(
        f"{subject}, one linear layer from its embedding to its logits, and teacher.model = {model.label} has "
        f"{f'{len(heads)} heads' if len(heads) > 1 else 'no such layer'}; {remedy}"
    )


@torch.no_grad()
def _computes_logits(head: nn.Linear, outputs: Outputs) -> bool:
    embedding, logits = outputs.embedding, outputs.logits
    if embedding is None or (logits.shape[1], embedding.shape[1]) != head.weight.shape:
        return False
    difference = nn.functional.linear(embedding, head.weight, head.bias) - logits
    return bool(difference.abs().max() <= _TOLERANCE * logits.abs().max())


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
