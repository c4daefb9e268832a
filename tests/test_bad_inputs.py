"""Every bad input is one clear line with its exit code. Ray is not started, and no file is written or changed.

python -m pytest tests/test_bad_inputs.py -q      runs all of them and counts them
"""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import bad_inputs
import pytest
from bad_inputs.case import BadInput
from nightly import nightly_unless

from raykd.cli import parser

COMMAND_FIELDS = ("command", "command_parts", "checksum")  # of plan.json
AREAS = sorted(module.name for module in iter_modules(bad_inputs.__path__) if module.name != "case")
CASES: list[BadInput] = [case for area in AREAS for case in import_module(f"bad_inputs.{area}").CASES]
AT_NIGHT: list[BadInput] = import_module("bad_inputs.hugging_face").CASES  # importing transformers takes 5 s


@pytest.mark.parametrize("case", nightly_unless(lambda case: case not in AT_NIGHT, CASES), ids=lambda case: case.name)
def test_a_bad_input_is_one_clear_line_and_changes_nothing(case: BadInput, tmp_path, monkeypatch, capsys):
    def no_ray():
        raise AssertionError("Ray was started")

    monkeypatch.setattr("raykd.orchestration.run_experiments.ray_session", no_ray)
    monkeypatch.chdir(tmp_path)
    arguments = [str(word) for word in case.make(tmp_path)]
    for name, value in case.environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    if "--results" not in arguments and arguments[0] in (
        "plan",
        "tune",
        "report",
        "distill",
        "train-teacher",
        "train-student",
    ):
        arguments += ["--results", str(tmp_path / "results")]
    before = _contents(tmp_path)
    capsys.readouterr()
    code = parser.entry(arguments)
    line = capsys.readouterr().err
    assert code == case.exit_code, line
    assert line.startswith("raykd: ") and line.count("\n") == 1, line
    for text in case.message_parts:
        assert text.replace("{folder}", str(tmp_path)) in line
    assert _contents(tmp_path) == before


def test_names_of_bad_inputs_are_unique():
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)


def _contents(folder: Path) -> dict[str, str]:
    """Return every file below `folder` with the SHA-256 of its content, without the bytecode that Python keeps."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(_content(path)).hexdigest() if path.is_file() else "not a file"
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def _content(path: Path) -> bytes:
    """Return the content of a file. An intact plan comes without the command, which is that of the latest attempt."""
    content = path.read_bytes()
    try:
        plan = json.loads(content) if path.name == "plan.json" else None
    except (ValueError, RecursionError):
        plan = None
    if not isinstance(plan, dict):
        return content
    return json.dumps({name: value for name, value in plan.items() if name not in COMMAND_FIELDS}).encode()
