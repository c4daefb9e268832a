"""Weights in and out: safetensors, or a .pth of tensors alone (`weights_only=True`: no code of a file runs)."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from raykd.atomic import write_bytes
from raykd.errors import ConfigError
from raykd.models.tensor_checksum import CHECKSUM, require_intact, with_checksum

_WRAPPERS = ("state_dict", "model_state_dict", "model", "student", "teacher")


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Replace the file `path` by `state` as safetensors, with `metadata` and a checksum in its header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = save(tensors, with_checksum(tensors, metadata or {}))
    # Not save_file: it leaves a file that nobody else in the lab can read. And safetensors has its metadata in a random
    # order, where equal weights are to be equal bytes.
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(_sorted_metadata(json.loads(content[8 : 8 + size])), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of 8 bytes
    write_bytes(path, b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[8 + size :])))


def _sorted_metadata(header: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, str] = header.get("__metadata__", {})
    return {**header, "__metadata__": dict(sorted(metadata.items()))}


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file as given to `save_weights`; {} for a .pth.

    Raises ConfigError for a file that is missing or damaged.
    """
    return {name: value for name, value in _metadata(path).items() if name != CHECKSUM}


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        return {}
    if not path.is_file():
        raise ConfigError(f"weights file '{path}' does not exist; check the path, or leave it out to train")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"weights file '{path}' is cut short or damaged ({_line(error)}); copy it again") from None


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file. Raises ConfigError for one that is missing, cut short or other."""
    if not path.is_file():
        raise ConfigError(f"weights file '{path}' does not exist; check the path, or leave it out to train")
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
            require_intact(path, found, _metadata(path))
            return found
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ConfigError(
            f"weights file '{path}' holds more than tensors, or none, and is not loaded; save its state_dict() alone"
        ) from None
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - of damaged bytes torch's reader raises whatever it stumbles on
        raise ConfigError(f"weights file '{path}' is cut short or damaged ({_line(error)}); copy it again") from None
    while isinstance(content, Mapping) and (key := next((key for key in _WRAPPERS if key in content), None)):
        content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"weights file '{path}' holds no state dict of tensors; save model.state_dict()")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def load_weights(network: nn.Module, path: Path, new_head: bool = False) -> None:
    """Read `path` into `network`. Raises ConfigError naming the first tensors that do not match.

    new_head: leave out tensors of the classifier whose shape differs (pretraining had other classes).
    """
    state, wanted = read_state(path), network.state_dict()
    if new_head:
        classifier = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
        heads = [head for head in (classifier if isinstance(classifier, tuple) else (classifier,)) if head is not None]
        head = {id(parameter) for parameter in nn.ModuleList(heads).parameters()}
        names = {name for name, parameter in network.named_parameters() if id(parameter) in head}
        for name in names & set(state):
            if state[name].shape != wanted[name].shape:
                state[name] = wanted[name]
    _require_match(path, state, wanted)
    network.load_state_dict(state)


def _require_match(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    shapes = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    missing, extra = [name for name in wanted if name not in state], [name for name in state if name not in wanted]
    if shapes:
        name = shapes[-1]  # the head comes last, and other classes are the common case
        found, want = tuple(state[name].shape), tuple(wanted[name].shape)
        raise ConfigError(
            f"weights file '{path}' is of another architecture, width or number of classes: "
            f"{name} is {found}, the model wants {want}"
        )
    if missing or extra:
        example = f"it lacks {missing[0]}" if missing else f"it has {extra[0]}, which the model has not"
        raise ConfigError(
            f"weights file '{path}' is of another architecture: {example}; name the model it was trained as"
        )


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
