"""torch.export: the graph and the weights as one .pt2, for torch without raykd, AOTInductor and ExecuTorch."""

import json
from pathlib import Path
from typing import Any, cast

import torch

from raykd.export.done_run import DoneRun
from raykd.export.format import Deployed, Form, Logits, any_batch, example_images

CONFIG = "raykd.json"  # config.json once more, inside the archive


class TorchExport(Form):
    """model.pt2: images uint8 [B, 3, H, W] -> logits float32 [B, C]; exported on the CPU."""

    name = "torch-export"
    file = "model.pt2"
    library = "pytorch"
    preprocesses = True

    def write(self, done: DoneRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            program = torch.export.export(
                Deployed(done.model), (example_images(done, 2),), dynamic_shapes=any_batch(), strict=False
            )
        graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
        for node in (node for graph in graphs for node in graph.nodes):
            node.meta.pop("stack_trace", None)  # the lines of code behind it, in files of this machine
        torch.export.save(program, folder / self.file, extra_files={CONFIG: json.dumps(config)})
        return config

    def read(self, done: DoneRun, folder: Path) -> Logits:
        return cast(Logits, torch.export.load(folder / self.file).module())
