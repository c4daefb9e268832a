"""Words that code, messages and documents avoid, since the field has another one or readers stumble over them."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "raykd").rglob("*.py"))
TEXTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "raykd").rglob("*.j2")])
AVOIDED = re.compile(r"\b(cut[ _]off|goes[ _]on|told|heard|half[ _]done|takes? up|somebody)\b", re.IGNORECASE)
FRAGMENT = re.compile(r"(Of|As|By|Those)\b")  # a docstring is a sentence, and does not complete the function's name


def test_sources_and_documents_avoid_words_of_a_private_dialect() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in (*SOURCES, *TEXTS)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if AVOIDED.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_docstring_begins_as_a_fragment() -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        f"{path.relative_to(ROOT)}: {docstring.splitlines()[0]}"
        for path in (*SOURCES, *sorted((ROOT / "tests").rglob("*.py")))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)) and FRAGMENT.match(docstring)
    ]
    assert not found, "\n".join(found)
