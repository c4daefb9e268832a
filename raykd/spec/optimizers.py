"""Optimizers: SGD and AdamW with the defaults of the papers' recipes, and all others by name.

    Optimizer("rmsprop", lr=0.001, momentum=0.9)      any class of torch.optim, with torch's defaults
    Optimizer("timm:lamb", lr=0.005)                  any optimizer that timm registers, with timm's defaults

The parameters of the class's `__init__` become the fields of a separate configuration class (`_config_class`). So
they are set, checked, searched and recorded like the fields of SGD: `--set student.optimizer=rmsprop --set
student.optimizer.momentum=0.9`. Choices that change only the speed (foreach, fused, capturable) are made by raykd.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass
from functools import cache, lru_cache
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, Union, get_args, get_origin

import torch
from torch import Tensor, nn

from raykd.config import Config, Interval, NonNegative, Positive, converted, kinds
from raykd.config.limits import Limit, Tiny
from raykd.config.signature import field_of, parameters_of, with_limits
from raykd.errors import ConfigError, did_you_mean, reason_of, shown

TIMM = "timm:"
_DEFAULT_LR = 1e-3  # for the classes of timm that have no default, or compute a rate if it is None
# The default of eps is 1e-30 in some classes. 1e-37 is above the smallest normal number of float32.
_LIMITS: dict[str, list[Limit]] = {"eps": [Tiny(1e-37)], "weight_decay": [Interval("[0, inf)")]}
_TIMM_MOMENTUM = 0.9  # timm's factory replaces the default of every class with a momentum
# Parameters that do not change the result, or the direction of the step.
_NOT_FIELDS = ("params", "foreach", "fused", "capturable", "differentiable", "maximize", "verbose", "adamw_lr")
_NOT_CAPTURED = ("rprop",)  # reads the learning rate in its first step
_REFUSED = {
    "LBFGS": "evaluates the loss several times per step (a closure), and a batch is evaluated once",
    "SparseAdam": "requires sparse gradients, and those of image networks are dense",
    "Muon": "of torch updates matrices only, and networks have other parameters too; use timm:muon, which also "
    "updates convolutions, and all others with AdamW",
}
_REFUSED_OF_TIMM = {
    "Adahessian": "requires second derivatives",
    "Kron": "draws random numbers that a checkpoint does not restore",
}

if TYPE_CHECKING:
    _ByName = type
else:

    class _ByName(type(Config)):
        """Make `Optimizer("rmsprop", momentum=0.9)` return an object of the configuration class of that name."""

        def __call__(cls, *values, **named):
            if cls is not Optimizer:
                return super().__call__(*values, **named)
            if len(values) != 1 or not isinstance(values[0], str):
                raise ConfigError(
                    "Optimizer requires a name, and then its fields: Optimizer('rmsprop', lr=0.001, momentum=0.9)"
                )
            return _class_of_name(values[0])(**named)


@dataclass(frozen=True)
class Optimizer(Config, metaclass=_ByName):
    """Base of the optimizers' configurations."""

    lr: Positive = _DEFAULT_LR  # peak learning rate; the schedule scales it

    if TYPE_CHECKING:

        def __init__(self, *values: Any, **fields: Any) -> None: ...

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the named optimizer with its defaults: 'sgd', 'rmsprop' or 'timm:lamb'."""
        return _class_of_name(text)()


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent. Weight decay applies to every parameter, as in the CIFAR recipes."""

    kind: ClassVar[str] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Interval("[0, 1)")] = 0.9  # of the velocity
    weight_decay: NonNegative = 5e-4  # L2 penalty on the weights
    nesterov: bool = False  # Nesterov momentum; requires momentum above 0

    if TYPE_CHECKING:

        def __init__(
            self, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 5e-4, nesterov: bool = False
        ) -> None: ...

    def check(self) -> None:
        self.require(not self.nesterov or self.momentum > 0, "nesterov", "requires momentum above 0")


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (arXiv:1711.05101), not applied to norms, biases and position embeddings."""

    kind: ClassVar[str] = "adamw"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.05  # decoupled from the gradient
    beta1: Annotated[float, Interval("[0, 1)")] = 0.9  # decay of the gradient's moving average
    beta2: Annotated[float, Interval("[0, 1)")] = 0.999  # decay of the squared gradient's moving average

    if TYPE_CHECKING:

        def __init__(
            self, lr: float = 1e-3, weight_decay: float = 0.05, beta1: float = 0.9, beta2: float = 0.999
        ) -> None: ...


@dataclass(frozen=True)
class NamedOptimizer(Optimizer):
    """Base of the optimizers of torch.optim and timm; subclasses add the fields of one class's `__init__`."""

    kind: ClassVar[str] = "optimizer"
    name: ClassVar[str] = "optimizer"  # 'rmsprop' or 'timm:lamb'
    optimizer_class: ClassVar[Any]
    tuned: ClassVar[Mapping[str, Any]]  # parameters that are not fields, with timm's values

    def check(self) -> None:
        _require_steps(self)

    def make(self, groups: Sequence[Mapping[str, Any]], on_gpu: bool = False) -> torch.optim.Optimizer:
        """Return the optimizer of parameter `groups`. on_gpu: prefer kernels that a CUDA graph can capture."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        fast: dict[str, bool] = {}
        if on_gpu and self.is_capturable:  # torch's loop over single tensors reads a learning rate from the device
            fast = {"capturable": True, "fused" if self.is_fused else "foreach": True}
        return self.optimizer_class([dict(group) for group in groups], **self.tuned, **values, **fast)

    @property
    def exempts_vectors(self) -> bool:
        """Whether norms and biases have no weight decay: as in timm's factory, and unlike torch's classes."""
        return self.name.startswith(TIMM)

    @property
    def is_capturable(self) -> bool:
        """Whether a CUDA graph can capture a step: the class is torch's, and never reads a number from the device."""
        is_known = self.name not in _NOT_CAPTURED and not self.name.startswith(TIMM)
        return is_known and "capturable" in parameters_of(self.optimizer_class)

    @property
    def is_fused(self) -> bool:
        """Whether a GPU updates all weights with one kernel, which can itself skip an update of infinite gradients."""
        return self.is_capturable and "fused" in parameters_of(self.optimizer_class)

    @classmethod
    def title(cls) -> str:
        return cls.name

    def stored(self, results_only: bool) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name} | super().stored(results_only)

    @classmethod
    def unpacked(cls, payload: Mapping[str, Any]) -> tuple[type[Config], Mapping[str, Any]]:
        values = {name: value for name, value in payload.items() if name != "name"}
        return _class_of_name(str(payload.get("name"))), values

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restore, (self.name, {item.name: getattr(self, item.name) for item in fields(self)})


