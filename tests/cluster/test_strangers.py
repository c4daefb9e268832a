"""Another user of the node, or of another node, gets nothing of a job's Ray without its token."""

import json
import os
import re
import sys

import pytest
from slurm_jobs import DRIVERS, SCRIPT, leftovers
from testbed import Testbed

pytestmark = pytest.mark.slurm

NOBODY = 65_534


@pytest.fixture(scope="module")
def strangers(slurm: Testbed, repository) -> dict[str, dict]:
    """What nobody gets on the job's own node (cn1), and on another (cn3)."""
    job_id = slurm.sbatch(
        ["--nodelist=cn1", "--cpus-per-task=2", "--mem=6G", SCRIPT, str(DRIVERS / "waits_for_signal.py")], repository
    )
    slurm.wait_for_output(job_id, "waiting\n", timeout_s=60)
    dashboard = int(re.findall(r"dashboard at http://127\.0\.0\.1:(\d+)", slurm.output(job_id))[0])
    words = [str(dashboard - 1), f"/tmp/rk-{os.getuid()}-{job_id}/token"]
    program = [sys.executable, str(DRIVERS / "stranger.py")]
    found = {}
    try:
        for node, host in (("cn1", "127.0.0.1"), ("cn3", "10.88.0.11")):
            step = ["srun", f"--nodelist={node}", "--cpus-per-task=1", "--mem=2G", *program, host, *words]
            said = slurm.run(step, repository, timeout_s=90)
            found[f"{node} to {host}"] = json.loads(said.splitlines()[-1])
    finally:
        slurm.run(["scancel", str(job_id)])
        slurm.wait(job_id, timeout_s=20)
    return found


def test_strangers_are_other_users(strangers: dict[str, dict]) -> None:
    assert {found["user"] for found in strangers.values()} == {NOBODY}


def test_token_cannot_be_read(strangers: dict[str, dict]) -> None:
    # On cn3, which shares this machine's /tmp, as little as on the job's own node.
    assert {found["token"] for found in strangers.values()} == {"PermissionError"}


def test_dashboard_and_jobs_answer_nobody_without_the_token(strangers: dict[str, dict]) -> None:
    local = strangers["cn1 to 127.0.0.1"]
    assert (local["http"], local["http with a wrong token"], local["submit"]) == (401, 403, 401)
    assert "refused" in str(strangers["cn3 to 10.88.0.11"]["http"]), "the dashboard listens on loopback only"


@pytest.mark.parametrize("door", ["gcs", "client"])
def test_ray_lets_nobody_in_without_the_token(strangers: dict[str, dict], door: str) -> None:
    for name, found in strangers.items():
        assert found[f"{door} with the token"] == "in", f"{name}: there was nothing to get into"
        assert found[door] in ("refused", "no answer"), name


def test_agents_take_no_jobs_without_the_token(strangers: dict[str, dict]) -> None:
    for name, found in strangers.items():
        assert found["agent"] in (401, 403) or "refused" in str(found["agent"]), f"{name}: {found['agent']}"


def test_nothing_stays_when_the_job_is_gone(slurm: Testbed, strangers: dict[str, dict]) -> None:
    assert strangers
    assert leftovers(slurm) == []
