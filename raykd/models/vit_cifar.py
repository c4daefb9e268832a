"""The small ViT student: 6 layers, width 192, 3 heads, patch 4 on 32x32 (Dosovitskiy et al. 2020, arXiv:2010.11929).

timm's VisionTransformer at these sizes has 2.69 M parameters; width 192 and 64 channels per head are ViT-Tiny's. With
a distillation token and a separate head for it (Touvron et al. 2021, arXiv:2012.12877), it is timm's DeiT.

Its feature maps are the patch tokens, [B, width, H / patch, W / patch], after each quarter of its layers: 2, 3, 5 and 6
of 6 (`timm_model.feature_stages`). With fewer than 4 layers there are as many stages as layers.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from raykd.config import Interval, skip_if_default
from raykd.errors import plural
from raykd.models.model import MAX_DEPTH, MAX_SIDE, MAX_WIDTH, ImageModel, ImageSpec, Model
from raykd.models.timm_model import wrap_timm_network


@dataclass(frozen=True)
class ViT(Model):
    """A vision transformer over patches of `patch` x `patch` pixels."""

    kind: ClassVar[str] = "vit"
    depth: Annotated[int, Interval(f"[1, {MAX_DEPTH}]")] = 6  # layers
    width: Annotated[int, Interval(f"[1, {MAX_WIDTH}]")] = 192  # channels; divisible by heads
    heads: Annotated[int, Interval(f"[1, {MAX_WIDTH}]")] = 3  # attention heads
    patch: Annotated[int, Interval(f"[1, {MAX_SIDE}]")] = 4  # side of a patch in pixels; divides the image size
    dropout: Annotated[float, Interval("[0, 1)")] = 0.0  # probability
    weights: str = ""  # a file to start from; empty for random weights
    # a distillation token beside the class token, for methods such as DeiT; logits are the mean of both heads
    distillation_token: bool = False
    # stochastic depth (arXiv:1603.09382): probability of the last layer; it rises in proportion to the depth
    drop_path: Annotated[float, Interval("[0, 1)")] = skip_if_default(0.0)

    def check(self) -> None:
        self.require(self.width % self.heads == 0, "width", f"must be a multiple of heads = {self.heads}")

    @property
    def label(self) -> str:
        width = f"-w{self.width}" if self.width != ViT.width else ""
        patch = f"-p{self.patch}" if self.patch != ViT.patch else ""
        return f"vit{self.depth}{width}{patch}{'-token' if self.distillation_token else ''}"

    @property
    def is_vit(self) -> bool:
        return True

    @property
    def has_distillation_token(self) -> bool:
        return self.distillation_token

    def make(self, images: ImageSpec) -> ImageModel:
        from timm.models.deit import VisionTransformerDistilled
        from timm.models.vision_transformer import VisionTransformer

        self.require(
            images.size % self.patch == 0, "patch", f"must divide the images' side of {plural(images.size, 'pixel')}"
        )
        network = (VisionTransformerDistilled if self.distillation_token else VisionTransformer)(
            img_size=images.size,
            patch_size=self.patch,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            num_classes=images.num_classes,
            drop_rate=self.dropout,
            drop_path_rate=self.drop_path,
        )
        return wrap_timm_network(network, images, self.distillation_token)
