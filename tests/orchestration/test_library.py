"""raykd.run, plan and load: what they check, what they leave unchanged in the process, and the documented notebook."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
from experiment_runs import environment
from rich.console import Console

import raykd
from raykd.errors import ConfigError
from raykd.orchestration import library, session
from raykd.orchestration.stop_signals import stop_signals
from raykd.spec.overrides import override_all

ROOT = Path(raykd.__file__).parents[1]
DOCUMENT = ROOT / "docs" / "library.md"

TINY = raykd.Experiment(
    family="tiny",
    seeds=(0,),
    data=raykd.Data("digits", val_images=200, student_images=100, crop_padding=1, flip=False),
    teacher=raykd.Recipe(raykd.ResNet(blocks=(1, 1, 1, 1), width=8), epochs=1, batch_size=64),
    student=raykd.Recipe(raykd.ResNet(blocks=(1, 1, 1, 1), width=8), epochs=1, batch_size=50),
)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for RAYKD_TMP, with a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="rd-") as folder:
        yield Path(folder)


def test_a_plan_lists_the_runs_and_writes_nothing(tmp_path: Path) -> None:
    plan = raykd.plan(TINY, results=tmp_path / "results", settings={"seeds": (3, 4)})
    assert list(plan["stage"]) == ["teacher", "baseline", "baseline", "distilled", "distilled"]
    assert list(plan["seed"]) == [0, 3, 4, 3, 4]
    assert set(plan["status"]) == {"not started"}
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, r"raykd\.run\(\) has no experiment to run; write raykd\.run\(experiment\)"),
        (("digits.py",), {}, r"raykd\.run\(\) has an argument of type str, which must be an Experiment"),
        ((TINY, TINY), {}, "two experiments of one family"),
        ((TINY,), {"settings": {"student.epocs": 1}}, "unknown config field 'student.epocs'.*did you mean 'epochs'"),
        ((TINY,), {"settings": "student.epochs=2"}, r"settings = 'student\.epochs=2': must be a dictionary"),
        ((TINY,), {"settings": {"student.epochs": 0}}, "student.epochs=0: epochs = 0 in Recipe"),
        ((TINY,), {"stages": ("students",)}, "'students' is not one of teacher, baseline, distilled"),
    ],
)
def test_a_mistake_is_a_config_error_before_anything_is_written(
    tmp_path: Path, arguments: tuple, options: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        raykd.run(*arguments, results=tmp_path / "results", **options)
    assert not (tmp_path / "results").exists()


def test_run_returns_the_report_that_it_wrote_without_reading_the_results_again(tmp_path: Path, monkeypatch) -> None:
    search = raykd.Search({"method.alpha": raykd.uniform(0, 1)})
    monkeypatch.setattr("raykd.report.build.load", lambda *_: pytest.fail("the results are read again"))
    monkeypatch.setattr("raykd.orchestration.library.run_experiments", lambda experiments, *_: experiments[0].family)
    monkeypatch.setattr("raykd.orchestration.library.search", lambda experiment, *_: f"search of {experiment.family}")
    assert raykd.run(TINY, results=tmp_path) == "tiny"
    searched = replace(TINY, family="searched", search=search)
    assert raykd.run(searched, TINY, results=tmp_path) == "search of searched", "the last report has the runs of all"


def test_settings_are_text_as_on_the_command_line_or_values() -> None:
    text = {"student.epochs": "3", "seeds": "1,2", "method": "dkd", "method.temperature": "2"}
    values = {"student.epochs": 3, "seeds": (1, 2), "method": raykd.DKD(), "method.temperature": 2.0}
    assert override_all(TINY, text.items()) == override_all(TINY, values.items())


def test_importing_raykd_leaves_the_process_unchanged_but_for_the_errors_of_an_experiment_file() -> None:
    code = """
        import signal, sys
        import optuna

        def state():
            handlers = {number: signal.getsignal(number) for number in range(1, 32)}
            return list(sys.argv), sys.excepthook, handlers, optuna.logging.get_verbosity()

        before = state()
        import raykd
        raykd.run, raykd.plan, raykd.load, raykd.Report, raykd.Experiment
        import raykd.cli.commands, raykd.cli.parser, raykd.store.study
        assert state() == before
        assert "ray" not in sys.modules
        from raykd import main
        assert sys.excepthook is not before[1]
        """
    subprocess.run([sys.executable, "-c", dedent(code)], check=True, timeout=120)


def test_a_private_cluster_is_refused_when_ray_was_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would start without requiring a token."""
    module = type(sys)("ray")
    module.is_initialized = lambda: False  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setattr(session, "_open", [])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    session._token.cache_clear()
    with pytest.raises(ConfigError, match=r"ray was imported before raykd.*ray\.init\(\)"), session.ray_session():
        pass


def test_no_signal_is_handled_outside_the_main_thread() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stop_signals(Console()) as stopped:
            seen.append((stopped.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def documented_cells(settings: dict[str, object]) -> list[str]:
    """Return the Python blocks of docs/library.md, without the one that starts Ray itself.

    settings: of the experiment, which is otherwise run as documented.
    """
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), flags=re.S | re.M)
    cells = [block for block in blocks if "ray.init" not in block]
    assert len(cells) == 4
    cells[0] = cells[0].replace("raykd.run(experiment)", f"raykd.run(experiment, settings={settings})")
    return cells


