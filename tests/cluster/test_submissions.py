"""A submitted experiment: its name, its exit code and the words for its end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.cluster.submissions import Submission, Submissions
from raykd.errors import RaykdError


class FakeJobs:
    """Ray's Jobs API with `names` submitted already. It refuses `taken_meanwhile`, as another command took it."""

    def __init__(self, names: list[str], taken_meanwhile: str = "") -> None:
        self.names, self.taken_meanwhile, self.num_lists = names, taken_meanwhile, 0

    def list(self) -> list[dict[str, Any]]:
        self.num_lists += 1
        return [{"submission_id": name, "status": "RUNNING", "entrypoint": name} for name in self.names]

    def submit(self, name: str, entrypoint: str, metadata: dict[str, str]) -> None:
        if name == self.taken_meanwhile:
            self.names.append(name)
        if name in self.names or name == "refused-1":
            raise RaykdError("Ray refuses it")
        self.names.append(name)


def submissions_of(jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Submissions:
    monkeypatch.setattr("raykd.cluster.submissions.JobsApi", lambda *_: jobs)
    job: Any = SimpleNamespace(ray_path=folder, facts=lambda: {"dashboard": 1}, token=str)
    return Submissions(job)


def test_a_submission_gets_the_first_free_number_of_one_list_of_the_jobs(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.py").touch()
    jobs = FakeJobs([f"a-{number}" for number in range(1, 200)])
    assert submissions_of(jobs, monkeypatch, tmp_path).submit(["a.py"], tmp_path).name == "a-200"
    assert jobs.num_lists == 2, "before the submission, and to return it"


def test_a_number_that_another_command_takes_meanwhile_is_left_out(tmp_path: Path, monkeypatch) -> None:
    for name in ("a.py", "refused.py"):
        (tmp_path / name).touch()
    jobs = FakeJobs(["a-1"], taken_meanwhile="a-2")
    submissions = submissions_of(jobs, monkeypatch, tmp_path)
    assert submissions.submit(["a.py"], tmp_path).name == "a-3"
    with pytest.raises(RaykdError, match="Ray refuses it"):
        submissions.submit(["refused.py"], tmp_path)


@pytest.mark.parametrize(
    ("status", "exit_code", "code", "outcome"),
    [
        ("SUCCEEDED", 0, 0, "succeeded with exit code 0"),
        ("FAILED", 3, 3, "failed with exit code 3"),
        ("FAILED", -9, 137, "failed with exit code -9"),
        ("FAILED", None, 1, "failed (no such file)"),
        ("STOPPED", None, 75, "stopped"),
    ],
)
def test_an_ended_experiment_has_an_exit_code_and_an_outcome_in_words(
    status: str, exit_code: int | None, code: int, outcome: str
) -> None:
    submission = Submission("a-1", status, "a.py", exit_code, 0.0, 1.0, "no such file")
    assert (submission.code, submission.outcome, submission.is_over) == (code, outcome, True)
