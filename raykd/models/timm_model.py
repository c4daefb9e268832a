"""The door to timm: any of its image models, by name, gives Outputs (github.com/huggingface/pytorch-image-models).

Pretrained weights are never fetched here: `python -m raykd prefetch` puts them beside the data on a machine
with a network, and a compute node reads that file.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from raykd.errors import ConfigError, did_you_mean
from raykd.models.model import ImageModel, Images, Model
from raykd.outputs import Outputs


@dataclass(frozen=True)
class Timm(Model):
    """`name` as timm has it; `input_size` in pixels, 0 for the data's own. `weights`: '', 'pretrained' or a file.

    A network with a fixed input (a ViT at 224) resizes its views on the device; its mean and std are its own.
    """

    kind: ClassVar[str] = "timm"
    name: str = "vit_tiny_patch16_224"
    input_size: int = 0
    weights: str = ""

    def check(self) -> None:
        import timm

        known = timm.list_models()
        if self.name.split(".")[0] not in known:
            hint = did_you_mean(self.name, known)
            raise ConfigError(f"unknown timm model '{self.name}': timm.list_models() has {len(known)} names{hint}")
        self.require(self.input_size >= 0, "input_size", "wants pixels, or 0 for the data's own size")

    @property
    def label(self) -> str:
        return self.name.replace(".", "-").replace("/", "-")

    @property
    def has_distillation_token(self) -> bool:
        return self.name.startswith("deit_") and "_distilled_" in self.name

    def build(self, images: Images) -> ImageModel:
        import timm

        settings = timm.get_pretrained_cfg(self.name)
        size = self.input_size or images.size
        options: dict[str, Any] = {"img_size": size} if settings is not None and settings.fixed_input_size else {}
        try:
            network = timm.create_model(self.name, pretrained=False, num_classes=images.num_classes, **options)
        except (TypeError, ValueError, AssertionError, ArithmeticError, RuntimeError) as error:
            raise ConfigError(f"timm model '{self.name}' cannot be built for {size}x{size} images: {error}") from None
        if settings is not None and self.weights:
            (red, green, blue), (red_std, green_std, blue_std) = settings.mean, settings.std
            images = replace(images, mean=(red, green, blue), std=(red_std, green_std, blue_std))
        read = read_two_heads if self.has_distillation_token else read_timm
        return ImageModel(network, read, images, input_size=size)


def read_timm(network: nn.Module, pixels: Tensor) -> Outputs:
    """Logits [B, C] and the embedding that the head reads [B, D]; timm names both steps alike in every model."""
    hidden = network.forward_features(pixels)  # type: ignore[operator]
    embedding = network.forward_head(hidden, pre_logits=True)  # type: ignore[operator]
    classifier = network.get_classifier()  # type: ignore[operator]
    if isinstance(classifier, nn.Linear):
        return Outputs(classifier(embedding), embedding)
    # A 1x1 convolution (resnetv2), or two heads whose mean counts (levit): timm knows how to apply them.
    return Outputs(network.forward_head(hidden), embedding.flatten(1))  # type: ignore[operator]


def read_two_heads(network: nn.Module, pixels: Tensor) -> Outputs:
    """Of a DeiT with its distillation token: both heads' logits, and their mean, which timm takes at test time too."""
    hidden = network.forward_features(pixels)  # type: ignore[operator]
    class_token, distillation_token = (network.head_drop(hidden[:, token]) for token in (0, 1))  # type: ignore[operator]
    heads = network.head(class_token), network.head_dist(distillation_token)  # type: ignore[operator]
    embedding = (class_token + distillation_token) / 2
    return Outputs((heads[0] + heads[1]) / 2, embedding, heads=heads)
