"""sbatch -N 2 slurm/ray_cluster.slurm on a real Slurm: one Ray over the job's nodes, and what happens to it."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_lab
from slurm_jobs import DRIVERS, SCRIPT, environment_with_ray, leftovers
from testbed import Testbed, missing

from raykd.run_folder import RunFolder
from raykd.runs import RunStore

pytestmark = pytest.mark.slurm

TWO = ("--nodes=2", "--cpus-per-task=2", "--mem=6G")
BOOT_TIMEOUT_S = 90


def test_one_ray_over_two_nodes_with_what_slurm_gave_on_each(slurm: Testbed, repository: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    job_id = slurm.sbatch([*TWO, SCRIPT, str(DRIVERS / "reports_nodes.py"), str(report)], repository)
    job = slurm.wait(job_id, BOOT_TIMEOUT_S)
    assert job.exit_code == 0, job.output
    nodes = json.loads(report.read_text())
    assert {node["host"]: (node["CPU"], node["GPU"]) for node in nodes} == {"cn1": (2, 1), "cn2": (2, 1)}
    assert all(node["memory"] + node["object_store_memory"] == 6 * 1024**3 for node in nodes)
    assert {node["folder_mode"] for node in nodes} == {"0o700"}
    assert {node["token_mode"] for node in nodes} == {"0o600"}
    assert len({node["token_path"] for node in nodes}) == 2
    assert "raykd: 1 of 2 nodes after " in job.output and "; waiting for cn2" in job.output
    assert leftovers(slurm) == []


@pytest.mark.parametrize(
    ("on_cn2", "words"),
    [
        ("echo 'OSError: no space left on cn2' >&2; exit 4", "Ray on cn2 ended with exit code 4"),
        ("echo 'waiting for a filesystem' >&2; sleep 60", "cn2 not joined after 8 s (RAYKD_START_TIMEOUT_S)"),
    ],
    ids=["ends", "hangs"],
)
def test_node_that_does_not_join_fails_the_job_with_its_name_and_log(
    slurm: Testbed, repository: Path, tmp_path: Path, on_cn2: str, words: str
) -> None:
    env = environment_with_ray(tmp_path, f'if [[ $(hostname) == cn2 ]]; then {on_cn2}; fi; exec $REAL "$@"')
    experiment = str(DRIVERS / "waits_for_signal.py")
    job_id = slurm.sbatch([*TWO, SCRIPT, experiment], repository, env | {"RAYKD_START_TIMEOUT_S": "8"})
    job = slurm.wait(job_id, timeout_s=40)
    assert job.exit_code == 1, job.output
    assert words in job.output
    assert ("no space left on cn2" in job.output) or ("waiting for a filesystem" in job.output)
    assert leftovers(slurm) == []


def test_cancelled_job_leaves_nothing_on_any_node(slurm: Testbed, repository: Path) -> None:
    job_id = slurm.sbatch([*TWO, SCRIPT, str(DRIVERS / "waits_for_signal.py")], repository)
    slurm.wait_for_output(job_id, "waiting\n", BOOT_TIMEOUT_S)
    slurm.run(["scancel", str(job_id)])
    job = slurm.wait(job_id, timeout_s=30)
    assert job.state == "CANCELLED"
    assert leftovers(slurm) == []


def run_on(results: Path, host: str) -> str:
    """The name of a run that is in training on `host`, '' when there is none."""
    for path in results.glob("digits/*/run.json"):
        record = RunFolder(path.parent).record()
        if record["status"] == "running" and record["writer"].endswith(f" on {host}"):
            return path.parent.name
    return ""


@pytest.fixture
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A Slurm of the test's own, one of whose nodes may be broken."""
    if reason := missing():
        pytest.skip(reason)
    with Testbed.start(tmp_path_factory.mktemp("two"), num_nodes=2) as bed:
        yield bed


def test_job_goes_on_without_a_node_that_is_lost_and_ends_with_the_same_bits(
    two_nodes: Testbed, repository: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    one_cpu_each = ("--nodes=2", "--cpus-per-task=1", "--mem=6G")
    job_id = two_nodes.sbatch([*one_cpu_each, SCRIPT, *small_lab.words(results)], repository)
    two_nodes.wait_for_output(job_id, "  epoch  ", BOOT_TIMEOUT_S)
    deadline = time.monotonic() + 30
    while not (lost := run_on(results, "cn2")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lost, "no run on cn2: the plan is not spread over the nodes"
    two_nodes.power_off("cn2")
    job = two_nodes.wait(job_id, timeout_s=180)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert "cn2 is lost after " in job.output and "; going on with 1 of 2 nodes" in job.output
    plan = small_lab.runs()
    store = RunStore(results)
    (run,) = (run for run in plan if run.name == lost)
    assert store.folder(run).record()["writer"].endswith(" on cn1"), "the lost run was taken over"
    for run in plan:
        small_lab.assert_undisturbed(run, results, tmp_path / "straight")
    own = [Path(f"/tmp/rk-{os.getuid()}-{job_id}"), Path(f"/tmp/rk-{os.getuid()}-{job_id}-1")]
    assert [path.exists() for path in own] == [False, True], "what a lost node holds goes when it is back"
    shutil.rmtree(own[1])
    assert two_nodes.processes() == []
