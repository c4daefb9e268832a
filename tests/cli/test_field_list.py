"""`raykd fields`: the list is complete, every listed value can be set, and every field is described."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

import raykd
from raykd.cli import parser
from raykd.cli.experiment_file import apply_settings, load_experiment
from raykd.cli.field_list import field_lines
from raykd.config import Config, dotted, kinds, to_dict
from raykd.config.field_text import field_texts
from raykd.data.augmentation import Augmentation
from raykd.data.dataset_names import BUILT_IN, CUSTOM_KINDS
from raykd.errors import ConfigError
from raykd.methods import Method
from raykd.models import Model, find
from raykd.spec.experiment import Data, Experiment, Workers
from raykd.spec.optimizers import Optimizer
from raykd.spec.recipe import Constant, Cosine, MultiStep, Recipe
from raykd.spec.search import METRICS, Search, choice

METHOD = """
from dataclasses import dataclass
from typing import Annotated, ClassVar
from raykd import KD, Interval

@dataclass(frozen=True)
class Mine(KD):
    kind: ClassVar[str] = "mine_with_comments"
    strength: float = 1.0  # weight of my term
    # A comment above,
    # on two lines.
    margin: float = (
        0.5
    )
    plain: int = 3
    limited: Annotated[int, Interval("[1, 9]")] = 3  # With a sentence.
"""


def classes() -> list[type[Config]]:
    """Return every class of raykd whose fields --set takes."""
    assert find("vit6") and all(getattr(raykd, name) for name in raykd.__all__)  # load all subclasses
    found = [Experiment, Data, Recipe, Workers, Search, Augmentation, Constant, Cosine, MultiStep]
    found += [cls for base in (Method, Model, Optimizer) for cls in kinds(base).values()]
    return [cls for cls in found if cls.__module__.startswith("raykd.")]


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_field_has_a_description_in_its_class(cls: type[Config]) -> None:
    texts = field_texts(cls)
    assert not [item.name for item in fields(cls) if not texts.get(item.name)]


@pytest.mark.parametrize("name", ["digits", "tune_vit", "compare_methods"])
def test_every_recorded_field_is_listed_once(name: str) -> None:
    experiment = load_experiment(name)
    listed = [line.field for line in field_lines(experiment)]
    recorded = {path for path, _ in dotted(to_dict(experiment)) if not path.endswith("kind")}
    recorded = {path for path in recorded if not path.startswith("search.space")}
    assert len(listed) == len(set(listed)) and recorded - {"search"} <= set(listed)


@pytest.mark.parametrize("name", ["digits", "tune_vit", "compare_methods"])
def test_setting_a_field_to_its_listed_value_changes_nothing(name: str) -> None:
    experiment = load_experiment(name)
    for line in field_lines(experiment):
        if line.type in ("model", "method", "optimizer", "none", "method,...") or "multistep" in line.type:
            continue  # an object by its kind has its defaults
        value = line.value_text.partition(" (default ")[0]
        setting = f"{line.field}={'' if value == '(empty)' else value}"
        assert apply_settings([experiment], [setting]) == (experiment,), setting


def test_a_field_is_marked_as_searchable_if_a_search_accepts_it() -> None:
    for line in field_lines(load_experiment("tune_cnn")):
        try:
            Search(space={line.field: choice(1)})
        except ConfigError:
            assert not line.searchable, line.field
        else:
            assert line.searchable, line.field


def test_an_object_that_is_set_lists_its_fields(capsys) -> None:
    assert parser.entry(["fields", "digits", "--set", "method=dkd", "--set", "method.beta=2"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["method"].split()[:5] == ["method", "method", "dkd", "(default", "kd)"]
    assert lines["method.beta"].split(maxsplit=6) == [
        *("method.beta", "number", "2.0", "(default", "8.0)", "yes"),
        "weight of NCKD; at least 0",
    ]
    assert lines["student.model.width"].split()[:5] == ["student.model.width", "integer", "8", "(default", "64)"]
    assert "search.space" not in lines and "data" not in lines


def test_arguments_of_a_network_are_listed_by_their_names(capsys) -> None:
    settings = ["student.model=timm:test_vit", "student.model.arguments.drop_path_rate=0.1"]
    assert parser.entry(["fields", "digits", *(part for text in settings for part in ("--set", text))]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    name = "student.model.arguments"
    assert lines[f"{name}.drop_path_rate"][1:6] == ["number", "0.1", "(default", "none)", "yes"]
    assert lines[f"{name}.NAME"][2:4] == ["none", "yes"] and f"{name}" not in lines


def test_json_is_a_list_with_the_values_of_each_field(capsys) -> None:
    assert parser.entry(["fields", "--json"]) == 0
    by_path = {item["field"]: item for item in json.loads(capsys.readouterr().out)}
    assert by_path["seeds"] == {
        "field": "seeds",
        "type": "integer,...",
        "value": [0, 1, 2],
        "default": [0, 1, 2],
        "searchable": False,
        "text": "seeds of the students; each in [0, 4294967295]",
    }
    assert by_path["student.batch_size"]["searchable"] and by_path["student.patience"]["value"] is None


def test_the_fields_of_several_families_begin_with_the_family(capsys) -> None:
    assert parser.entry(["fields", "cnn_and_vit"]) == 0
    paths = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "cnn.student.model.width" in paths and "vit.student.model.patch" in paths


def test_descriptions_of_names_list_all_of_them() -> None:
    """The comments beside these fields are text, and the names are in other modules."""
    texts = {line.field: line.text for line in field_lines(load_experiment("tune_cnn"))}
    assert all(name in texts["data.name"] for name in [*BUILT_IN, *(f"{kind}:PLACE" for kind in CUSTOM_KINDS)])
    assert all(metric in texts["search.metric"] for metric in METRICS)
    assert all(
        kind in texts["method"] for kind, method in kinds(Method).items() if method.needs and method in classes()
    )


def test_the_comments_of_a_custom_method_describe_its_fields(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    method = Method.from_text(f"{tmp_path}/mine.py:Mine")
    texts = field_texts(type(method))
    assert texts["strength"] == "weight of my term" and texts["margin"] == "A comment above, on two lines."
    assert "plain" not in texts and texts["temperature"].startswith("softens the outputs")
    listed = {line.field: line.text for line in field_lines(replace(load_experiment("digits"), method=method))}
    assert listed["method.limited"] == "With a sentence. In [1, 9]."
    assert listed["method.temperature"].endswith("of student and teacher; greater than 0; 1 to 8 are usual")


def test_an_argument_of_another_library_is_described_as_such() -> None:
    (experiment,) = apply_settings([load_experiment("digits")], ["student.optimizer=rmsprop"])
    texts = {line.field: line.text for line in field_lines(experiment)}
    assert texts["student.optimizer.centered"] == "argument of rmsprop"
