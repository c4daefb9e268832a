"""The user's modules that a custom class imports, found without executing them. text_modules.py executes them.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import decode_source
from pathlib import Path

from raykd.disk.lookup import is_file
from raykd.errors import ConfigError, reason_of

EXECUTED = "raykd_custom_"  # how the names of modules that are executed from text begin
# Environment variable: the PYTHONPATH of the user in a Slurm job, which adds a folder to it, such as the submission's
USER_PYTHON_PATH = "RAYKD_USER_PYTHONPATH"
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
    def package(self) -> str:
        """The package to which the module's relative imports refer; '' for none."""
        return self.name if self.is_package else self.name.rpartition(".")[0]

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


def is_local_folder(folder: Path, name: str) -> bool:
    """Return whether Python finds the top-level module `name` in `folder`, but not in a new process."""
    if _is_installed(folder) or _is_editable(name, folder):
        return False
    return folder.resolve() in {entry.resolve() for entry in _search_path()}


def package_of(path: Path) -> tuple[str, Path]:
    """Return the name of the package in whose folder the file `path` is, '' for none, and the folder that has it."""
    folder, names = path.parent, []
    while is_file(folder / "__init__.py") and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names), folder


def local_modules_of(path: str, text: str, package: str, root: Path, *last: Path) -> tuple[LocalModule, ...]:
    """Return the local modules that a file imports, and those that these import, sorted by their names.

    package: that the file belongs to, or ''. root: the folder of that package, else of the file; it is searched before
    sys.path, and `last` after it. What is beside a file without a package, and what a relative import names, is local,
    also if PYTHONPATH lists the folder. Raises ConfigError for a module that cannot be sent to workers.
    """
    folders = _Folders([root, *_search_path(), *last])
    if not package or relative_import_line(text):
        folders.local = [root, *last]
    modules = _reachable(path, text, package, folders.modules_of)
    if sum(len(module.text) for module in modules) > MAX_CHARACTERS:
        raise ConfigError(
            f"'{path}' imports {len(modules)} local modules of more than {MAX_CHARACTERS:,} characters, which each "
            "worker would receive; install them as a package"
        )
    return modules


def local_modules_among(modules: Sequence[LocalModule], importer: LocalModule) -> tuple[LocalModule, ...]:
    """Return those of `modules` that `importer` imports, and those that these import, sorted by their names."""
    by_name = {module.name: module for module in modules}

    def modules_of(name: str, importer: str) -> Iterator[LocalModule]:
        yield from (by_name[part] for part in _with_parents(name) if part in by_name)

    return _reachable(importer.path, importer.text, importer.package, modules_of)


def relative_import_line(text: str) -> int:
    """Return the line of the first relative import; 0 if there is none."""
    lines = [node.lineno for node in ast.walk(_parsed(text)) if isinstance(node, ast.ImportFrom) and node.level]
    return min(lines, default=0)


def imported_otherwise(names: Iterable[str]) -> dict[str, str]:
    """Return {name: file} of the local modules among the imported modules `names`, as sys.modules has them.

    It has no module of a `TextModules`: what an import statement names is executed from its text.
    """
    found, is_local = {}, cache(is_local_folder)
    for name in sorted(names):
        file, top = getattr(sys.modules.get(name), "__file__", None), name.partition(".")[0]
        if not isinstance(file, str) or top == "raykd" or top.startswith(EXECUTED) or not Path(file).is_absolute():
            continue
        if is_local(root_of(name, Path(file)), top) and top not in packages_distributions():
            found[name] = file
    return found


def root_of(name: str, path: Path) -> Path:
    """Return the folder in which Python finds the top-level package of the module `name`, which has the file `path`."""
    depth = name.count(".") + (path.name == "__init__.py")
    return path.parents[min(depth, len(path.parents) - 1)]


def _reachable(
    path: str, text: str, package: str, modules_of: Callable[[str, str], Iterator[LocalModule]]
) -> tuple[LocalModule, ...]:
    """Return all modules that a text imports. modules_of: of an imported name and the path of the file with it."""
    found: dict[str, LocalModule] = {}
    waiting = [(path, text, package)]
    while waiting:
        importer, text, package = waiting.pop()
        for name in _imported_names(text, package):
            for module in modules_of(name, importer):
                if module.name not in found:
                    found[module.name] = module
                    waiting.append((module.path, module.text, module.package))
    return tuple(found[name] for name in sorted(found))


