"""A submitted experiment: the exit code and the words for its end."""

import pytest

from raykd.cluster.submissions import Submission


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
