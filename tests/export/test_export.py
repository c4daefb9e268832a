"""An impossible export is one line with exit code 2 and changes nothing. A killed or failed export leaves no files."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from export_runs import MODELS
from small_runs import run_of, train

from raykd.cli import parser
from raykd.config.codec import read_checked_json, write_checked_json
from raykd.errors import Interrupted
from raykd.export.export import FORMATS, export_run
from raykd.export.onnx_format import OnnxFormat
from raykd.store.run_folder import RunFolder

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def tree(*folders: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for folder in folders for path in folder.rglob("*")}


@pytest.fixture
def export(results, students, capsys):
    """Run `export`; return the exit code and its output."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        code = parser.entry(["export", *map(str, arguments), "--results", str(results)])
        streams = capsys.readouterr()
        return code, streams.out + streams.err

    return call


@pytest.fixture
def refused(export, results, tmp_path):
    """Run `export`, which must fail with one line and change nothing; return the line."""

    def call(*arguments: str | Path, code: int = 2) -> str:
        before = tree(results, tmp_path)
        exit_code, printed = export(*arguments)
        assert exit_code == code, printed
        assert printed.startswith("raykd: ") and printed.count("\n") == 1, printed
        assert tree(results, tmp_path) == before
        return printed

    return call


def test_a_run_is_found_by_folder_by_name_and_by_family(export, students, tmp_path):
    folder = students["resnet"].path
    for number, name in enumerate((folder, folder.name, f"small/{folder.name}")):
        code, printed = export(name, "--format", "safetensors", "--output", tmp_path / str(number))
        assert code == 0 and str(tmp_path / str(number)) in printed and printed.count("\n") == 1
        assert (tmp_path / str(number) / "model.safetensors").read_bytes() == students["resnet"].best.read_bytes()


@pytest.mark.nightly
def test_a_run_named_by_a_dot_is_exported_under_its_name(export, students, results, monkeypatch):
    name = students["resnet"].path.name
    monkeypatch.chdir(students["resnet"].path)
    assert export(".", "--format", "torch-export")[0] == 0
    text = (results / "exported" / f"{name}-torch-export" / "README.md").read_text()
    assert f"# {name}\n" in text and "test top-1" in text  # the teacher's, whose run is in the same family


def test_an_export_without_output_is_below_the_results(export, students, results):
    assert export(students["resnet"].path.name, "--format", "safetensors")[0] == 0
    assert (results / "exported" / f"{students['resnet'].path.name}-safetensors" / "README.md").is_file()


def test_trials_of_two_searches_are_exported_to_two_folders_with_their_teachers_accuracy(students, tmp_path):
    run = students["resnet"].path
    shutil.copytree(run.parents[1] / "teachers", tmp_path / "teachers")
    for search in ("wide", "narrow"):
        shutil.copytree(run, tmp_path / "small" / search / "trials" / "0003")
        export_run(tmp_path, f"small/{search}/0003", "safetensors", None, overwrite=False)
        folder = tmp_path / "exported" / f"small-{search}-0003-safetensors"
        assert json.loads((folder / "config.json").read_text())["run"] == f"small/{search}/0003"
        text = (folder / "README.md").read_text()
        assert f"# small/{search}/0003\n" in text and re.search(r"Teacher: .*, test top-1 \d", text)


def test_an_unknown_run_is_refused_with_the_most_similar_name(refused, students):
    name = students["resnet"].path.name
    line = refused(f"{name[:-1]}x", "--format", "onnx")
    assert f"no run '{name[:-1]}x' under" in line and f"did you mean '{name}'?" in line
    assert f"did you mean 'small/{name}'?" in refused(f"smal/{name}", "--format", "onnx")
    num_runs = len([*students["resnet"].path.parents[1].glob("*/*/run.json")])
    assert f"it has {num_runs} runs" in refused("q", "--format", "onnx")


def test_results_without_runs_are_refused_with_the_remedy(tmp_path, capsys):
    assert parser.entry(["export", "x", "--format", "onnx", "--results", str(tmp_path)]) == 2
    assert "train one first" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_a_name_in_two_families_must_be_given_with_its_family(students, tmp_path, capsys):
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


