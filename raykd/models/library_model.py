"""Models of libraries (timm, torchvision, transformers), and the arguments that raykd passes to their constructors.

    Timm("deit_tiny_patch16_224", arguments={"drop_path_rate": 0.1})
    --set student.model=timm:deit_tiny_patch16_224 --set student.model.arguments.drop_path_rate=0.1

Arguments are part of a run's identity if there are any. They are checked when the network is built, before any run
starts: the constructor accepts them, and the network returns logits in evaluation and in training mode.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from raykd.config import FrozenDict, has_type
from raykd.config.signature import accepts_any, parameters_of
from raykd.errors import ConfigError, did_you_mean, reason_of, shown
from raykd.models.model import ImageModel, ImageSpec, Model, has_shapes_only, label_of

Scalar = int | float | bool | str
Argument = int | float | bool | tuple[Scalar, ...] | str
Create = Callable[..., nn.Module]

NUM_LISTED = 30  # arguments in a message
_UNKNOWN_ARGUMENT = "an_argument_that_no_constructor_has"
_TRAINING_ONLY = ("drop", "stochastic_depth")  # parts of the names of arguments that have no effect in evaluation
_PLAIN = "must be a mapping of names to numbers, text, true or false, or tuples of these: {'drop_path_rate': 0.1}"


@dataclass(frozen=True)
class LibraryModel(Model):
    """Base of models whose network a library builds."""

    library: ClassVar[str] = ""  # the function that receives the arguments, for messages
    passed_by_raykd: ClassVar[Mapping[str, str]] = {}  # arguments that cannot be set, and what to do instead
    # arguments of the network's constructor beside those that raykd passes, such as arguments.drop_path_rate=0.1
    arguments: Mapping[str, Argument] = field(default=FrozenDict(), kw_only=True)

    def __post_init__(self) -> None:
        given = self.arguments
        if not has_type(_with_tuples(given), Mapping[str, Argument]):
            self.require(False, "arguments", _PLAIN)
        # In one order, because the label, and with it the run's folder, lists them.
        object.__setattr__(self, "arguments", FrozenDict(sorted(_with_tuples(given).items())))
        super().__post_init__()
        for name, instead in self.passed_by_raykd.items():
            if name in self.arguments:
                raise ConfigError(f"{self._named(name)}: {instead}")

    @classmethod
    def why_no_field(cls, name: str) -> str:
        """Return how to pass an argument that was set as if it were a field; '' for a mistyped field."""
        if did_you_mean(name, [item.name for item in fields(cls)]):
            return ""
        if name in cls.passed_by_raykd:
            return cls.passed_by_raykd[name]
        in_file = f"in a file arguments={{'{name}': VALUE}}"
        return f"set an argument of {cls.library} as arguments.{name}=VALUE, {in_file}"

    @property
    def arguments_label(self) -> str:
        """The arguments as the end of a label: '-drop_path_rate0.1'; '' without any."""
        texts = (",".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in self.arguments.values())
        pairs = (f"{name}{text}" for name, text in zip(self.arguments, texts, strict=True))
        return f"-{label_of('-'.join(pairs))}" if self.arguments else ""

    def pretrained_file(self, weights_folder: Path) -> Path:
        """Return the file of the pretrained weights, which do not depend on arguments."""
        if self.arguments:
            return replace(self, arguments={}).pretrained_file(weights_folder)
        return super().pretrained_file(weights_folder)

    @property
    def arguments_in_evaluation(self) -> FrozenDict[Argument]:
        """The arguments without dropout and stochastic depth, which have no effect in evaluation."""
        kept = {name: v for name, v in self.arguments.items() if not any(part in name for part in _TRAINING_ONLY)}
        return FrozenDict(kept)

    def stored(self, results_only: bool) -> dict[str, Any]:
        """Return the values behind `to_dict`, without `arguments` if there are none."""
        entries = super().stored(results_only)
        return {name: value for name, value in entries.items() if name != "arguments" or self.arguments}

    def create(self, function: Create) -> nn.Module:
        """Return the network that `function` returns for the arguments.

        Raises ConfigError for arguments that it refuses. Errors that do not depend on them are raised unchanged.
        """
        if not self.arguments:
            return function()
        try:
            network = function(**self.arguments)
        except Exception as error:
            self._require_accepted(function, error)
            raise
        self._require_used(function, type(network))
        return network

    def _require_accepted(self, function: Create, error: Exception) -> None:
        """Raise ConfigError if one of the arguments, or all together, caused `error`."""
        match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if match and match[1] in self.arguments:
            network_class = _class_built_by(function)
            self.refuse_unknown(match[1], _owner(network_class, self.library), _parameters(network_class))
        match = re.search(r"multiple values for (?:keyword )?argument '(\w+)'", str(error))
        if match and match[1] in self.arguments:
            raise ConfigError(f"{self._named(match[1])}: {self.library} sets it for this name; leave it out") from error
        for name in self.arguments:
            others = {other: value for other, value in self.arguments.items() if other != name}
            if _is_built(function, others):
                raise ConfigError(f"{self._named(name)}: {reason_of(error)}; change it or leave it out") from error
        if _is_built(function, {}):
            text = shown(dict(self.arguments))
            raise ConfigError(
                f"arguments = {text} in {self.title()}: {reason_of(error)}; change them or leave them out"
            ) from error

    def _require_used(self, function: Create, network_class: type) -> None:
        """Raise ConfigError for an argument that the constructor ignores, as a few with **kwargs do."""
        if not accepts_any(network_class):
            return
        known = _parameters(network_class)
        for name in self.arguments:
            if name not in known and _is_built(function, {_UNKNOWN_ARGUMENT: 1}):
                self.refuse_unknown(name, _owner(network_class, self.library), known)

    def refuse_unknown(self, name: str, owner: str, known: Iterable[str]) -> NoReturn:
        """Raise ConfigError for an argument that `owner` does not have. known: those that it has."""
        listed = [other for other in known if other not in self.passed_by_raykd]
        more = f" and {len(listed) - NUM_LISTED} more" if len(listed) > NUM_LISTED else ""
        has = f"; it has {', '.join(listed[:NUM_LISTED])}{more}" if listed else ""
        longer = next((f"; did you mean '{other}'?" for other in listed if len(name) > 3 and name in other), "")
        near = did_you_mean(name, listed) or longer
        raise ConfigError(f"{self._named(name)}: {owner} has no such argument{near or f'{has}; leave it out'}")

    def _named(self, name: str) -> str:
        return f"arguments.{name} = {shown(self.arguments[name])} in {self.title()}"

    def checked(self, model: ImageModel, images: ImageSpec) -> ImageModel:
        """Return `model`, which was built for `images`, after running it with the arguments.

        Raises ConfigError if it returns no logits, or fails in training mode. A process checks a configuration once.
        """
        key = self, images
        if not self.arguments or key in _checked or has_shapes_only():
            return model
        given = f"arguments = {shown(dict(self.arguments))} in {self.title()}"
        logits = _logits(model, images, is_training=False)
        if isinstance(logits, Exception):
            return model  # an error that the check of the image size reports
        if tuple(logits.shape) != (2, images.num_classes):
            raise ConfigError(
                f"{given}: with these the network returns logits of shape {list(logits.shape)} for 2 images, which "
                f"must be [2, {images.num_classes}]; change them or leave them out"
            )
        if isinstance(error := _logits(model, images, is_training=True), Exception):
            raise ConfigError(f"{given}: training fails with {reason_of(error)}; change them or leave them out")
        _checked.add(key)
        return model


_checked: set[tuple[LibraryModel, ImageSpec]] = set()


def _with_tuples(arguments: Any) -> Any:
    """Return a mapping with its lists as tuples; any other value unchanged."""
    if not isinstance(arguments, Mapping):
        return arguments
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def with_lists(arguments: Mapping[str, Argument]) -> dict[str, Any]:
    """Return arguments with their tuples as lists, as in JSON."""
    return {name: [*value] if isinstance(value, tuple) else value for name, value in arguments.items()}


@torch.no_grad()
def _logits(model: ImageModel, images: ImageSpec, is_training: bool) -> Tensor | Exception:
    """Return the logits of two black images in one of the modes, from a copy of the model; or the error."""
    try:
        with torch.random.fork_rng(devices=[]):
            pixels = torch.zeros(2, 3, images.size, images.size)
            return copy.deepcopy(model).train(is_training).forward_normalized(pixels).logits
    except Exception as error:  # noqa: BLE001 - constructors of libraries accept values that fail later in any way
        return error


def _is_built(function: Create, arguments: Mapping[str, Any]) -> bool:
    try:
        function(**arguments)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def _class_built_by(function: Create) -> type | None:
    """Return the class of the network without arguments; None if it cannot be built."""
    try:
        return type(function())
    except Exception:  # noqa: BLE001 - as above
        return None


def _parameters(network_class: type | None) -> list[str]:
    """Return the names of the parameters of `__init__`; [] without a class."""
    return list(parameters_of(network_class)) if network_class else []


def _owner(network_class: type | None, library: str) -> str:
    return f"the constructor of {network_class.__name__}" if network_class else library
