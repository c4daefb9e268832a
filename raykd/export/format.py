"""What every format of an export has in common, and the network that deployed files hold: raw views to logits."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raykd.errors import ConfigError
from raykd.export.done_run import DoneRun
from raykd.models import ImageModel

Logits = Callable[[Tensor], Tensor]  # uint8 [B, 3, H, W], the data's own side -> float32 [B, C]


class Form:
    """One format: writes a run's best weights into a folder, and reads them back as anybody would.

    file: the weights' name in the folder. packages: what it wants installed. preprocesses: whether normalising and
    resizing is inside the file. library: what the hub calls those who load it.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    library: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    preprocesses: ClassVar[bool]

    def require(self, done: DoneRun) -> None:
        """Raise ConfigError, before anything is written, where this format cannot hold the run's model."""
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            raise ConfigError(f"--format {self.name} wants what is not installed: pip install {' '.join(missing)}")

    def write(self, done: DoneRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        """Leave the weights in `folder`; returns what config.json is to say: `config`, unless others read the file."""
        raise NotImplementedError

    def read(self, done: DoneRun, folder: Path) -> Logits:
        """What the files in `folder` compute, loaded as the model card says and not through the run."""
        raise NotImplementedError


class Deployed(nn.Module):
    """`ImageModel` with its logits alone, and with integers as its only input: a picture scaled otherwise is refused.

    images: uint8 [B, 3, H, W] in RGB. Returns float32 [B, C].
    """

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def example_images(done: DoneRun, batch: int, seed: int = 0) -> Tensor:
    """Noise as uint8 [batch, 3, H, W]: every value of a pixel, which a few real images do not have."""
    size = done.header.images.size
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)


def any_batch() -> dict[str, dict[int, Any]]:
    """torch.export's word for: the first axis of `images` is free, the others are as in the example."""
    return {"images": {0: torch.export.Dim("batch", min=1)}}
