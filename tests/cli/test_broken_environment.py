"""A torch that cannot be imported, as with libraries of another version in LD_LIBRARY_PATH, ends in one line."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from raykd import environment
from raykd.environment import import_remedy, install_command, reinstall_command

REASON = "libcusparse.so.12: undefined symbol: __nvJitLinkComplete_12_4, version libnvJitLink.so.12"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which `import torch` fails as with the libraries of another CUDA."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(f"raise ImportError({REASON!r})\n")
    return {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "LD_LIBRARY_PATH": "/sw/CUDA/12.1.1/lib64"}


def run(arguments: list[str], environ: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments, "--results", str(folder / "results")]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [[str(REPOSITORY / "experiments/digits.py")], ["-m", "raykd", "plan", "digits"]])
def test_an_experiment_ends_in_one_line(arguments: list[str], environ: dict[str, str], tmp_path: Path) -> None:
    done = run(arguments, environ, tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"raykd: {REASON}; LD_LIBRARY_PATH may name libraries of other versions: ")
    assert not (tmp_path / "results").exists()


def test_doctor_reports_it_among_its_findings(environ: dict[str, str], tmp_path: Path) -> None:
    done = run(["-m", "raykd", "doctor"], environ, tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"bad  torch       cannot be imported: {REASON}\n        -> LD_LIBRARY_PATH may name" in done.stdout
    assert "bad  data        data sets cannot be listed without torch\n" in done.stdout


def test_another_torch_is_installed_by_what_the_environment_has(tmp_path: Path, monkeypatch) -> None:
    prefix, python = shlex.quote(sys.prefix), shlex.quote(sys.executable)
    make = f"make -C {shlex.quote(str(REPOSITORY))} env VENV={prefix} 'TORCH=torch<2.11'"
    assert install_command("torch<2.11") == make
    monkeypatch.setattr(environment, "_ROOT", tmp_path)  # installed without a clone
    assert install_command("torch<2.11") == f"{python} -m pip install 'torch<2.11' torchvision"
    monkeypatch.setattr(environment, "distributions", lambda name: [])  # by uv, which installs no pip
    assert install_command("torch<2.11") == f"uv pip install -p {prefix} 'torch<2.11' torchvision"
    assert reinstall_command("timm") == f"uv pip install -p {prefix} --reinstall timm"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ImportError("/lib64/libc.so.6: version `GLIBC_2.28' not found"), "make the environment again on"),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            "raise the memory limit (ulimit -v)",
        ),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "lacks it: activate the environment of raykd"),
        (ModuleNotFoundError("No module named 'numpy.core'", name="numpy.core"), "in the container of slurm/site.sh"),
        (ModuleNotFoundError("No module named 'my_net'", name="my_net"), ""),
        (ImportError("cannot import name 'KDD' from 'raykd'"), ""),
    ],
)
def test_the_remedy_fits_the_error(error: ImportError, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    found = import_remedy(error)
    assert remedy in found and bool(found) is bool(remedy), "a mistake in code keeps its traceback"


def test_every_required_package_has_a_remedy_if_it_is_missing() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    required = {re.split(r"[\[>=]", line)[0] for line in lines if line and not line.startswith("#")}
    installed = packages_distributions()
    found = {name.lower() for module in environment._PACKAGES for name in installed[module]}
    assert required <= found and len(required) == len(environment._PACKAGES)
