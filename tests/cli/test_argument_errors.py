"""Errors of the command line: one line in raykd's format, exit code 2, and the nearest name."""

import argparse
import subprocess
import sys

import pytest

from raykd import errors
from raykd.cli import parser
from raykd.cli.experiment_parser import make_experiment_parser
from raykd.errors import COMMAND


def error_of(capsys: pytest.CaptureFixture[str], parse, arguments: list[str]) -> str:
    """Return the only line that parsing prints."""
    with pytest.raises(SystemExit) as exit_info:
        parse(arguments)
    printed = capsys.readouterr()
    assert exit_info.value.code == 2 and printed.out == ""
    assert printed.err.startswith("raykd: ") and printed.err.count("\n") == 1
    return printed.err.removeprefix("raykd: ").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["plna", "digits"], f"unknown command 'plna'; did you mean 'plan'? see '{COMMAND} --help'"),
        (["xyz"], f"unknown command 'xyz'; see '{COMMAND} --help'"),
        ([], f"the following arguments are required: command; see '{COMMAND} --help'"),
        (
            ["plan", "digits", "--reslts=x"],
            f"unknown option '--reslts'; did you mean '--results'? see '{COMMAND} plan --help'",
        ),
        (["plan", "digits", "--verbose"], f"unknown option '--verbose'; see '{COMMAND} plan --help'"),
        (["plan", "digits", "vit"], f"unexpected argument 'vit'; see '{COMMAND} plan --help'"),
        (["run"], f"the following arguments are required: NAME|FILE; see '{COMMAND} run --help'"),
        (
            ["run", "--plan", "digits"],
            f"unexpected option '--plan': the experiment's options follow its name; see '{COMMAND} run --help'",
        ),
        (
            ["export", "x", "--format", "onxx"],
            "argument --format: 'onxx' is not one of safetensors, onnx, torch-export, timm; did you mean 'onnx'? "
            f"see '{COMMAND} export --help'",
        ),
        (
            ["export", "x"],
            f"the following arguments are required: --format; see '{COMMAND} export --help'",
        ),
        (["pack", "x", "--jobs", "2\n3"], f"argument --jobs: invalid int value: '2\\n3'; see '{COMMAND} pack --help'"),
        (["plan", "digits", "--set"], f"argument --set: expected one argument; see '{COMMAND} plan --help'"),
        (["status", "--jbo", "7"], f"unknown option '--jbo'; did you mean '--job'? see '{COMMAND} status --help'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_nearest_name(arguments, expected, capsys) -> None:
    assert error_of(capsys, parser.make_parser().parse_args, arguments) == expected


def test_an_experiment_file_reports_mistakes_in_the_same_way(capsys) -> None:
    parse = make_experiment_parser(["cnn", "vit"], prog="python x.py").parse_args
    line = error_of(capsys, parse, ["--famliy", "cnn"])
    assert line == "unknown option '--famliy'; did you mean '--family'? see 'python x.py --help'"


def test_teacher_names_a_model_and_abbreviates_nothing(capsys) -> None:
    """The source of the teacher's logits is --teacher-source."""
    arguments = parser.make_parser().parse_args(["distill", "--teacher", "resnet18"])
    assert arguments.teacher == "resnet18"
    for command in (["plan", "digits"], ["tune", "digits"], ["train-teacher"], ["report"]):
        line = error_of(capsys, parser.make_parser().parse_args, [*command, "--teacher", "live"])
        assert line.startswith("unknown option '--teacher'; ")
    line = error_of(capsys, make_experiment_parser(["a", "b"], ["a:b", "b:c"]).parse_args, ["--teacher", "live"])
    assert line.startswith("unknown option '--teacher'; did you mean '--teachers'?")


def test_version_is_one_line_and_imports_neither_torch_nor_ray(capsys) -> None:
    code = "import sys; from raykd.cli.parser import entry\ntry: entry(['--version'])\nexcept SystemExit as end: "
    code += "print(end.code, sorted({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    version, end = done.stdout.splitlines()
    assert version.startswith("raykd 0.1.0 (Python 3.") and ", torch 2." in version and ", Ray 2." in version
    assert end == "0 []"


def test_help_has_the_default_of_every_option_that_takes_a_value() -> None:
    """A switch, such as --plan, is off by default."""
    parsers = [parser.make_parser()]
    for one in parsers:  # it grows by the commands, and by the actions of a command
        for action in one._actions:
            parsers += action.choices.values() if isinstance(action, argparse._SubParsersAction) else ()
    experiments = [make_experiment_parser(["a", "b"]), make_experiment_parser(["a", "b"], ["a:b", "b:c"])]
    missing = [
        f"{one.prog} {action.option_strings or action.dest}"
        for one in [*parsers, *experiments]
        for action in one._actions
        if not action.required and action.nargs not in (0, argparse.REMAINDER) and "default" not in (action.help or "")
    ]
    assert not missing


@pytest.mark.parametrize(
    ("started", "on_path", "command"),
    [
        (["/venv/lib/raykd/__main__.py", "plan"], True, "python -m raykd"),
        (["/venv/bin/raykd", "plan"], False, "raykd"),
        (["experiments/digits.py"], True, "raykd"),
        (["experiments/digits.py"], False, "python -m raykd"),
        (["/venv/lib/pytest/__main__.py"], False, "python -m raykd"),
        ([], False, "python -m raykd"),
    ],
)
def test_messages_name_the_command_as_it_was_started_or_as_path_has_it(started, on_path, command, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", started)
    monkeypatch.setattr("shutil.which", lambda name: f"/venv/bin/{name}" if on_path else None)
    assert errors._command() == command


def test_a_job_command_has_only_the_values_that_its_step_in_the_job_takes() -> None:
    parsed = vars(parser.make_parser().parse_args(["logs", "digits-1"]))
    assert parsed == {"command": "logs", "job": None, "name": "digits-1", "follow": False}
