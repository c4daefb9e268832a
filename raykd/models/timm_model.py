"""Any image model of timm, by name, as an ImageModel (github.com/huggingface/pytorch-image-models).

Pretrained weights are never downloaded here: `raykd prefetch` stores them on a machine with internet
access, and compute nodes read that file.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any, ClassVar

from torch import Tensor, nn

from raykd.errors import ConfigError, did_you_mean
from raykd.models.library_model import LibraryModel
from raykd.models.model import ImageModel, ImageSpec, names_vit
from raykd.outputs import Outputs

_WEIGHTS = "raykd loads weights itself; set weights"
_FEATURES = "raykd reads feature maps from the whole network; leave it out"
_DEVICE = "raykd places the network itself; leave it out, or set precision of the recipe"
_PASSED = {
    "num_classes": "raykd passes the number of the data's classes; leave it out",
    "img_size": "raykd passes the image size; leave it out, or set input_size",
    "in_chans": "images have 3 channels; leave it out",
    **dict.fromkeys(("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"), _WEIGHTS),
    **dict.fromkeys(("checkpoint_path", "cache_dir", "pruned"), _WEIGHTS),
    **dict.fromkeys(("features_only", "out_indices", "feature_cfg"), _FEATURES),
    **dict.fromkeys(("device", "dtype", "scriptable", "exportable", "no_jit"), _DEVICE),
}
MAX_STAGES = 4  # a ResNet has four, so stages of different kinds of models are paired by default


@dataclass(frozen=True)
class Timm(LibraryModel):
    """An image model of timm. If `weights` is set, images are normalized by timm's mean and std.

    `feature_stages` selects the stages whose feature maps it returns.
    """

    kind: ClassVar[str] = "timm"
    library: ClassVar[str] = "timm.create_model"
    passed_by_raykd: ClassVar[Mapping[str, str]] = _PASSED
    name: str = "vit_tiny_patch16_224"  # name in timm
    weights: str = ""  # 'pretrained', or a file to start from; empty for random weights

    def check(self) -> None:
        import timm

        known = timm.list_models()
        if self.name.split(".")[0] not in known:
            hint = did_you_mean(self.name, known, numbered=True)
            raise ConfigError(f"unknown timm model '{self.name}': timm.list_models() has {len(known)} names{hint}")

    @property
    def label(self) -> str:
        return self.name.replace(".", "-").replace("/", "-") + self.arguments_label

    @property
    def is_vit(self) -> bool:
        return names_vit(self.name)

    @property
    def has_distillation_token(self) -> bool:
        return self.name.startswith("deit_") and "_distilled_" in self.name

    def pretrained_spec(self, images: ImageSpec) -> ImageSpec:
        """Return `images`. If weights are set, mean and std are those that timm lists for their training."""
        pretrained = self._pretrained_configuration() if self.weights else None
        if pretrained is None:
            return images
        return replace(images, mean=tuple(pretrained.mean), std=tuple(pretrained.std))

    def make(self, images: ImageSpec) -> ImageModel:
        import timm

        size = images.size
        pretrained = self._pretrained_configuration()
        try:
            has_fixed_size = pretrained is not None and pretrained.fixed_input_size
            options: dict[str, Any] = {"img_size": size} if has_fixed_size else {}
            options |= {"pretrained": False, "num_classes": images.num_classes}
            network = self.create(partial(timm.create_model, self.name, **options))
        except ConfigError:
            raise
        except (TypeError, ValueError, AssertionError, ArithmeticError, RuntimeError) as error:
            raise ConfigError(f"timm model '{self.name}' cannot be built for {size}x{size} images: {error}") from None
        return self.checked(wrap_timm_network(network, images, self.has_distillation_token), images)

    def adapt_state(self, network: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the classifier. timm renames tensors, and resamples them for the input size, as for its weights."""
        names = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
        heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
        adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if adapt is not None and state.keys() & network.state_dict().keys():
            state = adapt(dict(state), network)
        return {name: tensor for name, tensor in state.items() if not name.startswith(heads)}

    def _pretrained_configuration(self) -> Any:
        """Return timm's configuration of the pretrained weights of this name; None if it has none."""
        import timm

        try:
            return timm.get_pretrained_cfg(self.name)
        except RuntimeError as error:  # an unknown tag, the part of the name after the dot
            raise ConfigError(f"timm model '{self.name}' cannot be built: {error}") from None

    def download(self) -> nn.Module:
        import timm

        return timm.create_model(self.name, pretrained=True)


