"""A job checks its container before Ray starts, and names what is missing with the remedy."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from raykd.cluster import container
from raykd.cluster.ray_start import module_command
from raykd.cluster.submissions import PACK, experiment_command
from raykd.errors import ConfigError, RayNotStarted

RUN = '#!/bin/sh\nshift\nexec "$@"\n'  # a container that shows everything


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set a container whose command is this program and the image 'my image', with the Python of the tests."""
    path = tmp_path / "container"
    write(path, RUN)
    monkeypatch.setenv(container.COMMAND, f"{path}\nmy image\n")
    monkeypatch.setenv(container.PYTHON, sys.executable)
    return path


def write(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


def check(*folders: Path, has_gpu: bool = False) -> None:
    container.require_container(folders, has_gpu, os.environ)


def test_without_a_container_commands_stay_as_they_are_and_nothing_is_checked(monkeypatch) -> None:
    monkeypatch.delenv(container.COMMAND, raising=False)
    monkeypatch.setenv(container.PYTHON, "/opt/python")
    assert container.in_container(["a", "b"]) == ["a", "b"] and container.python() == sys.executable
    check(Path("/absent"))


def test_commands_get_the_words_of_the_container_and_its_python(program: Path, monkeypatch) -> None:
    monkeypatch.setenv(container.PYTHON, "/opt/raykd/bin/python")
    assert container.in_container(["a", "b c"]) == [str(program), "my image", "a", "b c"]
    assert module_command("serve") == ["/opt/raykd/bin/python", "-m", "raykd.cluster.serve"]
    assert experiment_command([PACK, "x"], Path())[0] == "/opt/raykd/bin/python"


def test_a_container_that_has_everything_passes(program: Path, tmp_path: Path) -> None:
    check(tmp_path)


@pytest.mark.parametrize("again", ["", 'mkdir "$PWD/other" && mv "$PWD/other" "{hidden}" && '])
def test_folders_that_the_container_does_not_see_are_named_with_the_remedy(
    again: str, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second container has a folder of its own with the same name."""
    monkeypatch.chdir(tmp_path)
    hidden = tmp_path / "with space"
    hidden.mkdir()
    write(program, f'#!/bin/bash\nshift\nmv "{hidden}" "{hidden}-" && {again.format(hidden=hidden)}exec "$@"\n')
    with pytest.raises(ConfigError, match=f"does not see {hidden}; add it, such as by --bind {hidden}$"):
        check(tmp_path, hidden)


def test_a_container_that_changes_the_working_folder_is_refused(program: Path) -> None:
    write(program, '#!/bin/sh\nshift\ncd /\nexec "$@"\n')
    with pytest.raises(ConfigError, match=r'starts in / instead of .*; add --cd "\$PWD" \(Charliecloud\)'):
        check()


def test_packages_that_the_image_lacks_are_named(program: Path) -> None:
    write(program, f'#!/bin/sh\nshift 2\nexec {sys.executable} -I -S "$@"\n')
    with pytest.raises(ConfigError, match=r"image's Python .* lacks ray and torch; install requirements.txt"):
        check()


def test_a_container_without_the_driver_that_the_node_has_is_refused(program: Path, monkeypatch) -> None:
    def fail(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(container, "_CHECK", container._CHECK.replace("libcuda.so.1", "libabsent.so.1"))
    monkeypatch.setattr(container.ctypes, "CDLL", lambda name: None)
    with pytest.raises(ConfigError, match=r"does not see NVIDIA's driver; add --nv"):
        check(has_gpu=True)
    check(has_gpu=False)
    monkeypatch.setattr(container.ctypes, "CDLL", fail)  # nor does the node, as on a partition without GPUs
    check(has_gpu=True)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["apptainer exec x.sif"], r"cannot run 'apptainer exec x.sif' \(No such file or directory\); .* each word"),
        (["sh", "-c", "echo 'FATAL: no image' >&2; exit 255"], r"failed \(FATAL: no image\); correct it, or name"),
        (["sh", "-c", "exit 3"], r"failed \(exit code 3\)"),
    ],
)
def test_a_container_that_does_not_start_is_an_error_of_one_line(words: Sequence[str], part: str, monkeypatch) -> None:
    monkeypatch.setenv(container.COMMAND, "\n".join(words))
    monkeypatch.setenv(container.PYTHON, "python3")
    with pytest.raises(ConfigError, match=part) as error:
        check()
    assert "\n" not in str(error.value) and "RAYKD_CONTAINER in slurm/site.sh" in str(error.value)


def test_a_container_that_hangs_ends_the_job_so_that_it_can_be_repeated(program: Path, monkeypatch) -> None:
    write(program, "#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(container, "TIMEOUT_S", 0.2)
    with pytest.raises(RayNotStarted, match="did not start within") as error:
        check()
    assert "RAYKD_CONTAINER in slurm/site.sh" in str(error.value) and "resubmit the same command" in str(error.value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("RAYKD_CONTAINER=(apptainer exec 'my image.sif')", ["apptainer", "exec", "my image.sif"]),
        ("RAYKD_CONTAINER=()", []),
        ("unset RAYKD_CONTAINER", []),  # a site.sh of an earlier version
    ],
)
def test_the_scripts_pass_the_words_of_site_sh(
    setting: str, words: list[str], tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "slurm").mkdir()
    site = (repository / "slurm/site.sh").read_text()
    (tmp_path / "slurm/site.sh").write_text(f"{site}\nRAYKD_MODULES=()\n{setting}\n")
    show = """import os, sys; print([os.environ.get("RAYKD_CONTAINER_COMMAND", "").splitlines(), sys.argv[1:]])"""
    script = f"""set -euo pipefail; export RAYKD_CONTAINER_COMMAND=left; source {repository}/slurm/environment.sh
        python -c {shlex.quote(show)} "${{RAYKD_PYTHON[@]}}" """
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RAYKD_VENV": sys.prefix}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.stdout.strip() == str([words, [*words, "python3"] if words else ["python"]]), done.stderr
