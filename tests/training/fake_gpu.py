"""A simulated GPU: the tensors of a run become fake tensors on `cuda`, which have shapes but no values.

An operation raises if on a real GPU it would fail or wait for the device: tensors of two devices, a value that the host
reads, a result whose shape depends on values. The backward pass is computed node by node in Python, since torch's own
requires a thread for each real device.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raykd.training import cuda_graph
from raykd.training.compute import Compute
from raykd.training.loss_scale import make_scaler
from raykd.training.training_step import TrainState

GPU = torch.device("cuda")
_NO_KERNEL = ("prim.", "aten.empty", "aten.new_empty", "aten.detach", "aten.lift_fresh")


@dataclass
class Launches(TorchDispatchMode):
    """Counts the operations that launch a kernel: all but views and allocations."""

    count: int = 0
    names: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, returns = str(func), func._schema.returns
        is_view = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        results = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, results)) if isinstance(x, Tensor)]
        is_here = any(tensor.device.type == "cuda" for tensor in tensors)
        if is_here and not is_view and not name.startswith(_NO_KERNEL):
            self.count += 1
            self.names[name] = self.names.get(name, 0) + 1
        return results


class CountingOptimizer:
    """Replace a fused optimizer, whose kernel has no fake implementation, by one launch, and reset the gradients."""

    _step_supports_amp_scaling = True  # as torch's fused optimizers: GradScaler then passes scale and decision

    def __init__(self, module: nn.Module) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": [*module.parameters()], "lr": 0.1}]

    def zero_grad(self, set_to_none: bool) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def step(self) -> None:
        assert all(p.grad is None or p.grad.device == p.device for p in self.param_groups[0]["params"])


@contextmanager
def on_fake_gpu(training: TrainState, precision: str) -> Iterator[Launches]:
    """Move `training` from the CPU to a simulated GPU. Inside, its steps compute there, and launches are counted."""
    mode, moved = FakeTensorMode(allow_non_fake_inputs=False), {}
    for part in (training.loader, training.objective, training.teacher):
        _move(part, mode, moved)
    training.compute = Compute(GPU, precision, 1)
    training.optimizer = CountingOptimizer(training.objective)  # type: ignore[assignment]
    with (
        mock.patch.object(torch.Tensor, "backward", _walk),
        mock.patch.object(cuda_graph, "capture_stream", lambda _: None),
        mock.patch.object(torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mode,
        Launches() as launches,
    ):
        training.scaler = make_scaler(training.compute)
        yield launches


def _move(value: Any, mode: FakeTensorMode, moved: dict[int, Any]) -> Any:
    """Return `value` on the simulated GPU. Modules and raykd's objects are changed in place."""
    if id(value) in moved:
        return moved[id(value)]
    if isinstance(value, nn.Module):
        moved[id(value)] = value
        _move_module(value, mode, moved)
        return value
    if isinstance(value, Tensor):
        moved[id(value)] = _fake(value, mode)
        return moved[id(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_move(item, mode, moved) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_move(item, mode, moved) for item in value)
    if isinstance(value, dict):
        return {name: _move(item, mode, moved) for name, item in value.items()}
    if type(value).__module__.startswith("raykd.") and hasattr(value, "__dict__") and not isinstance(value, type):
        moved[id(value)] = value
        for name, item in [*vars(value).items()]:
            object.__setattr__(value, name, _move(item, mode, moved))
    return value


def _move_module(module: nn.Module, mode: FakeTensorMode, moved: dict[int, Any]) -> None:
    for layer in module.modules():
        for name, weight in layer._parameters.items():
            if weight is not None:
                if id(weight) not in moved:
                    fake = _fake(weight.detach(), mode)
                    moved[id(weight)] = nn.Parameter(fake, requires_grad=weight.requires_grad)
                layer._parameters[name] = moved[id(weight)]
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = _fake(buffer, mode)


def _fake(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    fake = mode.from_tensor(tensor)
    with mode:
        return fake.to(GPU)


def _walk(loss: Tensor) -> None:
    """Compute the gradients of `loss` as torch's engine does, node by node, and add them to the weights' `grad`."""
    gradients: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    gradients[loss.grad_fn][0] = torch.ones_like(loss)
    for node in reversed(_in_order(loss.grad_fn)):
        received = gradients.pop(node, {})
        if not received:
            continue
        if hasattr(node, "variable"):
            weight = node.variable
            weight.grad = received[0] if weight.grad is None else weight.grad + received[0]
            continue
        arguments = [received.get(number) for number in range(max(received) + 1)]
        results = node(*arguments) if callable(node) else type(node)._forward_cls.backward(node, *arguments)
        for (target, number), result in zip(node.next_functions, _tuple(results), strict=False):
            if target is not None and result is not None:
                shape, earlier = tuple(target._input_metadata[number].shape), gradients[target].get(number)
                whole = result if tuple(result.shape) == shape else result.sum_to_size(shape)
                gradients[target][number] = whole if earlier is None else earlier + whole


def _tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def _in_order(last: Any) -> list[Any]:
    """Return the nodes of a graph in reverse topological order."""
    order, seen, stack = [], set(), [(last, False)]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(target, False) for target, _ in node.next_functions]
    return order
