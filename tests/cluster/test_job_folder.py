"""Private folders with a token: their modes, what is replaced, what is refused, and their removal."""

import errno
import os
from pathlib import Path

import pytest

from raykd.cluster.job_folder import job_folder
from raykd.cluster.private_ray import commands_folder
from raykd.errors import ConfigError


def environ(base: Path) -> dict[str, str]:
    return {"RAYKD_TMP": str(base)}


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a short path to the test's folder, as a site would set."""
    monkeypatch.chdir(tmp_path)
    return Path(f"/proc/{os.getpid()}/cwd")


def test_only_the_owner_can_read_folder_and_token_and_they_are_removed_at_the_end(base: Path) -> None:
    with job_folder(7, environ(base)) as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700
        assert folder.token_path.stat().st_mode & 0o777 == 0o600
        assert len(folder.token()) == 64
    assert not folder.path.exists()


def test_every_job_has_another_token(base: Path) -> None:
    with job_folder(7, environ(base)) as one, job_folder(8, environ(base)) as other:
        assert one.token() != other.token()


def test_folder_is_removed_when_the_job_fails(base: Path) -> None:
    with pytest.raises(ZeroDivisionError), job_folder(7, environ(base)) as folder:
        raise ZeroDivisionError
    assert not folder.path.exists()


def test_requeued_job_replaces_the_folder_of_its_lost_run(base: Path) -> None:
    left = base / f"rk-{os.getuid()}-7"
    left.mkdir()
    (left / "token").write_text("old")
    with job_folder(7, environ(base)) as folder:
        assert folder.token() != "old"


def test_a_step_that_ends_late_keeps_the_folder_of_the_next_step(base: Path) -> None:
    late = job_folder(7, environ(base), node_number=1)
    late.__enter__()
    with job_folder(7, environ(base), node_number=1) as folder:
        late.__exit__(None, None, None)
        assert folder.token_path.is_file()
    assert not folder.path.exists()


def test_disk_without_locks_is_refused_with_a_remedy(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(ConfigError, match="No locks available; set RAYKD_TMP"), job_folder(7, environ(base)):
        pass


def test_a_link_with_the_folders_name_is_not_followed(base: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (base / f"rk-{os.getuid()}-7").symlink_to(elsewhere)
    message = r"cannot make the private folder .*: File exists"
    with pytest.raises(ConfigError, match=message), job_folder(7, environ(base)):
        pass
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("path", ["/tmp/" + "long/" * 10, "tmp"])
def test_a_path_too_long_for_rays_sockets_is_refused(path: str) -> None:
    message = f"^RAYKD_TMP = '{path}': must be an absolute path so short"
    with pytest.raises(ConfigError, match=message), job_folder(7, {"RAYKD_TMP": path}):
        pass


def test_commands_folder_that_other_users_can_enter_is_refused(base: Path) -> None:
    (base / f"raykd-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match=r"is open to other users; remove it, or set RAYKD_TMP"):
        commands_folder(environ(base))


@pytest.mark.parametrize("path", ["/tmp/" + 40 * "x", "here"])
def test_commands_folder_that_ray_cannot_use_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=f"^RAYKD_TMP = '{path}': must be an absolute path so short"):
        commands_folder({"RAYKD_TMP": path})
