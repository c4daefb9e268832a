"""--set and flags: the order of settings does not matter, and none is silently ignored."""

import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from small_runs import experiment, recipe

from raykd.cli import parser
from raykd.cli.experiment_file import Flag, apply_settings
from raykd.errors import ConfigError
from raykd.methods import DKD, KD, FeatureKD
from raykd.models.four_stage_resnet import ResNet
from raykd.models.vit_cifar import ViT
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override, override_all
from raykd.spec.recipe import SGD, AdamW, Cosine, MultiStep
from raykd.spec.search import Search, choice, uniform

SEARCHED = experiment(search=Search({"method.alpha": uniform(0, 1)}))
LONG = experiment(student=recipe(epochs=300, schedule=MultiStep(milestones=(150, 225))))


def set_all(*settings: str, start: Experiment | None = None, **more: Any) -> Experiment:
    """Return the experiment `start`, or the small one, with `settings`."""
    (changed,) = apply_settings([start or experiment()], settings, **more)
    return changed


@pytest.mark.parametrize(
    ("start", "settings", "path", "value"),
    [
        (experiment(), ("method.temperature=2", "method=dkd"), "method", DKD(temperature=2)),
        (
            experiment(),
            ("student.optimizer.lr=0.5", "student.optimizer=adamw"),
            "student.optimizer",
            AdamW(lr=0.5),
        ),
        (
            experiment(),
            ("student.model.width=16", "student.model=resnet18"),
            "student.model",
            ResNet(width=16),
        ),
        (
            experiment(),
            ("student.model.heads=2", "student.model=vit6", "student.model.width=64", "student.model.depth=3"),
            "student.model",
            ViT(depth=3, width=64, heads=2),
        ),
        (
            experiment(),
            ("student.schedule.warmup_epochs=2", "student.schedule=cosine", "student.epochs=5"),
            "student.schedule",
            Cosine(warmup_epochs=2),
        ),
        (
            LONG,
            ("student.epochs=50", "student.schedule.milestones=20,40", "student.schedule.gamma=0.2"),
            "student.schedule",
            MultiStep((20, 40), 0.2),
        ),
        (
            SEARCHED,
            ("search.trials=3", "search.scheduler=none", "search.metric=parameters", "search.name=wide"),
            "search",
            replace(SEARCHED.search, trials=3, scheduler="none", metric="parameters", name="wide"),  # type: ignore[type-var]
        ),
        (
            experiment(),
            ("compare=feature_kd", "method=dkd", "seeds=4,5", "teacher_seeds=1,2", "compare=dist"),
            "seeds",
            (4, 5),
        ),
    ],
)
def test_every_order_of_settings_leads_to_the_same_experiment(
    start: Experiment, settings: tuple[str, ...], path: str, value: object
) -> None:
    paths = [setting.partition("=")[0] for setting in settings]
    last_of_path = dict(zip(paths, settings, strict=True))
    results = []
    for order in permutations(range(len(settings))):
        last_in_order = {paths[place]: settings[place] for place in order}
        if last_in_order == last_of_path:  # for one path, the last setting applies
            results.append(set_all(*(settings[place] for place in order), start=start))
    assert len(results) >= 2 and all(other == results[0] for other in results)
    changed: Any = results[0]
    for name in path.split("."):
        changed = getattr(changed, name)
    assert changed == value and results[0] != start


def test_the_last_setting_of_a_path_applies_even_if_an_earlier_one_is_invalid() -> None:
    changed = set_all("student.epochs=50", "student.schedule.milestones=0.5", "student.epochs=300", start=LONG)
    assert changed.student.epochs == 300
    assert set_all("method=dist", "method.temperature=3", "method=dkd").method == DKD(temperature=3)
    assert set_all("seeds=0,1", "seeds=7").seeds == (7,)
    assert set_all("method.alpha=2", "method.alpha=0.25").method == KD(alpha=0.25)


