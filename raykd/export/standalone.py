"""The source of a network as one module, for exports that are used without raykd.

Of a network of raykd, it has the network's class, and every class, function and constant of raykd that the class uses,
as they are in the files of raykd. Of a custom network, it has the local modules that its file imports.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from inspect import getsource
from pathlib import Path

from raykd.config.custom_file import ClassSource

_PACKAGE = "raykd"
# Imports of the local modules load these texts. The file's text is executed, because its first line may be an import
# from __future__.
_WITH_LOCAL_MODULES = '''"""{file}, and the modules that it imports."""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.util import spec_from_loader

TEXTS = {{
{texts}
}}


class _Texts(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        is_package = any(other.startswith(name + ".") for other in TEXTS)
        if is_package or name in TEXTS:
            return spec_from_loader(name, self, is_package=is_package)

    def exec_module(self, module):
        exec(TEXTS.get(module.__name__, ""), vars(module))


sys.meta_path.insert(0, _Texts())
__spec__, __package__ = None, {package!r}
exec({text})
'''


@dataclass(frozen=True)
class _Module:
    """A parsed module.

    lines: its text. definitions: its top-level classes, functions and constants by name. imports: (other module,
    original name) of each imported name; the original name is '' for an imported module.
    """

    lines: list[str]
    definitions: dict[str, ast.stmt]
    imports: dict[str, tuple[str, str]]


def standalone_source(network_class: type) -> str:
    """Return the text of a module with `network_class` that does not import raykd."""
    parts: dict[tuple[str, int], str] = {}
    imports: dict[str, tuple[str, str]] = {}
    _collect(network_class.__module__, network_class.__name__, parts, imports)
    title = f'"""{network_class.__name__}, a torch.nn.Module of raykd, and everything that it uses."""'
    head = [title, "from __future__ import annotations", "\n".join(_import_lines(imports))]
    return "\n\n\n".join(["\n\n".join(head), *parts.values()]) + "\n"


def with_local_modules(source: ClassSource) -> str:
    """Return the text of a custom network's file, or of a module that has this text and those of its local modules."""
    if not source.local:
        return source.text
    texts = "\n".join(f"    {module.name!r}: {_literal(module.text)}," for module in source.local)
    return _WITH_LOCAL_MODULES.format(
        file=Path(source.path).name, texts=texts, package=source.package, text=_literal(source.text)
    )


def _literal(text: str) -> str:
    """Return a literal of the text, with its lines as they are if that is possible."""
    quoted = f"r'''{text}'''"
    return quoted if "'''" not in text and not text.endswith(("'", "\\")) and "\r" not in text else repr(text)


def _import_lines(imports: dict[str, tuple[str, str]]) -> list[str]:
    """Return one line for each imported module, sorted. imports: as in _Module."""
    lines, names = [], {}
    for name, (module, original) in imports.items():
        if original:
            names.setdefault(module, []).append(original if original == name else f"{original} as {name}")
        else:
            lines.append(f"import {module}" if module == name else f"import {module} as {name}")
    return sorted([*lines, *(f"from {module} import {', '.join(sorted(found))}" for module, found in names.items())])


def _collect(
    module: str, name: str, parts: dict[tuple[str, int], str], imports: dict[str, tuple[str, str]], above: tuple = ()
) -> None:
    """Add the definition of `name` to `parts`, after those that it uses, and the imports of all of them to `imports`.

    parts: text by module and line. above: the keys of definitions that are being added, which may use each other.
    """
    file = _parsed(module)
    node = file.definitions[name]
    key = (module, node.lineno)
    if key in parts or key in above:
        return
    for used in _names_in(node):
        origin, original = file.imports.get(used, (module, used) if used in file.definitions else ("", ""))
        if origin.partition(".")[0] != _PACKAGE:
            imports |= {used: (origin, original)} if origin else {}
        else:
            assert used == original, f"{module}: {original} is imported under another name"
            _collect(origin, original, parts, imports, (key, *above))
    parts[key] = "\n".join(file.lines[node.lineno - 1 : node.end_lineno])  # with the comment at the end of a constant


def _names_in(node: ast.AST) -> Iterator[str]:
    """Yield the names that a definition reads, including those in its annotations."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id


@cache
def _parsed(module: str) -> _Module:
    text = getsource(sys.modules[module])
    definitions: dict[str, ast.stmt] = {}
    imports: dict[str, tuple[str, str]] = {}
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)]
            definitions |= dict.fromkeys(names, node)  # several for A, B = 1, 2
    for node in ast.walk(tree):  # also those for type checkers
        if isinstance(node, ast.ImportFrom):
            imports |= {alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            imports |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return _Module(text.splitlines(), definitions, imports)
