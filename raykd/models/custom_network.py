"""A network that a user defines: any `nn.Module` by file, by import, or by name, as a typed configuration.

    Network("my_net.py:MyNet", width=32)        --set student.model=my_net.py:MyNet --set student.model.width=32

The parameters of the class's `__init__`, with their annotations and defaults, become the fields of a configuration
class for it (`_config_class`). So they are set, checked, searched and recorded like the fields of any other model.
`__init__` also receives `num_classes`, and `image_size` if it has such a parameter. `forward` maps normalized pixels
[B, 3, H, W] to logits [B, C]. Embedding and feature maps are read as submodules.py explains.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, make_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, get_origin

from torch import nn

from raykd.config import Config, custom_file
from raykd.config.signature import accepts_any, field_of, limits_of_parameters, parameters_of, with_limits
from raykd.errors import CodeNotLoaded, ConfigError, errors_of, shown
from raykd.models.model import ImageModel, ImageSpec, label_of
from raykd.models.submodules import SubmoduleModel

_PASSED_BY_RAYKD = {  # parameters that are no fields of the configuration, and what to do instead of setting them
    "num_classes": "raykd passes the number of the data's classes to __init__; leave it out",
    "image_size": "raykd passes the image size to __init__; leave it out, or set input_size",
}
_EXAMPLE = "my_net.py:MyNet"

if TYPE_CHECKING:
    _ByClass = type
else:

    class _ByClass(type(Config)):
        """Make `Network(what, width=32)` return an object of the configuration class that belongs to `what`."""

        def __call__(cls, *values, **named):
            if cls is not Network:
                cls.require_all_fields(named)
                return super().__call__(*values, **named)
            if len(values) != 1:
                raise ConfigError(f"Network requires a class, and then its fields: Network('{_EXAMPLE}', width=32)")
            return _config_class(_class_of(values[0]))(**named)


@dataclass(frozen=True)
class Network(SubmoduleModel, metaclass=_ByClass):
    """Base of the configurations of user-defined networks; subclasses add the fields of one class's `__init__`."""

    kind: ClassVar[str] = "network"
    network_class: ClassVar[Any]
    source: ClassVar[custom_file.ClassSource]
    list_fields: ClassVar[frozenset[str]] = frozenset()  # parameters that are lists; a configuration holds tuples
    weights: str = ""  # a file to start from; empty for random weights

    if TYPE_CHECKING:

        def __init__(self, what: str | type[nn.Module], **fields: Any) -> None: ...

    def check(self) -> None:
        super().check()
        self.require(self.weights != "pretrained", "weights", "must be a file, or '' to start from scratch")
        if self.classifier and not self._accepts_num_classes():
            raise ConfigError(
                f"{self.title()} in '{self.source.path}': its __init__ has no parameter num_classes; add it, for the "
                "last layer's outputs, or set classifier=false for a network that returns an embedding"
            )

    @classmethod
    def why_no_field(cls, name: str) -> str:
        return _PASSED_BY_RAYKD.get(name, "") if name in parameters_of(cls.network_class) else ""

    @property
    def label(self) -> str:
        """The class's name and the fields that are not at their defaults: 'my_net-width32'."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.network_class.__name__).lower()
        common = {item.name for item in fields(Network)}
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in common}
        defaults = {item.name: item.default for item in fields(self)}
        changed = [f"-{name}{value}" for name, value in values.items() if value != defaults[name]]
        return label_of("".join([words, *changed]))

    def make(self, images: ImageSpec) -> ImageModel:
        arguments = self.arguments(images)
        listed = ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())
        with errors_of(
            f"model = {self.title()}: its __init__({listed})", self.source.path, "set other values, or fix it"
        ):
            network = self.network_class(**arguments)
        return self.hooked(network, images, self.title(), self.source.path)

    @classmethod
    def _accepts_num_classes(cls) -> bool:
        return "num_classes" in parameters_of(cls.network_class) or accepts_any(cls.network_class)

    def arguments(self, images: ImageSpec) -> dict[str, Any]:
        """Return the arguments of `__init__` for `images`."""
        common, parameters = {item.name for item in fields(Network)}, parameters_of(self.network_class)
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in common}
        values = {name: [*value] if name in self.list_fields else value for name, value in values.items()}
        image_size = {"image_size": images.size} if "image_size" in parameters else {}
        num_classes = {"num_classes": images.num_classes} if self._accepts_num_classes() else {}
        return num_classes | image_size | values

    def stored(self, results_only: bool) -> dict[str, Any]:
        """Return the values behind `to_dict`, with the hash of the class's file."""
        return super().stored(results_only) | {"source": self.source.to_entry(results_only)}

    @classmethod
    def unpacked(cls, payload: Mapping[str, Any]) -> tuple[type[Config], Mapping[str, Any]]:
        entry = payload.get("source") or {}
        found = custom_file.find_class(entry)
        if found is None:
            setting = shlex.quote(f"student.model={entry.get('file')}:{entry.get('class')}")
            raise CodeNotLoaded(
                f"its network is {entry.get('class')} of {entry.get('file')}, SHA-256 "
                f"{str(entry.get('sha256'))[:12]}, and no model of this command is from a file with that content; name "
                f"it, such as --set {setting}"
            )
        return _config_class(found), {name: value for name, value in payload.items() if name != "source"}

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restore, (self.source, {item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def require_all_fields(cls, named: Mapping[str, Any]) -> None:
        """Raise ConfigError if a parameter without a default has no value."""
        required = [item.name for item in fields(cls) if item.default is MISSING and item.name not in named]
        if required:
            raise ConfigError(
                f"{cls.title()} requires '{required[0]}', which has no default; give it one in __init__, or use "
                f"Network('{_EXAMPLE}', {required[0]}=...) in an experiment file"
            )


def _restore(source: custom_file.ClassSource, values: dict[str, Any]) -> Network:
    """Return the configuration of the class in `source` with these fields; this is how pickle loads it."""
    return _config_class(custom_file.restore_class(source))(**values)


def _class_of(what: Any) -> Any:
    """Return the class that the first argument of `Network` names: 'my_net.py:MyNet', or the class itself."""
    if isinstance(what, str):
        return custom_file.load_class(what, "network", _EXAMPLE)
    if isinstance(what, nn.Module):
        name = type(what).__name__
        raise ConfigError(
            f"Network({name}(...)): give the class and its fields, Network({name}, width=32); raykd creates the "
            "network itself, with the run's seed and the data's classes"
        )
    return what


@cache
def _config_class(cls: Any) -> type[Network]:
    """Return the configuration class of a user's class. Raises ConfigError if it cannot be one."""
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ConfigError(f"network {getattr(cls, '__name__', shown(cls))} is no class derived from torch.nn.Module")
    source = custom_file.record_source(cls, "network")
    if source is None:
        raise custom_file.error_of_class_without_file(cls, "network", _EXAMPLE)
    where = f"{cls.__name__} in '{source.path}'"
    parameters = parameters_of(cls)
    if taken := [name for name in parameters if hasattr(Network, name) or name in Network.__annotations__]:
        raise ConfigError(f"{where}: raykd reserves the name '{taken[0]}' for every network; rename the parameter")
    items, lists, limits = [], [], limits_of_parameters(cls)
    for name, parameter in parameters.items():
        if name not in _PASSED_BY_RAYKD and (item := field_of(name, parameter, where)) is not None:
            items.append(with_limits(item, limits.get(name, ())))
            is_list = list in (parameter.annotation, get_origin(parameter.annotation), type(parameter.default))
            lists += [name] if is_list else []
    namespace = {"network_class": cls, "source": source, "list_fields": frozenset(lists), "__module__": cls.__module__}
    made = make_dataclass(cls.__name__, items, bases=(Network,), namespace=namespace, frozen=True, kw_only=True)
    made.__module__ = cls.__module__  # from Python 3.12 on, make_dataclass replaces that of the namespace
    return made