def test_a_setting_of_one_family_takes_precedence_in_every_order() -> None:
    families = [experiment(), experiment(family="other")]
    for order in permutations(("other.method.temperature=3", "method.temperature=2", "other.method=dkd")):
        small, other = apply_settings(families, order)
        assert (small.method, other.method) == (KD(temperature=2), DKD(temperature=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=dist", "method.alpha=0.3"], "unknown config field 'method.alpha': DIST has"),
        (["others.seeds=1"], r"unknown config field 'others.seeds': .*families here are small, other"),
        (["othr.seeds=1"], r"did you mean 'other'\?"),
        (["left.seeds=1"], "--set left.seeds=1: --family leaves out left"),
        (["other=1"], "--set other=1: must name a field, such as other"),
        (["other.method=dkd", "method.beta=2"], r"'method.beta': KD has .* \(in the experiment 'small'; --set small\."),
        (["method.alpha=2"], r"^method.alpha=2: alpha = 2.0 in KD: .* \(in the experiment 'small'"),
    ],
)
def test_a_setting_without_effect_is_refused_by_name(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_settings([experiment(), experiment(family="other")], settings, left_out={"left"})


def test_an_error_names_only_the_settings_that_cause_it() -> None:
    valid = ["method.alpha=0.2", "teacher.epochs=9", "seeds=3"]
    with pytest.raises(ConfigError) as error_info:
        set_all(*valid, "student.epochs=2", "student.schedule=multistep", "student.schedule.milestones=4,8")
    message = str(error_info.value)
    assert message.startswith("student.epochs=2, student.schedule=multistep, student.schedule.milestones=4,8: mile")
    with pytest.raises(ConfigError, match=r"^student.optimizer.lr=-1: lr = -1.0 in SGD"):
        set_all(*valid, "student.optimizer.lr=-1", "student.optimizer.momentum=0.5")


def test_a_flag_and_a_setting_may_not_set_the_same_field() -> None:
    flags = [Flag("--temperature 2", "method.temperature", "2")]
    assert set_all("method=dkd", flags=flags).method == DKD(temperature=2)
    with pytest.raises(ConfigError, match=r"--temperature 2 and --set method\.temperature=3 set the same field"):
        set_all("method.temperature=3", flags=flags)


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        (["--feature-distill", "cosine", "--set", "method.alpha=0.25"], FeatureKD(0.25, 4.0, "cosine")),
        (
            ["--feature-distill", "mse", "--alpha", "0.2", "--set", "method.feature_weight=3"],
            FeatureKD(0.2, 4.0, "mse", 3),
        ),
        (["--temperature", "2", "--set", "method=dkd"], DKD(temperature=2)),
        (["--alpha", "0.25", "--set", "method=feature_kd", "--temperature", "3"], FeatureKD(0.25, 3)),
    ],
)  # fmt: skip
def test_flags_of_distill_are_settings(arguments: list[str], method: object, tmp_path, monkeypatch) -> None:
    started: list[Experiment] = []
    monkeypatch.setattr(
        "raykd.orchestration.library.run_experiments", lambda experiments, _: started.extend(experiments)
    )
    file = Path(__file__).parents[2] / "experiments" / "digits.py"
    assert parser.entry(["distill", "--experiment", str(file), *arguments, "--results", str(tmp_path)]) == 0
    assert [experiment.method for experiment in started] == [method]


def test_a_search_sets_the_method_before_its_fields_in_every_order_of_its_space() -> None:
    space = {"method": choice("kd", "dkd"), "method.temperature": uniform(1, 9), "student.epochs": choice(2, 3)}
    searched = experiment(search=Search(space))
    configuration = {"method": "dkd", "method.temperature": 2.5, "student.epochs": 2}
    results = {searched.with_configuration(dict(order)) for order in permutations(configuration.items())}
    assert len(results) == 1 and results.pop().method == DKD(temperature=2.5)


def test_a_model_is_replaced_before_its_fields_are_set() -> None:
    changed = override_all(experiment(), [("student.model.width", "16"), ("student.model", "resnet18")])
    assert changed.student.model == ResNet(width=16)


@pytest.mark.parametrize("text", ["-0.0", "0", "0.0"])
def test_negative_zero_becomes_zero_so_that_equal_recipes_are_one_run(text: str) -> None:
    changed = override(experiment(), "student.optimizer.weight_decay", text)
    assert repr(changed.student.optimizer.weight_decay) == "0.0"
    assert repr(SGD(weight_decay=-0.0).weight_decay) == "0.0"


@pytest.mark.nightly
def test_settings_apply_only_to_the_selected_families(tmp_path: Path) -> None:
    """A setting that is invalid for another family is accepted."""
    file = tmp_path / "both.py"
    file.write_text(
        "from dataclasses import replace\nimport sys\nsys.path.insert(0, 'experiments')\n"
        "from digits import experiment as one\nfrom raykd import DKD, main\n"
        "other = replace(one, family='other', method=DKD())\n"
        "if __name__ == '__main__':\n    main(one, other)\n"
    )
    arguments = [str(file), "--plan", "--results", str(tmp_path / "r"), "--family", "other"]

    def run(*more: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, *arguments, *more],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    code, printed = run("--set", "method.beta=3")
    assert code == 0 and "distilled" in printed and "digits" not in printed.splitlines()[0]
    code, printed = run("--set", "digits.seeds=1")
    assert (code, printed) == (
        2,
        "raykd: --set digits.seeds=1: --family leaves out digits; leave the setting out too\n",
    )
