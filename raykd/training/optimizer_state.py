"""The state of any optimizer as tensors for safetensors and a structure for JSON.

    tensors, structure = pack_state(objective, optimizer)
    unpack_state(objective, optimizer, tensors, structure)

Each tensor in a parameter's state is '<parameter>.<key>'. That is the whole state of SGD and AdamW, whose structure is
{}. Other optimizers also store numbers, None and nested values, and values of a parameter group, such as a step count:

    structure["parameters"][name]   the state of a parameter that has more than tensors
    structure["groups"][number]     values of a group that differ from the optimizer's defaults
    structure["on_device"]          scalars that were on their parameter's device, though no kernel requires it
    structure["strides"][name]      of a tensor that is laid out neither like its parameter nor contiguously
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_SET_BY_RAYKD = (
    "params",
    "lr",
    "lr_scale",
    "weight_decay",
)  # values of a group, set when it is created or before each step
_GROUPS = "groups/"  # beginning of the names of a group's tensors; no parameter's name has a slash


def pack_state(objective: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer's tensors by name, and the structure of all else; {} if there is nothing else."""
    packer = _Packer()
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in objective.named_parameters():
        state = optimizer.state.get(parameter, {})
        packer.add_parameter(name, parameter, state, group_of.get(id(parameter), {}))
    for number, group in enumerate(optimizer.param_groups):
        values = {key: value for key, value in group.items() if key not in _SET_BY_RAYKD}
        changed = {key: value for key, value in values.items() if not _is_default(optimizer.defaults, key, value)}
        if changed:
            packer.groups[str(number)] = packer.encode(changed, f"{_GROUPS}{number}")
    return packer.tensors, packer.structure()


class _Packer:
    """Collects tensors by name, and encodes the values around them."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.parameters: dict[str, Any] = {}
        self.groups: dict[str, Any] = {}
        self._on_device: list[str] = []
        self._strides: dict[str, list[int]] = {}

    def structure(self) -> dict[str, Any]:
        parts = {
            "parameters": self.parameters,
            "groups": self.groups,
            "on_device": self._on_device,
            "strides": self._strides,
        }
        return {name: part for name, part in parts.items() if part}

    def add_parameter(self, name: str, parameter: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> None:
        """Add the state of one parameter."""
        before = set(self.tensors)
        is_plain = all(value is None or isinstance(value, Tensor) for value in state.values())
        encoded = self.encode(state, name)
        if not is_plain:
            self.parameters[name] = encoded
        for key in set(self.tensors) - before:
            tensor = self.tensors[key]
            if not tensor.ndim and tensor.device == parameter.device != torch.device("cpu") and not _is_fused(group):
                self._on_device.append(key)
            if tensor.ndim and _strides(tensor) != _strides(_empty_for(tensor, parameter)):
                self._strides[key] = list(tensor.stride())
        self._on_device.sort()

    def encode(self, value: Any, name: str, separator: str = ".") -> Any:
        """Return `value` as JSON, in which {'tensor': name} stands for a tensor. Raises TypeError if that fails."""
        if isinstance(value, Tensor):
            self.tensors[name] = value
            return {"tensor": name}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"dict": {key: self.encode(item, f"{name}{separator}{key}", "/") for key, item in value.items()}}
        if isinstance(value, list | tuple):
            items = [self.encode(item, f"{name}/{number}", "/") for number, item in enumerate(value)]
            return {"list" if isinstance(value, list) else "tuple": items}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"the optimizer's state '{name}' is a {type(value).__name__}, which a checkpoint cannot hold")


def unpack_state(
    objective: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], structure: Mapping[str, Any]
) -> None:
    """Load what `pack_state` returned. Raises KeyError for an unknown parameter, RuntimeError for another shape."""
    parameters = dict(objective.named_parameters())
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    on_device, strides = set(structure.get("on_device", ())), structure.get("strides", {})
    restored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_GROUPS):
            restored[name] = tensor
            continue
        parameter_name, key = name.rsplit(".", 1)
        parameter = parameters[parameter_name]
        is_moved = name in on_device or _is_fused(group_of.get(id(parameter), {}))
        restored[name] = _restored(tensor, parameter, is_moved, strides.get(name))
        if parameter_name not in structure.get("parameters", {}):
            optimizer.state[parameter][key] = restored[name]
    for name, encoded in structure.get("parameters", {}).items():
        optimizer.state[parameters[name]].update(_decode(encoded, restored))
    for number, encoded in structure.get("groups", {}).items():
        optimizer.param_groups[int(number)].update(_decode(encoded, restored))


def _restored(tensor: Tensor, parameter: Tensor, is_moved: bool, strides: list[int] | None) -> Tensor:
    """Return a tensor of the state of `parameter`, on the device and in the layout that it had."""
    if not tensor.ndim:  # such as a step count, which fused kernels require on the weights' device
        return tensor.to(parameter.device) if is_moved else tensor
    if strides is not None:
        value = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=parameter.device)
    else:
        value = _empty_for(tensor, parameter)
    return value.copy_(tensor)


def _empty_for(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return an empty tensor for a part of the state of `parameter`.

    A tensor of its shape has its strides (channels_last): rounding depends on the layout, and a resume must be exact.
    """
    if tensor.shape == parameter.shape:
        return torch.empty_like(parameter.detach(), dtype=tensor.dtype)
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=parameter.device)


def _strides(tensor: Tensor) -> list[int]:
    """Return the strides of the dimensions that are longer than 1; the others have no effect."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _is_fused(group: Mapping[str, Any]) -> bool:
    return bool(group.get("fused") or group.get("capturable"))


def _is_default(defaults: Mapping[str, Any], key: str, value: Any) -> bool:
    if key not in defaults or isinstance(value, Tensor):
        return False
    return value is defaults[key] or bool(value == defaults[key])


def _decode(encoded: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `_Packer.encode` encoded."""
    if not isinstance(encoded, Mapping):
        return encoded
    ((kind, content),) = encoded.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content.items()}
    items = [_decode(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)
