"""The teacher's classifier as a part of an adapter, for methods that apply it to the student's embedding.

    logits = embedding @ weight.T + bias        embedding [B, D] of the teacher's width, logits [B, C]

A method receives no networks. Its `adapter` contains a TeacherClassifier, and raykd loads the weights of the teacher's
last layer into it: before the checks of a planned run, and again when the run starts or resumes.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from raykd.methods.precision import in_float32


class TeacherClassifier(nn.Module):
    """Map embeddings like the teacher's, [B, D], to the logits of its classifier, float32 [B, C].

    The weights are buffers, so they are not trained. The checkpoint does not have them, since the teacher's file does.
    """

    weight: Tensor
    bias: Tensor | None

    def load(self, classifier: nn.Linear) -> None:
        """Copy the weights of the teacher's classifier."""
        tensors = {"weight": classifier.weight, "bias": classifier.bias}
        for name, tensor in tensors.items():
            copy = None if tensor is None else tensor.detach().float().cpu().clone()
            self.register_buffer(name, copy, persistent=False)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits. The gradient flows to `embedding`."""
        return _linear(embedding, self.weight, self.bias)


@in_float32
def _linear(embedding: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(embedding, weight, bias)
