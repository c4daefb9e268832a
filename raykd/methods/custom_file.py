"""User-defined methods: classes in a file, by `--set method=my_method.py:MyMethod` or an import in an experiment.

A method from a single file is pickled as that file's text, which a worker executes as a module: another node may not
have the file, or another version of it. Therefore the file may import raykd and installed packages only. A class of an
installed package is pickled by reference. A run's fingerprint has the text's sha256, so an edit makes new runs.

cloudpickle's register_pickle_by_value is no substitute: it pickles objects instead of text, so a file with a function
under functools.cache, a lock or a handle would fail, and copies of dataclass fields lose the identity of MISSING.
"""

import ast
import hashlib
import re
import sys
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from raykd.errors import ConfigError, did_you_mean, reading, require_file, shown

_RESERVED_FIELDS = ("kind", "source")  # keys of run.json beside a method's fields
_EXPERIMENTS = ("__main__", "<run_path>")  # modules in which an experiment file runs


@dataclass(frozen=True)
class Source:
    """The file of a class as it was when the class was created. name: the class's qualified name."""

    path: str
    text: str
    name: str
    is_single_file: bool = True  # pickled as text; False for a module of a package, which workers import

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def stored(self, results_only: bool) -> dict[str, str]:
        """Return the entry in run.json; with `results_only`, without the file's name."""
        file = {} if results_only else {"file": Path(self.path).name}
        return file | {"class": self.name, "sha256": self.sha256}


_sources: dict[type, Source] = {}
_classes: dict[tuple[str, str], type] = {}  # by hash and name, so that unpickling finds a class that exists here
_modules: dict[str, tuple[str, str]] = {}  # path and text of modules that were executed from text
_validated: set[type] = set()


def record_source(cls: type) -> None:
    """Record the source of a new class, unless it is part of raykd or defined in an experiment file."""
    module = sys.modules.get(cls.__module__)
    path = getattr(module, "__file__", None)
    if cls.__module__.partition(".")[0] == "raykd" or cls.__module__ in _EXPERIMENTS or path is None:
        return
    path, text = _modules.get(cls.__module__) or (str(Path(path).absolute()), Path(path).read_text(encoding="utf-8"))
    source = Source(path, text, cls.__qualname__, is_single_file=not getattr(module, "__package__", ""))
    _sources[cls] = source
    _classes[source.sha256, source.name] = cls


def source_of(cls: type) -> Source | None:
    """Return the source of a user-defined class; None for raykd's classes."""
    return _sources.get(cls)


def restore(source: Source, values: dict[str, Any]) -> Any:
    """Return an object of the class in `source` with these fields; this is how pickle loads it."""
    if (source.sha256, source.name) not in _classes:
        _run(source.path, source.text)
    return _classes[source.sha256, source.name](**values)


def is_path(text: str) -> bool:
    """Return whether a method's value names a file rather than a kind of raykd's."""
    return ".py" in text


def load_class(location: str, base: type) -> Any:
    """Return the class that 'my_method.py:MyMethod' names.

    Raises ConfigError, with file, line and error, if it cannot be loaded or is no subclass of `base`.
    """
    file, _, name = location.rpartition(":")
    if not file.endswith(".py"):
        raise ConfigError(f"'{location}' names no class; give its file and its name: my_method.py:MyMethod")
    remedy = f"check the path, relative to {Path.cwd()}"
    path = require_file("method file", Path(file).expanduser(), remedy)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise ConfigError(f"method file '{file}' cannot be read ({reason}); {remedy}") from None
    loaded = _classes.get((hashlib.sha256(text.encode()).hexdigest(), name))
    cls = loaded or vars(_run(str(path.absolute()), text)).get(name)
    if cls is None:
        classes = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
        raise ConfigError(f"method file '{file}' has no class '{name}'{did_you_mean(name, classes)}")
    if not (isinstance(cls, type) and issubclass(cls, base)):
        remedy = f"derive it from raykd.{base.__name__}, or from one of raykd's methods"
        raise ConfigError(f"'{name}' in method file '{file}' is no {base.__name__.lower()}; {remedy}")
    return cls


