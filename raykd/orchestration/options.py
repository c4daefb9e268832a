"""Where a command reads and writes. Trials import it too, and would wait for what a lab needs besides."""

from dataclasses import dataclass
from pathlib import Path

from raykd.stages import STAGES, Stage


@dataclass(frozen=True)
class Options:
    """Where a command reads and writes. Data and weights: see `--data-dir`."""

    results: Path
    data_folder: Path
    stages: tuple[Stage, ...] = STAGES

    @property
    def weights_folder(self) -> Path:
        """Where `prefetch` leaves pretrained weights."""
        return self.data_folder / "weights"

    @property
    def decoded(self) -> Path:
        """Where decoded images are kept between commands."""
        return self.results / ".data"
