"""Save weights as safetensors, and load them into a network from safetensors or files of torch.save."""

import json
import os.path
import pickle
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from raykd import errors
from raykd.disk.atomic import replacing
from raykd.disk.lookup import is_file
from raykd.errors import ConfigError
from raykd.models.hf_state import is_transformers_folder, is_transformers_network, with_network_names
from raykd.models.model import heads_of
from raykd.models.state_dict import AdaptState, ExpectedState, choose
from raykd.models.tensor_checksum import CHECKSUM, checksum_of, require_intact
from raykd.models.torch_file import (
    describe_other_format,
    find_networks,
    is_placeholder,
    read_torch_file,
)

_MODEL_REMEDY = "name the model that these weights were trained with"
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")  # a zip file, and torch's older format


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write `state` to the file `path` as safetensors, with `metadata` and a checksum in its header.

    Tensors that share memory, as the weights of a module with two names do, are written under each of their names.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if (address := tensor.untyped_storage().data_ptr()) in seen:
            tensors[name] = tensor.clone()
        seen.add(address)
    content = save(tensors, {**(metadata or {}), CHECKSUM: checksum_of(tensors, metadata or {})})
    # save_file is not used, because only the owner can read the files that it writes. Metadata are sorted, because
    # safetensors writes them in a random order, and equal weights should give equal bytes.
    size = int.from_bytes(content[:8], "little")
    fields = json.loads(content[8 : 8 + size])
    fields["__metadata__"] = dict(sorted(fields["__metadata__"].items()))
    header = json.dumps(fields, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors start at a multiple of 8 bytes
    with replacing(path) as temporary, temporary.open("wb") as file:  # in parts, to copy a checkpoint once, not twice
        file.writelines((len(header).to_bytes(8, "little"), header, memoryview(content)[8 + size :]))


def split_key(text: str) -> tuple[Path, str]:
    """Return (path, key) of 'FILE' or 'FILE#KEY', where KEY names a state dict in the file; '~' is the home folder."""
    whole = Path(text).expanduser()
    file, mark, key = text.rpartition("#")
    exists = os.path.exists(whole)  # noqa: PTH110 - Path.exists raises for a name that is too long
    return (Path(file).expanduser(), key) if mark and file and not exists else (whole, "")


def require_file(path: Path) -> None:
    """Raise ConfigError unless `path` is a regular file; for a folder, the message lists the weights files in it."""
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        raise ConfigError(f"weights file '{path}' is a folder{_remedy_for_folder(path)}")
    errors.require_file("weights file", path, "check the path, or leave it out to train")


def _remedy_for_folder(path: Path) -> str:
    """Return what to name in place of a folder, to follow 'is a folder'."""
    if is_transformers_folder(path):
        name = shlex.quote(f"hf:{path}")
        return (
            f" of Hugging Face transformers, whose weights fit its own network; set the model to {name}, and its "
            f"weights with model.weights=pretrained, or for a trained teacher with teacher_checkpoint={name}"
        )
    suffixes = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
    names: list[str] = []
    with suppress(PermissionError):
        names = sorted(child.name for child in path.iterdir() if child.suffix in suffixes and is_file(child))
    return f"; name a file in it, such as {', '.join(names[:3])}" if names else "; name a file of weights"


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file as passed to `save_weights`; {} for a file of torch.save.

    Raises ConfigError for a damaged file, and for a missing one whose name ends in .safetensors.
    """
    return {name: value for name, value in _metadata(path).items() if name != CHECKSUM}


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors" and not is_file(path):
        return {}
    require_file(path)
    if not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _other_format_error(path) or _damaged_error(path, error) from None


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file. Raises ConfigError if it is missing or damaged, or is no state dict."""
    content = _read(path)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"weights file '{path}' holds no state dict of tensors; save model.state_dict()")
    return dict(content)


