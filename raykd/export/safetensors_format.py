"""safetensors: the run's file of best weights, byte for byte, so its SHA-256 is the one in test.json.

Exception: if the header names the path of a folder with images, the header is rewritten without the path.
"""

import shutil
from pathlib import Path
from typing import Any

from raykd.export.finished_run import DeployedModel, FinishedRun
from raykd.export.format import ExportFormat, Output
from raykd.models.weights import read_state
from raykd.training.model_file import load_model, read_header, save_model


class SafetensorsFormat(ExportFormat):
    """model.safetensors. raykd builds the network from the header; other code uses the lines in the model card."""

    name = "safetensors"
    file = "model.safetensors"
    library = "pytorch"
    preprocesses = False

    def write(self, run: FinishedRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        if read_header(run.folder.best) == run.header:
            shutil.copyfile(run.folder.best, folder / self.file)
        else:
            save_model(folder / self.file, read_state(run.folder.best), run.header)
        return config

    def read(self, run: FinishedRun, folder: Path) -> Output:
        model = load_model(folder / self.file).eval()
        model.request({run.output})
        return DeployedModel(model, run.output)
