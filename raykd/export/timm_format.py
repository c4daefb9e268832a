"""timm: a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads, and the Hub after an upload.

raykd's ViT is timm's VisionTransformer, so `vit_tiny_patch16_224` with other sizes is the same network. With a
distillation token it is `deit_tiny_distilled_patch16_224`, whose logits are the mean of both heads too. raykd's ResNet
does not exist in timm, whose stems halve the image (7x7 or 3x3 with stride 2) for all arguments.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.errors import ConfigError
from raykd.export.finished_run import FinishedRun
from raykd.export.format import ExportFormat, Output
from raykd.models.library_model import with_lists
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.models.weights import save_weights

_VIT, _VIT_WITH_TOKEN = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
# Entries of timm's pretrained_cfg that describe the architecture. The others describe timm's weights.
_ARCHITECTURE_FIELDS = ("first_conv", "classifier", "fixed_input_size")


class TimmFormat(ExportFormat):
    """model.safetensors and timm's config.json. The input is normalized pixels, as for all timm models."""

    name = "timm"
    file = "model.safetensors"
    library = "timm"
    preprocesses = False

    def require(self, run: FinishedRun) -> None:
        super().require(run)
        if not isinstance(run.header.model, Timm | ViT):
            raise ConfigError(
                f"--format timm: '{run.header.model.label}' is not a timm model (the stems of timm's ResNets halve "
                "the image); use safetensors, onnx or torch-export"
            )

        if run.output != "logits":
            raise ConfigError(
                f"--format timm: '{run.header.model.label}' has no classifier here; use safetensors, onnx or "
                "torch-export, which return its embedding"
            )

    def write(self, run: FinishedRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        save_weights(folder / self.file, run.model.network.state_dict(), {"format": "pt"})
        return timm_config(run) | {"raykd": config}

    def read(self, run: FinishedRun, folder: Path) -> Output:
        import timm

        network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (run.mean, run.std))

        def logits(images: Tensor) -> Tensor:
            pixels = (images / 255 - mean) / std
            if run.model.input_size is not None:
                pixels = F.interpolate(pixels, size=(run.network_size, run.network_size), mode=run.model.mode)
            return network(pixels)

        return logits


def timm_config(run: FinishedRun) -> dict[str, Any]:
    """Return timm's config.json: name and arguments of the architecture, and the preprocessing of its input."""
    import timm

    name, arguments = architecture_of(run)
    published = timm.get_pretrained_cfg(name)
    fields = {name: value for name in _ARCHITECTURE_FIELDS if (value := getattr(published, name, None)) is not None}
    return {
        "architecture": name,
        "num_classes": len(run.header.classes),
        "num_features": getattr(run.model.network, "num_features", None),
        "label_names": list(run.header.classes),
        "model_args": arguments,
        "pretrained_cfg": {
            **fields,
            "num_classes": len(run.header.classes),
            "input_size": [3, run.network_size, run.network_size],
            "interpolation": run.model.mode,
            "crop_pct": run.spec.data.center_crop,
            "mean": run.mean,
            "std": run.std,
        },
    }


def architecture_of(run: FinishedRun) -> tuple[str, dict[str, Any]]:
    """Return timm's name of the model, and the arguments that differ from the defaults of that name."""
    import timm

    model = run.header.model
    if isinstance(model, ViT):
        sizes = {"img_size": run.network_size, "patch_size": model.patch, "embed_dim": model.width}
        name = _VIT_WITH_TOKEN if model.distillation_token else _VIT
        drop_path = {"drop_path_rate": model.drop_path} if model.drop_path else {}
        return name, sizes | {"depth": model.depth, "num_heads": model.heads, "drop_rate": model.dropout} | drop_path
    assert isinstance(model, Timm)
    published = timm.get_pretrained_cfg(model.name)
    has_fixed_size = published is not None and published.fixed_input_size
    size = {"img_size": run.network_size} if has_fixed_size else {}
    return model.name.split(".")[0], size | with_lists(model.arguments)
