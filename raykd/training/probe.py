"""Evaluate a network without a classifier by a linear probe and by the nearest neighbors of its embedding.

    linear probe       multinomial logistic regression on the standardized embedding, without augmentation. It is
                       fitted on the training images; the L2 penalty is the one with the best validation accuracy
                       (Kornblith et al. 2019, arXiv:1805.08974; Radford et al. 2021, arXiv:2103.00020, section 3.2).
    nearest neighbors  the vote of the 20 training images of the highest cosine similarity s, each with the weight
                       exp(s / 0.07) (Wu et al. 2018, arXiv:1805.01978; Caron et al. 2021, arXiv:2104.14294).

The probe is fitted once, when a run is evaluated. The neighbors need no fit, so they select the best epoch during
training, and check an imported teacher. Labels of training images are used here only, and never reach the network's
weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.data.splits import stratified_subset
from raykd.data.types import Dataset, Images, Split
from raykd.models import ImageModel
from raykd.outputs import Outputs
from raykd.spec.experiment import Data
from raykd.spec.plan import train_val_indices
from raykd.training.compute import EVALUATION_BATCH, Compute
from raykd.training.evaluate import Evaluation
from raykd.training.group import SINGLE_WORKER, Group
from raykd.training.inference_batch import batches_that_fit

NEIGHBORS, TEMPERATURE = 20, 0.07
PENALTIES = tuple(10.0**power for power in range(1, -7, -1))  # of the mean loss; from strong to weak
MAX_ITERATIONS = 200  # of L-BFGS for each penalty, which starts from the solution for the one before
MAX_BANK = 5_000  # training images whose neighbors are searched after each epoch
_SMOOTHING = 1e-3  # of the votes, so that a class without a neighbor has a finite loss
_CHUNK = 4_096  # images whose logits or similarities are in memory
_MAX_SIMILARITIES = 1 << 26  # 256 MiB of float32


class ProbedModel(nn.Module):
    """An ImageModel that returns the logits of a linear probe on its embedding, in float32."""

    def __init__(self, model: ImageModel, mean: Tensor, std: Tensor, linear: nn.Linear) -> None:
        """mean, std: of the embedding over the training images, [D]. linear: from the standardized embedding to C."""
        super().__init__()
        self.model, self.mean, self.std, self.linear = model, mean, std, linear

    def forward(self, images: Tensor) -> Outputs:
        embedding = self.model(images).embedding
        assert embedding is not None
        with torch.autocast(embedding.device.type, enabled=False):
            return Outputs(self.linear((embedding.float() - self.mean) / self.std))


@dataclass(frozen=True)
class Probe:
    """The result of `fit_probe`. penalty: the chosen one. neighbors: the embeddings of all training images."""

    model: ProbedModel
    penalty: float
    neighbors: "Neighbors"

    def neighbors_top1(self, split: Split, compute: Compute) -> float:
        """Return the accuracy of the vote of the nearest training images on `split`, in percent."""
        correct, _, num_images = count_votes(
            self.neighbors, embed(self.model.model, split.images, compute), split.labels
        )
        return 100 * correct / num_images


@dataclass(frozen=True)
class Neighbors:
    """Normalized embeddings of training images [N, D] and their labels int64 [N], which vote."""

    embeddings: Tensor
    labels: Tensor
    num_classes: int

    def probabilities(self, queries: Tensor) -> Tensor:
        """Return the share of the votes of each class, float32 [B, C], for embeddings [B, D]."""
        similarities = F.normalize(queries.float()) @ self.embeddings.T
        nearest = similarities.topk(min(NEIGHBORS, len(self.labels)), dim=1)
        weights = ((nearest.values - 1) / TEMPERATURE).exp()  # at most 1: cosines are at most 1
        votes = torch.zeros(len(queries), self.num_classes, device=queries.device)
        votes.scatter_add_(1, self.labels[nearest.indices], weights)
        votes = votes / votes.sum(1, keepdim=True)
        return (1 - _SMOOTHING) * votes + _SMOOTHING / self.num_classes


@torch.no_grad()
def embed(model: ImageModel, images: Images, compute: Compute, indices: Tensor | None = None) -> Tensor:
    """Return the embeddings of `images`, uint8 [N, 3, H, W], in evaluation mode: float32 [N, D] on the device.

    indices: those of the images to embed, int64 [n]; None for all. `model.request` must have requested embeddings.
    """
    if indices is not None and not isinstance(images, Tensor):
        images, indices = images.subset(indices), None  # consecutive slices are decoded ahead
    count = len(images) if indices is None else len(indices)
    embeddings = torch.zeros(0, 1, device=compute.device)
    was_training = model.training
    model.eval()

    def embed_part(part: slice) -> Tensor:
        with compute.autocast():
            chosen = images[part] if indices is None else images[indices[part]]
            embedding = model(chosen.to(compute.device)).embedding
        assert embedding is not None
        return embedding.float()

    for part, embedding in batches_that_fit(model, count, EVALUATION_BATCH[compute.device.type], embed_part):
        if not part.start:  # one tensor for all, because the parts and their concatenation would be two copies
            embeddings = torch.empty(count, embedding.shape[1], device=compute.device)
        embeddings[part] = embedding
    model.train(was_training)
    return embeddings


def fit_probe(model: ImageModel, data: Data, dataset: Dataset, compute: Compute) -> Probe:
    """Fit a linear probe of `model` on the training images of `data`; choose its penalty on the validation images.

    One copy of the training images' embeddings is in memory: 4 GB for ImageNet with D = 768.
    """
    model.request({"embedding"})
    train, val = train_val_indices(data, dataset.train.labels)
    x, x_val = (embed(model, dataset.train.images, compute, indices) for indices in (train, val))
    y, y_val = (dataset.train.labels[indices].to(compute.device) for indices in (train, val))
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    standardized, standardized_val = Standardized(x, mean, std), Standardized(x_val, mean, std)
    best, best_correct, best_penalty = torch.empty(0), -1, 0.0
    for penalty, weights in _solutions(standardized, y, dataset.num_classes):
        correct = 0
        for part in _chunks(len(x_val)):
            correct += int((_logits(weights, standardized_val[part]).argmax(1) == y_val[part]).sum())
        if correct > best_correct:  # of equally accurate penalties, the strongest
            best, best_correct, best_penalty = weights, correct, penalty
    linear = nn.Linear(x.shape[1], dataset.num_classes, device="meta").to_empty(device=compute.device)
    linear.load_state_dict({"weight": best[:, :-1], "bias": best[:, -1]})
    neighbors = Neighbors(F.normalize(x, out=x), y, dataset.num_classes)
    return Probe(ProbedModel(model, mean, std, linear), best_penalty, neighbors)


@dataclass(frozen=True)
class Standardized:
    """Embeddings [N, D], of which a slice is standardized when it is read. mean, std: [D]."""

    embeddings: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, part: slice) -> Tensor:
        return (self.embeddings[part] - self.mean) / self.std


def _chunks(count: int) -> Iterator[slice]:
    return (slice(first, first + _CHUNK) for first in range(0, count, _CHUNK))


def _solutions(x: Standardized, y: Tensor, num_classes: int) -> Iterator[tuple[float, Tensor]]:
    """Yield each penalty with the weights and biases that minimize the penalized loss, float64 [C, D + 1]."""
    weights = torch.zeros(num_classes, len(x.mean) + 1, dtype=torch.float64, device=x.mean.device)
    for penalty in PENALTIES:
        weights = _minimize(weights, x, y, penalty)
        yield penalty, weights


def _minimize(start: Tensor, x: Standardized, y: Tensor, penalty: float) -> Tensor:
    """Return the weights that minimize mean cross-entropy + penalty / 2 * |W|^2, without biases in W, by L-BFGS."""
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = penalty / 2 * weights[:, :-1].square().sum()
        value.backward()
        for part in _chunks(len(x)):  # float64 copies of all embeddings would take too much memory
            term = F.cross_entropy(_logits(weights, x[part]), y[part], reduction="sum") / len(x)
            term.backward()
            value = value.detach() + term.detach()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType] - torch's type of the closure is float
    return weights.detach()


def _logits(weights: Tensor, x: Tensor) -> Tensor:
    return x.double() @ weights[:, :-1].T + weights[:, -1]


@dataclass(frozen=True)
class Bank:
    """Training images uint8 [N, 3, H, W] and their labels int64 [N], whose neighbors are searched after each epoch."""

    images: Images
    labels: Tensor
    num_classes: int


def bank_of(data: Data, dataset: Dataset, device: torch.device) -> Bank:
    """Return the bank of a run's training images, at most MAX_BANK, on the device unless they are on disk."""
    indices, _ = train_val_indices(data, dataset.train.labels)
    if len(indices) > MAX_BANK:
        indices = indices[stratified_subset(dataset.train.labels[indices], MAX_BANK, data.split_seed)]
    chosen = dataset.train.subset(indices).to(device)
    return Bank(chosen.images, chosen.labels, dataset.num_classes)