def _run(path: str, text: str) -> ModuleType:
    """Execute the text as a module. Raises ConfigError with the line that failed."""
    module = ModuleType(f"raykd_custom_{hashlib.sha256(text.encode()).hexdigest()[:16]}")
    module.__file__ = path
    _modules[module.__name__], sys.modules[module.__name__] = (path, text), module
    try:
        with reading(f"method file '{path}'", path):
            _require_no_local_imports(path, text)
            exec(compile(text, path, "exec"), vars(module))  # noqa: S102 - the user's code, as an import would run it
    except ConfigError:
        del sys.modules[module.__name__]
        raise
    return module


def _require_no_local_imports(path: str, text: str) -> None:
    """Raise ConfigError if the file imports another one in its folder."""
    for node in ast.walk(ast.parse(text, path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level:
            raise ConfigError(
                f"method file '{path}' has a relative import (line {node.lineno}), but only this file is sent to the "
                "workers: copy the code into it, or install it as a package"
            )
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in (name.partition(".")[0] for name in names):
            beside = [Path(path).with_name(f"{name}.py"), Path(path).with_name(name) / "__init__.py"]
            if name != "raykd" and name not in sys.stdlib_module_names and any(path.is_file() for path in beside):
                raise ConfigError(
                    f"method file '{path}' imports '{name}' from its folder (line {getattr(node, 'lineno', 0)}), but "
                    f"only this file is sent to the workers: copy the code into it, or install {name} as a package"
                )


def require_valid_class(cls: Any, methods: list[Any], needs: tuple[str, ...]) -> None:
    """Raise ConfigError for a user-defined class that cannot name runs.

    methods: all methods, whose kinds are taken. needs: the values that `needs` may contain.
    """
    if cls.__module__.partition(".")[0] == "raykd" or cls in _validated:
        return
    source, title = source_of(cls), cls.__name__
    if source is None:
        raise ConfigError(
            f"method {title} is defined in the experiment file; move it to a separate file and import it: "
            "a run's fingerprint contains that file's hash"
        )
    where = f"{title} in '{source.path}'"
    is_valid = isinstance(kind := vars(cls).get("kind"), str) and re.fullmatch(r"[a-z][a-z0-9_]{0,99}", kind)
    if not is_valid:
        remedy = 'add kind: ClassVar[str] = "my_method" with a-z, 0-9 and _, at most 100 characters'
        raise ConfigError(f"{where} defines no valid kind, which names its runs; {remedy}")
    typed = [name for name, hint in vars(cls).get("__annotations__", {}).items() if "ClassVar" not in str(hint)]
    if typed and "__dataclass_fields__" not in vars(cls):
        raise ConfigError(f"{where}: {', '.join(typed)} cannot be set; put @dataclass(frozen=True) above the class")
    if reserved := [item.name for item in fields(cls) if item.name in _RESERVED_FIELDS]:
        raise ConfigError(f"{where} has a field '{reserved[0]}', a name that run.json reserves; rename it")
    _require_known_needs(cls, where, needs)
    for other in methods:
        other_source = source_of(other)
        is_earlier_version = other_source and (other_source.path, other_source.name) == (source.path, source.name)
        if other is not cls and vars(other).get("kind") == kind and not is_earlier_version:
            place = f"'{other_source.path}'" if other_source else "raykd"
            raise ConfigError(f"{where} has the kind '{kind}' of {other.__name__} in {place}; choose another")
    if source.is_single_file:
        _require_no_local_imports(source.path, source.text)
    _validated.add(cls)


def _require_known_needs(cls: Any, where: str, known: tuple[str, ...]) -> None:
    subject = f"{where}: needs = {shown(cls.needs)}"
    if not isinstance(cls.needs, set | frozenset):
        raise ConfigError(f'{subject}: must be a frozenset, such as frozenset({{"logits"}})')
    for name in cls.needs:
        if name not in known:
            nearest = did_you_mean(str(name), known)
            raise ConfigError(f"{subject}: '{name}' is not one of {', '.join(known)}{nearest}")
