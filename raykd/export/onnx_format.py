"""ONNX: one file that takes uint8 pictures; runs in onnxruntime, TensorRT, OpenVINO and browsers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raykd.export.done_run import DoneRun
from raykd.export.format import Deployed, Form, Logits, any_batch, example_images

# What torch's exporter speaks by itself: no conversion that could go wrong, and onnxruntime from 1.14 on reads it.
OPSET = 18


class Onnx(Form):
    """model.onnx: images uint8 [batch, 3, H, W] -> logits float32 [batch, C], the weights inside the file."""

    name = "onnx"
    file = "model.onnx"
    library = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")  # the file, torch's exporter, and the check of what was written
    preprocesses = True

    def write(self, done: DoneRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        import onnx

        program = torch.onnx.export(
            Deployed(done.model),
            (example_images(done, 2),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=any_batch(),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        for graph in (model.graph, *model.functions):
            for node in _nodes(graph):
                node.ClearField("metadata_props")  # the lines of code behind it, in files of this machine
        onnx.helper.set_model_props(model, {"raykd": json.dumps(config)})
        onnx.checker.check_model(model, full_check=True)
        onnx.save_model(model, folder / self.file)
        return config

    def read(self, done: DoneRun, folder: Path) -> Logits:
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / self.file, providers=["CPUExecutionProvider"])

        def logits(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(["logits"], {"images": images.contiguous().numpy()})[0])

        return logits


def _nodes(graph: Any) -> Iterator[Any]:
    """Those of the graphs inside its nodes too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
