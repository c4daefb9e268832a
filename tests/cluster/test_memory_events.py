"""What a job reads about its memory from its control groups, in a copy of their files."""

from pathlib import Path

import pytest

from raykd.cluster import memory_events
from raykd.cluster.memory_events import kills, kills_everything

JOB = "system.slice/slurmstepd.scope/job_7"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the groups of a batch script, with a counter of killed processes in each, and return the job's."""
    task = tmp_path / JOB / "step_batch" / "user" / "task_0"
    task.mkdir(parents=True)
    (tmp_path / "cgroup").write_text(f"0::/{JOB}/step_batch/user/task_0\n")
    for folder in (task, tmp_path / JOB):
        (folder / "memory.events").write_text("low 0\nmax 9\noom 3\noom_kill 0\noom_group_kill 0\n")
        (folder / "memory.oom.group").write_text("0\n")
    (tmp_path / "memory.events").write_text("oom_kill 5\n")  # of other jobs on the node
    monkeypatch.setattr(memory_events, "_ROOT", tmp_path)
    monkeypatch.setattr(memory_events, "_MEMBERSHIP", tmp_path / "cgroup")
    return tmp_path / JOB


def test_a_job_in_which_nothing_was_killed_reports_nothing(groups: Path) -> None:
    assert kills() == "" and not kills_everything()


@pytest.mark.parametrize(("count", "start"), [(1, "1 process was killed"), (2, "2 processes were killed")])
def test_processes_that_were_killed_in_any_step_of_the_job_are_counted(groups: Path, count: int, start: str) -> None:
    (groups / "memory.events").write_text(f"oom_kill {count}\n")
    assert kills().startswith(f"{start} because the job's memory was full; Slurm reports OUT_OF_MEMORY")


def test_a_step_that_is_killed_as_a_whole_is_recognized(groups: Path) -> None:
    (groups / "step_batch" / "user" / "memory.oom.group").write_text("1\n")
    assert kills_everything()


def test_without_slurms_groups_nothing_is_known(groups: Path, tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/user.slice\n")
    assert kills() == "" and not kills_everything()
    (tmp_path / "cgroup").unlink()
    assert kills() == "" and not kills_everything()