def find_optimizer(value: Any) -> Any:
    """Return the optimizer that a name stands for. Any other value is returned unchanged."""
    return Optimizer.from_text(value) if isinstance(value, str) else value


def _restore(name: str, values: dict[str, Any]) -> Optimizer:
    """Return the configuration of the optimizer `name` with these fields. Pickle calls it to load one."""
    return _class_of_name(name)(**values)


def _class_of_name(text: str) -> type[Any]:
    """Return the configuration class of the optimizer that `text` names. Raises ConfigError for an unknown one."""
    name = text.strip().lower()
    with_recipe_defaults = {kind: cls for kind, cls in kinds(Optimizer).items() if cls is not NamedOptimizer}
    return with_recipe_defaults.get(name) or _config_class(name)


@cache
def _config_class(name: str) -> type[NamedOptimizer]:
    """Return the configuration class of an optimizer of torch or timm. Raises ConfigError if there is none."""
    cls, defaults = _find_in_timm(name) if name.startswith(TIMM) else (_find_in_torch(name), {})
    items, names = [], set()
    for parameter_name, parameter in parameters_of(cls).items():
        if parameter_name in _NOT_FIELDS:
            continue
        default = defaults.get(parameter_name, parameter.default)
        item = field_of(parameter_name, _typed(parameter_name, parameter.replace(default=default)), name)
        if item is not None:
            limits = _LIMITS.get("eps" if parameter_name.startswith("eps") else parameter_name, ())
            items.append(with_limits(item, limits))
            names.add(parameter_name)
    tuned = {key: value for key, value in defaults.items() if key not in names}
    namespace = {"name": name, "optimizer_class": cls, "tuned": tuned, "__module__": cls.__module__}
    made = make_dataclass(cls.__name__, items, bases=(NamedOptimizer,), namespace=namespace, frozen=True, kw_only=True)
    made.__module__ = cls.__module__  # from Python 3.12 on, make_dataclass replaces that of the namespace
    return made


