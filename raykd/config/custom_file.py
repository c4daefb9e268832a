"""Classes that a user defines in a file: methods, networks and callbacks.

An experiment imports the class, or names it as 'my_file.py:MyClass'.

A class of a user's file is pickled as that file's text, which a worker executes as a module: another node may have no
such file, or another version of it. The texts of the local modules that the file imports are pickled with it
(local_modules.py). A class of an installed package is pickled by reference. The fingerprint of a run contains the
SHA-256 of its method's and network's text, so an edit makes new runs. Callbacks are not part of it.

cloudpickle's register_pickle_by_value is no substitute: it pickles objects instead of text, so a file with a function
under functools.cache, a lock or a handle would fail, and copies of dataclass fields lose the identity of MISSING.
"""

import ast
import hashlib
import json
import sys
import traceback
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from raykd.config.local_modules import (
    LocalModule,
    is_local_folder,
    local_modules_of,
    package_of,
    relative_import_line,
    serving,
    text_of,
)
from raykd.config.signature import annotations_of
from raykd.errors import ConfigError, did_you_mean, errors_of, reading, require_file

_EXPERIMENTS = ("__main__", "<run_path>")  # modules in which an experiment file runs


@dataclass(frozen=True)
class ClassSource:
    """The file of a class as it was when the class was created. name: the class's qualified name.

    noun: 'method', 'network' or 'callback', for messages. module: the module that workers import, for a class of an
    installed package; '' for a class that is pickled as text. local: the local modules that the text imports, directly
    or not. package: the local package that the file belongs to, for relative imports; '' if `local` is empty.
    """

    path: str
    text: str
    name: str
    noun: str
    module: str = ""
    local: tuple[LocalModule, ...] = ()
    package: str = ""

    @cached_property
    def sha256(self) -> str:
        """The hash of the text; with local modules, of all texts and the names of these modules."""
        content = self.text
        if self.local:
            content = json.dumps([self.text, *([module.name, module.text] for module in self.local)])
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def is_text(self) -> bool:
        """Whether the class is pickled as text."""
        return not self.module

    def to_entry(self, fingerprinted_only: bool) -> dict[str, Any]:
        """Return the entry in run.json.

        fingerprinted_only: return only what the fingerprint contains, without the names of file, package and imports.
        """
        names: dict[str, Any] = {"file": Path(self.path).name} | ({"module": self.module} if self.module else {})
        if self.local:
            names |= {"package": self.package, "imports": [module.file for module in self.local]}
        return ({} if fingerprinted_only else names) | {"class": self.name, "sha256": self.sha256}


_sources: dict[type, ClassSource] = {}
_classes: dict[tuple[str, str], type] = {}  # by hash and name, so that unpickling finds a class that exists here
_executed: dict[str, ClassSource] = {}  # by module, of the modules that were executed from text; its class varies


def record_source(cls: type, noun: str) -> ClassSource | None:
    """Record the source of a class, and return it; None for a class of raykd, or defined in an experiment file."""
    if cls in _sources:
        return _sources[cls]
    module = sys.modules.get(cls.__module__)
    path = getattr(module, "__file__", None)
    if cls.__module__.partition(".")[0] == "raykd" or cls.__module__ in _EXPERIMENTS or path is None:
        return None
    source = _source_in(module, cls.__qualname__, noun)
    _sources[cls] = source
    _classes[source.sha256, source.name] = cls
    return source


def _source_in(module: Any, name: str, noun: str) -> ClassSource:
    """Return the source of the class `name` of a module that the process has imported, or executed from text."""
    if executed := _executed.get(module.__name__):
        return replace(executed, name=name, noun=noun)
    path, package = Path(module.__file__).absolute(), module.__package__ or ""
    text = text_of(module)
    root = path.parents[module.__name__.count(".") + (path.name == "__init__.py")]
    if text is None and package and not is_local_folder(root):
        return ClassSource(str(path), _read(path), name, noun, module.__name__)
    return _with_local_modules(ClassSource(str(path), _read(path) if text is None else text, name, noun), package, root)


