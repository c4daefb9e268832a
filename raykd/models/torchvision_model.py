"""Any image classifier of torchvision, by name, as an ImageModel: `torchvision:resnet50`.

A name may end with the tag of its pretrained weights, as torchvision names them: `torchvision:resnet50.IMAGENET1K_V1`,
which published tables use. Without one, they are torchvision's default weights, usually a later version.

Runs never download pretrained weights: `raykd prefetch` stores them on a machine with internet access, and compute
nodes read that file. If `weights` is set, images are normalized by the mean and std of the pretrained weights, also for
another file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import nn

from raykd.errors import COMMAND, ConfigError, did_you_mean
from raykd.models.library_model import LibraryModel
from raykd.models.model import ImageModel, ImageSpec, names_vit
from raykd.models.submodules import SubmoduleModel

_PASSED = {
    "num_classes": "raykd passes the number of the data's classes; leave it out",
    "image_size": "raykd passes the image size; leave it out, or set input_size",
    "weights": "raykd loads weights itself; set weights of the model",
    "progress": "raykd loads weights itself; leave it out",
    **dict.fromkeys(("aux_logits", "init_weights"), "raykd leaves out auxiliary logits; leave it out"),
}
_SIZED = ("vit_",)  # networks that are built for one image size
_AUXILIARY = ("googlenet", "inception_v3")  # networks that return auxiliary logits too, unless they are left out


@dataclass(frozen=True)
class Torchvision(LibraryModel, SubmoduleModel):
    """A classifier of torchvision. If `weights` is set, images are normalized by torchvision's mean and std."""

    kind: ClassVar[str] = "torchvision"
    library: ClassVar[str] = "torchvision.models.get_model"
    passed_by_raykd: ClassVar[Mapping[str, str]] = _PASSED
    name: str = "resnet18"  # name in torchvision, with an optional tag of its weights: 'resnet50.IMAGENET1K_V1'
    weights: str = ""  # 'pretrained', or a file to start from; empty for random weights

    def check(self) -> None:
        from torchvision import models

        super().check()
        known = models.list_models(module=models)
        if self.architecture not in known:
            hint = did_you_mean(self.architecture, known, numbered=True)
            raise ConfigError(
                f"unknown torchvision model '{self.architecture}'; `{COMMAND} models torchvision` lists the "
                f"{len(known)} names{hint}"
            )
        tags = list(models.get_model_weights(self.architecture).__members__)
        unknown = f"has the tag of no weights of torchvision; it has {', '.join(tags)}"
        self.require(self.tag in ("", *tags) and not self.name.endswith("."), "name", unknown)

    @property
    def architecture(self) -> str:
        """The name without the tag."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The tag of the pretrained weights; '' for torchvision's default weights."""
        return self.name.partition(".")[2]

    @property
    def label(self) -> str:
        return f"torchvision-{self.name}{self.arguments_label}"

    @property
    def is_vit(self) -> bool:
        return names_vit(self.name)

    def pretrained_spec(self, images: ImageSpec) -> ImageSpec:
        """Return `images`. If the model has weights, mean and std are those of the pretrained weights."""
        from torchvision import models

        if not self.weights:
            return images
        weights: Any = models.get_model_weights(self.architecture)
        transforms = (weights[self.tag] if self.tag else weights.DEFAULT).transforms()
        return replace(images, mean=tuple(transforms.mean), std=tuple(transforms.std))

    def make(self, images: ImageSpec) -> ImageModel:
        from torchvision import models

        size = images.size
        try:
            options = {"weights": None, "num_classes": images.num_classes, **self._options(size)}
            network = self.create(partial(models.get_model, self.architecture, **options))
        except ConfigError:
            raise
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ConfigError(
                f"torchvision model '{self.name}' cannot be built for {size}x{size} images: {error}"
            ) from None
        return self.checked(self.hooked(network, images, self.label), images)

    def all_arguments(self, size: int) -> dict[str, Any]:
        """Return the arguments of torchvision's function for images of `size` pixels, without classes and weights."""
        return {**self._options(size), **self.arguments}

    def _options(self, size: int) -> dict[str, Any]:
        """Return the arguments that raykd passes."""
        sized = {"image_size": size} if self.name.startswith(_SIZED) else {}
        return sized | ({"aux_logits": False, "init_weights": False} if self.architecture in _AUXILIARY else {})

    def download(self) -> nn.Module:
        from torchvision import models

        return models.get_model(self.architecture, weights=self.tag or "DEFAULT")
