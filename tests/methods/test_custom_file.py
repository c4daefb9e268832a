"""Tests of methods in a user's file: loaded by path, pickled as text, fingerprinted by hash; and refusals."""

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import experiment, run_of

from raykd.cli.experiment_file import apply_settings, load_experiments
from raykd.config import to_dict
from raykd.errors import ConfigError
from raykd.methods import KD, Method
from raykd.spec.overrides import override

TEXT = """
from dataclasses import dataclass
from typing import ClassVar
from raykd import Method
SCALE = {scale}

@dataclass(frozen=True)
class Mine(Method):
    kind: ClassVar[str] = "{kind}"
    needs: ClassVar[frozenset] = frozenset({{"logits"}})
    weight: float = 1.0

    def weights(self, epoch):
        return {{"ce": 1.0, "mine": self.weight}}

    def terms(self, student, teacher, targets, adapter):
        return {{"mine": SCALE * (student.logits - teacher.logits).abs().mean()}}
"""


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a method file with a kind for this test, since classes stay registered until the process ends."""
    path = tmp_path / "mine.py"
    path.write_text(TEXT.format(scale=1, kind=kind_of(request)))
    yield path


def kind_of(request: pytest.FixtureRequest) -> str:
    return "own_" + "".join(letter for letter in request.node.name.lower() if letter.isalnum())


def pickled(value: Any) -> Any:
    """Pickle and unpickle an object."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - pickled here


def load_method(file: Path, **settings: str) -> Method:
    changed = override(experiment(), "method", f"{file}:Mine")
    for path, value in settings.items():
        changed = override(changed, f"method.{path}", value)
    return changed.method


