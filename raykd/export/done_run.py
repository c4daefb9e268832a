"""A run that is done, as an export sees it: what was trained, how, and the weights that validation picked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from raykd.config import to_dict
from raykd.data import names
from raykd.errors import ConfigError
from raykd.models import ImageModel
from raykd.provenance import file_sha256
from raykd.spec.plan import Run
from raykd.store.codec import read_json
from raykd.store.run_folder import RunFolder
from raykd.training.evaluate_best import is_tested
from raykd.training.model_file import Header, load_model, read_header
from raykd.training.run_record import recorded_run_of


@dataclass(frozen=True)
class DoneRun:
    """record: run.json. header: of the best weights' file, whose bytes weights_sha256 names; its data by a name
    that says nothing of where they lie.
    """

    folder: RunFolder
    run: Run
    record: Mapping[str, Any]
    header: Header
    weights_sha256: str

    @cached_property
    def model(self) -> ImageModel:
        """The network with its best weights, float32, on the CPU, in inference mode."""
        return load_model(self.folder.best).eval()

    @property
    def network_size(self) -> int:
        """Pixels on a side of what the network itself takes, after the resizing."""
        return self.model.input_size or self.header.images.size

    @property
    def mean(self) -> list[float]:
        """By which the pixels are normalised, a fraction of 255 for each channel."""
        return _fractions(self.model.mean)

    @property
    def std(self) -> list[float]:
        return _fractions(self.model.std)

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the result; of a method of a person's own as run.json has it."""
        return to_dict(self.run, results_only=True) | {"method": self.record["config"]["method"]}

    @cached_property
    def tested(self) -> dict[str, Any]:
        """test.json; {} where these weights have not been evaluated on the test set."""
        return read_json(self.folder.test) if is_tested(self.folder) else {}


def read_done(folder: RunFolder) -> DoneRun:
    """The run in `folder`. Raises ConfigError for one that is not done, damaged, or of another version of raykd."""
    status = folder.status()
    if status == "damaged":
        folder.weights_sha256()  # raises, with the remedy
    if status != "done":
        remedy = "wait for its end" if status == "running" else "type its command again and let it end"
        raise ConfigError(f"run '{folder.path.name}' is {status}, not done: its best weights are not known; {remedy}")
    run = recorded_run_of(folder)
    header = read_header(folder.best)
    if header is None:
        raise ConfigError(f"weights file '{folder.best}' does not say which model it is of; train the run anew")
    header = replace(header, data=names.without_path(header.data))
    record = folder.fields()
    record.text("fingerprint")
    return DoneRun(folder, run, record.values, header, file_sha256(folder.best))


def _fractions(pixels: Tensor) -> list[float]:
    return [_fraction(value) for value in pixels.flatten().tolist()]


def _fraction(pixels: float) -> float:
    """The shortest decimal of which the model made `pixels`, in float32: so that nothing is lost by writing it down."""
    rounded = (round(pixels / 255, digits) for digits in range(1, 17))
    return next((found for found in rounded if torch.tensor(found).mul(255).item() == pixels), pixels / 255)
