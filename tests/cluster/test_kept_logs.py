"""The ends of Ray's logs, which are kept beside the log of a job that failed."""

import tarfile
from pathlib import Path

import pytest

from raykd.cluster import kept_logs
from raykd.cluster.job_end import JobEnd
from raykd.cluster.job_folder import JobFolder
from raykd.cluster.kept_logs import MAX_LOG_BYTES, VARIABLE, keep, keep_if_requested, path_beside


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """Make a job's folder with the logs of Ray, one of which is long, and the token."""
    made = JobFolder(tmp_path / "rk-0-7")
    logs = made.ray_path / "session_latest" / "logs"
    (logs / "old").mkdir(parents=True)
    made.log_path("cn1").write_text("ray start")
    made.token_path.write_text("secret")
    (logs / "raylet.out").write_bytes(b"a" * 10 + b"b" * MAX_LOG_BYTES)
    (logs / "worker-1.err").write_text("killed")
    (logs / "worker-2.err").touch()
    return made


def contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as file:
        return {entry.name: taken.read() for entry in file if (taken := file.extractfile(entry))}


def test_the_end_of_each_log_is_kept_for_this_user_only(folder: JobFolder, tmp_path: Path) -> None:
    target = path_beside(tmp_path / "slurm-7.out")
    assert target == tmp_path / "slurm-7-ray-logs" and keep(target, folder, "cn1")
    expected = {"cn1/cn1.log": b"ray start", "cn1/raylet.out": b"b" * MAX_LOG_BYTES, "cn1/worker-1.err": b"killed"}
    assert contents(target / "cn1.tar.gz") == expected
    assert [path.stat().st_mode & 0o777 for path in (target, target / "cn1.tar.gz")] == [0o700, 0o600]


def test_the_logs_of_a_node_have_a_limit(folder: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_logs, "MAX_BYTES", MAX_LOG_BYTES + 10)
    keep(tmp_path / "kept", folder, "cn1")
    assert [*contents(tmp_path / "kept" / "cn1.tar.gz")] == ["cn1/cn1.log", "cn1/raylet.out"]


def test_a_full_disk_ends_nothing(folder: JobFolder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not keep(tmp_path / "file", folder, "cn1")


@pytest.mark.parametrize(("has_failed", "head_has_failed"), [(False, False), (False, True), (True, False)])
def test_another_node_keeps_its_logs_if_it_or_the_head_failed(
    folder: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_failed: bool, head_has_failed: bool
) -> None:
    target = tmp_path / "kept"
    monkeypatch.setenv(VARIABLE, str(target))
    if head_has_failed:
        target.mkdir()
    keep_if_requested(folder, "cn2", has_failed)
    assert (target / "cn2.tar.gz").exists() == (has_failed or head_has_failed)


@pytest.mark.parametrize(
    ("code", "was_started", "has_lost_nodes", "is_kept"),
    [
        (0, True, False, False),
        (2, True, False, False),  # a mistake of the user
        (75, True, False, False),
        (75, False, False, True),  # Ray did not start
        (1, True, False, True),
        (137, True, False, True),
        (0, True, True, True),
    ],
)
def test_a_job_keeps_the_logs_if_ray_or_a_run_failed(
    code: int, was_started: bool, has_lost_nodes: bool, is_kept: bool
) -> None:
    assert JobEnd(was_started=was_started, has_lost_nodes=has_lost_nodes).is_failure(code) == is_kept
