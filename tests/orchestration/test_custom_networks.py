"""Teacher and student from one file of the user, through Ray from training to evaluation.

A command that compares methods of logits, embeddings and feature maps is killed and resumed; a search varies the width
of the network; its runs are exported, and their model files are evaluated.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from experiment_runs import NO_DATA, Ended, assert_same_bits, command, environment, train_directly
from rich.console import Console
from search_runs import folder_in, run_search, trained_without_ray, trials_in
from small_runs import NO_WEIGHTS, digits, experiment, recipe

from raykd.cli.experiment_file import load_experiments
from raykd.export.export import export_run
from raykd.models.custom_network import Network
from raykd.orchestration.command import Command
from raykd.orchestration.models_dir import report_models
from raykd.orchestration.options import Options
from raykd.spec.experiment import Workers
from raykd.spec.plan import Run, make_plan
from raykd.spec.search import Search, choice
from raykd.store.run_store import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]

NETWORKS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width: int = 8):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.head(self.stage2(self.stage1(x)).mean((2, 3)))

class Teacher(Net):
    def __init__(self, num_classes, width: int = 16):
        super().__init__(num_classes, width)
"""
EXPERIMENT = """
from dataclasses import replace
from nets import Net, Teacher
from raykd import KD, SGD, AttentionTransfer, Cosine, Data, Experiment, FeatureKD, Network, Recipe, Workers, main

recipe = Recipe(epochs=40, batch_size=50, optimizer=SGD(lr=0.05), schedule=Cosine(), precision="fp32")
stages = ("stage1", "stage2")
experiment = Experiment(
    family="small",
    seeds=(0,),
    data=Data("digits", val_images=100, train_images=200, image_size=8, crop_padding=1),
    teacher=replace(recipe, model=Network(Teacher, features=stages), epochs=300),
    student=replace(recipe, model=Network(Net, features=stages)),
    method=KD(),
    compare=(FeatureKD(), AttentionTransfer()),
    workers=Workers(cpus=1),
)

if __name__ == "__main__":
    main(experiment)
"""


@dataclass
class Compared:
    """The results of the comparison, the runs of its plan, and how the resumed command ended."""

    results: Path
    file: Path
    runs: tuple[Run, ...]
    ended: Ended


@pytest.fixture(scope="module")
def compared(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    """Run the comparison in a private Ray cluster, kill it in the teacher's training, and run it again."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "nets.py").write_text(f"# {folder}\n{NETWORKS}")
    file = folder / "mine.py"
    file.write_text(EXPERIMENT)
    (loaded,) = load_experiments(file)
    runs = make_plan(loaded, digits(), NO_WEIGHTS).runs
    words, results = ["--results", str(folder / "results")], folder / "results"
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as private:
        environ = environment(cpus=1) | {"RAYKD_TMP": private}
        with command(words, environ, folder / "first", file) as first:
            first.wait_for(f"{runs[0].name}  epoch")
            first.process.kill()
            first.process.wait()
        with command(words, environ, folder / "second", file) as second:
            ended = second.end()
    yield Compared(results, file, runs, ended)


def test_killed_and_resumed_runs_equal_those_of_the_loop_bit_for_bit(compared: Compared, tmp_path: Path) -> None:
    assert (compared.ended.exit_code, compared.ended.errors) == (0, [])
    store = RunStore(compared.results)
    teacher = store.folder(compared.runs[0]).require_record()
    assert teacher.resumes >= 1 and teacher.status == "done"
    methods = set()
    for run in compared.runs:
        methods.add(run.method.kind)
        caches = store.logit_caches if run.method.kind == "kd" else None
        assert_same_bits(store.folder(run), train_directly(run, tmp_path, caches=caches))
    assert methods == {"ce", "kd", "feature_kd", "at"}


@pytest.mark.parametrize("form", ["safetensors", "onnx", "torch-export"])
def test_an_export_computes_the_runs_logits_and_holds_the_code(compared: Compared, form: str, tmp_path: Path) -> None:
    run = next(run for run in compared.runs if run.method.kind == "at")
    line = export_run(compared.results, run.name, form, tmp_path / "out", overwrite=False)  # compares the logits
    assert "logits within" in line
    assert (tmp_path / "out" / "network.py").read_text() == (compared.file.parent / "nets.py").read_text()
    assert "class Teacher(Net):" in (tmp_path / "out" / "README.md").read_text()


def test_model_files_are_evaluated_with_the_experiments_code(compared: Compared) -> None:
    models = compared.results / "models_saved"
    report_models(load_experiments(compared.file), Command(Options(models, NO_DATA), Console()))
    reported = json.loads((models / "report.json").read_text())["small"]
    saved = json.loads((compared.results / "report.json").read_text())["small"]
    assert reported["teacher_accuracy"] == pytest.approx(saved["teacher_accuracy"], abs=1e-6)


def test_a_search_over_the_width_trains_each_width(cluster: str, tmp_path: Path) -> None:
    (tmp_path / "searched.py").write_text(f"# {tmp_path}\n{NETWORKS}")
    searched = experiment(
        teacher=recipe(model=Network(f"{tmp_path}/searched.py:Teacher"), epochs=2),
        student=recipe(model=Network(f"{tmp_path}/searched.py:Net"), epochs=2),
        workers=Workers(cpus=2),
        search=Search({"student.model.width": choice(4, 8, 12)}, sampler="grid", confirm=0, scheduler="none"),
    )
    (tmp_path / "searched.py").unlink()  # trials have the code, and read no file
    results = tmp_path / "results"
    assert run_search(results, searched).exit_code == 0
    trials = trials_in(results)
    assert sorted(trial.configuration["student.model.width"] for trial in trials) == [4, 8, 12]
    for trial in trials:
        expected = trained_without_ray(trial.configuration, results, tmp_path / "alone", searched)
        assert folder_in(results).run(trial.number).best.read_bytes() == expected.best.read_bytes()
