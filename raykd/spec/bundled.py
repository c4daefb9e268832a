"""The files that raykd includes, experiments/ and slurm/, and the experiment files that names stand for.

In a checkout, `bundled/` has links to its folders experiments/ and slurm/. In an installed package it has copies.
"""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from raykd.disk.lookup import is_file, is_folder
from raykd.errors import COMMAND, ConfigError, did_you_mean, one_line, shortened

_BUNDLED = Path(__file__).parents[1] / "bundled"
EXPERIMENTS = (_BUNDLED / "experiments").resolve()
SLURM = (_BUNDLED / "slurm").resolve()
PROJECT_EXPERIMENTS = "experiments"  # the folder of a project in which names are looked up first
_NAME = re.compile(r"[\w-]+")


def find_experiment(name: str | Path, folder: Path | None = None) -> Path:
    """Return the path of the experiment file that `name` stands for.

    'distill_cnn' is experiments/distill_cnn.py in `folder`, else the bundled experiment of that name. Any other text,
    and a file that exists, is a path, which is returned as it is. folder: by default the current one; a returned path
    may be relative to it. Raises ConfigError for a name of no experiment.
    """
    folder, text = folder or Path(), str(name)
    if not _NAME.fullmatch(text) or _is_file(folder / text):
        return Path(name)
    for candidates in (folder / PROJECT_EXPERIMENTS, EXPERIMENTS):
        if _is_file(path := candidates / f"{text}.py"):
            return path.relative_to(folder) if candidates != EXPERIMENTS else path
    known = sorted({path.stem for path in experiment_files(folder)})
    near = f"; did you mean '{text}.py'?" if _is_file(folder / f"{text}.py") else did_you_mean(text, known)
    shown = one_line(shortened(text))
    raise ConfigError(
        f"unknown experiment '{shown}': known are {', '.join(known)}{near} "
        f"('{COMMAND} experiments' describes them; a file is named with its '.py')"
    )


def experiment_files(folder: Path) -> list[Path]:
    """Return the files that names stand for: those of the project in `folder`, then the other bundled ones.

    Files that define no experiment, such as networks and methods, are left out.
    """
    in_project = _experiment_files(folder / PROJECT_EXPERIMENTS)
    names = {path.name for path in in_project}
    return in_project + [path for path in _experiment_files(EXPERIMENTS) if path.name not in names]


def _experiment_files(folder: Path) -> list[Path]:
    paths: Iterable[Path] = folder.glob("*.py") if is_folder(folder) else ()
    named = (path for path in paths if _NAME.fullmatch(path.stem) and _is_file(path))
    return sorted(path for path in named if _may_define_experiment(path))


def _may_define_experiment(path: Path) -> bool:
    """Return whether a file assigns `experiment` or `experiments`, or is not valid Python."""
    try:
        nodes = ast.walk(ast.parse(path.read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return True
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return not names.isdisjoint(("experiment", "experiments"))


def _is_file(path: Path) -> bool:
    """Return whether `path` is a file. A name that is too long for the filesystem is none."""
    try:
        return is_file(path)
    except OSError:
        return False
