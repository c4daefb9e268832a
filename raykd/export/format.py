"""The interface of an export format, and example images for tracing and checks."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from raykd.errors import ConfigError
from raykd.export.finished_run import FinishedRun

# uint8 [B, 3, H, W] at the data's image size -> float32: logits [B, C], or embeddings [B, D] without a classifier
Output = Callable[[Tensor], Tensor]


class ExportFormat:
    """A format that writes a run's best weights into a folder, and reads them back as a user would."""

    name: ClassVar[str]  # the value of --format
    file: ClassVar[str]  # name of the weights' file in the folder
    library: ClassVar[str]  # the Hub's name of the library that loads it
    packages: ClassVar[tuple[str, ...]] = ()  # required packages
    preprocesses: ClassVar[bool]  # whether normalization and resizing are inside the file

    def require(self, run: FinishedRun) -> None:
        """Raise ConfigError, before anything is written, if this format cannot hold the run's model."""
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            raise ConfigError(
                f"--format {self.name} requires packages that are missing: pip install {' '.join(missing)}"
            )

    def write(self, run: FinishedRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        """Write the weights into `folder` and return the content of config.json: `config`, possibly inside more."""
        raise NotImplementedError

    def read(self, run: FinishedRun, folder: Path) -> Output:
        """Load the files in `folder` like the code in the model card, and not through the run."""
        raise NotImplementedError


def example_images(run: FinishedRun, batch_size: int, seed: int = 0) -> Tensor:
    """Return noise, uint8 [B, 3, H, W]. It has every pixel value, which a few real images do not."""
    size = run.header.images.size
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8, generator=generator)


def dynamic_batch() -> dict[str, dict[int, Any]]:
    """Return torch.export's `dynamic_shapes`: the first axis of `images` varies, the others are fixed."""
    return {"images": {0: torch.export.Dim("batch", min=1, max=2**31 - 1)}}  # torch 2.7 exports no ViT without a max
