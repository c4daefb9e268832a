"""A good teacher of the digits, and weights that load but do not fit its network or its classes."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_runs import WIDTH, digits, experiment, recipe, run_of, train
from torch import Tensor

from raykd import models
from raykd.models.four_stage_resnet import ResNet
from raykd.spec.experiment import Data, Experiment
from raykd.spec.recipe import SGD
from raykd.store.run_folder import RunFolder
from raykd.training.model_file import images_of

DATA = Data("digits", val_images=200, image_size=8, crop_padding=0, flip=False)
MODEL = ResNet(blocks=(1, 1, 1, 1), width=2 * WIDTH)
TEACHER = recipe(model=MODEL, epochs=4, optimizer=SGD(lr=0.1))


def importing(file: Path | str, **changes: Any) -> Experiment:
    """Return the small experiment with the teacher in `file`."""
    return experiment(**{"data": DATA, "teacher": TEACHER, "teacher_checkpoint": str(file), **changes})


@cache
def good_file() -> bytes:
    """Return best.safetensors of a teacher that raykd trained on the digits, with a validation top-1 of about 97 %."""
    with TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        train(run_of("teacher", data=DATA, teacher=TEACHER), run)
        return run.best.read_bytes()


def good_state() -> dict[str, Tensor]:
    """Return the weights of the good teacher, without the header."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "good.safetensors"
        path.write_bytes(good_file())
        return load_file(path)


def permuted_head(order: Mapping[int, int]) -> dict[str, Tensor]:
    """Return the good teacher with output `i` of its head moved to order[i], for each `i` in `order`."""
    state = good_state()
    source = [order.get(index, index) for index in range(10)]
    return state | {name: state[name][source] for name in ("fc.weight", "fc.bias")}


@cache
def pooled_state() -> dict[str, Tensor]:
    """Return weights trained with a max-pool after the stem. Names and shapes are those of a network without one."""
    dataset = digits()
    model = models.build(MODEL, images_of(dataset), 0)
    stem = model.network.get_submodule("layer1")
    stem.register_forward_pre_hook(lambda _, inputs: F.max_pool2d(inputs[0], 3, 2, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True)
    num_steps = 4 * len(torch.arange(len(dataset.train)).split(50))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)  # or the last steps decide the accuracy
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(4):
        for rows in torch.randperm(len(dataset.train), generator=generator).split(50):
            loss = F.cross_entropy(model(dataset.train.images[rows]).logits, dataset.train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(dataset.test.images).logits.argmax(1) == dataset.test.labels).float().mean().item()
    assert accuracy > 0.9, "the teacher is not good even with its max-pool"
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