class _Folders:
    """The folders in which Python finds local modules. Each module is searched and read once."""

    def __init__(self, path: Sequence[Path]) -> None:
        self.local: Sequence[Path] = ()  # those of `path` that are local even if PYTHONPATH lists them
        self._path = path
        self._finders: dict[Path, machinery.FileFinder] = {}
        self._found: dict[str, tuple[LocalModule | None, list[Path] | None] | None] = {}

    def modules_of(self, name: str, importer: str) -> Iterator[LocalModule]:
        """Yield the local modules that an import of `name` loads: its parents, and itself."""
        inside: list[Path] | None = None
        for part in _with_parents(name):
            if part not in self._found:
                self._found[part] = self._find(part, inside, importer)
            found = self._found[part]
            if found is None:
                return
            module, inside = found
            if module:
                yield module
            if inside is None:
                return

    def _find(
        self, name: str, inside: list[Path] | None, importer: str
    ) -> tuple[LocalModule | None, list[Path] | None] | None:
        """Return a module, and the folders of a package; None if it is missing or not local.

        inside: the folders of its package; None for a top-level module. A package without __init__.py is no module.
        """
        if name == "raykd":
            return None
        spec = self._spec(name, self._path if inside is None else inside, is_top=inside is None)
        if spec is None or _is_standard(spec, importer):
            return None
        locations = spec.submodule_search_locations
        folders = None if locations is None else [Path(folder) for folder in locations]
        return _read_module(name, spec, importer), folders

    def _spec(self, name: str, folders: Sequence[Path], is_top: bool) -> machinery.ModuleSpec | None:
        """Return where Python would find a module if `folders` were its path; None if it is missing or not local."""
        package = None  # a folder without __init__.py, to which Python prefers what follows on the path
        for folder in folders:
            if folder not in self._finders:
                self._finders[folder] = machinery.FileFinder(str(folder), *_LOADERS)
            spec = self._finders[folder].find_spec(name)
            if spec is None:
                continue
            if is_top and self._is_installed(name, folder):
                if spec.loader is not None:
                    return None
            elif spec.loader is not None:
                return spec
            else:
                package = package or spec
        return package

    def _is_installed(self, name: str, folder: Path) -> bool:
        if folder in self.local:
            return _is_of_environment(folder)
        return _is_installed(folder) or _is_editable(name, folder)


def _with_parents(name: str) -> Iterator[str]:
    """Yield 'a', 'a.b' and 'a.b.c' for 'a.b.c'."""
    parts = name.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _is_standard(spec: machinery.ModuleSpec, importer: str) -> bool:
    """Return whether an import of the local module `spec` loads one of the standard library instead.

    Raises ConfigError if Python has loaded, or would load, the local one: workers would load the other.
    """
    if spec.name not in sys.stdlib_module_names:
        return False
    loaded = sys.modules.get(spec.name)
    if spec.loader is not None and (loaded is None or getattr(loaded, "__file__", None) == spec.origin):
        raise ConfigError(
            f"'{importer}' imports '{spec.name}', which is '{spec.origin}' here, and a module of Python's standard "
            "library on the workers; rename the file"
        )
    return True


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
        return LocalModule(name, spec.origin, read_text(Path(spec.origin)))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"'{importer}' imports '{name}', and '{spec.origin}' cannot be read ({reason_of(error)})"
        ) from None


def read_text(path: Path) -> str:
    """Return the text of a Python file as Python decodes it."""
    return decode_source(path.read_bytes())


def _imported_names(text: str, package: str) -> Iterator[str]:
    """Yield the names of all modules that a text may import: of `from a import b`, 'a' and 'a.b'."""
    for node in _executed_nodes(_parsed(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level and package else []
            if node.level and not parents:
                continue  # the import fails when it is executed
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


def _executed_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield all nodes but those under `if TYPE_CHECKING`, which only type checkers read."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        test = getattr(node, "test", None)
        name = getattr(test, "id", getattr(test, "attr", ""))  # of `TYPE_CHECKING` and `typing.TYPE_CHECKING`
        if isinstance(node, ast.If) and name == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])  # the error is reported when the text is executed


def _search_path() -> list[Path]:
    return [Path(entry or ".").absolute() for entry in [*_experiment_folders, *sys.path]]


def _is_installed(folder: Path) -> bool:
    """Return whether Python finds modules in `folder` in a new process of this environment."""
    python_path = os.environ.get(USER_PYTHON_PATH, os.environ.get("PYTHONPATH", ""))
    return _is_of_environment(folder) or folder.resolve() in _listed_folders(python_path)


def _is_editable(name: str, folder: Path) -> bool:
    """Return whether `folder` has a package that setuptools installed as editable, for which it adds a finder."""
    finders = [module for other, module in sys.modules.items() if other.startswith("__editable__")]
    places = [getattr(module, "MAPPING", {}).get(name) for module in finders]
    return any(place and Path(place).parent.resolve() == folder.resolve() for place in places)


def _is_of_environment(folder: Path) -> bool:
    """Return whether `folder` is one of the environment's, or below site-packages, where Ray has modules."""
    resolved, site_packages = folder.resolve(), _site_packages()
    if resolved in site_packages or resolved in _standard_library():
        return True
    return str(folder) not in _experiment_folders and any(map(resolved.is_relative_to, site_packages))


@cache
def _site_packages() -> frozenset[Path]:
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return frozenset(Path(path).resolve() for path in [*paths, site.getusersitepackages()])


@cache
def _standard_library() -> frozenset[Path]:
    folders = [*map(Path, sysconfig.get_paths().values()), Path(ast.__file__).parent]
    return frozenset(path.resolve() for folder in folders for path in (folder, folder / "lib-dynload"))


@cache
def _listed_folders(python_path: str) -> frozenset[Path]:
    """Return the folders that PYTHONPATH and the environment's .pth files list."""
    entries = [Path(entry) for entry in python_path.split(os.pathsep)]
    folders = [entry for entry in entries if entry.is_absolute()]  # workers have another working directory
    for folder in _site_packages():
        for file in sorted(folder.glob("*.pth")):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            folders += [
                folder / line.strip() for line in lines if line.strip() and not line.startswith(("#", "import"))
            ]
    return frozenset(folder.resolve() for folder in folders)
