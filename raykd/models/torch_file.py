"""Files of torch.save, read with `weights_only=True`: no code of a file ever runs.

Checkpoints often hold more than tensors: an argparse.Namespace, NumPy scalars, a project's own configuration. torch
refuses such a file because it would have to import and call those classes. Here each of them is replaced by an empty
stand-in, so that the tensors beside them can be read. Functions of the standard library, which only an attack or a
whole pickled model needs, are never replaced: such a file is refused.
"""

import os.path
import pickle
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raykd.errors import ConfigError

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
# torch lists the classes of its zip files only. In older files these are the usual ones.
_USUAL: tuple[str, ...] = (
    "argparse.Namespace",
    "collections.defaultdict",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
)

_MAX_DEPTH = 5  # of nested mappings that are searched, as in state_dict.py
_NETWORK = "_modules"  # in the state of every nn.Module
_SAVE = "save the network's state_dict() with torch.save"
# The first bytes of files that are taken for weights, with what they are and the remedy.
_FOREIGN = {
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


class _Nothing:
    """Stands for any object: accepts every argument and every state, and keeps none but the mark of a network."""

    def __new__(cls, *_: Any, **__: Any) -> "_Nothing":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping) and _NETWORK in state:
            self.__dict__[_NETWORK] = None


class _Mapping:
    """Stands for a class derived from dict, whose items torch adds to a plain dict only."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def read_torch_file(path: Path) -> Any:
    """The content of `path`, with empty stand-ins for everything but tensors and plain Python values.

    Raises pickle.UnpicklingError for TorchScript and for a file that holds functions of the standard library, and
    whatever torch's reader raises for damaged bytes.
    """
    error: pickle.UnpicklingError | None = None
    for stand_in in (None, _Nothing, _Mapping):
        names = [] if stand_in is None else _unknown(path)
        try:
            # An open file and not its path: torch reads a path that ends in .safetensors as that, whatever it holds.
            known = torch.serialization.safe_globals([(_of(name, stand_in), name) for name in names])
            with path.open("rb") as file, known, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other pickle protocols and of sparse tensors: see `weights`
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as refused:
            error = refused
        except RuntimeError as refused:
            if "TorchScript" not in str(refused):
                raise
            error = pickle.UnpicklingError("is TorchScript, which is code")
    assert error is not None
    raise error


def is_nothing(value: object) -> bool:
    """Whether a stand-in is all that was read."""
    return isinstance(value, _Nothing)


def networks_in(content: object, key: str = "", depth: int = 0) -> list[str]:
    """Return the places in nested mappings, such as 'model', of whole networks that stand-ins were put in place of."""
    if _NETWORK in getattr(content, "__dict__", {}):
        return [key]
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
        return []
    inside = [networks_in(value, f"{key}.{name}" if key else f"{name}", depth + 1) for name, value in content.items()]
    return [place for places in inside for place in places]


def require_no_folder(path: Path) -> None:
    """Raise ConfigError where `path` is a folder, naming the weights files in it."""
    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        return
    suffixes = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
    names = sorted(child.name for child in path.iterdir() if child.suffix in suffixes and child.is_file())
    inside = f"name a file in it, such as {', '.join(names[:3])}" if names else "name a file of weights"
    raise ConfigError(f"weights file '{path}' is a folder; {inside}")


def foreign_kind(path: Path) -> str:
    """Return what a file that cannot be read as weights is by its content, with the remedy; '' where not known."""
    with path.open("rb") as file:
        start = file.read(512)
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return ""
        if any(name.endswith("/constants.pkl") for name in names):
            return f"a TorchScript archive; {_SAVE}"
        if names and all(name.endswith(".npy") for name in names):
            return f"an archive of NumPy arrays; make tensors of them and {_SAVE}"
        is_torch = any(name.endswith("data.pkl") for name in names)
        return "" if is_torch else "a zip archive and no file of weights; unpack it, and name the file in it"
    kind = next((kind for magic, kind in _FOREIGN.items() if start.startswith(magic)), "")
    if start[257:262] == b"ustar":
        kind = "a tar archive and no file of weights; unpack it, and name the file in it"
    return kind


def _of(name: str, stand_in: Any) -> Any:
    """NumPy's types have a state that is no mapping."""
    return _Nothing if name.startswith("numpy.") else stand_in


def _unknown(path: Path) -> list[str]:
    """Names of the file's classes that torch does not know and that may be left out."""
    try:
        with path.open("rb") as file:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # no zip file
        names = list(_USUAL)
    if any(not _may_be_left_out(name) for name in names):
        raise pickle.UnpicklingError(f"holds {names[0]}")
    return names


def _may_be_left_out(name: str) -> bool:
    module, _, rest = name.partition(".")
    if module == "builtins" or not rest:
        return (rest or module) in _HARMLESS_BUILTINS
    return module not in sys.stdlib_module_names or name in _HARMLESS or module in _HARMLESS_MODULES