def _with_local_modules(source: ClassSource, package: str, *folders: Path) -> ClassSource:
    """Return `source` with the local modules that its text imports, which are in `folders` or on sys.path."""
    local = local_modules_of(source.path, source.text, package, folders)
    return replace(source, local=local, package=package) if local else source


def require_unchanged(config: object) -> None:
    """Raise ConfigError if a Config has objects of user-defined classes whose files were edited after their import.

    Notebooks keep such classes, and autoreload even changes their code, while the recorded text stays the earlier one.
    """
    for source in _sources_in(config):
        file = Path(source.path).name
        for path, text in [(source.path, source.text), *((module.path, module.text) for module in source.local)]:
            try:
                is_changed = _read(Path(path)) != text
            except (OSError, UnicodeDecodeError):
                continue  # the recorded text is what workers receive
            if is_changed:
                where = "it" if path == source.path else f"{file}, which imports it"
                raise ConfigError(
                    f"{source.noun} file '{path}' has changed since {source.name} was loaded from {where}; name the "
                    f"class as '{file}:{source.name}' and run the code that names it again, or restart Python"
                )


def _sources_in(value: object) -> Iterator[ClassSource]:
    """Yield the sources of all objects in `value`, a Config or a tuple of them."""
    if isinstance(value, tuple):
        for item in value:
            yield from _sources_in(item)
    elif is_dataclass(value):
        if source := source_of(getattr(value, "network_class", type(value))):  # the class behind a Network
            yield source
        for item in fields(value):
            yield from _sources_in(getattr(value, item.name))


def _read(path: Path) -> str:
    """Return the text of a Python file, without the byte order mark that some editors write."""
    return path.read_text(encoding="utf-8-sig")


def source_of(cls: type) -> ClassSource | None:
    """Return the recorded source of a user-defined class; None for raykd's classes."""
    return _sources.get(cls)


def user_line_of(error: BaseException) -> str:
    """Return the last line of a user's file in the traceback, such as 'my_net.py line 12'; '' without one.

    If the traceback has none, that of the error's cause is read.
    """
    known = [*_sources.values(), *_executed.values()]
    files = {path for source in known for path in (source.path, *(module.path for module in source.local))}
    cause: BaseException | None = error
    while cause is not None:
        lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(cause.__traceback__)]
        for path, line in reversed(lines):
            if path in files:
                return f"{Path(path).name} line {line}"
        cause = cause.__cause__
    return ""


def reduced(value: Any) -> tuple[Any, ...] | None:
    """Return what pickle stores of a dataclass object whose class is pickled as text; None for another object."""
    source = source_of(type(value))
    if source is None or not source.is_text:
        return None
    return restore, (source, {item.name: getattr(value, item.name) for item in fields(value)})


def restore(source: ClassSource, values: dict[str, Any]) -> Any:
    """Return an object of the class in `source` with these fields; this is how pickle loads it."""
    return restore_class(source)(**values)


def restore_class(source: ClassSource) -> Any:
    """Return the class in `source`. The text is executed only if this process does not have the class yet."""
    if (source.sha256, source.name) in _classes:
        return _classes[source.sha256, source.name]
    if source.module:
        return installed_class(source.module, source.name, source.sha256, source.noun)
    cls = _attribute(_run(source), source.name)
    record_source(cls, source.noun)
    return cls


def installed_class(module: str, name: str, sha256: str, noun: str) -> Any:
    """Return a class of an installed package. Raises ConfigError unless its module has the hash `sha256`."""
    try:
        cls = _attribute(import_module(module), name)
        source = record_source(cls, noun)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{noun} {name} of the module '{module}' cannot be imported ({error}); install its package"
        ) from None
    if source is None or source.sha256 != sha256:
        raise ConfigError(
            f"{noun} {name}: the module '{module}' that is installed here differs from the one that was used "
            f"(SHA-256 {sha256[:12]}); install that version"
        )
    return cls


def find_class(stored: dict[str, str]) -> Any:
    """Return the class of an entry of `ClassSource.to_entry`; None if this process has not loaded it.

    It executes no code. `restore_class` does, for callers that trust the code in a results folder.
    """
    return _classes.get((stored["sha256"], stored["class"]))


