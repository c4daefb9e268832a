"""The plan of a comparison of methods: one teacher, one set of baselines, and the students of each method."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import NO_WEIGHTS, digits, experiment

from raykd.config import from_dict, to_dict
from raykd.errors import ConfigError
from raykd.methods import KD, CrossEntropy, FeatureKD
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override
from raykd.spec.plan import Plan, make_plan
from raykd.spec.search import Search, uniform
from raykd.spec.stages import STAGES, Stage
from raykd.store.run_store import RunStore

OTHERS = (FeatureKD(), KD(alpha=0.1))


def plan_of(experiment: Experiment, stages: tuple[Stage, ...] = STAGES) -> Plan:
    return make_plan(experiment, digits(), NO_WEIGHTS, stages)


def test_each_method_has_a_student_per_seed_and_all_share_teacher_and_baselines() -> None:
    alone, compared = (plan_of(experiment(seeds=(0, 1), compare=methods)) for methods in ((), OTHERS))
    assert compared.runs[: len(alone.runs)] == alone.runs
    assert compared.stages == alone.stages
    comparison = compared.comparison
    assert list(comparison) == ["kd", "feature_kd", "kd (alpha 0.1)"]
    assert comparison["kd"] == alone.stages["distilled"]
    assert len({name for names in comparison.values() for name in names}) == 6
    assert not alone.comparison


def test_compared_methods_can_be_set_on_the_command_line() -> None:
    compared = override(experiment(), "compare", "feature_kd")
    assert compared.compare == (FeatureKD(),)
    assert from_dict(Experiment, json.loads(json.dumps(to_dict(compared)))) == compared
    with pytest.raises(ConfigError, match="unknown method 'feature'"):
        override(experiment(), "compare", "feature")


def test_invalid_comparisons_are_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        experiment(compare=(experiment().method,))
    with pytest.raises(ConfigError, match="needs no teacher"):
        experiment(compare=(CrossEntropy(),))
    with pytest.raises(ConfigError, match="cannot be combined with a search"):
        experiment(compare=OTHERS, search=Search(space={"method.alpha": uniform(0, 1)}))


def test_comparison_with_a_method_of_embeddings_is_refused_with_several_teachers() -> None:
    with pytest.raises(ConfigError, match="which cannot be averaged"):
        experiment(teacher_seeds=(0, 1), compare=(FeatureKD(),))


def test_plan_file_lists_the_comparison_until_a_plan_without_one_is_written(tmp_path: Path) -> None:
    store, compared = RunStore(tmp_path), experiment(compare=OTHERS)

    def written() -> dict[str, list[str]]:
        return json.loads((tmp_path / "small" / "plan.json").read_text())["comparison"]

    store.write_plan(plan_of(compared))
    assert written() == plan_of(compared).comparison
    assert store.write_plan(plan_of(compared, ("baseline",))) == set()
    assert written() == plan_of(compared).comparison, "a stage by itself changes nothing"
    removed = store.write_plan(plan_of(replace(compared, compare=())))
    assert written() == {} and len(removed) == len(OTHERS)