def test_truncated_weights_are_named(refused, students, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    os.link(students["resnet"].path / "run.json", copy / "run.json")
    (copy / "best.safetensors").write_bytes(students["resnet"].best.read_bytes()[:-9])
    line = refused(copy, "--format", "onnx")
    assert f"'{copy / 'best.safetensors'}' is damaged" in line and "rerun the experiment" in line


def test_a_run_of_another_raykd_version_is_refused(refused, students, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    os.link(students["resnet"].best, copy / "best.safetensors")
    record = read_checked_json(students["resnet"].path / "run.json")
    record["config"]["recipe"]["wings"] = 2
    write_checked_json(copy / "run.json", record)
    assert "another version" in refused(copy, "--format", "onnx")


def test_a_resnet_cannot_be_exported_to_timm(refused, students, tmp_path):
    line = refused(students["resnet"].path, "--format", "timm", "--output", tmp_path / "out")
    assert f"'{MODELS['resnet'].label}' is not a timm model" in line and "use safetensors, onnx or torch-export" in line


def test_a_folder_that_is_not_empty_is_not_replaced(refused, export, students, tmp_path):
    output = tmp_path / "out"
    assert export(students["vit"].path, "--format", "safetensors", "--output", output)[0] == 0
    line = refused(students["vit"].path, "--format", "safetensors", "--output", output)
    assert f"--output '{output}' is not empty" in line and "--overwrite" in line


def test_overwrite_replaces_the_whole_earlier_export(export, students, tmp_path):
    output = tmp_path / "out"
    assert export(students["vit"].path, "--format", "safetensors", "--output", output)[0] == 0
    assert export(students["vit"].path, "--format", "torch-export", "--output", output, "--overwrite")[0] == 0
    assert {path.name for path in output.iterdir()} == {"README.md", "config.json", "model.pt2"}
    assert [*tmp_path.iterdir()] == [output]


def test_overwrite_never_replaces_a_folder_with_other_files(refused, students, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    line = refused(students["vit"].path, "--format", "safetensors", "--output", tmp_path / "home", "--overwrite")
    assert "holds 'thesis.tex', which is not part of an export" in line
    arguments = (students["vit"].path, "--format", "safetensors", "--output", students["vit"].path, "--overwrite")
    assert "which is not part of an export" in refused(*arguments)


def test_an_empty_folder_is_filled(export, students, tmp_path):
    (tmp_path / "out").mkdir()
    assert export(students["vit"].path, "--format", "safetensors", "--output", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "README.md").is_file()


def test_an_output_that_is_not_a_folder_is_refused(refused, students, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"--output '{place}'" in refused(students["vit"].path, "--format", "safetensors", "--output", place)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_an_output_that_cannot_be_made_is_refused(number, refused, students, monkeypatch, tmp_path):
    """The folder is read-only, like the results of another user."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    run = students["vit"].path  # trained now, if no other test has
    monkeypatch.setattr(Path, "mkdir", fail)
    line = refused(run, "--format", "safetensors", "--output", tmp_path / "out")
    assert line == f"raykd: --output '{tmp_path / 'out'}' cannot be made ({os.strerror(number)}); name another\n"


def test_files_that_appear_during_the_export_are_kept(export, students, monkeypatch, tmp_path):
    output = tmp_path / "out"

    def card(*_):
        output.mkdir()
        (output / "thesis.tex").write_text("years of work")
        return ""

    monkeypatch.setattr("raykd.export.export.model_card", card)
    code, printed = export(students["vit"].path, "--format", "safetensors", "--output", output)
    assert (code, printed) == (
        2,
        f"raykd: --output '{output}' is not empty; name another, or replace it with --overwrite\n",
    )
    assert [*tmp_path.iterdir()] == [output] and [*output.iterdir()] == [output / "thesis.tex"]


def test_an_export_to_a_link_fills_the_folder_it_points_to(export, students, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert export(students["vit"].path, "--format", "safetensors", "--output", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "README.md").is_file()


@pytest.mark.parametrize("missing", ONNX_PACKAGES)
def test_a_missing_package_is_named_with_the_remedy(missing, refused, students, monkeypatch, tmp_path):
    monkeypatch.setattr("raykd.export.format.find_spec", lambda name: None if name == missing else object())
    line = refused(students["vit"].path, "--format", "onnx", "--output", tmp_path / "out")
    assert line == f"raykd: --format onnx requires packages that are missing: pip install {missing}\n"


def test_a_failing_exporter_is_one_line_and_leaves_no_files(refused, students, monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("operator aten::wings is not known\nand forty lines more")

    monkeypatch.setattr(OnnxFormat, "write", fail)
    line = refused(students["vit"].path, "--format", "onnx", "--output", tmp_path / "out", code=1)
    assert "RuntimeError: operator aten::wings is not known; nothing was kept" in line


def test_a_file_whose_logits_differ_from_the_runs_is_not_kept(refused, students, monkeypatch, tmp_path):
    """The exported file is wrong, as after a bug in an exporter."""
    read = FORMATS["safetensors"].read
    monkeypatch.setattr(
        type(FORMATS["safetensors"]), "read", lambda self, *arguments: lambda images: 1.001 * read(*arguments)(images)
    )
    line = refused(students["vit"].path, "--format", "safetensors", "--output", tmp_path / "out", code=1)
    assert "differs from the run's by 0.001 of the largest value" in line and "nothing was kept" in line


@pytest.mark.nightly
def test_a_killed_export_leaves_no_output_and_the_next_one_removes_its_files(export, students, tmp_path):
    output, started = tmp_path / "out", tmp_path / "started"
    code = (
        "import sys, time, pathlib\nfrom raykd.cli import parser\nfrom raykd.export import export\n"
        f"export.model_card = lambda *arguments: (pathlib.Path({str(started)!r}).touch(), time.sleep(60))\n"
        f"parser.entry(['export', {str(students['vit'].path)!r}, '--format', 'safetensors', "
        f"'--output', {str(output)!r}])"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while not started.exists() and time.monotonic() < until:
        time.sleep(0.05)
    (temporary,) = (path for path in tmp_path.iterdir() if path.name.endswith("-out"))
    assert (temporary / "model.safetensors").is_file() and not output.exists()
    assert export(students["vit"].path, "--format", "safetensors", "--output", output)[0] == 0
    assert temporary.is_dir(), "an export that still runs lost its files to another"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert export(students["vit"].path, "--format", "safetensors", "--output", output, "--overwrite")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", "started"}
