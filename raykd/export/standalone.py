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

from raykd.config import text_modules
from raykd.config.custom_file import ClassSource
from raykd.config.local_modules import LocalModule

_PACKAGE = "raykd"
_WITH_LOCAL_MODULES = '''"""{file}, and the modules that it imports, which are executed from their texts below."""
{loader}

TEXTS = {{
{texts}
}}
_network = TextModules({set_name!r}, TEXTS).load({name!r})
globals().update({{name: value for name, value in vars(_network).items() if not name.startswith("__")}})
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
    network = LocalModule(source.module_name, source.path, source.text)
    set_name = f"network_{source.sha256[:12]}"  # two exports in one process may have different modules of one name
    texts = {module.name: f"({f'{set_name}/{module.file}'!r}, {_literal(module.text)})" for module in source.local}
    texts[network.name] = f"({f'{set_name}/{network.file}'!r}, {_literal(network.text)})"
    return _WITH_LOCAL_MODULES.format(
        file=Path(source.path).name,
        loader=getsource(text_modules).partition('"""\n')[2],
        texts="\n".join(f"    {name!r}: {text}," for name, text in texts.items()),
        set_name=set_name,
        name=network.name,
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
