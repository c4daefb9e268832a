"""torch.export: graph and weights in one .pt2 file, for torch without raykd, AOTInductor and ExecuTorch."""

import json
from pathlib import Path
from typing import Any, cast

import torch

from raykd.export.finished_run import DeployedModel, FinishedRun
from raykd.export.format import ExportFormat, Output, dynamic_batch, example_images

CONFIG = "raykd.json"  # a copy of config.json inside the archive


class TorchExportFormat(ExportFormat):
    """model.pt2: images, uint8 [B, 3, H, W] -> logits, float32 [B, C] (or embedding, [B, D]); exported on the CPU."""

    name = "torch-export"
    file = "model.pt2"
    library = "pytorch"
    preprocesses = True

    def write(self, run: FinishedRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            program = torch.export.export(
                DeployedModel(run.model, run.output),
                (example_images(run, 2),),
                dynamic_shapes=dynamic_batch(),
                strict=False,
            )
        graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
        for node in (node for graph in graphs for node in graph.nodes):
            node.meta.pop("stack_trace", None)  # source lines with paths on this machine
        torch.export.save(program, folder / self.file, extra_files={CONFIG: json.dumps(config)})
        return config

    def read(self, run: FinishedRun, folder: Path) -> Output:
        return cast(Output, torch.export.load(folder / self.file).module())
