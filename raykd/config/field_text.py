"""The sentence that describes each field of a Config: the comment beside or above the field in the source file.

    alpha: float = 0.5  # weight of the labels' cross-entropy, in [0, 1]

A field that is generated, such as an argument of a network of timm, has no source, and its description is ''.
"""

import ast
import inspect
import io
import tokenize
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from raykd.config.typed import Config
from raykd.disk.lookup import is_file


def field_texts(cls: type[Config]) -> dict[str, str]:
    """Return the description of each field of `cls` by its name. Subclasses may repeat a field to describe it anew."""
    texts: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        texts |= {name: text for name, text in _texts_in_class(owner).items() if text}
    return texts


@cache
def _texts_in_class(cls: type) -> Mapping[str, str]:
    """Return the descriptions of the fields that the body of `cls` declares; {} for a class without a source file."""
    try:
        path = inspect.getsourcefile(cls)
    except TypeError:  # a class of C, or of code that was executed as text
        return {}
    return _texts_in_file(path).get(cls.__qualname__, {}) if path and is_file(Path(path)) else {}


@cache
def _texts_in_file(path: str) -> Mapping[str, Mapping[str, str]]:
    """Return {qualified name of a class: {field: description}} of a source file."""
    source = Path(path).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    texts: dict[str, dict[str, str]] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                name = f"{prefix}{child.name}"
                texts[name] = {
                    line.target.id: _comment_of(line, comments)
                    for line in child.body
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
                }
                visit(child, f"{name}.")

    visit(ast.parse(source), "")
    return texts


def _comment_of(line: ast.AnnAssign, comments: Mapping[int, tokenize.TokenInfo]) -> str:
    """Return the comment on the field's lines, else the whole lines of comment above it, as one line of text."""
    numbers = range(line.lineno, (line.end_lineno or line.lineno) + 1)
    found = [comments[number] for number in numbers if number in comments]
    above = line.lineno - 1
    while not found and above in comments and _is_whole_line(comments[above]):
        first = above
        while first - 1 in comments and _is_whole_line(comments[first - 1]):
            first -= 1
        found = [comments[number] for number in range(first, above + 1)]
    return " ".join(token.string.lstrip("# ").strip() for token in found)


def _is_whole_line(token: tokenize.TokenInfo) -> bool:
    return not token.line[: token.start[1]].strip()
