"""Whether the steps of a run are captured as one CUDA graph, and why not where they are not."""

from raykd.plan import Run
from raykd.training.compute import Compute


def why_not_graph(run: Run, compute: Compute, num_workers: int) -> str:
    """Return why the steps of `run` are launched from Python; '' where they are captured as a CUDA graph.

    A graph repeats what it recorded. So code that does other work in some steps must not be captured, and of a method
    that a user wrote nobody knows that.
    """
    asked = run.recipe.step
    if asked == "eager":
        return "as was asked"
    if compute.device.type != "cuda":
        return "CUDA graphs require a GPU"
    if num_workers > 1:
        return "several workers exchange gradients"
    if run.recipe.augmentation.randaugment:
        return "RandAugment gathers images by lists that the CPU makes"
    if run.method.is_custom and asked == "auto":
        return "a custom method may do other work in some steps; --set student.step=graph says that it does not"
    return ""
