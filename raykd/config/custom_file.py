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
    EXECUTED,
    LocalModule,
    imported_otherwise,
    is_local_folder,
    local_modules_among,
    local_modules_of,
    package_of,
    read_text,
    relative_import_line,
    root_of,
)
from raykd.config.signature import annotations_of
from raykd.config.text_modules import TextModules
from raykd.errors import ConfigError, did_you_mean, errors_of, reading, require_file

_EXPERIMENTS = ("__main__", "<run_path>")  # modules in which an experiment file runs


@dataclass(frozen=True)
class ClassSource:
    """The file of a class as it was when the class was created. name: the class's qualified name.

    noun: 'method', 'network' or 'callback', for messages. module: the module that workers import, for a class of an
    installed package; '' for a class that is pickled as text. local: the local modules that the text imports, directly
    or not. package: the local package that the file belongs to; '' if the text imports nothing local.
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
        """The hash of the text; with local modules, of all texts and the names of these modules.

        It contains the name of the package only if the text has a relative import, which depends on it.
        """
        content = self.text
        if self.package and self.has_relative_import:
            content = json.dumps([self.text, self.package, *([module.name, module.text] for module in self.local)])
        elif self.local:
            content = json.dumps([self.text, *([module.name, module.text] for module in self.local)])
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def has_relative_import(self) -> bool:
        return relative_import_line(self.text) > 0

    @cached_property
    def module_name(self) -> str:
        """The name under which the local modules import the file."""
        stem = Path(self.path).stem.replace(".", "_")
        name = self.package if stem == "__init__" and self.package else f"{self.package}.{stem}".strip(".")
        is_other = any(module.name == name and module.text != self.text for module in self.local)
        return f"{name}_file" if is_other else name

    @property
    def is_text(self) -> bool:
        """Whether the class is pickled as text."""
        return not self.module

    def to_entry(self, fingerprinted_only: bool) -> dict[str, Any]:
        """Return the entry in run.json.

        fingerprinted_only: return only what the fingerprint contains, without the names of file, package and imports.
        """
        names: dict[str, Any] = {"file": Path(self.path).name} | ({"module": self.module} if self.module else {})
        if self.local or self.package:
            names |= {"package": self.package, "imports": [module.file for module in self.local]}
        return ({} if fingerprinted_only else names) | {"class": self.name, "sha256": self.sha256}


_sources: dict[type, ClassSource] = {}
_classes: dict[tuple[str, str], type] = {}  # by hash and name, so that unpickling finds a class that exists here
_executed: dict[str, tuple[ClassSource, TextModules]] = {}  # by the name of the TextModules; the source's class varies


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
    executed, _, inner = module.__name__.partition(".")
    if executed in _executed:
        return _source_among(_executed[executed][0], inner, name, noun)
    path, package = Path(module.__file__).absolute(), module.__package__ or ""
    root = root_of(module.__name__, path)
    if package and not is_local_folder(root, package.partition(".")[0]):
        return ClassSource(str(path), _read(path), name, noun, module.__name__)
    return _with_local_modules(ClassSource(str(path), _read(path), name, noun), package, root)


def _source_among(executed: ClassSource, module: str, name: str, noun: str) -> ClassSource:
    """Return the source of the class `name` of `module`: the file of `executed`, or one of its local modules."""
    for local in executed.local if module != executed.module_name else ():
        if local.name == module:
            source = ClassSource(local.path, local.text, name, noun, local=local_modules_among(executed.local, local))
            return replace(source, package=local.package if _is_of_package(source) else "")
    return replace(executed, name=name, noun=noun)


def _with_local_modules(source: ClassSource, package: str, root: Path, *last: Path) -> ClassSource:
    """Return `source` with the local modules that its text imports. root, last: see `local_modules_of`."""
    source = replace(source, local=local_modules_of(source.path, source.text, package, root, *last))
    return replace(source, package=package) if _is_of_package(source) else source


def _is_of_package(source: ClassSource) -> bool:
    """Return whether the text may import modules of its package."""
    return bool(source.local) or source.has_relative_import


def require_unchanged(config: object) -> None:
    """Raise ConfigError if a Config has objects of user-defined classes whose files were edited after their import.

    Notebooks keep such classes, and autoreload even changes their code, while the recorded text stays the earlier one.
    """
    for source in _sources_in(config):
        file = Path(source.path).name
        for path, text in [(source.path, source.text), *((module.path, module.text) for module in source.local)]:
            try:
                is_changed = (_read if path == source.path else read_text)(Path(path)) != text
            except (OSError, SyntaxError, UnicodeDecodeError):
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
    known = [*_sources.values(), *(source for source, _ in _executed.values())]
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
    # The text is compared: the module is a local one here if PYTHONPATH no longer lists its folder
    if source is None or hashlib.sha256(source.text.encode()).hexdigest() != sha256:
        raise ConfigError(
            f"{noun} {name}: the module '{module}' that is installed here differs from the one that was used "
            f"(SHA-256 {sha256[:12]}); install that version"
        )
    _classes[sha256, name] = cls
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
    package, root = package_of(absolute)
    source = _with_local_modules(ClassSource(str(absolute), text, name, noun), package, root, absolute.parent)
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
    """Execute the text, and what it imports, as modules. Raises ConfigError with the line that failed."""
    name, before = f"{EXECUTED}{source.sha256[:16]}", set(sys.modules)
    if name not in _executed:
        texts = {module.name: (module.path, module.text) for module in source.local}
        _executed[name] = source, TextModules(name, texts | {source.module_name: (source.path, source.text)})
    executed, modules = _executed[name]
    try:
        with reading(f"{source.noun} file '{source.path}'", source.path):
            _require_package(source)
            module = modules.load(executed.module_name)
            _require_only_sent(source, set(sys.modules) - before)
    except ConfigError:
        _forget(name)
        raise
    return module


def _forget(executed: str) -> None:
    """Remove the modules of `_executed`, and the classes that were recorded while they were executed."""
    _, modules = _executed.pop(executed)
    modules.forget()
    for cls in [cls for cls in _sources if cls.__module__.startswith(f"{executed}.")]:
        source = _sources.pop(cls)
        _classes.pop((source.sha256, source.name), None)


def _require_only_sent(source: ClassSource, imported: set[str]) -> None:
    """Raise ConfigError if the text has imported a local module that is not one of its local modules."""
    found = imported_otherwise(imported)
    for name in found:
        del sys.modules[name]  # so that the next attempt finds it too
    sent = {module.name for module in source.local}
    for name in sorted(found, key=lambda name: (name in sent, -name.count(".")))[:1]:
        folder = root_of(name, Path(found[name])).resolve()
        raise ConfigError(
            f"{source.noun} file '{source.path}' has loaded '{name}' from '{folder}', which would not be sent to the "
            f"workers; write `import {name}` instead of importlib, and append that folder to sys.path in the "
            "experiment file"
        )


def _require_package(source: ClassSource) -> None:
    """Raise ConfigError for a relative import in a file that belongs to no package."""
    if not source.package and (line := relative_import_line(source.text)):
        raise ConfigError(
            f"{source.noun} file '{source.path}' has a relative import (line {line}), and its folder is no package; "
            "write `from blocks import ...` for `from .blocks import ...`, or add an empty __init__.py to the folder"
        )
