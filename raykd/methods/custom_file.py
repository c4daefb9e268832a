"""Methods of a person's own: classes in files, by `--set method=my_method.py:MyMethod` or an experiment's import.

A class of a single file is pickled as that file's text, which a worker runs as a module: on another node the file may
not be there, or be another. So the file stands alone: what it imports is raykd's, or installed. A class of an
installed package goes by its name. A run is known by the text's sha256: an edited method makes other runs.
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

_NOT_FIELDS = ("kind", "source")  # words of run.json beside a method's fields
_EXPERIMENTS = ("__main__", "<run_path>")  # modules in which an experiment file runs


@dataclass(frozen=True)
class Source:
    """A class's file as it was when the class was made. path: where it was read."""

    path: str
    text: str
    name: str
    travels: bool = True  # as text; False for a module of a package, which is found by its name

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def stored(self, results_only: bool) -> dict[str, str]:
        """For run.json: file, class, hash of the file. What decides the result: not what the file is called."""
        file = {} if results_only else {"file": Path(self.path).name}
        return file | {"class": self.name, "sha256": self.sha256}


_sources: dict[type, Source] = {}
_classes: dict[tuple[str, str], type] = {}  # by hash and name: what comes back from a worker is the class that went
_modules: dict[str, tuple[str, str]] = {}  # path and text of those that ran from text
_sound: set[type] = set()


def note(cls: type) -> None:
    """Keep the source of a class that is being made, unless it is raykd's own."""
    module = sys.modules.get(cls.__module__)
    if cls.__module__.partition(".")[0] == "raykd" or cls.__module__ in _EXPERIMENTS or module is None:
        return
    path = getattr(module, "__file__", None)
    if path is None:
        return
    path, text = _modules.get(cls.__module__) or (str(Path(path).absolute()), Path(path).read_text(encoding="utf-8"))
    source = Source(path, text, cls.__qualname__, travels=not getattr(module, "__package__", ""))
    _sources[cls] = source
    _classes[source.sha256, source.name] = cls


def source_of(cls: type) -> Source | None:
    """None for raykd's own."""
    return _sources.get(cls)


def restored(source: Source, values: dict[str, Any]) -> Any:
    """The object whose class `source` has, wherever it was pickled."""
    if (source.sha256, source.name) not in _classes:
        _run(source.path, source.text)
    return _classes[source.sha256, source.name](**values)


def is_path(words: str) -> bool:
    """Whether a method's word names a file, not one of raykd's."""
    return ".py" in words


def class_at(words: str, base: type) -> Any:
    """The class that 'my_method.py:MyMethod' names. Raises ConfigError, with file, line and error, where it cannot be
    had, and where it is no `base`.
    """
    file, _, name = words.rpartition(":")
    if not file.endswith(".py"):
        raise ConfigError(f"'{words}' names no class; give its file and its name: my_method.py:MyMethod")
    remedy = f"check the path, from {Path.cwd()}"
    path = require_file("method file", Path(file).expanduser(), remedy)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise ConfigError(f"method file '{file}' cannot be read ({reason}); {remedy}") from None
    known = _classes.get((hashlib.sha256(text.encode()).hexdigest(), name))
    found = known or vars(_run(str(path.absolute()), text)).get(name)
    if found is None:
        raise ConfigError(f"method file '{file}' has no class '{name}'{did_you_mean(name, _names(text))}")
    if not (isinstance(found, type) and issubclass(found, base)):
        wanted = f"derive it from raykd.{base.__name__}, or from a method of raykd's"
        raise ConfigError(f"'{name}' in method file '{file}' is no {base.__name__.lower()}; {wanted}")
    return found


def _run(path: str, text: str) -> ModuleType:
    """The text as a module. Raises ConfigError with the line that failed."""
    module = ModuleType(f"raykd_own_{hashlib.sha256(text.encode()).hexdigest()[:16]}")
    module.__file__ = path
    _modules[module.__name__], sys.modules[module.__name__] = (path, text), module
    try:
        with reading(f"method file '{path}'", path):
            require_alone(path, text)
            exec(compile(text, path, "exec"), vars(module))  # noqa: S102 - the user's code, as an import would run it
    except ConfigError:
        del sys.modules[module.__name__]
        raise
    return module


def _names(text: str) -> list[str]:
    return [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]


def require_alone(path: str, text: str) -> None:
    """Raise ConfigError where a file imports another that lies beside it."""
    for node in ast.walk(ast.parse(text, path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level:
            raise ConfigError(
                f"method file '{path}' has a relative import (line {node.lineno}), but goes to the workers alone: "
                "put what it needs into it, or install that as a package"
            )
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in (name.partition(".")[0] for name in names):
            beside = [Path(path).with_name(f"{name}.py"), Path(path).with_name(name) / "__init__.py"]
            if name != "raykd" and name not in sys.stdlib_module_names and any(found.is_file() for found in beside):
                raise ConfigError(
                    f"method file '{path}' imports '{name}', a file beside it (line {getattr(node, 'lineno', 0)}), but "
                    f"goes to the workers alone: put what it needs into it, or install {name} as a package"
                )


def require_sound(cls: Any, others: list[Any], needs: tuple[str, ...]) -> None:
    """Raise ConfigError for a class that runs could not be named by. others: all methods; needs: what one may need."""
    if cls.__module__.partition(".")[0] == "raykd" or cls in _sound:
        return
    source, title = source_of(cls), cls.__name__
    if source is None:
        raise ConfigError(
            f"method {title} is made in the experiment file itself; put it into a file of its own and import it: "
            "a run knows its method by that file's hash"
        )
    where = f"{title} in '{source.path}'"
    plain = isinstance(kind := vars(cls).get("kind"), str) and re.fullmatch(r"[a-z][a-z0-9_]{0,99}", kind)
    if not plain:
        wants = 'give it a line kind: ClassVar[str] = "my_method", of a-z, 0-9 and _, at most 100 characters'
        raise ConfigError(f"{where} has no kind of its own, by which its runs are named; {wants}")
    typed = [name for name, hint in vars(cls).get("__annotations__", {}).items() if "ClassVar" not in str(hint)]
    if typed and "__dataclass_fields__" not in vars(cls):
        raise ConfigError(f"{where}: {', '.join(typed)} cannot be set; put @dataclass(frozen=True) above the class")
    if taken := [item.name for item in fields(cls) if item.name in _NOT_FIELDS]:
        raise ConfigError(f"{where} has a field '{taken[0]}', which run.json has another use for; rename it")
    _require_known_needs(cls, where, needs)
    for other in others:
        theirs = source_of(other)
        earlier = theirs is not None and (theirs.path, theirs.name) == (source.path, source.name)  # before an edit
        if other is not cls and vars(other).get("kind") == kind and not earlier:
            whose = f"'{theirs.path}'" if theirs else "raykd"
            raise ConfigError(f"{where} has the kind '{kind}', which is {other.__name__}'s of {whose}; give it another")
    if source.travels:
        require_alone(source.path, source.text)
    _sound.add(cls)


def _require_known_needs(cls: Any, where: str, known: tuple[str, ...]) -> None:
    given = f"{where}: needs = {shown(cls.needs)}"
    if not isinstance(cls.needs, set | frozenset):
        raise ConfigError(f'{given}: must be a frozenset, such as frozenset({{"logits"}})')
    for word in cls.needs:
        if word not in known:
            nearest = did_you_mean(str(word), known)
            raise ConfigError(f"{given}: '{word}' is not one of {', '.join(known)}{nearest}")
