"""Modules that are executed from texts, each set of them under names of its own.

The module `mylib.blocks` of the set 'net_0123' is 'net_0123.mylib.blocks' in sys.modules. An import of it in the texts
is executed as the relative import that finds it, also inside functions. So a process may have several sets with
different modules of one name, and no other import of the process finds them. A replaced __import__ would not do:
torch.compile does not call it.

Exports contain a copy of this file, so it imports the standard library only.
"""

import ast
import linecache
import sys
from collections.abc import Container
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any


class TextModules(MetaPathFinder, InspectLoader):
    """A set of modules. texts: (path, text) of each by name; a package without __init__.py needs none.

    The paths appear in tracebacks, and as __file__. A file need not be there.
    """

    def __init__(self, name: str, texts: dict[str, tuple[str, str]]) -> None:
        parents = {name.rsplit(".", end)[0] for name in texts for end in range(1, 1 + name.count("."))}
        self.name = name
        self.texts = dict.fromkeys(parents, ("", "")) | texts
        package = ModuleType(name)
        package.__path__ = []
        sys.modules[name] = package
        sys.meta_path.insert(0, self)

    def load(self, name: str) -> ModuleType:
        """Return the module `name` of the set. It is executed once."""
        return import_module(f"{self.name}.{name}")

    def forget(self) -> None:
        """Remove the set from the process."""
        sys.meta_path.remove(self)
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{self.name}.")]:
            del sys.modules[name]

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(f"{self.name}."):
            return None
        name = fullname.removeprefix(f"{self.name}.")
        if name not in self.texts:
            on_disk = PathFinder.find_spec(name.rpartition(".")[2], [*(path or ())])
            if on_disk and on_disk.loader:
                raise ImportError(f"'{name}' is not imported by an import statement; add `import {name}`")
            raise ModuleNotFoundError(f"No module named {name!r}", name=fullname)
        spec = spec_from_loader(fullname, self, origin=self.texts[name][0] or None, is_package=self.is_package(name))
        if spec and spec.submodule_search_locations is not None and spec.origin:
            spec.submodule_search_locations.append(str(Path(spec.origin).parent))
        return spec

    def is_package(self, fullname: str) -> bool:
        path, _ = self.texts[fullname.removeprefix(f"{self.name}.")]
        return not path or Path(path).name == "__init__.py"

    def get_source(self, fullname: str) -> str:
        return self.texts[fullname.removeprefix(f"{self.name}.")][1]

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix(f"{self.name}.")
        path, text = self.texts[name]
        if not path:
            return
        module.__file__ = path
        # inspect.getsource reads this text, as torch.jit.script does, and not a file that was edited
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
        level = 1 + name.count(".") + self.is_package(name)  # dots of a relative import from the set
        tree = _RelativeImports(level, self.texts).visit(ast.parse(text, path))
        code = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
        exec(code, vars(module))  # noqa: S102 - as an import would run it


class _RelativeImports(ast.NodeTransformer):
    """Make imports of the modules `names` relative. level: the dots of such an import."""

    def __init__(self, level: int, names: Container[str]) -> None:
        self.level, self.names = level, names

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.module and not node.level and node.module.partition(".")[0] in self.names:
            node.level = self.level
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        statements: list[ast.stmt] = []
        for alias in node.names:
            top = alias.name.partition(".")[0]
            parent, _, last = alias.name.rpartition(".")
            if top not in self.names:
                statements.append(ast.Import([alias]))
                continue
            loaded = ast.alias("__name__", "_loaded")  # raises ModuleNotFoundError if the module is missing
            bound = (parent or None, ast.alias(last, alias.asname)) if alias.asname else (None, ast.alias(top))
            statements.append(ast.ImportFrom(alias.name, [loaded], self.level))
            statements.append(ast.ImportFrom(bound[0], [bound[1]], self.level))
        return [ast.copy_location(statement, node) for statement in statements]
