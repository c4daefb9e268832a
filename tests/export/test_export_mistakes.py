"""An export that cannot be: one line, exit 2, nothing changed; one that is cut off or goes wrong: nothing half done."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from export_runs import MODELS
from small_runs import run_of, train

from raykd.cli import parser
from raykd.errors import Interrupted
from raykd.export.export import FORMATS
from raykd.export.onnx_format import Onnx
from raykd.store.codec import read_json, write_record
from raykd.store.run_folder import RunFolder

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def tree(*folders: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for folder in folders for path in folder.rglob("*")}


@pytest.fixture
def export(results, students, capsys):
    """Type `export`; gives the exit code and what it said."""

    def call(*words: str | Path) -> tuple[int, str]:
        code = parser.entry(["export", *map(str, words), "--results", str(results)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def refused(export, results, tmp_path):
    """The line with which a mistake is refused; nothing was changed."""

    def call(*words: str | Path, code: int = 2) -> str:
        before = tree(results, tmp_path)
        found, said = export(*words)
        assert found == code, said
        assert said.startswith("raykd: ") and said.count("\n") == 1, said
        assert tree(results, tmp_path) == before
        return said

    return call


def test_a_run_is_found_by_folder_by_name_and_by_family(export, students, tmp_path):
    folder = students["resnet"].path
    for number, word in enumerate((folder, folder.name, f"small/{folder.name}")):
        code, said = export(word, "--format", "safetensors", "--output", tmp_path / str(number))
        assert code == 0 and str(tmp_path / str(number)) in said and said.count("\n") == 1
        assert (tmp_path / str(number) / "model.safetensors").read_bytes() == students["resnet"].best.read_bytes()


def test_a_run_that_is_named_by_a_dot_has_its_own_name(export, students, results, monkeypatch):
    name = students["resnet"].path.name
    monkeypatch.chdir(students["resnet"].path)
    assert export(".", "--format", "torch-export")[0] == 0
    text = (results / "exported" / f"{name}-torch-export" / "README.md").read_text()
    assert f"# {name}\n" in text and "test top-1" in text  # the teacher's, whose run lies beside it


def test_without_output_it_goes_below_the_results(export, students, results):
    assert export(students["resnet"].path.name, "--format", "safetensors")[0] == 0
    assert (results / "exported" / f"{students['resnet'].path.name}-safetensors" / "README.md").is_file()


def test_an_unknown_run_is_named_with_the_nearest(refused, students):
    name = students["resnet"].path.name
    line = refused(f"{name[:-1]}x", "--format", "onnx")
    assert f"no run '{name[:-1]}x' under" in line and f"did you mean '{name}'?" in line
    assert f"did you mean 'small/{name}'?" in refused(f"smal/{name}", "--format", "onnx")
    assert "it has 6 runs" in refused("q", "--format", "onnx")


def test_results_without_runs_say_so(tmp_path, capsys):
    assert parser.entry(["export", "x", "--format", "onnx", "--results", str(tmp_path)]) == 2
    assert "train one first" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_a_name_in_two_families_is_asked_for_with_its_family(students, tmp_path, capsys):
    for family in ("a", "b"):
        (tmp_path / family / "run").mkdir(parents=True)
        os.link(students["resnet"].path / "run.json", tmp_path / family / "run" / "run.json")
    assert parser.entry(["export", "run", "--format", "onnx", "--results", str(tmp_path)]) == 2
    assert "name one of a/run, b/run" in capsys.readouterr().err


def test_a_run_that_is_not_done_is_refused(refused, tmp_path):
    run = run_of("baseline")
    folder = RunFolder(tmp_path / run.name)
    with pytest.raises(Interrupted):
        train(run, folder, should_stop=lambda: True)
    (folder.path / ".lock").touch()
    assert f"run '{run.name}' is interrupted, not done" in refused(folder.path, "--format", "onnx")
    folder.update(status="failed")
    assert "is failed, not done" in refused(folder.path, "--format", "onnx")


def test_weights_that_are_cut_short_are_named(refused, students, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    os.link(students["resnet"].path / "run.json", copy / "run.json")
    (copy / "best.safetensors").write_bytes(students["resnet"].best.read_bytes()[:-9])
    line = refused(copy, "--format", "onnx")
    assert f"'{copy / 'best.safetensors'}' is damaged" in line and "rerun the experiment" in line


def test_a_record_of_another_version_is_named(refused, students, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    os.link(students["resnet"].best, copy / "best.safetensors")
    record = read_json(students["resnet"].path / "run.json")
    record["config"]["recipe"]["wings"] = 2
    write_record(copy / "run.json", record)
    assert "another version" in refused(copy, "--format", "onnx")


def test_a_resnet_of_raykds_is_no_model_of_timms(refused, students, tmp_path):
    line = refused(students["resnet"].path, "--format", "timm", "--output", tmp_path / "out")
    assert (
        f"'{MODELS['resnet'].label}' is no model of timm's" in line and "use safetensors, onnx or torch-export" in line
    )


def test_a_folder_that_is_not_empty_is_kept(refused, export, students, tmp_path):
    output = tmp_path / "out"
    assert export(students["vit"].path, "--format", "safetensors", "--output", output)[0] == 0
    line = refused(students["vit"].path, "--format", "safetensors", "--output", output)
    assert f"--output '{output}' is not empty" in line and "--overwrite" in line


def test_overwrite_replaces_an_export_whole(export, students, tmp_path):
    output = tmp_path / "out"
    assert export(students["vit"].path, "--format", "safetensors", "--output", output)[0] == 0
    assert export(students["vit"].path, "--format", "torch-export", "--output", output, "--overwrite")[0] == 0
    assert {path.name for path in output.iterdir()} == {"README.md", "config.json", "model.pt2"}
    assert [*tmp_path.iterdir()] == [output]


def test_overwrite_never_replaces_what_no_export_wrote(refused, students, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    line = refused(students["vit"].path, "--format", "safetensors", "--output", tmp_path / "home", "--overwrite")
    assert "holds 'thesis.tex', which no export wrote" in line
    words = (students["vit"].path, "--format", "safetensors", "--output", students["vit"].path, "--overwrite")
    assert "which no export wrote" in refused(*words)


def test_an_empty_folder_is_filled(export, students, tmp_path):
    (tmp_path / "out").mkdir()
    assert export(students["vit"].path, "--format", "safetensors", "--output", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "README.md").is_file()


def test_a_place_that_is_no_folder_is_named(refused, students, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"--output '{place}'" in refused(students["vit"].path, "--format", "safetensors", "--output", place)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_place_where_nothing_can_be_made_is_named(number, refused, students, monkeypatch, tmp_path):
    """Of an experiment's results that only their owner may write to."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fail)
    line = refused(students["vit"].path, "--format", "safetensors", "--output", tmp_path / "out")
    assert line == f"raykd: --output '{tmp_path / 'out'}' cannot be made ({os.strerror(number)}); name another\n"


