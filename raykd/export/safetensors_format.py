"""safetensors: the run's own file of best weights, byte for byte, so that its SHA-256 is the one that was tested.

But where its header says where a person's pictures lie: there the tensors are the run's, and the header is not.
"""

import shutil
from pathlib import Path
from typing import Any

from raykd.export.done_run import DoneRun
from raykd.export.format import Deployed, Form, Logits
from raykd.models.weights import read_state
from raykd.training.model_file import load_model, read_header, save_with_header


class Safetensors(Form):
    """model.safetensors: raykd builds the network from its header; anybody else from the lines in the model card."""

    name = "safetensors"
    file = "model.safetensors"
    library = "pytorch"
    preprocesses = False

    def write(self, done: DoneRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        if read_header(done.folder.best) == done.header:
            shutil.copyfile(done.folder.best, folder / self.file)
        else:
            save_with_header(folder / self.file, read_state(done.folder.best), done.header)
        return config

    def read(self, done: DoneRun, folder: Path) -> Logits:
        return Deployed(load_model(folder / self.file).eval())