def _attribute(module: ModuleType, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def is_path(text: str) -> bool:
    """Return whether the name of a method or network names a file rather than one of raykd's."""
    return ".py" in text


def load_class(location: str, noun: str, example: str) -> Any:
    """Return the object that 'my_file.py:MyClass' names, which may have any type.

    noun: 'method', 'network' or 'callback'. example: shown in messages.
    Raises ConfigError, with file, line and error, if it cannot be loaded.
    """
    file, _, name = location.rpartition(":")
    if not file.endswith(".py"):
        raise ConfigError(f"'{location}' names no class; give its file and its name: {example}")
    remedy = f"check the path, relative to {Path.cwd()}"
    path = require_file(f"{noun} file", Path(file).expanduser(), remedy)
    try:
        text = _read(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not valid UTF-8"
        raise ConfigError(f"{noun} file '{file}' cannot be read ({reason}); {remedy}") from None
    absolute = path.absolute()
    package, folder = package_of(absolute)
    source = _with_local_modules(ClassSource(str(absolute), text, name, noun), package, absolute.parent, folder)
    loaded = _classes.get((source.sha256, name))
    if loaded is not None and _sources[loaded].is_text:
        _sources[loaded] = replace(_sources[loaded], path=source.path)  # it may come from a copy of this file
    cls = loaded or vars(_run(source)).get(name)
    if cls is None:
        classes = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
        raise ConfigError(f"{noun} file '{file}' has no class '{name}'{did_you_mean(name, classes)}")
    return cls


def create(cls: Any, text: str, noun: str) -> Any:
    """Return an object of the class that `text` names, with the defaults of its fields. Raises ConfigError."""
    if required := [item.name for item in fields(cls) if item.default is MISSING is item.default_factory]:
        raise ConfigError(f"{text} cannot be created: its field '{required[0]}' has no default; give it one")
    source = source_of(cls)
    with errors_of(f"{noun} {text}", source.path if source else ""):
        return cls()


def error_of_class_without_file(cls: type, noun: str, example: str) -> ConfigError:
    """Return the error for a class of an experiment file, of a notebook or of an interactive session.

    example: as in `load_class`.
    """
    file = example.partition(":")[0]
    if cls.__module__ == "__main__" and getattr(sys.modules["__main__"], "__file__", None) is None:
        return ConfigError(
            f"{noun} {cls.__name__} is defined in a notebook or an interactive session, and workers load it from a "
            f"file; write the cell to a file, with %%writefile {file} as its first line, and name the class as "
            f"'{file}:{cls.__name__}'"
        )
    why = "the workers receive the text" if noun == "callback" else "a run's fingerprint contains the hash"
    return ConfigError(
        f"{noun} {cls.__name__} is defined in the experiment file; move it to a separate file, such as {file}, and "
        f"import it: {why} of that file"
    )


def require_dataclass(cls: type, where: str) -> None:
    """Raise ConfigError if the class has typed fields and no @dataclass. where: names the class in the message."""
    typed = [name for name, hint in annotations_of(cls).items() if "ClassVar" not in str(hint)]
    if typed and "__dataclass_fields__" not in vars(cls):
        raise ConfigError(f"{where}: {', '.join(typed)} cannot be set; put @dataclass(frozen=True) above the class")


def _run(source: ClassSource) -> ModuleType:
    """Execute the text as a module. Raises ConfigError with the line that failed."""
    module = ModuleType(f"raykd_custom_{source.sha256[:16]}")
    module.__file__, module.__package__ = source.path, source.package
    _executed[module.__name__], sys.modules[module.__name__] = source, module
    try:
        with reading(f"{source.noun} file '{source.path}'", source.path), serving(source.local):
            _require_package(source)
            exec(compile(source.text, source.path, "exec"), vars(module))  # noqa: S102 - as an import would run it
    except ConfigError:
        del sys.modules[module.__name__]
        raise
    return module


def _require_package(source: ClassSource) -> None:
    """Raise ConfigError for a relative import in a file that belongs to no package."""
    if not source.package and (line := relative_import_line(source.text)):
        raise ConfigError(
            f"{source.noun} file '{source.path}' has a relative import (line {line}), and its folder is no package; "
            "write `from blocks import ...` for `from .blocks import ...`, or add an empty __init__.py to the folder"
        )