def require_documented_results(results: Path, num_runs: int) -> raykd.Report:
    """Fail unless `results` holds the evaluated runs of docs/library.md, and return their report."""
    report = raykd.load(results)
    assert set(report.runs["state"]) == {"evaluated"}
    assert list(report.history.groupby("run").size()) == [4] * num_runs
    return report


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.usefixtures("cluster")
def test_the_documented_example_runs_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    handler, names = signal.getsignal(signal.SIGTERM), {}
    for cell in documented_cells({"workers.cpus": 2, "seeds": (0,)}):
        exec(cell, names)  # noqa: S102 - the documented code
    require_documented_results(tmp_path / "ray_results", num_runs=3)
    assert "3 of 3 planned runs evaluated" in names["report"]._repr_html_()
    assert names["curves"].shape == (4, 3) and isinstance(names["gain"], float)
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.ray
@pytest.mark.nightly
def test_the_documented_notebook_runs_in_a_jupyter_kernel(
    tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbclient
    import nbformat

    for name, value in environment(cpus=2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAYKD_TMP", str(short_folder))
    cells = [*documented_cells({"workers.cpus": 1}), "import signal; print(repr(signal.getsignal(signal.SIGTERM)))"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()

    headline = [out.data["text/html"] for out in notebook.cells[0].outputs if "text/html" in out.get("data", {})][-1]
    assert "<table" in headline and "5 of 5 planned runs evaluated" in headline
    require_documented_results(tmp_path / "ray_results", num_runs=5)
    plan = json.loads((tmp_path / "ray_results" / "notebook" / "plan.json").read_text())
    assert plan["command"] == "raykd.run in a notebook"
    leftovers = [path for path in short_folder.rglob("*") if path.is_dir() and path.name not in ("ray",)]
    assert [path.name for path in leftovers] == [f"raykd-{os.getuid()}"], "Ray's session and the token are removed"
    assert str(signal.Handlers.SIG_DFL) in notebook.cells[-1].outputs[0].text


@pytest.mark.ray
@pytest.mark.nightly
def test_a_thread_uses_the_ray_that_the_script_has_started_and_leaves_it_connected(tmp_path: Path) -> None:
    code = f"""
        import threading
        import ray

        ray.init("local", num_cpus=2, num_gpus=0, logging_level="ERROR", log_to_driver=False)
        from test_library import TINY
        import raykd

        reports = []
        thread = threading.Thread(target=lambda: reports.append(raykd.run(TINY, results={str(tmp_path / "r")!r})))
        thread.start()
        thread.join()
        assert set(reports[0].runs["state"]) == {{"evaluated"}}
        assert ray.is_initialized() and ray.get(ray.remote(lambda: 1).remote()) == 1
        """
    variables = environment(cpus=2) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", dedent(code)], env=variables, check=True, timeout=400)


NETWORK = """
from torch import nn

class EditedNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.{layer}(192, num_classes))

    def forward(self, images):
        return self.layers(images)
"""


def test_a_network_whose_file_was_edited_after_its_import_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "edited_net.py"
    file.write_text(NETWORK.format(layer="Linear"))
    named = f"{file}:EditedNet"
    experiment = replace(TINY, data=replace(TINY.data, image_size=8), student=replace(TINY.student, model=named))
    before = set(raykd.plan(experiment, results=tmp_path / "results")["name"])
    file.write_text(NETWORK.format(layer="Linear") + "# edited")
    with pytest.raises(ConfigError, match=r"has changed since EditedNet was loaded from it; name the class as"):
        raykd.plan(experiment, results=tmp_path / "results")
    again = replace(experiment, student=replace(TINY.student, model=named))
    after = set(raykd.plan(again, results=tmp_path / "results")["name"])
    assert before != after and len(before & after) == 1, "only the teacher keeps its name"


def test_a_layer_of_unknown_width_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "lazy_net.py"
    file.write_text(NETWORK.format(layer="Linear").replace("nn.Linear(192, ", "nn.LazyLinear("))
    with pytest.raises(ConfigError, match=r"its layer 'layers\.1' is a LazyLinear"):
        raykd.plan(replace(TINY, student=replace(TINY.student, model=f"{file}:EditedNet")), results=tmp_path)


def test_a_network_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "marked_net.py"
    file.write_text("\ufeff" + NETWORK.format(layer="Linear"), encoding="utf-8")
    experiment = replace(TINY, data=replace(TINY.data, image_size=8))
    plan = raykd.plan(replace(experiment, student=replace(TINY.student, model=f"{file}:EditedNet")), results=tmp_path)
    assert len(plan) == 3


def test_one_stage_may_be_named_alone(tmp_path: Path) -> None:
    assert library._options(tmp_path, None, "teacher").stages == ("teacher",)


def test_an_empty_checkpoint_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher_checkpoint = '' in Experiment: must name a file, or be none"):
        replace(TINY, teacher_checkpoint="")
