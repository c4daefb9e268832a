"""The standard pipeline of distillation, as in public repositories, for comparison.

PIL images pass through torchvision's transforms in a DataLoader; models are contiguous and in float32; the teacher runs
and the loss is read from the device at every step. Compare RepDistiller's train/loop_distill.py and mdistiller's engine
(github.com/HobbitLong/RepDistiller, github.com/megvii-research/mdistiller).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils import data
from torchvision import transforms

from raykd.data.types import Dataset, Split
from raykd.methods import distillation_loss
from raykd.models import ImageModel
from raykd.spec.plan import Run, train_val_indices
from raykd.training.optim import learning_rate, make_optimizer, set_learning_rate
from raykd.training.training_step import make_model

NUM_WORKERS = 2  # default DataLoader processes; more were no faster on 2 cores


class Pictures(data.Dataset):
    """Images of a split like torchvision's CIFAR-10: transformed PIL images and labels."""

    def __init__(self, split: Split, indices: Tensor, transform: transforms.Compose) -> None:
        self._images = split.pixels[indices].permute(0, 2, 3, 1).numpy()
        self._labels = split.labels[indices].tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        tensor: Any = self._transform(Image.fromarray(self._images[index]))
        return tensor, self._labels[index]


class StandardPipeline:
    """One run, epoch by epoch. teacher: None for a baseline or the training of a teacher.

    num_workers: DataLoader processes for training, and as many for validation.
    """

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        teacher: ImageModel | None,
        device: torch.device,
        num_workers: int = NUM_WORKERS,
    ) -> None:
        self._recipe, self._device, self._epoch, self._num_workers = run.recipe, device, 0, num_workers
        self.student = make_model(run, dataset).to(device)
        self._teacher = teacher.to(device).eval() if teacher is not None else None
        self._optimizer = make_optimizer(self.student, run.recipe.optimizer)
        train_indices, val_indices = train_val_indices(run.data, dataset.train.labels)
        tensors = [transforms.ToTensor(), transforms.Normalize(dataset.mean, dataset.std)]
        size, padding = dataset.image_size, run.data.crop_padding
        views = [transforms.RandomCrop(size, padding=padding), transforms.RandomHorizontalFlip()]
        self._train = self._loader(dataset.train, train_indices, [*views, *tensors], shuffle=True)
        self._val = self._loader(dataset.train, val_indices, tensors, shuffle=False)

    def _loader(self, split: Split, indices: Tensor, steps: list[Any], shuffle: bool) -> data.DataLoader:
        return data.DataLoader(
            Pictures(split, indices, transforms.Compose(steps)),
            batch_size=self._recipe.batch_size,
            shuffle=shuffle,
            drop_last=shuffle,
            num_workers=self._num_workers,
            persistent_workers=True,  # otherwise these short epochs would mostly start processes
            pin_memory=self._device.type == "cuda",
        )

    def epoch(self) -> float:
        """Train one epoch and return its mean loss."""
        self.student.train()
        steps, total = len(self._train), 0.0
        for step, (images, labels) in enumerate(self._batches(self._train)):
            set_learning_rate(self._optimizer, learning_rate(self._recipe, self._epoch, step, steps))
            loss = self._loss(images, labels)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            total += loss.item()
        self._epoch += 1
        return total / steps

    @torch.no_grad()
    def validate(self) -> float:
        """Return the validation top-1 in percent."""
        self.student.eval()
        correct = 0
        for images, labels in self._batches(self._val):
            correct += int((self.student.forward_normalized(images).logits.argmax(1) == labels).sum())
        return 100 * correct / len(self._val.dataset)  # type: ignore[arg-type]

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.student.forward_normalized(images).logits
        if self._teacher is None:
            return F.cross_entropy(logits, labels)
        with torch.no_grad():
            target = self._teacher.forward_normalized(images).logits
        return distillation_loss(logits, target, labels)

    def _batches(self, loader: data.DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in loader:
            yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
