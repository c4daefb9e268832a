"""Which methods of several families are the same: kind, hyperparameters, published values and runs to come."""

import pytest
from several_families import write_family

from raykd.report.build import load
from raykd.report.stats.same_methods import different_methods, same_methods

TOPS = (81.0, 82.0)
DKD = {"alpha": 1.0, "beta": 8.0}


@pytest.fixture
def write(results):
    """Return a function that writes a family with methods and their hyperparameters."""

    def written(family, settings, tops=TOPS, published=""):
        write_family(results, family, TOPS, dict.fromkeys(settings, tops), settings=settings, published=published)

    return written


def families_of(results):
    return [summary.family for summary in load(results.root).summaries]


def test_equal_hyperparameters_are_the_same_method(results, write):
    write("a", {"kd": {"alpha": 0.5}, "dkd": DKD})
    write("b", {"dkd": DKD, "kd": {"alpha": 0.5}})
    methods = same_methods(families_of(results))
    assert {method.name: dict(method.labels) for method in methods} == {
        "kd": {"a": "kd", "b": "kd"},
        "dkd": {"a": "dkd", "b": "dkd"},
    }
    assert different_methods(families_of(results)) == {}


def test_other_hyperparameters_are_another_method_and_are_named(results, write):
    write("a", {"kd": {"alpha": 0.5}, "dkd": DKD})
    write("b", {"kd": {"alpha": 0.5}, "dkd": DKD | {"beta": 2.0}})
    assert [method.name for method in same_methods(families_of(results))] == ["kd"]
    assert different_methods(families_of(results)) == {"dkd": {"beta": {"a": "8.0", "b": "2.0"}}}


def test_a_field_that_one_family_does_not_have_is_unset(results, write):
    write("a", {"kd": {"alpha": 0.5}, "dkd": DKD})
    write("b", {"kd": {"alpha": 0.5}, "dkd": DKD | {"new": True}})
    assert different_methods(families_of(results)) == {"dkd": {"new": {"a": "unset", "b": "true"}}}


def test_the_published_value_of_each_pair_is_the_same_method(results, write):
    """Zhao et al. 2022 set beta to 6 for vgg13:vgg8 and to 2 for resnet56:resnet20."""
    write("a", {"kd": {"alpha": 0.1}, "dkd": DKD | {"beta": 6.0}}, published="vgg13:vgg8")
    write("b", {"kd": {"alpha": 0.1}, "dkd": DKD | {"beta": 2.0}}, published="resnet56:resnet20")
    kd, dkd = same_methods(families_of(results))
    assert (dkd.name, dkd.per_pair) == ("dkd", {"beta": {"a": "6.0", "b": "2.0"}})
    assert kd.per_pair == {} and different_methods(families_of(results)) == {}


def test_a_value_that_is_not_the_published_one_of_its_pair_is_another_method(results, write):
    write("a", {"kd": {"alpha": 0.1}, "dkd": DKD | {"beta": 6.0}}, published="vgg13:vgg8")
    write("b", {"kd": {"alpha": 0.1}, "dkd": DKD | {"beta": 6.0}}, published="resnet56:resnet20")
    assert [method.name for method in same_methods(families_of(results))] == ["kd"]


def test_alpha_of_kd_is_equal_for_all_pairs_so_another_value_is_another_method(results, write):
    """Only fields that authors set for a pair may differ."""
    write("a", {"kd": {"alpha": 0.1}, "dkd": DKD}, published="resnet32x4:resnet8x4")
    write("b", {"kd": {"alpha": 0.5}, "dkd": DKD}, published="resnet110:resnet20")
    assert [method.name for method in same_methods(families_of(results))] == ["dkd"]


def test_a_method_that_has_not_started_is_the_one_with_its_name(results, write):
    write("a", {"kd": {"alpha": 0.5}, "dkd": DKD}, tops=(None, None))
    write("b", {"kd": {"alpha": 0.5}, "dkd": DKD})
    write("c", {"kd": {"alpha": 0.5}, "crd": {}}, tops=(None, None))
    write("d", {"crd": {}}, tops=(None, None))
    methods = {method.name: set(method.labels) for method in same_methods(families_of(results))}
    assert methods == {"kd": {"a", "b", "c"}, "dkd": {"a", "b"}, "crd": {"c", "d"}}


def test_a_name_of_a_family_with_two_of_a_kind_has_the_changed_fields(results, write):
    """In the first family, DKD is compared once, so its name there is short."""
    write("a", {"dkd": DKD | {"beta": 2.0}})
    write("b", {"dkd": DKD, "dkd (beta 2.0)": DKD | {"beta": 2.0}})
    (method,) = same_methods(families_of(results))
    assert (method.name, dict(method.labels)) == ("dkd (beta 2.0)", {"a": "dkd", "b": "dkd (beta 2.0)"})


def test_methods_with_one_name_have_their_hyperparameters_in_brackets(results, write):
    for family, beta in {"a": 8.0, "b": 8.0, "c": 2.0, "d": 2.0}.items():
        write(family, {"dkd": DKD | {"beta": beta}})
    methods = {method.name: set(method.labels) for method in same_methods(families_of(results))}
    assert methods == {"dkd (beta 8.0)": {"a", "b"}, "dkd (beta 2.0)": {"c", "d"}}