def _find_in_torch(name: str) -> Any:
    """Return the class of torch.optim whose lower-case name is `name`. Raises ConfigError if raykd cannot use it."""
    found = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    if name not in found:
        usable = sorted(key for key, value in found.items() if value.__name__ not in _REFUSED)
        raise ConfigError(
            f"unknown optimizer {shown(name)}: known are {', '.join(usable)}, and timm's, such as timm:lamb"
            f"{did_you_mean(name, usable)}"
        )
    if reason := _REFUSED.get(found[name].__name__):
        raise ConfigError(f"optimizer {name}: {found[name].__name__} {reason}")
    return found[name]


def _find_in_timm(name: str) -> tuple[Any, dict[str, Any]]:
    """Return the class that timm registers, and timm's defaults. Raises ConfigError if raykd cannot use it."""
    from timm.optim import get_optimizer_info, list_optimizers  # pyright: ignore[reportPrivateImportUsage]

    known = [str(key) for key in list_optimizers()]
    if (short := name.removeprefix(TIMM)) not in known:
        near = did_you_mean(name, [f"{TIMM}{key}" for key in known])
        raise ConfigError(
            f"unknown optimizer {shown(name)}: timm has no such optimizer; timm.optim.list_optimizers() lists its "
            f"{len(known)} names{near}"
        )
    info = get_optimizer_info(short)
    if isinstance(info.opt_class, str):
        raise ConfigError(
            f"optimizer {name}: {info.opt_class} belongs to another package, which raykd does not support"
        )
    if reason := _REFUSED_OF_TIMM.get(info.opt_class.__name__):
        raise ConfigError(f"optimizer {name}: {info.opt_class.__name__} {reason}")
    momentum = {"momentum": _TIMM_MOMENTUM} if info.has_momentum else {}
    return info.opt_class, momentum | dict(info.defaults or {})


def _typed(name: str, parameter: inspect.Parameter) -> inspect.Parameter:
    """Return `parameter` with an annotation that a field can have, and a default of that type.

    Optimizers accept tensors in place of numbers, and many of timm's have no annotations.
    """
    default = parameter.default
    if name == "lr":
        is_number = isinstance(default, int | float)
        return parameter.replace(annotation=float, default=float(default) if is_number else _DEFAULT_LR)
    annotation = _without_tensors(parameter.annotation)
    if annotation is inspect.Parameter.empty and type(default) is int:
        annotation = float
    if annotation is inspect.Parameter.empty and isinstance(default, tuple):
        annotation = tuple[float, ...]
    return parameter.replace(annotation=annotation, default=converted(default, annotation))


def _without_tensors(annotation: Any) -> Any:
    """Return the type `annotation` without tensors as members of unions."""
    if get_origin(annotation) in (Union, UnionType):
        members = tuple(_without_tensors(member) for member in get_args(annotation) if member is not Tensor)
        return Union[members]  # noqa: UP007
    if get_origin(annotation) is tuple:
        return tuple[tuple(_without_tensors(member) for member in get_args(annotation))]  # type: ignore[misc]
    return annotation


@lru_cache(maxsize=1024)
def _require_steps(config: NamedOptimizer) -> None:
    """Raise ConfigError if the optimizer cannot be created with these values, or cannot update weights.

    Two steps on a vector, a matrix and a convolution's weights show whether the values fit.
    """
    parameters = [nn.Parameter(torch.full(shape, 0.5)) for shape in ((4,), (4, 6), (4, 2, 3, 3))]
    try:
        optimizer = config.make([{"params": parameters}])
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 0.01)
            optimizer.step()
    except Exception as error:
        changed = [item for item in fields(config) if getattr(config, item.name) != item.default]
        values = ", ".join(f"{item.name}={shown(getattr(config, item.name))}" for item in changed)
        raise ConfigError(f"optimizer = {config.name}({values}): {reason_of(error)}; change that value") from error
