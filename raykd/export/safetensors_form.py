"""safetensors: the run's own file of best weights, byte for byte, so that its SHA-256 is the one that was tested."""

import shutil
from pathlib import Path
from typing import Any

from raykd.export.done_run import DoneRun
from raykd.export.form import Deployed, Form, Logits
from raykd.training.trained import load_trained


class Safetensors(Form):
    """model.safetensors: raykd builds the network from its header; anybody else from the lines in the model card."""

    name = "safetensors"
    file = "model.safetensors"
    library = "pytorch"
    preprocesses = False

    def write(self, done: DoneRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        shutil.copyfile(done.folder.best, folder / self.file)
        return config

    def read(self, done: DoneRun, folder: Path) -> Logits:
        return Deployed(load_trained(folder / self.file).eval())
