"""Read files of torch.save with `weights_only=True`, so that no code in a file is ever executed.

Checkpoints often hold more than tensors: an argparse.Namespace, NumPy scalars, a project's configuration. torch
refuses such files because it would have to import and call those classes. Here each class is replaced by an empty
placeholder, so that the tensors beside it can be read. Functions of the standard library, which only an attack or a
whole pickled model requires, are never replaced: such a file is refused.
"""

import pickle
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from raykd.models.state_dict import MAX_NESTING

# Classes of the standard library that training scripts save with their arguments.
_HARMLESS = {
    "argparse.Namespace",
    "collections.defaultdict",
    "collections.deque",
    "copyreg._reconstructor",
    "decimal.Decimal",
    "types.SimpleNamespace",
    "uuid.UUID",
}
_HARMLESS_MODULES = ("datetime", "pathlib")
_HARMLESS_BUILTINS = ("list", "dict", "set", "frozenset", "tuple", "int", "float", "complex", "str", "bytes", "object")
# torch can list the classes in zip files only. These are the usual ones in older files.
_USUAL_CLASSES: tuple[str, ...] = (
    "argparse.Namespace",
    "collections.defaultdict",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
)

_MODULES = "_modules"  # a key in the state of every nn.Module
_SAVE = "save the network's state_dict() with torch.save"
# The first bytes of files that are mistaken for weights, their format and the remedy.
_OTHER_FORMATS = {
    b"version https://git-lfs": "a Git LFS pointer and not the file itself; run: git lfs pull",
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"BZh": "compressed by bzip2; unpack it",
    b"\xfd7zXZ": "compressed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it",
    b"\x89HDF": f"an HDF5 file, as Keras writes it; make tensors of its arrays and {_SAVE}",
    b"\x93NUMPY": f"a file of a NumPy array; make tensors of the arrays and {_SAVE}",
    b"GGUF": f"a GGUF file; {_SAVE}",
    b"{": "JSON text and no weights; name the file of weights beside it",
    b"<": "a web page or XML and not the file itself; download it again",
}


class _Placeholder:
    """Replace any object: accept all arguments and states, and store only whether the state was a network's."""

    def __new__(cls, *_: Any, **__: Any) -> "_Placeholder":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping) and _MODULES in state:
            self.__dict__[_MODULES] = None


class _MappingPlaceholder:
    """Replace a class derived from dict: torch adds its items only to a plain dict."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def read_torch_file(path: Path) -> Any:
    """Return the content of `path`, with placeholders for everything but tensors and plain Python values.

    Raises pickle.UnpicklingError for TorchScript and for functions of the standard library, and any error of torch's
    reader for damaged bytes.
    """
    error: pickle.UnpicklingError | None = None
    for placeholder in (None, _Placeholder, _MappingPlaceholder):
        names = [] if placeholder is None else _replaceable_classes(path)
        # The state of NumPy's types is no mapping.
        replaced: list[Any] = [(_Placeholder if name.startswith("numpy.") else placeholder, name) for name in names]
        try:
            # Pass an open file: torch reads a path that ends in .safetensors as safetensors, also if it is a pickle.
            with path.open("rb") as file, safe_globals(replaced), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols and sparse tensors: see weights.py
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as refused:
            error = refused
        except TypeError as refused:  # of torch 2.7, which sets items of any placeholder
            error = pickle.UnpicklingError(str(refused))
        except RuntimeError as refused:
            if "TorchScript" not in str(refused):
                raise
            error = pickle.UnpicklingError("is TorchScript, which is code")
    assert error is not None
    raise error


def is_placeholder(value: object) -> bool:
    """Return whether `value` replaces an object that was not read."""
    return isinstance(value, _Placeholder)


def find_networks(content: object, key: str = "", depth: int = 0) -> list[str]:
    """Return the keys in nested mappings, such as 'model', of whole networks that placeholders replace."""
    if _MODULES in getattr(content, "__dict__", {}):
        return [key]
    if not isinstance(content, Mapping) or depth > MAX_NESTING:
        return []
    inside = [find_networks(value, f"{key}.{name}" if key else f"{name}", depth + 1) for name, value in content.items()]
    return [network for networks in inside for network in networks]


def describe_other_format(path: Path) -> str:
    """Return the format of a file that cannot be read as weights, with the remedy; '' if it is not recognized."""
    with path.open("rb") as file:
        start = file.read(512)
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return ""
        if any(name.endswith("/constants.pkl") for name in names):
            return f"a TorchScript archive; {_save_weights_of(f'torch.jit.load({str(path)!r}).state_dict()')}"
        if any(name.endswith(("/models/model.json", "serialized_exported_program.json")) for name in names):
            return f"an archive of torch.export; {_save_weights_of(f'torch.export.load({str(path)!r}).state_dict')}"
        if names and all(name.endswith(".npy") for name in names):
            return f"an archive of NumPy arrays; make tensors of them and {_SAVE}"
        is_torch = any(name.endswith("data.pkl") for name in names)
        return "" if is_torch else "a zip archive and no file of weights; unpack it, and name the file in it"
    kind = next((kind for magic, kind in _OTHER_FORMATS.items() if start.startswith(magic)), "")
    if start[257:262] == b"ustar":
        kind = "a tar archive and no file of weights; unpack it, and name the file in it"
    return kind


def _save_weights_of(state_dict: str) -> str:
    return f"save its weights: torch.save({state_dict}, 'weights.pth')"


def _replaceable_classes(path: Path) -> list[str]:
    """Return the file's classes that torch refuses. Raises pickle.UnpicklingError if one must not be replaced."""
    try:
        with path.open("rb") as file:
            names = get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # no zip file
        names = list(_USUAL_CLASSES)
    if irreplaceable := [name for name in names if not _is_replaceable(name)]:
        raise pickle.UnpicklingError(f"holds {irreplaceable[0]}")
    return names


def _is_replaceable(name: str) -> bool:
    module, _, rest = name.partition(".")
    if module == "builtins" or not rest:
        return (rest or module) in _HARMLESS_BUILTINS
    return module not in sys.stdlib_module_names or name in _HARMLESS or module in _HARMLESS_MODULES
