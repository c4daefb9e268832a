"""`raykd experiments` lists the experiments that a name stands for; `raykd init` copies the bundled ones.

It imports no torch, so that both commands answer immediately.
"""

import ast
import re
import shlex
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from raykd.disk.lookup import is_file, is_folder, is_there
from raykd.errors import COMMAND, ConfigError, plural
from raykd.spec.bundled import EXPERIMENTS, SLURM, experiment_files

BUNDLED = (EXPERIMENTS, SLURM)
SITE = "slurm/site.sh"
_VENV = re.compile(r"^RAYKD_DEFAULT_VENV=.*$", re.MULTILINE)
_IGNORED = shutil.ignore_patterns("__pycache__", ".*")


def experiments_text(folder: Path) -> str:
    """Return the names of the experiments of the project in `folder` and of the bundled ones, with what they do."""
    paths = experiment_files(folder)
    width = max(len(path.stem) for path in paths)
    bundled = [path for path in paths if path.parent == EXPERIMENTS or path.parent.resolve() == EXPERIMENTS]
    in_project = [path for path in paths if path not in bundled]
    sections = []
    for title, group in (("in experiments/", in_project), ("included in raykd", bundled)):
        lines = [f"  {path.stem:<{width}}  {_first_line(path)}".rstrip() for path in group]
        sections += [f"{title}:", *lines, ""] if lines else []
    return "\n".join([*sections, f"{COMMAND} run NAME runs one; {COMMAND} plan NAME lists its runs and starts nothing"])


def _first_line(path: Path) -> str:
    """Return the first line of a file's docstring; '' if it has none."""
    try:
        docstring = ast.get_docstring(ast.parse(path.read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return "(not valid Python)"
    return (docstring or "").partition("\n")[0]


def make_project(folder: Path) -> str:
    """Copy the bundled experiments/ and slurm/ into `folder`, and return what to type next.

    slurm/site.sh of the copy names this Python's environment. Raises ConfigError, and leaves nothing behind, if one of
    these folders exists or cannot be written.
    """
    sources = {folder / source.name: source for source in BUNDLED}
    for target in sources:
        if is_there(target) or target.is_symlink():
            raise ConfigError(f"init: '{target}' exists and is not replaced; name another folder: {COMMAND} init DIR")
    try:
        _copy_all(folder, sources)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"init: cannot write to '{folder}' ({reason}); name another folder: {COMMAND} init DIR"
        ) from None
    made = [f"{target} ({plural(sum(is_file(path) for path in target.iterdir()), 'file')})" for target in sources]
    return "\n".join([f"made {' and '.join(made)}; next:", *_next_commands(folder)])


def _copy_all(folder: Path, sources: dict[Path, Path]) -> None:
    """Copy each source to its target in `folder`. If that fails, remove what was made."""
    created = [path for path in (folder, *folder.parents) if not is_there(path)]
    moved: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".raykd-init-", dir=folder) as temporary:
            for target, source in sources.items():
                shutil.copytree(source, Path(temporary) / target.name, ignore=_IGNORED)
            _name_environment(Path(temporary) / SITE)
            for target in sources:
                (Path(temporary) / target.name).rename(target)
                moved.append(target)
    except OSError:
        for target in moved:
            shutil.rmtree(target, ignore_errors=True)
        for path in created:
            if is_folder(path):
                path.rmdir()
        raise


def _name_environment(site: Path) -> None:
    """Set RAYKD_DEFAULT_VENV in a copy of slurm/site.sh to the environment in which raykd runs now."""
    line = f"RAYKD_DEFAULT_VENV={shlex.quote(sys.prefix)}"
    site.write_text(_VENV.sub(lambda _: line, site.read_text(encoding="utf-8")), encoding="utf-8")


def _next_commands(folder: Path) -> Sequence[str]:
    """Return three commands for the project in `folder`, and before them `cd` if it is not the current folder."""
    commands = {
        f"{COMMAND} plan digits": "list the runs of the smallest experiment; change it in experiments/digits.py",
        f"{COMMAND} run digits": "train them on this machine, 1 to 2 minutes",
        "sbatch slurm/ray_cluster.slurm digits": "or in a Slurm job; check slurm/site.sh first",
    }
    width = max(map(len, commands))
    change = [] if folder.resolve() == Path().resolve() else [f"    cd {shlex.quote(str(folder))}"]
    return change + [f"    {command:<{width}}    # {text}" for command, text in commands.items()]


PROJECT_COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "experiments": lambda arguments: print(experiments_text(Path())),
    "init": lambda arguments: print(make_project(Path(arguments.folder))),
}
