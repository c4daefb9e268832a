"""Modules that are executed from texts, each set of them under names of its own.

The module `mylib.blocks` of the set 'net_0123' is 'net_0123.mylib.blocks' in sys.modules. The import statements of the
texts look for a module in their set first, also those inside functions. So a process may have several sets with
different modules of one name, and no other import of the process finds them.

Exports contain a copy of this file, so it imports the standard library only.
"""

import builtins
import linecache
import sys
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
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
        self._builtins = vars(builtins) | {"__import__": self._import}
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
            leaf = name.rpartition(".")[2]
            for file in [Path(folder) / end for folder in path or () for end in (f"{leaf}.py", f"{leaf}/__init__.py")]:
                if file.exists():
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
        path, text = self.texts[module.__name__.removeprefix(f"{self.name}.")]
        if not path:
            return
        module.__file__ = path
        if len(self.texts) > 1:
            vars(module)["__builtins__"] = self._builtins
        # inspect.getsource reads this text, as torch.jit.script does, and not a file that was edited
        linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
        exec(compile(text, path, "exec", dont_inherit=True), vars(module))  # noqa: S102 - as an import would run it

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        """Import as the statement does, from the set if it has the top-level module of `name`."""
        top = name.partition(".")[0]
        if level or top not in self.texts:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist, 0)
        return module if fromlist else sys.modules[f"{self.name}.{top}"]
