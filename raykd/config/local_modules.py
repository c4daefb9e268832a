"""The user's modules that a custom class imports: found without executing them, and loaded from their text.

A file with a network, a method or a callback may import files and packages of its folder, of the experiment's folder,
and of folders that the experiment appends to sys.path. Workers do not search these folders, and a user may edit the
files while a job runs. So the text of these modules travels with the class, and its hash covers them. Packages that the
environment has are not among them: a folder on PYTHONPATH, an editable install.

Only import statements are followed. A worker does not have what importlib.import_module loads.
"""

import ast
import importlib.machinery as machinery
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.util import decode_source, spec_from_loader
from pathlib import Path
from types import ModuleType

from raykd.errors import ConfigError, reason_of
from raykd.on_disk import is_file

MAX_CHARACTERS = 16_000_000  # of all modules of one class; each worker receives them
_LOADERS = (
    (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
)
_experiment_folders: list[str] = []  # the latest first; sys.path has them only while their files are read


@dataclass(frozen=True)
class LocalModule:
    """A module as it was when the class that imports it was loaded. name: as in `import mylib.blocks`."""

    name: str
    path: str
    text: str

    @property
    def is_package(self) -> bool:
        return Path(self.path).name == "__init__.py"

    @property
    def file(self) -> str:
        """The path of a copy, relative to a folder of copies: 'mylib/blocks.py'."""
        return self.name.replace(".", "/") + ("/__init__.py" if self.is_package else ".py")


def name_of(file: str) -> str:
    """Return the name of the module whose copy has the relative path `file`, as `LocalModule.file` returns it."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def add_experiment_folder(folder: Path) -> None:
    """Find local modules in the folder of an experiment file, also after the file was read, as `python FILE` does."""
    _experiment_folders[:] = [str(folder), *(other for other in _experiment_folders if other != str(folder))]


def is_local_folder(folder: Path) -> bool:
    """Return whether Python finds modules in `folder` here, and would not in a new process of this environment."""
    return not _is_installed(folder) and folder.resolve() in {entry.resolve() for entry in _search_path()}


def package_of(path: Path) -> tuple[str, Path]:
    """Return the name of the package in whose folder the file `path` is, '' for none, and the folder that has it."""
    folder, names = path.parent, []
    while is_file(folder / "__init__.py") and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names), folder


def local_modules_of(path: str, text: str, package: str, folders: Sequence[Path]) -> tuple[LocalModule, ...]:
    """Return the local modules that a file imports, and those that these import, sorted by their names.

    package: that the file belongs to, or ''. folders: searched first. Raises ConfigError for a module that cannot be
    sent to workers.
    """
    found: dict[str, LocalModule | None] = {}
    waiting = [(path, text, package)]
    searched = [_finder_of(folder) for folder in [*folders, *_search_path()]]  # each lists its folder once
    while waiting:
        path_of_import, text, package = waiting.pop()
        for name in _imported_names(text, package):
            for module in _with_parents(name, searched, found, path_of_import):
                inside = module.name if module.is_package else module.name.rpartition(".")[0]
                waiting.append((module.path, module.text, inside))
    modules = sorted(filter(None, found.values()), key=lambda module: module.name)
    if sum(len(module.text) for module in modules) > MAX_CHARACTERS:
        raise ConfigError(
            f"'{path}' imports {len(modules)} local modules of more than {MAX_CHARACTERS:,} characters, which each "
            "worker would receive; install them as a package"
        )
    return tuple(modules)


def relative_import_line(text: str) -> int:
    """Return the line of the first relative import; 0 if there is none."""
    lines = [node.lineno for node in ast.walk(_parsed(text)) if isinstance(node, ast.ImportFrom) and node.level]
    return min(lines, default=0)


def text_of(module: ModuleType) -> str | None:
    """Return the text that a module was executed from by `serving`; None for any other module."""
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    return loader.text.text if isinstance(loader, _TextLoader) and loader.text else None


@contextmanager
def serving(modules: Sequence[LocalModule]) -> Iterator[None]:
    """Import `modules` from their texts inside the context. What the process imported itself is back at its end.

    A function may import a module only when it is called: it gets the same module, unless Python itself finds one of
    this name.
    """
    if not modules:
        yield
        return
    loaders = _loaders_of(tuple(modules))
    before = {name: sys.modules.pop(name) for name in loaders if name in sys.modules}
    finder = _TextFinder(loaders)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in loaders:
            sys.modules.pop(name, None)
        sys.modules.update(before)
        _later.loaders |= loaders
        if _later not in sys.meta_path:
            sys.meta_path.append(_later)


class _TextLoader(InspectLoader):
    """Load one module from its text, once; a package without __init__.py has no `text`."""

    def __init__(self, text: LocalModule | None) -> None:
        self.text = text
        self._module: ModuleType | None = None

    def get_source(self, fullname: str) -> str:
        return self.text.text if self.text else ""

    def is_package(self, fullname: str) -> bool:
        return self.text is None or self.text.is_package

    def create_module(self, spec: machinery.ModuleSpec) -> ModuleType | None:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        if self.text and module is not self._module:
            module.__file__ = self.text.path
            exec(compile(self.text.text, self.text.path, "exec"), vars(module))  # noqa: S102 - as an import would
            self._name_classes(module)
        self._module = module

    def _name_classes(self, module: ModuleType) -> None:
        """Give the module's classes a module name that stays, for what looks their module up, as dataclasses do."""
        name = f"raykd_local_{id(module):x}"
        sys.modules[name] = module
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__:
                value.__module__ = name


class _TextFinder(MetaPathFinder):
    """Find the modules of `serving` by name."""

    def __init__(self, loaders: dict[str, _TextLoader]) -> None:
        self.loaders = loaders

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> machinery.ModuleSpec | None:
        if fullname not in self.loaders:
            return None
        text = self.loaders[fullname].text
        spec = spec_from_loader(fullname, self.loaders[fullname], origin=text.path if text else None)
        if spec and text and text.is_package:
            spec.submodule_search_locations = [str(Path(text.path).parent)]  # for importlib.resources
        return spec


_later = _TextFinder({})  # after Python's own finders, for imports inside functions


@cache  # each module is executed once
def _loaders_of(modules: tuple[LocalModule, ...]) -> dict[str, _TextLoader]:
    """Return the loaders of the modules and of the packages without __init__.py that they are in, by name."""
    loaders: dict[str, _TextLoader] = {}
    for module in modules:
        parts = module.name.split(".")
        for end in range(1, len(parts)):
            loaders.setdefault(".".join(parts[:end]), _TextLoader(None))
        loaders[module.name] = _TextLoader(module)
    return loaders


def _with_parents(
    name: str, finders: Sequence[machinery.FileFinder], found: dict[str, LocalModule | None], importer: str
) -> Iterator[LocalModule]:
    """Add the module `name` and its parents to `found`, as far as they are local, and yield those that are new.

    found: None for a package without __init__.py.
    """
    parts = name.split(".")
    if parts[0] == "raykd" or parts[0] in sys.stdlib_module_names:
        return
    inside = finders
    for end in range(1, len(parts) + 1):
        part = ".".join(parts[:end])
        spec = _find_spec(part, inside, is_top=end == 1)
        if spec is None:
            return
        if part not in found:
            found[part] = _read_module(part, spec, importer)
            if module := found[part]:
                yield module
        if spec.submodule_search_locations is None:
            return
        inside = [_finder_of(folder) for folder in spec.submodule_search_locations]


def _finder_of(folder: str | Path) -> machinery.FileFinder:
    return machinery.FileFinder(str(folder), *_LOADERS)


def _find_spec(name: str, finders: Sequence[machinery.FileFinder], is_top: bool) -> machinery.ModuleSpec | None:
    """Return where Python would find a module in the folders of `finders`; None if it is missing or not local."""
    package = None  # a folder without __init__.py, to which Python prefers what follows on the path
    for finder in finders:
        spec = finder.find_spec(name)
        is_installed = spec is not None and is_top and _is_installed(Path(finder.path))
        if spec is not None and spec.loader is not None:
            return None if is_installed else spec
        if not is_installed:
            package = package or spec
    return package


def _read_module(name: str, spec: machinery.ModuleSpec, importer: str) -> LocalModule | None:
    """Return the module with its text; None for a package without __init__.py."""
    if spec.loader is None or spec.origin is None:
        return None
    if not isinstance(spec.loader, machinery.SourceFileLoader):
        raise ConfigError(
            f"'{importer}' imports '{name}', a compiled module ('{spec.origin}'), which is not sent to the workers; "
            "install it as a package"
        )
    try:
        return LocalModule(name, spec.origin, decode_source(Path(spec.origin).read_bytes()))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"'{importer}' imports '{name}', and '{spec.origin}' cannot be read ({reason_of(error)})"
        ) from None


def _imported_names(text: str, package: str) -> Iterator[str]:
    """Yield the names of all modules that a text may import: of `from a import b`, 'a' and 'a.b'."""
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level and package else []
            if node.level and not parents:
                continue  # the import fails when it is executed
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])  # the error is reported when the text is executed


def _search_path() -> list[Path]:
    return [Path(entry or ".").absolute() for entry in [*_experiment_folders, *sys.path]]


def _is_installed(folder: Path) -> bool:
    return folder.resolve() in _installed_folders(os.environ.get("PYTHONPATH", ""))


@cache
def _installed_folders(python_path: str) -> frozenset[Path]:
    """Return the folders in which a new process of this environment finds modules."""
    folders = [
        Path(path) for path in (*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages())
    ]
    for folder in [*folders]:
        for file in sorted(folder.glob("*.pth")):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            folders += [
                folder / line.strip() for line in lines if line.strip() and not line.startswith(("#", "import"))
            ]
    folders += [Path(entry).absolute() for entry in python_path.split(os.pathsep) if entry]
    folders.append(Path(ast.__file__).parent)
    return frozenset(path.resolve() for folder in folders for path in (folder, folder / "lib-dynload"))
