"""A search that names a custom method by its file: the command reads the file, and its trials receive the method."""

import inspect
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hugging_face import write_folder
from rich.console import Console
from small_runs import NO_WEIGHTS, digits, experiment, recipe
from user_network import UserNet
from written_records import search_record

from raykd.errors import ConfigError
from raykd.models.weights import save_weights
from raykd.orchestration.command import SearchCommand
from raykd.orchestration.options import Options
from raykd.orchestration.parallel_runs import Slots
from raykd.orchestration.search_identity import identity_of_search, require_same
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override
from raykd.spec.plan import Run, make_plan
from raykd.spec.search import Search, choice, uniform
from raykd.training.training_step import make_model

if TYPE_CHECKING:
    from raykd.orchestration.trial import TrialContext

METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from raykd import Method

@dataclass(frozen=True)
class Mine(Method):
    kind: ClassVar[str] = "{kind}"
    needs: ClassVar[frozenset] = frozenset({{"logits"}})
    weight: float = {weight}

    def weights(self, epoch):
        return {{"ce": 1.0, "mine": self.weight}}

    def terms(self, student, teacher, targets, adapter):
        return {{"mine": (student.logits - teacher.logits).abs().mean()}}
"""


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Return a class name that no other test uses: classes stay registered as long as the process lives."""
    return "searched_" + "".join(letter for letter in request.node.name if letter.isalnum())


@pytest.fixture
def searched(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Return a search over KD and a custom method in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(METHOD.format(kind=kind, weight=1.0))
    return experiment(search=Search({"method": choice("kd", "mine.py:Mine")}))


def trial_context(searched_experiment: Experiment, folder: Path) -> "TrialContext":
    from raykd.orchestration.trial import TrialContext  # here: it imports ray, which needs its token first

    options = Options(folder / "results", folder)
    return TrialContext(searched_experiment, options, folder, Slots(1, 1, 0), None, None, folder)


def run_of(configuration: dict[str, Any], shared: "TrialContext") -> Run:
    from raykd.orchestration import searcher, trial

    return trial.run_of({searcher.NUMBER: 0, searcher.CONFIGURATION: configuration}, shared)[0]


@pytest.mark.nightly
def test_trials_in_another_folder_have_the_method_when_its_file_is_gone(
    searched: Experiment, tmp_path: Path, kind: str
) -> None:
    """Unpickle as Ray's cloudpickle does, in a process that has not loaded the file."""
    from ray import cloudpickle

    content = cloudpickle.dumps(trial_context(searched, tmp_path))
    Path("mine.py").unlink()
    (tmp_path / "elsewhere").mkdir()
    program = (
        "import pickle, sys\n"
        "from raykd.orchestration.searcher import NUMBER, CONFIGURATION\n"
        "from raykd.orchestration.trial import run_of\n"
        "shared = pickle.loads(sys.stdin.buffer.read())\n"
        "run, _ = run_of({NUMBER: 0, CONFIGURATION: {'method': 'mine.py:Mine'}}, shared)\n"
        "print(run.method.kind, run.method.weights(0)['mine'], run.fingerprint)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        input=content,
        capture_output=True,
        check=False,
        timeout=120,
        cwd=tmp_path / "elsewhere",
    )
    run = run_of({"method": "mine.py:Mine"}, trial_context(searched, tmp_path))
    assert ended.stdout.decode().split() == [kind, "1.0", run.fingerprint], ended.stderr.decode()


def test_editing_the_file_during_the_search_changes_no_trial(searched: Experiment, tmp_path: Path, kind: str) -> None:
    before = searched.with_configuration({"method": "mine.py:Mine"}).method
    Path("mine.py").write_text(METHOD.format(kind=kind, weight=2.0))
    assert searched.with_configuration({"method": "mine.py:Mine"}).method == before
    assert (
        searched.with_configuration({"method": "mine.py:Mine", "method.weight": 3.0}).method.weights(0)["mine"] == 3.0
    )
    copied = pickle.loads(pickle.dumps(searched))  # noqa: S301 - written by this test
    assert searched.needs == {"logits"} and copied.custom_methods == searched.custom_methods


def test_an_edited_file_is_another_search_and_an_unchanged_one_resumes(
    searched: Experiment, tmp_path: Path, kind: str
) -> None:
    def identity(searched_experiment: Experiment) -> dict:
        return identity_of_search(make_plan(searched_experiment, digits(), NO_WEIGHTS), digits())

    command = SearchCommand(Options(tmp_path / "results", tmp_path), Console(), searched)
    command.folder.write_record(search_record(identity=identity(searched)))
    assert searched.search is not None
    again = experiment(search=searched.search)
    require_same(command.folder, identity(again))
    Path("mine.py").write_text(METHOD.format(kind=kind, weight=2.0))
    edited = experiment(search=searched.search)
    with pytest.raises(
        ConfigError, match=r"holds another search: custom_methods\.mine\.py:Mine\.sha256 was .*, and is "
    ):
        require_same(command.folder, identity(edited))


def test_missing_file_is_refused_when_the_search_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"method file 'gone\.py' does not exist; check the path, relative to "):
        experiment(search=Search({"method": choice("kd", "gone.py:Mine")}))


def test_weights_in_a_space_are_relative_to_the_commands_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    searched_experiment = override(experiment(), "student.model", "timm:test_vit")
    base = next(run for run in make_plan(searched_experiment, digits(), NO_WEIGHTS).runs if run.stage == "baseline")
    save_weights(Path("a.safetensors"), make_model(base, digits()).network.state_dict())
    space = {"student.model.weights": choice("", "a.safetensors"), "method.alpha": uniform(0, 1)}
    shared = trial_context(experiment(student=searched_experiment.student, search=Search(space)), tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    run = run_of({"student.model.weights": "a.safetensors", "method.alpha": 0.5}, shared)
    assert run.initial is not None and run.initial.path == str(tmp_path / "a.safetensors")


def test_networks_in_a_space_are_read_when_the_search_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial has another working directory, and may start when file and folder are gone."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(f"# {tmp_path}\n{Path(inspect.getfile(UserNet)).read_text()}")
    write_folder(Path("tiny"))
    space = {"student.model": choice("resnet8", "mine.py:UserNet", "hf:tiny")}
    searched_experiment = experiment(student=recipe(model="resnet8"), search=Search(space))
    shared = pickle.loads(pickle.dumps(trial_context(searched_experiment, tmp_path)))  # noqa: S301 - made by this test
    Path("mine.py").unlink()
    shutil.rmtree("tiny")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    labels = [run_of({"student.model": text}, shared).model.label for text in space["student.model"].probe_values]
    assert labels == ["resnet8", "user_net", "hf-tiny"]
    plan = make_plan(searched_experiment, digits(), NO_WEIGHTS)
    assert set(identity_of_search(plan, digits())["custom_models"]) == {"mine.py:UserNet", "hf:tiny"}