def test_path_and_class_load_the_method_with_its_typed_fields(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    (changed,) = apply_settings([experiment()], ["method.weight=2.5", "method=mine.py:Mine"])
    assert (changed.method.title(), changed.method.weights(0)) == ("Mine", {"ce": 1.0, "mine": 2.5})
    with pytest.raises(ConfigError, match=r"method\.weight=much: 'much' is not a number"):
        load_method(file, weight="much")
    with pytest.raises(ConfigError, match=r"unknown config field 'method\.wieght': Mine has weight; did you mean"):
        load_method(file, wieght="1")


def test_run_json_records_the_file_and_the_fingerprint_has_its_hash_but_not_its_name(file: Path) -> None:
    method = load_method(file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert to_dict(method)["source"] == {"file": "mine.py", "class": "Mine", "sha256": sha256}
    assert to_dict(method, results_only=True)["source"] == {"class": "Mine", "sha256": sha256}
    run = replace(run_of("distilled"), method=method)
    assert method.kind.replace("_", "-") in run.name
    renamed = file.rename(file.with_name("other.py"))
    assert replace(run, method=load_method(renamed)).fingerprint == run.fingerprint
    assert replace(run, method=load_method(renamed, weight="2")).fingerprint != run.fingerprint


def test_an_edited_method_makes_another_run_in_the_same_process(file: Path, request: pytest.FixtureRequest) -> None:
    before = replace(run_of("distilled"), method=load_method(file))
    file.write_text(TEXT.format(scale=2, kind=kind_of(request)))
    after = replace(before, method=load_method(file))
    assert after.fingerprint != before.fingerprint and type(after.method) is not type(before.method)
    file.write_text(TEXT.format(scale=1, kind=kind_of(request)))
    assert replace(before, method=load_method(file)) == before


def test_builtin_methods_are_stored_without_source_and_pickled() -> None:
    assert "source" not in to_dict(experiment().method)
    assert pickled(experiment()) == experiment()


def test_a_pickle_loads_as_the_same_class_and_in_a_process_without_the_file(file: Path) -> None:
    method = load_method(file, weight="3")
    content = pickle.dumps(experiment(method=method))
    assert pickled(experiment(method=method)).method == method
    file.unlink()
    program = (
        "import pickle, sys, torch; from raykd import Outputs, Targets\n"
        "method = pickle.loads(sys.stdin.buffer.read()).method\n"
        "ones, row = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)\n"
        "terms = method.terms(Outputs(ones), Outputs(-ones), Targets(row, row), None)\n"
        "print(terms['mine'].item(), method.weights(0))\n"
        "assert pickle.loads(pickle.dumps(method)) == method"
    )
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=False, timeout=60)
    assert done.stdout.decode() == "2.0 {'ce': 1.0, 'mine': 3.0}\n", done.stderr.decode()


def test_an_imported_method_equals_one_loaded_by_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"imported_{file.parent.name.replace('-', '_')}"
    file.rename(file.with_name(f"{name}.py"))
    (file.parent / "mine_experiment.py").write_text(
        f"from {name} import Mine\nfrom raykd import Experiment\n"
        "experiment = Experiment(family='digits', method=Mine(weight=4.0))\n"
    )
    (loaded,) = load_experiments(file.parent / "mine_experiment.py")
    monkeypatch.delitem(sys.modules, name)
    assert loaded.method == replace(load_method(file.with_name(f"{name}.py")), weight=4.0)
    assert to_dict(loaded.method)["source"]["file"] == f"{name}.py"
    assert pickled(loaded) == loaded


def test_a_class_in_the_experiment_file_itself_is_refused(file: Path, request: pytest.FixtureRequest) -> None:
    text = TEXT.format(scale=1, kind=kind_of(request))
    file.write_text(f"{text}\nfrom raykd import Experiment\nexperiment = Experiment(family='digits', method=Mine())\n")
    with pytest.raises(ConfigError, match="method Mine is defined in the experiment file; move it to a separate file"):
        load_experiments(file)


HEAD = "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom raykd import KD, Method\n"
FROZEN = "@dataclass(frozen=True)\n"
BAD = {
    "import no_such_module\n": r"mine\.py' fails at line 1 with ModuleNotFoundError: No module named 'no_such_module'",
    f"{HEAD}\nx = 1 / 0\n": r"mine\.py' fails at line 5 with ZeroDivisionError: division by zero",
    f"{HEAD}class Mine(Method:\n": r"mine\.py' fails at line 4 with SyntaxError: ",
    f"{HEAD}@dataclass\nclass Mine(Method):\n    a: int = 1\n": r"fails at line \d with TypeError: cannot inherit",
    f"{HEAD}class Mine:\n    pass\n": r"'Mine' in method file '.*mine\.py' is no method; derive it from raykd\.Method",
    "Mine = 3\n": r"'Mine' in method file '.*mine\.py' is no method",
    f"{HEAD}class Mien(KD):\n    pass\n": r"has no class 'Mine'; did you mean 'Mien'\?",
    f"{HEAD}class Mine(KD):\n    pass\n": r"Mine in '.*mine\.py' defines no valid kind, which names its runs",
    f"{HEAD}class Mine(KD):\n    kind: ClassVar[str] = 'My kind'\n": r"defines no valid kind.* with a-z, 0-9 and _",
    f"{HEAD}class Mine(KD):\n    kind: ClassVar[str] = 'feature_kd'\n": r"kind 'feature_kd' of FeatureKD",
    f"{HEAD}class Mine(KD):\n    kind: ClassVar[str] = 'own_a'\n    beta: float = 1.0\n": (
        r"beta cannot be set; put @dataclass\(frozen=True\) above the class"
    ),
    f"{HEAD}{FROZEN}class Mine(Method):\n    kind: ClassVar[str] = 'own_b'\n    beta: float\n": (
        r"mine\.py:Mine cannot be created: its field 'beta' has no default; give it one"
    ),
    f"{HEAD}{FROZEN}class Mine(KD):\n    kind: ClassVar[str] = 'own_c'\n    source: str = ''\n": (
        r"has a field 'source', a name that run\.json reserves; rename it"
    ),
    f"import beside\n{HEAD}": r"mine\.py' fails at line 1 with ZeroDivisionError: division by zero",
}


@pytest.mark.parametrize("text", BAD)
def test_invalid_method_files_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "beside.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=BAD[text]) as caught:
        override(experiment(), "method", f"{tmp_path / 'mine.py'}:Mine")
    assert "\n" not in str(caught.value)


def test_two_files_whose_classes_share_a_kind_are_refused(file: Path, request: pytest.FixtureRequest) -> None:
    load_method(file)
    other = file.with_name("other.py")
    other.write_text(TEXT.format(scale=2, kind=kind_of(request)))
    with pytest.raises(ConfigError, match=r"Mine in '.*other\.py' has the kind 'own_.*' of Mine in '.*mine\.py'"):
        load_method(other)


def test_a_refused_class_does_not_replace_a_builtin_kind(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{HEAD}class Mine(KD):\n    kind: ClassVar[str] = 'kd'\n")
    with pytest.raises(ConfigError, match="the kind 'kd' of KD in raykd"):
        override(experiment(), "method", f"{tmp_path / 'mine.py'}:Mine")
    assert type(override(experiment(), "method", "kd").method) is KD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "gone.py:Mine",
            r"method file 'gone\.py' does not exist; check the path",
        ),
        ("mine.py", r"'mine\.py' names no class; give its file and its name: my_method\.py:MyMethod"),
        ("mine.py:", r"method file 'mine\.py' has no class ''"),
    ],
)
def test_a_missing_file_or_class_is_named(file: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError, match=message):
        override(experiment(), "method", text)