def wrap_timm_network(network: nn.Module, images: ImageSpec, has_two_heads: bool = False) -> ImageModel:
    """Return a timm network as an ImageModel.

    images: as the network receives them. has_two_heads: whether it is a VisionTransformerDistilled.
    """
    apply_head = _apply_two_heads if has_two_heads else _apply_one_head
    stages = feature_stages(network)

    def forward(network: Any, pixels: Tensor) -> Outputs:
        return apply_head(network, network.forward_features(pixels))

    def forward_features(network: Any, pixels: Tensor) -> Outputs:
        """Return feature maps too, from the same pass; timm turns tokens and channels-last maps into [B, D, H, W]."""
        hidden, features = network.forward_intermediates(pixels, indices=stages)
        return apply_head(network, hidden)._replace(features=tuple(features))

    return ImageModel(network, forward, images, forward_features if stages else None)


def feature_stages(network: nn.Module) -> list[int]:
    """Return the indices of the intermediate feature maps that are used as stages, ascending; [] if timm lists none.

    For a network with a constant resolution, such as a ViT, they are those of 4 evenly spaced blocks: the first ones
    after a quarter, a half, three quarters and all of the depth. Counted from 1, the blocks 3, 6, 9, 12 of 12 then pair
    with 2, 3, 5, 6 of 6, within one block of TinyBERT's uniform mapping, which pairs equal fractions of both depths
    (Jiao et al. 2019, arXiv:1909.10351). With fewer than 4 blocks every block is a stage. For other networks they are
    the last 4 that timm lists, without the stem; a few networks have 3. A ViT's feature map is the residual stream
    after a block, before the final norm, without class and other prefix tokens.
    """
    listed = getattr(network, "feature_info", None)
    if not listed or not hasattr(network, "forward_intermediates"):
        return []
    depth = len(listed)
    if len({stage["reduction"] for stage in listed}) > 1:
        return list(range(depth))[-MAX_STAGES:]
    return sorted({ceil(depth * quarter / MAX_STAGES) - 1 for quarter in range(1, MAX_STAGES + 1)})


def _apply_one_head(network: Any, hidden: Any) -> Outputs:
    """Return logits [B, C] and the embedding before the head [B, D] of forward_features' result `hidden`."""
    embedding = network.forward_head(hidden, pre_logits=True)
    if not network.num_classes:
        return _without_logits(embedding.flatten(1))
    classifier = network.get_classifier()
    if isinstance(classifier, nn.Linear):
        return Outputs(classifier(embedding), embedding)
    # A 1x1 convolution (resnetv2), or the mean of two heads (levit): timm applies them.
    return Outputs(network.forward_head(hidden), embedding.flatten(1))


def _apply_two_heads(network: Any, hidden: Any) -> Outputs:
    """Return both heads' logits of a DeiT with its distillation token, and their mean, as timm does at test time."""
    class_token, distillation_token = (network.head_drop(hidden[:, token]) for token in (0, 1))
    if not network.num_classes:
        return _without_logits((class_token + distillation_token) / 2)
    heads = network.head(class_token), network.head_dist(distillation_token)
    embedding = (class_token + distillation_token) / 2
    return Outputs((heads[0] + heads[1]) / 2, embedding, heads=heads)


def _without_logits(embedding: Tensor) -> Outputs:
    return Outputs(embedding[:, :0], embedding)
