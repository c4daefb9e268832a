"""Weights in and out: safetensors, or a file of torch.save (`weights_only=True`: no code of a file runs)."""

import json
import os.path
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from raykd import errors
from raykd.atomic import replacing
from raykd.errors import ConfigError
from raykd.models.state_dict import Wanted, choose
from raykd.models.tensor_checksum import CHECKSUM, require_intact, with_checksum
from raykd.models.torch_file import foreign_kind, is_nothing, networks_in, read_torch_file, require_no_folder

_TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")  # a zip file, and torch's older format


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Replace the file `path` by `state` as safetensors, with `metadata` and a checksum in its header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = save(tensors, with_checksum(tensors, metadata or {}))
    # Not save_file: it leaves a file that no other user can read. And safetensors has its metadata in a random
    # order, where equal weights are to be equal bytes.
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(_sorted_metadata(json.loads(content[8 : 8 + size])), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of 8 bytes
    with replacing(path) as aside, aside.open("wb") as file:  # in parts: a checkpoint is copied once, not twice
        file.writelines((len(header).to_bytes(8, "little"), header, memoryview(content)[8 + size :]))


def _sorted_metadata(header: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, str] = header.get("__metadata__", {})
    return {**header, "__metadata__": dict(sorted(metadata.items()))}


def split_key(text: str) -> tuple[Path, str]:
    """(path, key) of 'FILE' or 'FILE#KEY', where KEY names a state dict in the file; '~' is the home folder."""
    whole = Path(text).expanduser()
    file, mark, key = text.rpartition("#")
    is_there = os.path.exists(whole)  # noqa: PTH110 - Path.exists raises for a name that is too long
    return (Path(file).expanduser(), key) if mark and file and not is_there else (whole, "")


def require_file(path: Path) -> None:
    """Raise ConfigError where `path` is no regular file."""
    require_no_folder(path)
    errors.require_file("weights file", path, "check the path, or leave it out to train")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file as given to `save_weights`; {} for a file of torch.save.

    Raises ConfigError for a file that is missing or damaged.
    """
    return {name: value for name, value in _metadata(path).items() if name != CHECKSUM}


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors" and not path.is_file():
        return {}
    require_file(path)
    if not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        cut = ConfigError(f"weights file '{path}' is cut short or damaged ({_line(error)}); copy it again")
        raise _foreign(path) or cut from None


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ConfigError for one that is missing, cut short or other."""
    content = _read(path)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"weights file '{path}' holds no state dict of tensors; save model.state_dict()")
    return dict(content)


def load_weights(network: nn.Module, path: Path, new_head: bool = False, key: str = "") -> str:
    """Read `path` into `network`; returns a sentence on state dicts of the file that were passed over, or ''.

    new_head: keep the network's own classifier where the file's has another shape or is absent (pretraining had other
    classes). key: which state dict of the file, see `split_key`.
    Raises ConfigError that names the first tensors which do not match, or are no finite floating-point numbers.
    """
    own, head = network.state_dict(), _head(network)
    wanted = Wanted(own, head if new_head else (), getattr(network, "other_names", ()))
    content = _read(path)
    if is_nothing(content) or (isinstance(content, Mapping) and _holds_a_module(content, wanted, path, key)):
        raise _refused(path)
    found, note = choose(content, wanted, path, key)
    _require_match(path, found.tensors, wanted, head)
    if not key:
        _require_no_network(path, networks_in(content), found.key)
    state = {name: _checked(path, name, found.tensors.get(name), tensor) for name, tensor in own.items()}
    network.load_state_dict({name: own[name] if value is None else value for name, value in state.items()})
    return note


def _holds_a_module(content: Mapping[Any, Any], wanted: Wanted, path: Path, key: str) -> bool:
    """Whether objects that were left out are all that there is instead of tensors, such as a whole pickled model."""
    if not any(is_nothing(value) for value in content.values()):
        return False
    try:
        return not wanted.tensors.keys() & choose(content, wanted, path, key)[0].tensors.keys()
    except ConfigError as error:
        return "no state dict of tensors" in str(error)


def _require_no_network(path: Path, networks: list[str], found: str) -> None:
    """Raise ConfigError where the file also holds a whole network, whose weights are perhaps those that are meant."""
    if not networks:
        return
    name = f", or name the state dict that is meant, such as '{path}#{found}'" if found else ""
    raise ConfigError(
        f"weights file '{path}' holds a whole pickled network as '{networks[0]}', which is never loaded, beside the "
        f"state dict '{found or 'of the file itself'}'; save the network's state_dict(){name}"
    )


