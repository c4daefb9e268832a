"""The parser: `--help` is fast and complete, and errors become one line with their exit code."""

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nightly import nightly_except

from raykd.cli import parser
from raykd.cli.experiment_parser import make_experiment_parser
from raykd.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_help_equals_its_snapshot(monkeypatch):
    """UPDATE_SNAPSHOTS=1 writes the snapshot; read the difference before you commit it."""
    monkeypatch.setenv("COLUMNS", "100")
    main_parser = parser.make_parser("raykd")
    commands = next(action for action in main_parser._actions if isinstance(action, argparse._SubParsersAction))
    experiment_parser = make_experiment_parser(["cnn", "vit"], prog="python experiments/X.py")
    actions = commands.choices["runs"]._subparsers._group_actions[0].choices.values()
    parsers = (main_parser, *commands.choices.values(), *actions, experiment_parser)
    texts = "\n".join(one.format_help() for one in parsers)
    snapshot = Path(__file__).parent / "help.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.write_text(texts)
    if sys.version_info >= (3, 13):  # indents the list of commands otherwise
        assert texts.split() == snapshot.read_text().split()
    else:
        assert texts == snapshot.read_text()


def test_help_imports_neither_torch_nor_ray_nor_numpy():
    code = "import sys, raykd.cli.parser as c; c.make_parser(); "
    code += "print(sorted({'torch', 'ray', 'numpy', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_plan_of_the_digits_imports_neither_ray_nor_plotting_nor_scikit_learn_nor_torchs_compiler():
    """They take up to seconds to import, and the plan requires none."""
    code = "import runpy, sys; sys.argv = ['digits.py', '--plan']\n"
    code += "try: runpy.run_path('experiments/digits.py', run_name='__main__')\n"
    code += "except SystemExit: print(sorted({'ray', 'sklearn', 'matplotlib', 'torch._dynamo'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_public_name_can_be_imported():
    import raykd

    for name in raykd.__all__:
        assert getattr(raykd, name) is not None
    with pytest.raises(AttributeError, match="no name 'KDD'"):
        raykd.KDD  # noqa: B018


@pytest.mark.parametrize("line", nightly_except(["KD(alpha=2)"], ["KD(alpha=2)", "1 / 0"]))
def test_an_error_in_a_running_experiment_file_is_one_line_and_other_errors_keep_their_traceback(line, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"from raykd import KD, main\n{line}\n")
    command = [sys.executable, str(path), "--plan"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if line.startswith("KD"):
        assert done.returncode == 2
        assert done.stderr.startswith("raykd: alpha = 2") and done.stderr.count("\n") == 1
    else:
        assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [((), r"main\(\) has no experiment"), ((3,), "of type int"), (([],), r"of type list.*main\(\*experiments\)")],
)
def test_main_without_an_experiment_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message):
        parser.main(*values)


def test_importing_main_in_a_module_leaves_the_excepthook_alone(tmp_path):
    (tmp_path / "module.py").write_text("from raykd import main\n")
    code = "import sys; before = sys.excepthook; import module; print(sys.excepthook is before)"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\n"


def test_a_full_disk_is_one_line_without_traceback(capsys):
    def write():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "ray_results/cnn/plan.json")

    assert parser.run_reporting_errors(write) == 1
    line = capsys.readouterr().err
    assert "No space left on device: 'ray_results/cnn/plan.json'" in line and line.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.ESTALE, errno.ENOSPC])
def test_an_error_of_the_disk_is_one_line_that_names_the_path(number, tmp_path, capsys):
    from raykd.disk.atomic import replacing

    def write():
        with replacing(tmp_path / "run.json"):
            raise OSError(number, os.strerror(number))  # like a failed write, which names no file

    assert parser.run_reporting_errors(write) == 1
    line = capsys.readouterr().err
    assert f"{os.strerror(number)}: '{tmp_path / 'run.json'}'; what was saved is kept; remove the cause" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone", "x"), OSError(errno.EBADF, "bad file")])
def test_a_mistake_in_the_code_keeps_its_traceback(error):
    def run():
        raise error

    with pytest.raises(OSError, match=str(error.strerror)):
        parser.run_reporting_errors(run)


@pytest.mark.nightly
def test_a_closed_pipe_is_no_error():
    """The case of `... --plan | head -1`."""
    command = f"{sys.executable} experiments/digits.py --plan"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 1; echo ${{PIPESTATUS[0]}} >&2"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr.strip() in ("0", "141"), done.stderr