@torch.no_grad()
def evaluate_neighbors(
    model: ImageModel, bank: Bank, split: Split, compute: Compute, group: Group = SINGLE_WORKER
) -> Evaluation:
    """Evaluate the vote of the nearest images in `bank`. split: this worker's; the result covers all workers."""
    neighbors = _neighbors_in(bank, model, compute)
    correct, nll, num_images = count_votes(neighbors, embed(model, split.images, compute), split.labels)
    sums = torch.tensor([correct, nll, num_images], dtype=torch.float64, device=compute.device)
    correct, nll, num_images = group.gather(sums).sum(0).tolist()
    return Evaluation(100 * correct / num_images, nll / num_images, int(num_images))


class VotingModel(nn.Module):
    """An ImageModel whose logits are the logarithms of the votes of the nearest images in a bank, float32 [B, C]."""

    def __init__(self, model: ImageModel, bank: Bank, compute: Compute) -> None:
        super().__init__()
        model.request({"embedding"})
        self.model, self._neighbors = model, _neighbors_in(bank, model, compute)

    def forward(self, images: Tensor) -> Outputs:
        embedding = self.model(images).embedding
        assert embedding is not None
        with torch.autocast(embedding.device.type, enabled=False):
            return Outputs(self._neighbors.probabilities(embedding).log())


def _neighbors_in(bank: Bank, model: ImageModel, compute: Compute) -> Neighbors:
    return Neighbors(F.normalize(embed(model, bank.images, compute)), bank.labels, bank.num_classes)


def count_votes(neighbors: Neighbors, queries: Tensor, labels: Tensor) -> tuple[int, float, int]:
    """Return how many of the queries [N, D] get the most votes for their label, the sum of -log p, and N."""
    correct, nll = 0, 0.0
    chunk = max(1, min(_CHUNK, _MAX_SIMILARITIES // len(neighbors.labels)))
    for first in range(0, len(queries), chunk):
        part = slice(first, first + chunk)
        probabilities, expected = neighbors.probabilities(queries[part]), labels[part].to(queries.device)
        correct += int((probabilities.argmax(1) == expected).sum())
        nll -= float(probabilities.gather(1, expected[:, None]).log().double().sum())
    return correct, nll, len(queries)
