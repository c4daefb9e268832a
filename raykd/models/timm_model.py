"""The door to timm: any of its image models, by name, gives Outputs (github.com/huggingface/pytorch-image-models).

Pretrained weights are never fetched here: `python -m raykd prefetch` puts them beside the data on a machine
with a network, and a compute node reads that file.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from raykd.config import AtMost
from raykd.errors import ConfigError, did_you_mean
from raykd.models.model import MAX_SIDE, ImageModel, ImageSpec, Model
from raykd.outputs import Outputs

MAX_STAGES = 4  # a ResNet's, so that models of different kinds pair with no more said

Hidden = Any  # what a network's forward_features gives and its forward_head takes: a tensor, or a list of them


@dataclass(frozen=True)
class Timm(Model):
    """`name` as timm has it; `input_size` in pixels, 0 for the data's own. `weights`: '', 'pretrained' or a file.

    A network with a fixed input (a ViT at 224) resizes its views on the device; its mean and std are its own. Which
    maps are its `features`, `feature_stages` says.
    """

    kind: ClassVar[str] = "timm"
    name: str = "vit_tiny_patch16_224"
    input_size: Annotated[int, AtMost(MAX_SIDE)] = 0
    weights: str = ""

    def check(self) -> None:
        import timm

        known = timm.list_models()
        if self.name.split(".")[0] not in known:
            hint = did_you_mean(self.name, known, numbered=True)
            raise ConfigError(f"unknown timm model '{self.name}': timm.list_models() has {len(known)} names{hint}")
        self.require(self.input_size >= 0, "input_size", "wants pixels, or 0 for the data's own size")

    @property
    def label(self) -> str:
        return self.name.replace(".", "-").replace("/", "-")

    @property
    def has_distillation_token(self) -> bool:
        return self.name.startswith("deit_") and "_distilled_" in self.name

    def input_spec(self, images: ImageSpec) -> ImageSpec:
        """With weights, the mean and std that timm lists for this name: its pretrained weights were trained so."""
        import timm

        settings = timm.get_pretrained_cfg(self.name)
        if settings is None or not self.weights:
            return images
        (red, green, blue), (red_std, green_std, blue_std) = settings.mean, settings.std
        return replace(images, mean=(red, green, blue), std=(red_std, green_std, blue_std))

    def build(self, images: ImageSpec) -> ImageModel:
        import timm

        size = self.input_size or images.size
        try:
            settings = timm.get_pretrained_cfg(self.name)
            options: dict[str, Any] = {"img_size": size} if settings is not None and settings.fixed_input_size else {}
            network = timm.create_model(self.name, pretrained=False, num_classes=images.num_classes, **options)
        except (TypeError, ValueError, AssertionError, ArithmeticError, RuntimeError) as error:
            raise ConfigError(f"timm model '{self.name}' cannot be built for {size}x{size} images: {error}") from None
        return wrap_timm_network(network, self.input_spec(images), size, self.has_distillation_token)


def wrap_timm_network(network: nn.Module, images: ImageSpec, input_size: int, two_heads: bool = False) -> ImageModel:
    """A network of timm's as an ImageModel; two_heads: it is a VisionTransformerDistilled."""
    heads = of_two_heads if two_heads else of_one_head
    stages = feature_stages(network)
    read_features = partial(_read_features, heads=heads, stages=stages) if stages else None
    return ImageModel(network, partial(_read, heads=heads), images, input_size, read_features=read_features)


def feature_stages(network: nn.Module) -> list[int]:
    """Which of a network's intermediate maps are its stages, counted from 0, ascending; [] where timm tells of none.

    Of a network with one resolution throughout, such as a ViT, the maps of 4 blocks at even distances: the first ones
    at which a quarter, a half, three quarters and all of the depth are done. 12 blocks then pair with 6 as 3, 6, 9, 12
    with 2, 3, 5, 6, counted from 1: within one block of TinyBERT's uniform mapping, which pairs equal shares of both
    depths (Jiao et al. 2019, arXiv:1909.10351). With fewer than 4 blocks every block is a stage. Of any other network
    the last 4 that timm lists, which leaves out a stem; a few have 3. A ViT's map is the residual stream after a
    block, before the final norm, without class and other prefix tokens.
    """
    listed = getattr(network, "feature_info", None)
    if not listed or not hasattr(network, "forward_intermediates"):
        return []
    depth = len(listed)
    if len({stage["reduction"] for stage in listed}) > 1:
        return list(range(depth))[-MAX_STAGES:]
    return sorted({ceil(depth * quarter / MAX_STAGES) - 1 for quarter in range(1, MAX_STAGES + 1)})


def _read(network: nn.Module, pixels: Tensor, heads: Callable[[nn.Module, Hidden], Outputs]) -> Outputs:
    return heads(network, network.forward_features(pixels))  # type: ignore[operator]


def _read_features(
    network: nn.Module, pixels: Tensor, heads: Callable[[nn.Module, Hidden], Outputs], stages: list[int]
) -> Outputs:
    """The same, by the same pass; timm makes [B, D, H, W] of tokens and of channels that come last."""
    hidden, maps = network.forward_intermediates(pixels, indices=stages)  # type: ignore[operator]
    return heads(network, hidden)._replace(features=tuple(maps))


def of_one_head(network: nn.Module, hidden: Hidden) -> Outputs:
    """Logits [B, C] and the embedding that the head reads [B, D]; timm names both steps alike in every model."""
    embedding = network.forward_head(hidden, pre_logits=True)  # type: ignore[operator]
    classifier = network.get_classifier()  # type: ignore[operator]
    if isinstance(classifier, nn.Linear):
        return Outputs(classifier(embedding), embedding)
    # A 1x1 convolution (resnetv2), or two heads whose mean counts (levit): timm knows how to apply them.
    return Outputs(network.forward_head(hidden), embedding.flatten(1))  # type: ignore[operator]


def of_two_heads(network: nn.Module, hidden: Hidden) -> Outputs:
    """Of a DeiT with its distillation token: both heads' logits, and their mean, which timm takes at test time too."""
    class_token, distillation_token = (network.head_drop(hidden[:, token]) for token in (0, 1))  # type: ignore[operator]
    heads = network.head(class_token), network.head_dist(distillation_token)  # type: ignore[operator]
    embedding = (class_token + distillation_token) / 2
    return Outputs((heads[0] + heads[1]) / 2, embedding, heads=heads)