def load_weights(
    network: nn.Module,
    path: Path,
    new_head: bool = False,
    key: str = "",
    heads: Sequence[nn.Module] | None = None,
    adapt: AdaptState | None = None,
) -> str:
    """Load the weights in `path` into the network, and return a note on averaged weights that were not chosen, or ''.

    new_head: keep the network's classifier if the file's has another shape or is absent (pretraining on other classes).
    key: name of a state dict in the file, see `split_key`.
    heads: the classifier's layers; None for `heads_of(network)`.
    adapt: changes a state dict of the file before it is compared with the network's, see `Model.adapt_state`.

    Raises ConfigError, which names the first tensor that does not match or has unusable values.
    """
    current, head = network.state_dict(), _head_tensors(network, heads_of(network) if heads is None else heads)
    expected = ExpectedState(current, head if new_head else (), getattr(network, "other_names", ()), adapt)
    content = _read(path)
    if is_transformers_network(network):
        content = with_network_names(network, content, f"weights file '{path}'")
    if is_placeholder(content) or (
        isinstance(content, Mapping) and _holds_only_placeholders(content, expected, path, key)
    ):
        raise _no_tensors_error(path, find_networks(content))
    chosen, note = choose(content, expected, path, key)
    _require_match(path, chosen.tensors, expected, head)
    if not key:
        _require_no_network(path, find_networks(content), chosen.key)
    state = {name: _checked(path, name, chosen.tensors.get(name), tensor) for name, tensor in current.items()}
    load_tensors(network, {name: current[name] if value is None else value for name, value in state.items()})
    return note


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load `tensors` into `module`, whose code has written them. Raises RuntimeError if names or shapes differ.

    A state dict also holds the version of each module's code, which safetensors does not keep. Modules such as
    torchvision's MNASNet refuse to load one without it.
    """
    state = module.state_dict()  # with these versions
    state.clear()
    state.update(tensors)
    module.load_state_dict(state)


def _holds_only_placeholders(content: Mapping[Any, Any], expected: ExpectedState, path: Path, key: str) -> bool:
    """Return whether `content` has placeholders, such as those of a pickled network, but no tensors of the network."""
    if not any(is_placeholder(value) for value in content.values()):
        return False
    try:
        return not expected.tensors.keys() & choose(content, expected, path, key)[0].tensors.keys()
    except ConfigError as error:
        return "no state dict of tensors" in str(error)


def _require_no_network(path: Path, networks: list[str], chosen: str) -> None:
    """Raise ConfigError if the file also holds whole `networks`, whose weights may be the intended ones.

    chosen: key of the chosen state dict, or ''.
    """
    if not networks:
        return
    remedy = f", or name the intended state dict, such as '{path}#{chosen}'" if chosen else ""
    state_dict = f"the state dict '{chosen}'" if chosen else "a state dict"
    raise ConfigError(
        f"weights file '{path}' holds {state_dict}, and also a whole pickled network as '{networks[0]}', which is "
        f"never loaded; save the network's state_dict(){remedy}"
    )


def _head_tensors(network: nn.Module, heads: Sequence[nn.Module]) -> list[str]:
    """Return the names of the tensors of the classifier."""
    head = {id(parameter) for parameter in nn.ModuleList(heads).parameters()}
    return [name for name, parameter in network.named_parameters() if id(parameter) in head]


def _read(path: Path) -> Any:
    require_file(path)
    try:
        if not _is_safetensors(path):
            return read_torch_file(path)
        tensors = load_file(path)
    except pickle.UnpicklingError:
        raise _other_format_error(path) or _no_tensors_error(path) from None
    except Exception as error:  # noqa: BLE001 - torch's reader raises many errors for damaged bytes
        raise _other_format_error(path) or _damaged_error(path, error) from None
    require_intact(path, tensors, _metadata(path))
    return tensors


def _other_format_error(path: Path) -> ConfigError | None:
    """Return the error for a file of another format, with its remedy; None if the format is not recognized."""
    description = describe_other_format(path)
    return ConfigError(f"weights file '{path}' is {description}") if description else None


def _damaged_error(path: Path, error: Exception) -> ConfigError:
    text = str(error)
    reason = text.splitlines()[0][:120] if " " in text else type(error).__name__  # str(KeyError(101)) is '101'
    return ConfigError(f"weights file '{path}' is truncated or damaged ({reason}); copy it again")


def _no_tensors_error(path: Path, networks: Sequence[str] = ()) -> ConfigError:
    """Return the error for a file with more than tensors. networks: keys of the whole networks in it, '' for the file.

    torch refuses some files before it is known what they hold.
    """
    held = "holds more than tensors, such as a whole pickled model, or no tensors"
    if networks:
        held = f"holds a whole pickled model as '{networks[0]}'" if networks[0] else "is a whole pickled model"
    return ConfigError(
        f"weights file '{path}' {held}, and is not loaded, because loading it would execute code; save the model's "
        "weights: torch.save(model.state_dict(), 'weights.pth')"
    )


def _is_safetensors(path: Path) -> bool:
    """Return whether the file is safetensors.

    The first bytes decide before the suffix, because both formats occur with both suffixes.
    """
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" or (path.suffix == ".safetensors" and not start.startswith(_TORCH_MAGIC))


def _require_match(path: Path, state: Mapping[str, Tensor], expected: ExpectedState, head: list[str]) -> None:
    """Raise ConfigError for tensors that are missing, unexpected or of another shape.

    Mismatches outside the head are reported first.
    """
    mismatched, missing, extra = expected.mismatched(state), expected.missing(state), expected.extra(state)
    if mismatched:
        # If a tensor of the head differs in more than its first dimension, the classes are not the reason.
        body = [name for name in mismatched if name not in head]
        expected_shapes = {name: expected.tensors[name].shape for name in mismatched}
        body += [name for name in mismatched if name in head and state[name].shape[1:] != expected_shapes[name][1:]]
        name = body[0] if body else mismatched[-1]
        difference = "another architecture, width or stem" if body else "another number of classes"
        classes = [name for name in mismatched if name in head and state[name].shape[:1] != expected_shapes[name][:1]]
        both = "; its number of classes differs too" if body and classes else ""
        stored, required = tuple(state[name].shape), tuple(expected_shapes[name])
        raise ConfigError(
            f"weights file '{path}' has {difference}: {name} is {stored}, the model requires {required}{both}; "
            f"{_MODEL_REMEDY if body else 'use weights that were trained on the same classes'}"
        )
    if missing or extra:
        lacks = [f"lacks {missing[0]}"] if missing else []
        has = [f"has {extra[0]}, which the model lacks"] if extra else []
        raise ConfigError(
            f"weights file '{path}' has another architecture: it {' and '.join(lacks + has)}; {_MODEL_REMEDY}"
        )


def _checked(path: Path, name: str, stored: Tensor | None, current: Tensor) -> Tensor | None:
    """Return `stored` in the dtype of `current`, or None to keep `current`. Raises ConfigError for unusable values."""
    if stored is None or stored.shape != current.shape:
        return None
    kind = str(stored.dtype).removeprefix("torch.")
    if stored.layout is not torch.strided:
        kind = f"sparse ({str(stored.layout).removeprefix('torch.')})"
    is_plain = stored.layout is torch.strided and not (stored.is_quantized or stored.is_meta)
    other_kinds = torch.bool in {stored.dtype, current.dtype} or stored.is_complex() or current.is_complex()
    lacks_fractions = current.is_floating_point() and not stored.is_floating_point()
    if not is_plain or lacks_fractions or (other_kinds and stored.dtype != current.dtype):
        required = "dense floating-point numbers" if current.is_floating_point() else "dense integers"
        if other_kinds and not current.is_floating_point():
            required = str(current.dtype).removeprefix("torch.")
        kind = "without data" if stored.is_meta else kind
        raise ConfigError(
            f"weights file '{path}' cannot be used: {name} is {kind}, and weights must be {required}; "
            "save the network's state_dict() in float32"
        )
    value = stored.detach().to(current.dtype)
    # A buffer may hold infinite values, such as a mask of attention. A new network then has them too.
    if value.is_floating_point() and (count := int((~value.isfinite() & current.isfinite()).sum())):
        raise ConfigError(
            f"weights file '{path}' cannot be used: {count} of the {value.numel()} values of {name} are NaN or "
            "infinite; the training that wrote it diverged: name an earlier checkpoint"
        )
    if name.rpartition(".")[2] == "running_var" and bool((value < 0).any()):
        raise ConfigError(
            f"weights file '{path}' cannot be used: {name} has negative values, and a variance has none; "
            "the file is damaged: copy it again"
        )
    return value
