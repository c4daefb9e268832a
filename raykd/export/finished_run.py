"""A finished run as an export reads it: its configuration, and the weights of the epoch that validation selected."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raykd.config import to_dict
from raykd.config.codec import read_record
from raykd.data import dataset_names
from raykd.errors import ConfigError
from raykd.export.standalone import with_local_modules
from raykd.models import ImageModel
from raykd.models.custom_network import Network
from raykd.provenance import file_sha256
from raykd.spec.plan import Run
from raykd.store.records import Metrics, RunRecord
from raykd.store.run_folder import RunFolder
from raykd.training.final_evaluation import is_tested
from raykd.training.model_file import Header, load_model, read_header
from raykd.training.run_record import recorded_run


@dataclass(frozen=True)
class FinishedRun:
    """A run whose status is 'done'."""

    folder: RunFolder
    spec: Run
    record: RunRecord
    header: Header  # header of the file with the best weights; the data set has a name without the path of a folder
    weights_sha256: str  # SHA-256 of that file

    @cached_property
    def model(self) -> ImageModel:
        """The network with its best weights, in float32, on the CPU, in eval mode."""
        model = load_model(self.folder.best).eval()
        model.request({self.output})
        return model

    @property
    def output(self) -> Literal["logits", "embedding"]:
        """The output that is exported: the embedding of a network without a classifier."""
        return "logits" if self.header.model.classifier else "embedding"

    @cached_property
    @torch.no_grad()
    def output_width(self) -> int:
        """The number of values of the output for an image."""
        size = self.header.images.size
        return DeployedModel(self.model, self.output)(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1]

    @property
    def network_size(self) -> int:
        """Side in pixels of the network's input, after resizing."""
        return self.model.input_size or self.header.images.size

    @property
    def mean(self) -> list[float]:
        """Mean of each channel for the normalization, as a fraction of 255."""
        return [_fraction(value) for value in self.model.mean.flatten().tolist()]

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel for the normalization, as a fraction of 255."""
        return [_fraction(value) for value in self.model.std.flatten().tolist()]

    @property
    def configuration(self) -> dict[str, Any]:
        """The fields that determine the result. A custom method is described as in run.json."""
        return to_dict(self.spec, results_only=True) | {"method": self.record.config["method"]}

    @cached_property
    def test_metrics(self) -> dict[str, Any]:
        """test.json, or {} if these weights were not evaluated on the test split."""
        metrics = read_record(Metrics, self.folder.test) if is_tested(self.folder) else None
        return asdict(metrics) if metrics else {}


class DeployedModel(nn.Module):
    """An `ImageModel` that returns one of its outputs.

    images: uint8 [B, 3, H, W] in RGB; other types raise an error, so no image is scaled twice. Returns float32: logits
    [B, C], or embeddings [B, D].
    """

    def __init__(self, model: ImageModel, output: Literal["logits", "embedding"]) -> None:
        super().__init__()
        self.model, self.output = model, output
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return getattr(self.model(images), self.output)


def code_of(run: FinishedRun) -> str:
    """Return the text that defines a custom network; '' for other models, and for installed packages."""
    model = run.header.model
    return with_local_modules(model.source) if isinstance(model, Network) and model.source.is_text else ""


def read_finished_run(folder: RunFolder) -> FinishedRun:
    """Read the run in `folder`. Raises ConfigError if it is not done, damaged, or from another version of raykd."""
    status = folder.status()
    if status == "damaged":
        folder.weights_sha256()  # raises, with the remedy
    if status != "done":
        remedy = "wait until it ends" if status == "running" else "rerun its experiment until it is done"
        raise ConfigError(f"run '{folder.name}' is {status}, not done: its best weights are not known; {remedy}")
    spec = recorded_run(folder)
    header = read_header(folder.best)
    if header is None:
        raise ConfigError(f"weights file '{folder.best}' does not name its model; train the run again")
    header = replace(header, data=dataset_names.without_path(header.data))
    return FinishedRun(folder, spec, folder.require_record(), header, file_sha256(folder.best))


def _fraction(pixels: float) -> float:
    """Return the shortest decimal that becomes `pixels` when multiplied by 255 in float32, so that nothing is lost."""
    candidates = (round(pixels / 255, digits) for digits in range(1, 17))
    return next((value for value in candidates if torch.tensor(value).mul(255).item() == pixels), pixels / 255)
