"""timm: a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` takes, and a hub after an upload.

A ViT of raykd's is timm's VisionTransformer, so `vit_tiny_patch16_224` with other sizes is the same network; with a
distillation token `deit_tiny_distilled_patch16_224` is, whose logits are both heads' mean too. A ResNet of raykd's is
none of timm's: their stems halve the image (7x7 or 3x3 with stride 2), and no argument changes that.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.errors import ConfigError
from raykd.export.done_run import DoneRun
from raykd.export.format import Form, Logits
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.models.weights import save_weights

_VIT, _VIT_WITH_TOKEN = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
# Of timm's own entry for the architecture; the others are of weights that these are not.
_KEPT = ("first_conv", "classifier", "fixed_input_size")


class TimmFolder(Form):
    """model.safetensors and timm's config.json. The network takes normalised pixels, as all of timm's do."""

    name = "timm"
    file = "model.safetensors"
    library = "timm"
    preprocesses = False

    def require(self, done: DoneRun) -> None:
        super().require(done)
        if not isinstance(done.header.model, Timm | ViT):
            raise ConfigError(
                f"--format timm: '{done.header.model.label}' is no model of timm's (the stems of its ResNets halve the "
                "image); use safetensors, onnx or torch-export"
            )

    def write(self, done: DoneRun, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
        save_weights(folder / self.file, done.model.network.state_dict(), {"format": "pt"})
        return timm_config(done) | {"raykd": config}

    def read(self, done: DoneRun, folder: Path) -> Logits:
        import timm

        network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        return _preprocessed(network, done)


def timm_config(done: DoneRun) -> dict[str, Any]:
    """config.json as timm reads it: the architecture by name, its arguments, what the input is to be like."""
    import timm

    name, arguments = architecture_of(done)
    known = timm.get_pretrained_cfg(name)
    kept = {key: value for key in _KEPT if known is not None and (value := getattr(known, key)) is not None}
    size = done.network_size
    return {
        "architecture": name,
        "num_classes": len(done.header.classes),
        "num_features": getattr(done.model.network, "num_features", None),
        "label_names": list(done.header.classes),
        "model_args": arguments,
        "pretrained_cfg": kept
        | {
            "num_classes": len(done.header.classes),
            "input_size": [3, size, size],
            "interpolation": done.model.mode,
            "crop_pct": 1.0,
            "mean": done.mean,
            "std": done.std,
        },
    }


def architecture_of(done: DoneRun) -> tuple[str, dict[str, Any]]:
    """timm's name for the model, and the arguments in which it differs from what the name says."""
    import timm

    model = done.header.model
    if isinstance(model, ViT):
        sizes = {"img_size": done.network_size, "patch_size": model.patch, "embed_dim": model.width}
        name = _VIT_WITH_TOKEN if model.distillation_token else _VIT
        return name, sizes | {"depth": model.depth, "num_heads": model.heads, "drop_rate": model.dropout}
    assert isinstance(model, Timm)
    known = timm.get_pretrained_cfg(model.name)
    fixed = known is not None and known.fixed_input_size
    return model.name.split(".")[0], {"img_size": done.network_size} if fixed else {}


def _preprocessed(network: nn.Module, done: DoneRun) -> Logits:
    """As the model card does it: to fractions, normalised, resized."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (done.mean, done.std))

    def logits(images: Tensor) -> Tensor:
        pixels = (images / 255 - mean) / std
        if done.model.input_size is not None:
            pixels = F.interpolate(pixels, size=(done.network_size, done.network_size), mode=done.model.mode)
        return network(pixels)

    return logits
