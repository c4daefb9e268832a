"""sbatch -N 2 slurm/ray_cluster.slurm on a real Slurm: one Ray over the job's nodes, and what happens to it."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import small_lab
from slurm_jobs import DRIVERS, SCRIPT, environment_with_ray, leftovers
from testbed import Job, Testbed, missing

from raykd.run_folder import RunFolder
from raykd.runs import RunStore

pytestmark = pytest.mark.slurm

TWO = ("--nodes=2", "--cpus-per-task=2", "--mem=6G")
BOOT_TIMEOUT_S = 90
TAKEN_UP_S = 60


def test_one_ray_over_two_nodes_with_what_slurm_gave_and_the_experiments_exit_code(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    env = {"RAYKD_SCRATCH": str(tmp_path / "scratch"), "RAYKD_DATA": str(tmp_path / "data")}
    job_id = slurm.sbatch([*TWO, SCRIPT, str(DRIVERS / "reports_nodes.py"), str(report), "7"], repository, env)
    job = slurm.wait(job_id, BOOT_TIMEOUT_S)
    assert job.exit_code == 7, job.output
    nodes = json.loads(report.read_text())
    assert {node["host"]: (node["CPU"], node["GPU"]) for node in nodes} == {"cn1": (2, 1), "cn2": (2, 1)}
    assert all(node["memory"] + node["object_store_memory"] == 6 * 1024**3 for node in nodes)
    assert {node["folder_mode"] for node in nodes} == {"0o700"}
    assert {node["token_mode"] for node in nodes} == {"0o600"}
    assert len({node["token_path"] for node in nodes}) == 2
    files = tmp_path / "scratch" / f"rk-{os.getuid()}-{job_id}-files-0"
    assert {node["raykd"] for node in nodes} == {str(files / "code" / "raykd")}, "workers take the staged code"
    assert {node["data"] for node in nodes} == {str(files / "data")}
    assert {name for node in nodes for name in node["data_files"]} == {"cifar10"}
    assert not list((tmp_path / "scratch").iterdir())
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


@dataclass(frozen=True)
class LostNode:
    """Two jobs over cn1 and cn2, `job` with a run on each and `shared` with one run over both; then cn2 was lost."""

    job: Job
    results: Path
    lost_run: str
    shared: Job
    shared_results: Path
    seconds: float  # from the loss until the shared run went on
    left: list[str]  # of cn1


@pytest.fixture(scope="module")
def lost_node(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[LostNode]:
    """In a Slurm of its own, whose node may be broken."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("lost")
    results, shared_results = folder / "results", folder / "shared"
    one_cpu_each = ("--nodes=2", "--cpus-per-task=1", "--mem=6G")
    two_runs = [*small_lab.words(results), "--stage=teacher", "--stage=baseline"]
    one_run = [
        *small_lab.words(shared_results),
        "--stage=teacher",
        "--set=workers.count=2",
        "--set=workers.min_count=1",
    ]
    (shared_run,) = small_lab.runs(("teacher",))
    shared_folder = RunStore(shared_results).folder(shared_run)
    with Testbed.start(tmp_path_factory.mktemp("two"), num_nodes=2) as bed:
        job_id = bed.sbatch([*one_cpu_each, SCRIPT, *two_runs], repository)
        shared_id = bed.sbatch([*one_cpu_each, SCRIPT, *one_run], repository)
        for each in (job_id, shared_id):
            bed.wait_for_output(each, "  epoch  ", BOOT_TIMEOUT_S)
        deadline = time.monotonic() + 30
        while not (lost_run := run_on(results, "cn2")) and time.monotonic() < deadline:
            time.sleep(0.05)
        bed.power_off("cn2")
        began = time.monotonic()
        while shared_folder.record()["resumes"] == 0 and time.monotonic() < began + TAKEN_UP_S:
            time.sleep(0.1)
        seconds = time.monotonic() - began
        job, shared = bed.wait(job_id, timeout_s=180), bed.wait(shared_id, timeout_s=180)
        own = [Path(f"/tmp/rk-{os.getuid()}-{each}{end}") for each in bed.job_ids for end in ("", "-1")]
        left = [*bed.processes(), *(str(path) for path in own[::2] if path.exists())]
        for path in own[1::2]:  # what a lost node holds goes when it is back
            shutil.rmtree(path)
    yield LostNode(job, results, lost_run, shared, shared_results, seconds, left)


def test_job_goes_on_without_a_node_that_is_lost_and_ends_with_the_same_bits(
    lost_node: LostNode, tmp_path: Path
) -> None:
    job = lost_node.job
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert "cn2 is lost after " in job.output and "; going on with 1 of 2 nodes" in job.output
    assert lost_node.lost_run, "no run on cn2: the plan is not spread over the nodes"
    plan = small_lab.runs(("teacher", "baseline"))
    (run,) = (run for run in plan if run.name == lost_node.lost_run)
    folder = RunStore(lost_node.results).folder(run)
    assert folder.record()["writer"].endswith(" on cn1"), "the lost run was taken over"
    for run in plan:
        small_lab.assert_undisturbed(run, lost_node.results, tmp_path / "straight")
    assert lost_node.left == []


def test_run_over_two_nodes_goes_on_with_one_within_a_minute_of_the_loss(lost_node: LostNode) -> None:
    job = lost_node.shared
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert "1 at a time, 2 workers of 1 CPU each" in job.output
    (run,) = small_lab.runs(("teacher",))
    folder = RunStore(lost_node.shared_results).folder(run)
    assert folder.record()["compute"]["workers"] == [2, 1]
    assert folder.record()["resumes"] == 1
    assert [row["epoch"] for row in folder.history()] == list(range(run.recipe.epochs))
    assert lost_node.seconds < TAKEN_UP_S