def _head(network: nn.Module) -> list[str]:
    """Names of the classifier's tensors; [] for a network that does not say which module it is."""
    classifier = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
    heads = [head for head in (classifier if isinstance(classifier, tuple) else (classifier,)) if head is not None]
    head = {id(parameter) for parameter in nn.ModuleList(heads).parameters()}
    return [name for name, parameter in network.named_parameters() if id(parameter) in head]


def _read(path: Path) -> Any:
    require_file(path)
    try:
        if not _is_safetensors(path):
            return read_torch_file(path)
        found = load_file(path)
    except pickle.UnpicklingError:
        raise _foreign(path) or _refused(path) from None
    except Exception as error:  # noqa: BLE001 - of damaged bytes torch's reader raises whatever it stumbles on
        cut = ConfigError(f"weights file '{path}' is cut short or damaged ({_line(error)}); copy it again")
        raise _foreign(path) or cut from None
    require_intact(path, found, _metadata(path))
    return found


def _foreign(path: Path) -> ConfigError | None:
    """Return the refusal of a whole file of another kind, with its own remedy; None for a kind that is not known."""
    what = foreign_kind(path)
    return ConfigError(f"weights file '{path}' is {what}") if what else None


def _refused(path: Path) -> ConfigError:
    return ConfigError(
        f"weights file '{path}' holds more than tensors, or none, and is not loaded; save its state_dict() alone"
    )


def _is_safetensors(path: Path) -> bool:
    """By its first bytes, since either kind is found under either suffix."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" or (path.suffix == ".safetensors" and not start.startswith(_TORCH_MAGIC))


def _require_match(path: Path, found: Mapping[str, Tensor], wanted: Wanted, head: list[str]) -> None:
    """Raise ConfigError for tensors that are missing, not expected or of another shape; the stem before the head."""
    shapes, missing, extra = wanted.other_shapes(found), wanted.missing(found), wanted.extra(found)
    if shapes:
        # Where a tensor of the head differs in more than its first dimension, the classes are not the reason.
        body = [name for name in shapes if name not in head]
        body += [name for name in shapes if name in head and found[name].shape[1:] != wanted.tensors[name].shape[1:]]
        name = body[0] if body else shapes[-1]
        what = "another architecture, width or stem" if body else "another number of classes"
        classes = [name for name in shapes if name in head and found[name].shape[:1] != wanted.tensors[name].shape[:1]]
        both = "; its number of classes differs too" if body and classes else ""
        is_, required = tuple(found[name].shape), tuple(wanted.tensors[name].shape)
        raise ConfigError(
            f"weights file '{path}' is of {what}: {name} is {is_}, the model requires {required}{both}; "
            f"{'name the model it was trained as' if body else 'give a file that was trained on the same classes'}"
        )
    if missing or extra:
        lacks = [f"lacks {missing[0]}"] if missing else []
        has = [f"has {extra[0]}, which the model has not"] if extra else []
        raise ConfigError(
            f"weights file '{path}' is of another architecture: it {' and '.join(lacks + has)}; "
            "name the model it was trained as"
        )


def _checked(path: Path, name: str, found: Tensor | None, own: Tensor) -> Tensor | None:
    """`found` as the network holds it; None where the network's own stays. Raises ConfigError for no usable numbers."""
    if found is None or found.shape != own.shape:
        return None
    kind = str(found.dtype).removeprefix("torch.")
    if found.layout is not torch.strided:
        kind = f"sparse ({str(found.layout).removeprefix('torch.')})"
    is_plain = found.layout is torch.strided and not (found.is_quantized or found.is_meta or found.is_complex())
    if not is_plain or found.dtype is torch.bool or (own.is_floating_point() and not found.is_floating_point()):
        required = "dense floating-point numbers" if own.is_floating_point() else "dense whole numbers"
        kind = "without data" if found.is_meta else kind
        raise ConfigError(
            f"weights file '{path}' cannot be used: {name} is {kind}, and weights must be {required}; "
            "save the network's state_dict() in float32"
        )
    value = found.detach().to(own.dtype)
    if value.is_floating_point() and not bool(value.isfinite().all()):
        count = int((~value.isfinite()).sum())
        raise ConfigError(
            f"weights file '{path}' cannot be used: {name} has {count} of {value.numel()} values that are NaN or "
            "infinite; the training that wrote it diverged: give an earlier checkpoint"
        )
    if name.rpartition(".")[2] == "running_var" and bool((value < 0).any()):
        raise ConfigError(
            f"weights file '{path}' cannot be used: {name} has negative values, and a variance has none; "
            "the file is damaged: copy it again"
        )
    return value


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
