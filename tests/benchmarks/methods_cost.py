"""CPU milliseconds that each method adds to a training step, forward and backward, with one thread.

    OMP_NUM_THREADS=1 python tests/benchmarks/methods_cost.py

The student's step alone comes first, for comparison. Shapes are those of CIFAR-10 at batch 128 for ResNet-18 ->
ResNet-8, with 45,000 training images for CRD. The teacher's pass is excluded. Processor time is measured, which other
processes disturb little.
"""

import time
from collections.abc import Callable

import torch

from raykd import models
from raykd.config import kinds
from raykd.methods import CrossEntropy, Memory, Method
from raykd.models import ImageSpec
from raykd.outputs import Outputs, Targets

BATCH, ROUNDS, WARM_EPOCH = 128, 3, 30
STAGES = ((64, 32), (128, 16), (256, 8), (512, 4))  # channels, side


def outputs(gradients: bool) -> Outputs:
    maps = (torch.rand(BATCH, channels, side, side, requires_grad=gradients) for channels, side in STAGES)
    logits, embedding = (torch.randn(BATCH, width, requires_grad=gradients) for width in (10, 512))
    return Outputs(logits, embedding, tuple(maps))


def milliseconds(step: Callable[[], None]) -> float:
    times = []
    for _ in range(ROUNDS):
        start_s = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - start_s))
    return min(times)


def method_milliseconds(method: Method) -> float:
    student, teacher = outputs(True), outputs(False)
    images = Targets(torch.arange(45_000) % 10, torch.arange(45_000))
    targets = Targets(images.labels[:BATCH], images.index[:BATCH])
    adapter, weights = method.adapter(student, teacher, images), method.weights(WARM_EPOCH)

    def step() -> None:
        terms = method.terms(student, teacher, targets, adapter)
        torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
        if isinstance(adapter, Memory):
            adapter.remember(lambda tensor: tensor[None])

    return milliseconds(step)


def main() -> None:
    torch.set_num_threads(1)
    student = models.build(models.find("resnet8"), ImageSpec(10, 32, (0.5,) * 3, (0.25,) * 3), seed=0)
    views = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    print(f"{'student':24} {milliseconds(lambda: student(views).logits.sum().backward()):8.1f} ms")
    for name, method in kinds(Method).items():
        if method is not CrossEntropy:
            print(f"{name:24} {method_milliseconds(method()):8.1f} ms")


if __name__ == "__main__":
    main()
