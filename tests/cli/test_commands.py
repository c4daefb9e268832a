"""The commands: every command plans the same runs for the same configuration, and `plan` prints them."""

import subprocess
import sys
from pathlib import Path

import pytest
from hugging_face import write_folder
from imported_teachers import good_file
from small_runs import experiment, recipe
from written_results import finished

from raykd.cli import parser
from raykd.cli.plan_text import print_plan
from raykd.orchestration.options import Options

ROOT = Path(__file__).parents[2]
NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = torch.nn.Linear(3, num_classes)

    def forward(self, images):
        return self.head(images.mean((2, 3)))
"""
DIGITS = str(ROOT / "experiments" / "digits.py")
BENCHMARK = str(ROOT / "experiments" / "benchmark_cifar100.py")


def planned_names(capsys, *arguments: str) -> list[str]:
    """Return the names of the runs that a command prints."""
    assert parser.entry(list(arguments)) == 0
    return [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]


def test_plan_prints_every_run_once_and_writes_nothing(tmp_path, capsys):
    names = planned_names(capsys, "plan", DIGITS, "--results", str(tmp_path / "r"))
    assert len(names) == len(set(names)) == 11
    assert [name.split("-")[0] for name in names] == ["teacher"] + ["baseline"] * 5 + ["distilled"] * 5
    assert not (tmp_path / "r").exists()


def test_plan_prints_the_images_of_each_split_and_the_classes(tmp_path, capsys):
    assert parser.entry(["plan", DIGITS, "--results", str(tmp_path / "r")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        "digits: 1,000 train (students train on 100), 200 validation (split from train), "
        "597 test images of 16x16 pixels; 10 classes: 0, 1, 2, 3, 4, ..."
    )


def test_plan_distinguishes_two_methods_of_one_kind_by_their_fields(tmp_path, capsys):
    text = Path(DIGITS).read_text().replace("from raykd import", "from raykd import DKD,", 1)
    file = tmp_path / "two.py"
    file.write_text(text.replace("    workers=", "    compare=(KD(temperature=2.0), DKD()),\n    workers=", 1))
    assert parser.entry(["plan", str(file), "--set", "seeds=0", "--results", str(tmp_path / "r")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  distilled-")]
    assert [line.partition("s0-")[0].strip() for line in lines] == [
        "distilled-resnet8-w8-kd-",
        "distilled-resnet8-w8-kd-",
        "distilled-resnet8-w8-dkd-",
    ]
    assert lines[1].endswith(", kd (temperature 2.0)") and "(" not in lines[0] + lines[2]


def test_plan_counts_the_runs_of_other_configurations(tmp_path, capsys):
    finished(tmp_path)
    print_plan([experiment(student=recipe(epochs=5), seeds=(0, 1))], Options(tmp_path, tmp_path))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "other configurations" in line)
    assert line.startswith("  4 runs of other configurations are kept and not counted here; ")
    print_plan([experiment(seeds=(0, 1))], Options(tmp_path, tmp_path))
    assert "other configurations" not in capsys.readouterr().out


def test_plan_and_run_with_plan_print_the_same(tmp_path, capsys):
    """Whatever selects stages, families and teachers: the options of `raykd plan` are those of `raykd run`."""
    path = tmp_path / "teacher.pth"
    path.write_bytes(b"weights")
    for words in (
        [DIGITS, "--stage", "baseline", "--set", "seeds=0,1"],
        [DIGITS, "--stage", "distilled", "--teacher-source", "live", "--set", "method.alpha=0.3"],
        [BENCHMARK, "--set", "teacher.epochs=9"],
        [BENCHMARK, "--pair", "vgg13:vgg8", "--set", "seeds=1", "--set", "compare=fitnets"],
    ):
        outputs = []
        for command in (["plan", *words], ["run", *words, "--plan"]):
            command += ["--results", str(tmp_path / "r"), "--data-dir", str(tmp_path)]
            outputs.append((parser.entry(command), *capsys.readouterr()))
        assert outputs[0] == outputs[1] and (outputs[0][0] == 0 or "cifar-100" in outputs[0][2])
    with pytest.raises(SystemExit):
        parser.entry(["plan", DIGITS, "--pair", "a:b"])
    assert "unknown option '--pair'; see '" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "distill", "tune"])
def test_commands_that_need_a_teacher_take_its_options(command, capsys):
    with pytest.raises(SystemExit):
        parser.entry([command, "--help"])
    assert {"--teacher-checkpoint", "--teacher-source"} <= set(capsys.readouterr().out.split())


def test_plan_warns_of_settings_without_effect_on_an_imported_teacher(tmp_path, capsys):
    path = tmp_path / "good.safetensors"
    path.write_bytes(good_file())
    file = tmp_path / "tiny.py"
    file.write_text(
        "from raykd import SGD, Data, Experiment, Recipe, ResNet\n"
        "teacher = Recipe(ResNet(blocks=(1, 1, 1, 1), width=16), precision='fp32')\n"
        "student = Recipe(ResNet(blocks=(1, 1, 1, 1), width=8), epochs=2, batch_size=50)\n"
        "data = Data('digits', val_images=200, image_size=8, crop_padding=0, flip=False)\n"
        "experiment = Experiment(family='tiny', seeds=(1,), data=data, teacher=teacher, student=student)\n"
    )
    settings = ["--set", "teacher.epochs=9", "--set", "teacher_seed=3", "--set", "teacher.precision=fp32"]
    command = ["plan", str(file), "--results", str(tmp_path / "r"), *settings]
    assert parser.entry([*command, "--teacher-checkpoint", str(path)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "no effect" in line)
    assert line.startswith(
        f"  warning: teacher.epochs, teacher_seed have no effect, because the teacher is imported from {path}; "
    )
    assert parser.entry(command) == 0
    assert "no effect" not in capsys.readouterr().out, "this teacher is trained"


def test_plan_warns_of_a_warmup_that_is_longer_than_the_training(tmp_path, capsys):
    arguments = ["plan", DIGITS, "--set", "method=dkd", "--results", str(tmp_path / "r")]
    assert parser.entry([*arguments, "--set", "student.epochs=16"]) == 0
    warnings = [line.strip() for line in capsys.readouterr().out.splitlines() if "warning:" in line]
    assert warnings == [
        "warning: DKD has a warm-up of 20 epochs, and students train for 16, so its terms reach 75 % of their weights "
        "(method.warmup_epochs)"
    ]
    assert parser.entry([*arguments, "--set", "student.epochs=21"]) == 0
    assert "warning:" not in capsys.readouterr().out
    compared = ["plan", DIGITS, "--set", "compare=standardized_dkd", "--set", "student.epochs=16"]
    compared += ["--results", str(tmp_path / "r")]
    assert parser.entry(compared) == 0
    assert " (compare.standardized_dkd.warmup_epochs)\n" in capsys.readouterr().out
    assert parser.entry([*compared, "--set", "compare.standardized_dkd.warmup_epochs=2"]) == 0
    assert "warning:" not in capsys.readouterr().out


def test_plan_warns_of_students_with_the_initial_weights_of_their_teacher(tmp_path, capsys):
    same = [f"--set=teacher.{field}" for field in ("model.width=8", "model.blocks=1,1,1,1")]
    for seed, expected in (
        ("3", ["warning: students of seed 3 start from the initial weights of their teacher"]),
        ("9", []),
    ):
        arguments = ["plan", DIGITS, *same, f"--set=teacher_seed={seed}", "--results", str(tmp_path / "r")]
        assert parser.entry(arguments) == 0
        lines = [line.strip().partition(",")[0] for line in capsys.readouterr().out.splitlines()]
        assert [line for line in lines if "warning" in line] == expected


def test_a_setting_changes_the_names_of_only_the_runs_that_it_affects(tmp_path, capsys):
    arguments = ["plan", DIGITS, "--results", str(tmp_path / "r")]
    before = planned_names(capsys, *arguments)
    hotter = planned_names(capsys, *arguments, "--set", "method.temperature=2")
    assert hotter[:6] == before[:6] and not set(hotter[6:]) & set(before)
    assert planned_names(capsys, *arguments, "--set", "workers.cpus=2") == before
    assert planned_names(capsys, *arguments, "--set", "digits.method.temperature=4") == before


@pytest.fixture
def started(monkeypatch):
    """Record the (experiments, options) of each call that would start Ray."""
    calls = []
    monkeypatch.setattr(
        "raykd.orchestration.library.run_experiments",
        lambda experiments, command: calls.append((experiments, command.options)),
    )
    return calls


def test_single_stages_share_the_experiments_runs(tmp_path, capsys, started):
    """train-teacher, train-student and distill plan the same runs as the experiment file."""
    arguments = ("--experiment", DIGITS, "--results", str(tmp_path / "r"))
    assert parser.entry(["train-teacher", "--epochs", "12", *arguments]) == 0
    assert parser.entry(["train-student", "--epochs", "60", *arguments]) == 0
    assert parser.entry(["distill", "--alpha", "0.5", "--temperature", "4.0", *arguments]) == 0
    from raykd.orchestration.experiment_plans import plan_of

    stages = [{run.name for run in plan_of(experiments[0], options)[0].runs} for experiments, options in started]
    all_runs = set(planned_names(capsys, "plan", DIGITS, "--results", str(tmp_path / "r")))
    assert [len(names) for names in stages] == [1, 5, 6]
    assert set.union(*stages) == all_runs


def test_feature_distill_keeps_alpha_and_temperature(tmp_path, started):
    arguments = ["distill", "--feature-distill", "cosine", "--alpha", "0.3", "--results", str(tmp_path)]
    assert parser.entry([*arguments, "--experiment", DIGITS]) == 0
    from raykd import FeatureKD

    ((experiment,), _) = started[0]
    assert experiment.method == FeatureKD(alpha=0.3, temperature=4.0, distance="cosine")


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("vit6", "vit"),
        ("vit_tiny", "vit"),
        ("timm:deit_tiny_patch16_224", "vit"),
        ("torchvision:vit_b_16", "vit"),
        ("resnet18", "cnn"),
        ("torchvision:resnet18", "cnn"),
        ("{folder}/vitaly/my_net.py:Net", "cnn"),
        ("hf:{folder}/vitaly/resnet", "cnn"),
        ("hf:{folder}/a_vit", "vit"),
    ],
)
def test_the_default_recipe_is_that_of_the_networks_architecture(tmp_path, started, model, family):
    (tmp_path / "vitaly").mkdir()
    (tmp_path / "vitaly" / "my_net.py").write_text(NETWORK)
    write_folder(tmp_path / "vitaly" / "resnet", "resnet")
    write_folder(tmp_path / "a_vit", "vit")
    arguments = ["--model", model.format(folder=tmp_path), "--results", str(tmp_path / "r")]
    assert parser.entry(["train-student", *arguments]) == 0
    (((experiment,), _),) = started
    assert experiment.family == family


def test_an_unknown_model_is_refused_by_its_recipe(capsys, started):
    assert parser.entry(["train-student", "--model", "vit7"]) == 2
    assert "unknown model 'vit7'" in capsys.readouterr().err and not started


def test_prefetch_downloads_nothing_that_is_already_there(tmp_path):
    assert parser.entry(["prefetch", DIGITS, "--data-dir", str(tmp_path / "data")]) == 0
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("digits", ["digits"]),
        ("distill_cnn", ["cnn"]),
        ("distill_vit", ["vit"]),
        ("cnn_and_vit", ["cnn", "vit"]),
        ("tune_cnn", ["cnn"]),
        ("tune_vit", ["vit"]),
    ],
)
def test_every_experiment_file_defines_its_experiments(name, families):
    from raykd.cli.experiment_file import load_experiments

    experiments = load_experiments(ROOT / "experiments" / f"{name}.py")
    assert [experiment.family for experiment in experiments] == families


def test_the_plan_of_a_search_counts_its_trials_and_a_search_has_no_stages(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "import sys\nsys.path.insert(0, 'experiments')\nfrom dataclasses import replace\n"
        "from digits import experiment\nfrom raykd import Search, main, uniform\n"
        "experiment = replace(experiment, search=Search({'method.alpha': uniform(0, 1)}, trials=7))\n"
        "if __name__ == '__main__':\n    main(experiment)\n"
    )
    assert parser.entry(["plan", str(path), "--results", str(tmp_path / "r")]) == 0
    _, _, trials, confirmed, run, teacher = capsys.readouterr().out.splitlines()
    assert "7 trials over method.alpha, 0 ended" in trials
    assert "best 3 configurations and the default one with the experiment's seeds" in confirmed
    assert run.startswith("  teacher-")
    assert teacher.startswith("teacher of digits: logit cache with all 9 views per image instead of 1,620")
    done = subprocess.run(
        [sys.executable, str(path), "--stage", "teacher", "--results", str(tmp_path / "r")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "--stage teacher: a search has no stages" in done.stderr
