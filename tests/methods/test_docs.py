"""docs/methods.md is about the methods that there are: names, papers, needs and defaults."""

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import raykd
from raykd.config import kinds
from raykd.methods import CrossEntropy, FeatureMethod, Method
from raykd.outputs import Mixed, Outputs, Targets

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"
ROWS = {
    match[1]: [cell.strip() for cell in match[2].split("|")]
    for match in re.finditer(r"^\| `(\w+)` \|( `\w+` \|.*)\|$", DOCS.read_text(encoding="utf-8"), flags=re.M)
}


def defaults(cell: str) -> dict[str, Any]:
    """'`alpha=0.5, stages=(1,)`' -> {'alpha': 0.5, 'stages': (1,)}."""
    call = ast.parse(f"f({cell.strip('`')})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


def test_every_method_has_a_row() -> None:
    ours = {kind for kind, method in kinds(Method).items() if method.__module__.startswith("raykd.methods.")}
    assert set(ROWS) == ours - {CrossEntropy.kind}


@pytest.mark.parametrize("given", [Outputs, Targets, Mixed])
def test_own_method_names_all_that_terms_is_given(given: Any) -> None:
    text = DOCS.with_name("custom_method.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    assert not [name for name in given._fields if name != "heads" and f"`{name}`" not in prose], "heads are DeiT's"


@pytest.mark.parametrize("name", ROWS)
def test_row_says_what_the_code_says(name: str) -> None:
    title, paper, needs, values, _ = ROWS[name]
    method = Method.from_text(name)
    assert title == f"`{type(method).__name__}`" and getattr(raykd, type(method).__name__) is type(method)
    assert paper == f"[{method.paper}](https://arxiv.org/abs/{method.paper.removeprefix('arXiv:')})"
    assert {"logits", *needs.split(", ")} == method.needs
    common = {item.name for item in fields(FeatureMethod)} if isinstance(method, FeatureMethod) else set()
    own = {item.name: getattr(method, item.name) for item in fields(method) if item.name not in common}
    assert defaults(values) == own


@pytest.mark.parametrize("name", ROWS)
def test_module_says_paper_formula_shapes_defaults_and_needs(name: str) -> None:
    method = kinds(Method)[name]
    text = " ".join((__import__(method.__module__, fromlist=["_"]).__doc__ or "").split())
    assert method.paper in text and " loss" in text and "Shapes: " in text