def test_what_came_to_the_place_while_it_was_exported_is_kept(export, students, monkeypatch, tmp_path):
    output = tmp_path / "out"

    def card(*_):
        output.mkdir()
        (output / "thesis.tex").write_text("years of work")
        return ""

    monkeypatch.setattr("raykd.export.export.model_card", card)
    code, said = export(students["vit"].path, "--format", "safetensors", "--output", output)
    assert (code, said) == (
        2,
        f"raykd: --output '{output}' is not empty; name another, or replace it with --overwrite\n",
    )
    assert [*tmp_path.iterdir()] == [output] and [*output.iterdir()] == [output / "thesis.tex"]


def test_an_export_through_a_link_fills_what_it_leads_to(export, students, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert export(students["vit"].path, "--format", "safetensors", "--output", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "README.md").is_file()


@pytest.mark.parametrize("missing", ONNX_PACKAGES)
def test_a_package_that_is_missing_is_named_with_its_remedy(missing, refused, students, monkeypatch, tmp_path):
    monkeypatch.setattr("raykd.export.format.find_spec", lambda name: None if name == missing else object())
    line = refused(students["vit"].path, "--format", "onnx", "--output", tmp_path / "out")
    assert line == f"raykd: --format onnx wants what is not installed: pip install {missing}\n"


def test_tools_that_fail_are_one_line_and_leave_nothing(refused, students, monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("operator aten::wings is not known\nand forty lines more")

    monkeypatch.setattr(Onnx, "write", fail)
    line = refused(students["vit"].path, "--format", "onnx", "--output", tmp_path / "out", code=1)
    assert "RuntimeError: operator aten::wings is not known; nothing was kept" in line


def test_a_file_that_answers_otherwise_than_the_run_is_not_kept(refused, students, monkeypatch, tmp_path):
    """The graph that another bug of an exporter would give."""
    read = FORMATS["safetensors"].read
    monkeypatch.setattr(
        type(FORMATS["safetensors"]), "read", lambda self, *words: lambda images: 1.001 * read(*words)(images)
    )
    line = refused(students["vit"].path, "--format", "safetensors", "--output", tmp_path / "out", code=1)
    assert "logits 0.001 off the run's" in line and "nothing was kept" in line


def test_a_killed_export_leaves_nothing_by_the_name_and_the_next_one_tidies_up(export, students, tmp_path):
    output, begun = tmp_path / "out", tmp_path / "begun"
    code = (
        "import sys, time, pathlib\nfrom raykd import cli\nfrom raykd.export import export\n"
        f"export.model_card = lambda *words: (pathlib.Path({str(begun)!r}).touch(), time.sleep(60))\n"
        f"cli.entry(['export', {str(students['vit'].path)!r}, '--format', 'safetensors', '--output', {str(output)!r}])"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < until:
        time.sleep(0.05)
    (aside,) = (path for path in tmp_path.iterdir() if path.name.endswith("-out"))
    assert (aside / "model.safetensors").is_file() and not output.exists()
    assert export(students["vit"].path, "--format", "safetensors", "--output", output)[0] == 0
    assert aside.is_dir(), "an export that still runs lost its files to another"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert export(students["vit"].path, "--format", "safetensors", "--output", output, "--overwrite")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", "begun"}
