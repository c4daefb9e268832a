"""Any image classifier of Hugging Face transformers, as an ImageModel: `hf:FOLDER` or `hf:microsoft/resnet-50`.

The folder is read once, when the model is named: its architecture and preprocessing become part of the configuration,
so that workers, run folders and exports need no folder, and fingerprints depend on its content and not on its path.
Only `weights=pretrained` reads the folder again. Nothing is downloaded here: `raykd prefetch` does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from raykd.config import Config, MaxLength, by_name
from raykd.errors import ConfigError, errors_of
from raykd.models import hf_files
from raykd.models.hf_state import quiet
from raykd.models.library_model import Argument, LibraryModel, with_lists
from raykd.models.model import ImageModel, ImageSpec, has_shapes_only, label_of, names_vit
from raykd.models.submodules import SubmoduleModel

_PASSED = {
    **dict.fromkeys(("num_labels", "id2label", "label2id"), "raykd passes the data's classes; leave it out"),
    "image_size": "raykd passes the image size; leave it out, or set input_size",
    "num_channels": "images have 3 channels; leave it out",
    "model_type": "the folder has the kind of network; leave it out",
}
_MAX_CONTENT = 100_000  # characters of the two JSON files, without the classes' names


@dataclass(frozen=True, repr=False)
class HuggingFace(LibraryModel, SubmoduleModel):
    """An image classifier of transformers. With weights, it normalizes by the folder's mean and std.

    Its images have the size that the folder states, unless `input_size` is set.
    """

    kind: ClassVar[str] = "hf"
    library: ClassVar[str] = "the configuration of transformers"
    passed_by_raykd: ClassVar[Mapping[str, str]] = _PASSED
    # a folder or a cached repository; it is replaced by the JSON text of its content (hf_files.py)
    repository: Annotated[str, MaxLength(_MAX_CONTENT)] = by_name("", hf_files.read_repository)
    weights: str = ""  # 'pretrained' for those of the folder, or a file to start from; empty for random weights

    def __repr__(self) -> str:
        return f"HuggingFace('{self.name or self.label}', weights='{self.weights}')"

    def check(self) -> None:
        super().check()
        is_valid = isinstance(self.content, dict) and isinstance(self.content.get("config", {}), dict)
        self.require(is_valid and bool(self.content), "repository", "must be a folder of save_pretrained")
        if "config" in self.content:
            hf_files.network_config(self.content["config"], self.name)

    @cached_property
    def content(self) -> dict[str, Any]:
        """The content of the folder: 'name', 'config' and 'preprocessing'; see hf_files.read_repository."""
        try:
            return json.loads(self.repository)
        except (ValueError, RecursionError):
            return {}

    @property
    def name(self) -> str:
        """The absolute path of the folder (its name without the path in a stored run), or the repository's name."""
        return self.content.get("name", "")

    @property
    def config(self) -> dict[str, Any]:
        """The entries of config.json that determine the network. Raises ConfigError before `prefetch`."""
        if "config" not in self.content:
            raise hf_files.not_found(self.name)
        return self.content["config"]

    @property
    def title_in_messages(self) -> str:
        return f"model = {hf_files.PREFIX}{self.name or self.label}"

    @property
    def label(self) -> str:
        """The last part of the folder's or repository's name: 'hf-resnet-50'."""
        name = Path(self.name).name or self.content.get("config", {}).get("model_type", "")
        return label_of(f"hf-{name}") + self.arguments_label

    @property
    def is_vit(self) -> bool:
        return names_vit(self.content.get("config", {}).get("model_type", ""))

    def pretrained_spec(self, images: ImageSpec) -> ImageSpec:
        """Return `images` with the mean and std of preprocessor_config.json, if weights are set and the folder has one.

        Raises ConfigError for preprocessing that is no such normalization.
        """
        if not self.weights or "preprocessing" not in self.content:
            return images
        mean, std = hf_files.normalization_of(self.content["preprocessing"], self.title_in_messages)
        return replace(images, mean=mean, std=std)  # pyright: ignore[reportArgumentType] - three values

    def network_size(self, images: ImageSpec) -> int:
        """Return `input_size`, else the size that the folder names, else the data's."""
        if self.input_size:
            return self.input_size
        preprocessing = self.content.get("preprocessing", {})
        return hf_files.size_of(self.config, preprocessing, self.title_in_messages) or images.size

    def make(self, images: ImageSpec) -> ImageModel:
        if find_spec("transformers") is None:
            raise ConfigError(f"{self.title_in_messages}: requires a package that is missing: pip install transformers")
        return self.checked(self.hooked(self._network(images), images, self.label), images)

    def _network(self, images: ImageSpec) -> nn.Module:
        import transformers
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

        kind = self.config["model_type"]
        has_classifier = kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        if self.classifier and not has_classifier:
            raise ConfigError(
                f"{self.title_in_messages}: transformers {transformers.__version__} has no image classifier of "
                f"model_type '{kind}'; name a folder of another network, or set classifier=false for a teacher"
            )
        automatic = transformers.AutoModelForImageClassification if has_classifier else transformers.AutoModel

        subject = f"{self.title_in_messages}: its network for images of {images.size}x{images.size} pixels"
        with errors_of(subject, remedy="--set input_size of the model, or name another folder"), quiet():
            self._require_known_arguments(kind)

            def config_with(**arguments: Argument) -> Any:
                entries: dict[str, Any] = {**self.config, **with_lists(arguments)}
                return transformers.AutoConfig.for_model(**entries, num_labels=images.num_classes)

            network = self.create(lambda **arguments: automatic.from_config(config_with(**arguments)))
            if self.input_size and not _accepts(network, images.size):
                sized = _with_size(config_with(**self.arguments), images.size)
                network = automatic.from_config(sized)
            return network

    def _require_known_arguments(self, kind: str) -> None:
        """Raise ConfigError for an argument that configurations of this kind do not have. They accept any name."""
        if not self.arguments:
            return
        import transformers

        common = transformers.PretrainedConfig().to_dict()
        known = [name for name in transformers.AutoConfig.for_model(kind).to_dict() if name not in common]
        for name in self.arguments:
            if name not in known:
                self.refuse_unknown(name, f"the configuration of {kind}", known)

    def config_of(self, network: Any) -> dict[str, Any]:
        """Return the configuration with which `network` was built, for code that builds it without raykd."""
        config, built = {**self.config, **with_lists(self.arguments)}, network.config
        if hasattr(built, "image_size"):
            config["image_size"] = built.image_size
        if "vision_config" in config and hasattr(built, "vision_config"):
            config["vision_config"] = {**config["vision_config"], "image_size": built.vision_config.image_size}
        return config

    def pretrained_file(self, weights_folder: Path) -> Path:
        """Return the file of weights in the folder. Raises ConfigError if there is none, or the folder has changed."""
        path = hf_files.weights_file(self.name)
        if json.loads(hf_files.read_repository(self.name)) != self.content:
            raise ConfigError(
                f"{self.title_in_messages}: its {hf_files.CONFIG} has changed since it was read; rerun the same command"
            )
        return path

    @property
    def without_path(self) -> "HuggingFace":
        """This model with the folder's name in place of its path, for files that may leave this machine."""
        if not Path(self.name).is_absolute():
            return self
        return replace(self, repository=json.dumps({**self.content, "name": Path(self.name).name}, sort_keys=True))

    @property
    def architecture(self) -> "HuggingFace":
        """This model reduced to the content that determines its tensors and their use: no name and no normalization."""
        preprocessing = self.content.get("preprocessing", {})
        size = hf_files.size_of(self.config, preprocessing, self.title_in_messages)
        content = {"config": self.config, "preprocessing": {"size": size} if size else {}}
        return replace(self, repository=json.dumps(content, sort_keys=True))

    def stored(self, results_only: bool) -> dict[str, Any]:
        """Return the values behind `to_dict`, with the repository's content, without its name if `results_only`."""
        content = {entry: value for entry, value in self.content.items() if not (results_only and entry == "name")}
        return super().stored(results_only) | {"repository": content}

    @classmethod
    def unpacked(cls, payload: Mapping[str, Any]) -> tuple[type[Config], Mapping[str, Any]]:
        content = payload.get("repository")
        text = json.dumps(content, sort_keys=True) if isinstance(content, Mapping) else ""
        return cls, {**payload, "repository": text}


@torch.no_grad()
def _accepts(network: nn.Module, size: int) -> bool:
    """Return whether the network accepts images of `size` pixels as it is, for example by interpolating positions."""
    if has_shapes_only():
        return False  # only the number of weights is of interest
    was_training = network.training
    try:
        network.eval()(torch.zeros(1, 3, size, size))
    except Exception:  # noqa: BLE001 - the network that is built instead is checked, with a message
        return False
    finally:
        network.train(was_training)
    return True


def _with_size(config: Any, size: int) -> Any:
    """Return a configuration of transformers after setting its image size, where it has one."""
    parts: tuple[Any, ...] = (config, getattr(config, "vision_config", None))  # the second of CLIP and SigLIP
    for part in parts:
        if hasattr(part, "image_size"):
            part.image_size = [size, size] if isinstance(part.image_size, list | tuple) else size
    return config
