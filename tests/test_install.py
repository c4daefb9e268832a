"""raykd as an installed package: the wheel has all files, and the command works in any folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from raykd.provenance import source

ROOT = Path(__file__).parent.parent
SOURCES = ("raykd", "experiments", "slurm", "pyproject.toml", "README.md", "requirements.txt")
TINY = ("--set", "seeds=0", "--set", "teacher.epochs=1", "--set", "student.epochs=1")


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel. HOME is the folder of the wheel, and no path has the repository."""

    wheel: Path
    venv: Path

    def run(self, *command: str, folder: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAYKD_"))}
        environ |= {"PATH": f"{self.venv}/bin:/usr/bin:/bin", "HOME": str(self.wheel.parent)}
        return subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
        )


def copy_sources(folder: Path) -> Path:
    """Copy what the wheel is built from, because a build writes into that folder."""
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def uv(*arguments: str | Path, **environ: str) -> None:
    command = [sys.executable, "-m", "uv", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build the wheel and install it alone. Its dependencies are those of the environment of the tests."""
    folder = tmp_path_factory.mktemp("install")
    uv("build", "--wheel", "--no-build-isolation", "--out-dir", folder / "dist", copy_sources(folder / "source"))
    (wheel,) = (folder / "dist").glob("*.whl")
    venv = folder / "venv"
    uv("venv", "--python", sys.executable, venv)
    uv("pip", "install", "--no-deps", "--python", venv / "bin/python", wheel)
    (site_packages,) = venv.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(wheel, venv)


def test_the_wheel_has_every_module_experiment_and_script(installed: Installed) -> None:
    with ZipFile(installed.wheel) as file:
        names = {name for name in file.namelist() if "dist-info" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "raykd").rglob("*.py")}
    bundled = {
        f"raykd/bundled/{folder}/{path.name}"
        for folder in ("experiments", "slurm")
        for path in (ROOT / folder).iterdir()
        if path.is_file()
    }
    assert modules | bundled <= names
    others = {name for name in names if not name.endswith((".py", ".j2", ".js", ".json"))}
    assert others <= bundled


def test_the_command_prints_its_version_in_any_folder(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("raykd", "--version", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("raykd 0.1.0 (Python 3.")
    assert f"/raykd-{done.stdout.split()[1]}-" in str(installed.wheel)


def test_the_hash_of_the_source_is_that_of_the_repository(installed: Installed, tmp_path: Path) -> None:
    code = "from raykd.provenance import source; print(source()['source_sha256'])"
    done = installed.run("python", "-c", code, folder=tmp_path)
    assert done.stdout.strip() == source()["source_sha256"], done.stderr


def test_bundled_experiments_are_listed_and_planned_by_name_in_any_folder(installed: Installed, tmp_path: Path) -> None:
    listed = installed.run("raykd", "experiments", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "\n  digits " in listed.stdout and "\n  tune_vit " in listed.stdout
    planned = installed.run("raykd", "plan", "digits", folder=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("not started") == 11
    assert list(tmp_path.iterdir()) == []


def test_a_message_names_the_command_as_it_was_started(installed: Installed, tmp_path: Path) -> None:
    for command in (["raykd"], ["python", "-m", "raykd"]):
        done = installed.run(*command, "plan", "digits", "--reslts", "x", folder=tmp_path)
        assert done.returncode == 2
        expected = f"did you mean '--results'? see '{' '.join(command)} plan --help'\n"
        assert done.stderr == f"raykd: unknown option '--reslts'; {expected}"


def test_a_new_project_finds_the_installed_raykd_in_its_scripts(installed: Installed, tmp_path: Path) -> None:
    """slurm/environment.sh activates the environment in which raykd is installed, whatever Python is on PATH."""
    made = installed.run("raykd", "init", "project", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    script = "source slurm/environment.sh && exec python -c 'import raykd; print(raykd.__file__)'"
    outside = Installed(installed.wheel, Path("/nowhere"))
    done = outside.run("bash", "-c", script, folder=tmp_path / "project")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{installed.venv}/lib/python")
    planned = installed.run("python", "experiments/digits.py", "--plan", folder=tmp_path / "project")
    assert planned.returncode == 0 and planned.stdout.count("not started") == 11, planned.stderr


@pytest.mark.nightly
def test_a_bundled_experiment_runs_in_any_folder(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("raykd", "run", "digits", *TINY, folder=tmp_path, timeout_s=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"digits"' in (tmp_path / "ray_results" / "report.json").read_text()


@pytest.mark.nightly
def test_uv_installs_the_command_with_all_dependencies(tmp_path: Path) -> None:
    """It requires internet access, or the packages in uv's cache."""
    tools = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    uv("tool", "install", "--python", sys.executable, copy_sources(tmp_path / "source"), **tools)
    tool = Installed(tmp_path / "raykd.whl", tmp_path / "tools" / "raykd")
    command = str(tmp_path / "bin" / "raykd")
    planned = tool.run(command, "plan", "digits", folder=tmp_path)
    assert planned.returncode == 0 and planned.stdout.count("not started") == 11, planned.stderr
