"""ONNX: one file that reads uint8 images, for onnxruntime, TensorRT, OpenVINO and browsers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raykd.export.finished_run import DeployedModel, FinishedRun
from raykd.export.format import ExportFormat, Output, dynamic_batch, example_images

# The native opset of torch's exporter, so no conversion can fail. onnxruntime 1.14 and later read it.
OPSET = 18


class OnnxFormat(ExportFormat):
    """model.onnx, with the weights inside.

    images, uint8 [batch, 3, H, W] -> logits, float32 [batch, C], or embedding, [batch, D].
    """

    name = "onnx"
    file = "model.onnx"
    library = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")  # the file format, torch's exporter, and the check
    preprocesses = True

    def write(self, run: FinishedRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        import onnx

        program = torch.onnx.export(
            DeployedModel(run.model, run.output),
            (example_images(run, 2),),
            input_names=["images"],
            output_names=[run.output],
            dynamic_shapes=dynamic_batch(),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        for graph in (model.graph, *model.functions):
            for node in _nodes(graph):
                node.ClearField("metadata_props")  # source lines with paths on this machine
        onnx.helper.set_model_props(model, {"raykd": json.dumps(config)})
        onnx.checker.check_model(model, full_check=True)
        onnx.save_model(model, folder / self.file)
        return config

    def read(self, run: FinishedRun, folder: Path) -> Output:
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / self.file, providers=["CPUExecutionProvider"])

        def output(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run([run.output], {"images": images.contiguous().numpy()})[0])

        return output


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of `graph` and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
