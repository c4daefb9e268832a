"""docs/methods.md agrees with the code: names, papers, needs and defaults of all methods."""

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import raykd
from raykd import methods
from raykd.config import kinds
from raykd.methods import CrossEntropy, FeatureMethod, Method
from raykd.outputs import Mixed, Outputs, Targets

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"
ARCHIVES = {"arXiv": "https://arxiv.org/abs/", "OpenReview": "https://openreview.net/forum?id="}
ROWS = {
    match[1]: [cell.strip() for cell in match[2].split("|")]
    for match in re.finditer(r"^\| `(\w+)` \|( `\w+` \|.*)\|$", DOCS.read_text(encoding="utf-8"), flags=re.M)
}


FUNCTIONS = dict(re.findall(r"`(\w+)\((student\w*, teacher\w*[^)]*)\)`", DOCS.read_text(encoding="utf-8")))


def defaults(cell: str) -> dict[str, Any]:
    """Parse '`alpha=0.5, stages=(1,)`' into {'alpha': 0.5, 'stages': (1,)}."""
    call = ast.parse(f"f({cell.strip('`')})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


def test_every_method_has_a_row() -> None:
    built_in = {kind for kind, method in kinds(Method).items() if method.__module__.startswith("raykd.methods.")}
    assert set(ROWS) == built_in - {CrossEntropy.kind}


def test_every_public_loss_is_documented() -> None:
    assert set(FUNCTIONS) == {name for name in methods.__all__ if inspect.isfunction(getattr(methods, name))}
    assert {"kd_loss", "distillation_loss", "dkd_loss", "logit_standardization_kl"} < set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_loss_is_called_as_documented(name: str) -> None:
    parameters = inspect.signature(getattr(methods, name)).parameters
    documented = [argument.strip().partition("=")[::2] for argument in FUNCTIONS[name].split(",")]
    assert [name for name, _ in documented] == list(parameters)[: len(documented)]
    for parameter, (_, default) in zip(parameters.values(), documented, strict=False):
        assert parameter.default == (ast.literal_eval(default) if default else inspect.Parameter.empty)
    assert all(
        parameter.default is not inspect.Parameter.empty for parameter in [*parameters.values()][len(documented) :]
    )


@pytest.mark.parametrize("argument", [Outputs, Targets, Mixed])
def test_custom_method_document_names_all_arguments_of_terms(argument: Any) -> None:
    text = DOCS.with_name("custom_method.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    assert not [name for name in argument._fields if name != "heads" and f"`{name}`" not in prose], (
        "only DeiT uses heads"
    )


@pytest.mark.parametrize("name", ROWS)
def test_row_agrees_with_the_code(name: str) -> None:
    title, paper, needs, values, _ = ROWS[name]
    method = Method.from_text(name)
    assert title == f"`{type(method).__name__}`" and getattr(raykd, type(method).__name__) is type(method)
    archive, _, number = method.paper.partition(":")
    assert paper == f"[{method.paper}]({ARCHIVES[archive]}{number})"
    assert {"logits", *needs.split(", ")} == method.needs
    common = {item.name for item in fields(FeatureMethod)} if isinstance(method, FeatureMethod) else set()
    values_in_code = {item.name: getattr(method, item.name) for item in fields(method) if item.name not in common}
    assert defaults(values) == values_in_code


@pytest.mark.parametrize("name", ROWS)
def test_module_states_paper_formula_and_shapes(name: str) -> None:
    method = kinds(Method)[name]
    text = " ".join((__import__(method.__module__, fromlist=["_"]).__doc__ or "").split())
    assert method.paper in text and " loss" in text and "Shapes: " in text
