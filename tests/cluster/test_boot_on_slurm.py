"""`sbatch slurm/ray_cluster.slurm` on a real Slurm: what a job does, and that it leaves nothing behind."""

import json
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from slurm_jobs import DRIVERS, SCRIPT, environment_with_ray, leftovers
from testbed import Testbed

pytestmark = pytest.mark.slurm

SMALL = ("--cpus-per-task=2", "--mem=6G")
AWKWARD_NAME = """it's "$(touch pwned)"; `touch pwned` & *.py"""
BOOT_TIMEOUT_S = 180


@pytest.fixture(scope="module")
def pair(slurm: Testbed, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two concurrent jobs on one node: a driver that uses the cluster, and one that fails with 7."""
    folder = tmp_path_factory.mktemp("pair")
    report = folder / "re port.json"
    failing = folder / AWKWARD_NAME
    failing.write_text("import sys; print(sys.argv[1:]); sys.exit(7)\n")
    good = slurm.sbatch([*SMALL, SCRIPT, str(DRIVERS / "reports_cluster.py"), str(report), "$(id)"], repository)
    bad = slurm.sbatch([*SMALL, SCRIPT, str(failing), "a  b", "'; exit 9", "$HOME"], repository)
    jobs = {name: slurm.wait(job_id, BOOT_TIMEOUT_S) for name, job_id in (("good", good), ("bad", bad))}
    assert jobs["good"].exit_code == 0, jobs["good"].output
    times = [slurm.job(job_id) for job_id in (good, bad)]
    return SimpleNamespace(**jobs, ids=(good, bad), times=times, report=json.loads(report.read_text()))


def test_the_cluster_has_exactly_the_resources_of_the_allocation(pair: SimpleNamespace) -> None:
    resources = pair.report["resources"]
    memory_bytes = resources["memory"] + resources["object_store_memory"]
    assert (resources["CPU"], resources["GPU"], memory_bytes) == (2, 1, 6 * 1024**3)


def test_two_jobs_share_a_node(pair: SimpleNamespace) -> None:
    first, second = pair.times
    assert first["NodeList"] == second["NodeList"]
    assert max(first["StartTime"], second["StartTime"]) < min(first["EndTime"], second["EndTime"])


def test_workers_import_raykd_from_the_repository(pair: SimpleNamespace) -> None:
    assert pair.report["worker_imports_raykd"]


def test_experiment_path_and_arguments_stay_words(pair: SimpleNamespace, repository: Path) -> None:
    assert str(["a  b", "'; exit 9", "$HOME"]) in pair.bad.output
    assert pair.report["arguments"][1] == "$(id)"
    assert not (repository / "pwned").exists()


def test_no_step_of_a_job_that_succeeds_has_another_exit_code(slurm: Testbed, pair: SimpleNamespace) -> None:
    assert "DerivedExitCode=0:0" in slurm.run(["scontrol", "show", "job", "--details", str(pair.ids[0])])


def test_the_exit_code_of_the_driver_is_that_of_the_job(pair: SimpleNamespace) -> None:
    assert (pair.bad.state, pair.bad.exit_code) == ("FAILED", 7)
    assert "with exit code 7" in pair.bad.output


def test_a_job_that_fails_keeps_rays_logs_beside_its_own(slurm: Testbed, pair: SimpleNamespace) -> None:
    good, bad = (slurm.folder / f"slurm-{job_id}-ray-logs" for job_id in pair.ids)
    assert pair.bad.output.endswith(f"raykd: Ray's logs are in {bad}\n") and not good.exists()
    (archive,) = bad.iterdir()
    with tarfile.open(archive) as file:
        assert {"raylet.out", "gcs_server.out"} <= {Path(name).name for name in file.getnames()}


def test_the_token_is_private_and_appears_nowhere(slurm: Testbed, pair: SimpleNamespace) -> None:
    report = pair.report
    assert (report["folder_mode"], report["token_mode"]) == ("0o700", "0o600")
    assert not report["token_in_queue"]
    assert not report["token_in_command_lines"]
    assert report["token"] not in pair.good.output + slurm.run(["scontrol", "show", "job", str(pair.ids[0])])


def test_the_cluster_refuses_a_client_without_the_token(pair: SimpleNamespace) -> None:
    assert pair.report["stranger_exit_code"] != 0


def test_a_job_leaves_no_process_folder_or_token(slurm: Testbed, pair: SimpleNamespace) -> None:
    assert pair.ids[0] in slurm.job_ids
    assert leftovers(slurm) == []


def test_the_output_reports_the_time_of_each_step(pair: SimpleNamespace) -> None:
    lines = [line for line in pair.good.output.splitlines() if line.startswith("raykd: ")]
    starts = ("job ", "code (", "head up after ", "dashboard at ", "driver starts after ", "driver ended ", "Ray down ")
    assert [line.removeprefix("raykd: ").startswith(start) for line, start in zip(lines, starts, strict=True)]
    assert "staged to /tmp/rk-" in lines[1], "Slurm sets TMPDIR"
    assert "on cn1 (2 CPUs, 1 GPU)" in lines[2]


@pytest.fixture(scope="module")
def disturbed(slurm: Testbed, repository: Path) -> SimpleNamespace:
    """Three concurrent jobs: one gets the signal before its time limit, one is cancelled, and one loses Ray's head."""
    waits = [*SMALL, SCRIPT, str(DRIVERS / "waits_for_signal.py")]
    warned, cancelled = slurm.sbatch(waits, repository), slurm.sbatch(waits, repository)
    headless = slurm.sbatch([*SMALL, SCRIPT, str(DRIVERS / "kills_head.py")], repository)
    slurm.wait_for_output(warned, "waiting\n", BOOT_TIMEOUT_S)
    slurm.run(["scancel", "--batch", "--signal=USR2", str(warned)])
    slurm.wait_for_output(cancelled, "waiting\n", BOOT_TIMEOUT_S)
    slurm.run(["scancel", str(cancelled)])
    names = {"warned": warned, "cancelled": cancelled, "headless": headless}
    return SimpleNamespace(**{name: slurm.wait(job_id, BOOT_TIMEOUT_S) for name, job_id in names.items()})


def test_the_signal_before_the_time_limit_reaches_the_driver(disturbed: SimpleNamespace) -> None:
    assert disturbed.warned.exit_code == 3, disturbed.warned.output


def test_a_cancelled_job_ends_with_75(disturbed: SimpleNamespace) -> None:
    assert disturbed.cancelled.state == "CANCELLED"
    assert "with exit code 75" in disturbed.cancelled.output


def test_the_loss_of_the_head_ends_the_job(disturbed: SimpleNamespace) -> None:
    job = disturbed.headless
    assert job.exit_code == 1, job.output
    assert "Ray's head ended with exit code" in job.output
    assert "while the experiment ran: Some Ray subprocesses exited unexpectedly: gcs_server" in job.output


def test_jobs_that_are_warned_cancelled_or_lose_their_head_leave_nothing(
    slurm: Testbed, disturbed: SimpleNamespace
) -> None:
    assert disturbed and leftovers(slurm) == []


@pytest.mark.nightly
@pytest.mark.parametrize("word", ["dashboard.py", "ray::DashboardAgent"])
def test_a_job_survives_the_loss_of_a_dashboard_process(
    slurm: Testbed, repository: Path, tmp_path: Path, word: str
) -> None:
    words = [str(DRIVERS / "kills_dashboard.py"), word, str(tmp_path / "marker")]
    job = slurm.wait(slurm.sbatch([*SMALL, SCRIPT, *words], repository), BOOT_TIMEOUT_S)
    assert job.exit_code == 0, job.output
    assert "killed " in job.output and "task says fine" in job.output
    lines = [line for line in job.output.splitlines() if "started again" in line or "starting Ray again" in line]
    assert len(lines) == 1, job.output
    assert leftovers(slurm) == []


@pytest.mark.nightly
def test_the_next_job_removes_what_a_killed_job_left_in_tmp(slurm: Testbed, repository: Path, tmp_path: Path) -> None:
    """Neither does a long TMPDIR of the user break Ray, whose sockets' paths have at most 107 characters."""
    long = tmp_path / ("d" * 100) / ("e" * 100)
    long.mkdir(parents=True)
    script = tmp_path / "killed.py"
    script.write_text("import time; print('waiting', flush=True); time.sleep(300)")
    killed = slurm.sbatch([*SMALL, "--no-requeue", SCRIPT, str(script)], repository)
    slurm.wait_for_output(killed, "waiting\n", BOOT_TIMEOUT_S)
    lines = slurm.run(["ps", "-eww", "-o", "pid=,args="]).splitlines()
    slurm.run(["kill", "-KILL", *(line.split()[0] for line in lines if str(script) in line)])
    assert slurm.wait(killed, timeout_s=60).state == "FAILED"
    folder = Path(f"/tmp/rk-{os.getuid()}-{killed}")
    assert folder.exists()
    before = set(Path("/tmp").iterdir()) - {folder}
    report = tmp_path / "report.json"
    words = [SCRIPT, str(DRIVERS / "reports_cluster.py"), str(report), "x"]
    job = slurm.wait(slurm.sbatch([*SMALL, *words], repository, {"TMPDIR": str(long)}), BOOT_TIMEOUT_S)
    assert job.exit_code == 0, job.output
    assert not folder.exists()
    new = {path for path in set(Path("/tmp").iterdir()) - before if path.name.startswith(("rk-", "pymp-", "ray"))}
    assert not new


def test_a_missing_experiment_fails_immediately_with_one_line(slurm: Testbed, repository: Path) -> None:
    job = slurm.wait(slurm.sbatch([*SMALL, SCRIPT, "experiments/no such.py"], repository), timeout_s=60)
    assert job.exit_code == 2
    assert job.output.startswith("raykd: experiment file 'experiments/no such.py' does not exist in ")
    assert job.output.count("\n") == 1


def test_a_head_that_cannot_start_fails_the_job_with_the_reason(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    env = environment_with_ray(tmp_path, "echo 'OSError: the disk is on fire' >&2; exit 4")
    experiment = str(DRIVERS / "waits_for_signal.py")
    job_id = slurm.sbatch(["--nodes=2", *SMALL, SCRIPT, experiment], repository, env)
    job = slurm.wait(job_id, timeout_s=60)
    assert job.exit_code == 75, job.output
    assert "Ray's head ended with exit code 4" in job.output
    assert "before it was up: OSError: the disk is on fire" in job.output
    assert leftovers(slurm) == []


def test_a_folder_that_cannot_be_made_fails_the_job(slurm: Testbed, repository: Path) -> None:
    arguments = [*SMALL, SCRIPT, str(DRIVERS / "waits_for_signal.py")]
    job = slurm.wait(slurm.sbatch(arguments, repository, env={"RAYKD_TMP": "/proc/none"}), timeout_s=60)
    assert job.exit_code == 2, job.output
    assert "cannot make the private folder /proc/none/rk-" in job.output


def test_submitting_from_elsewhere_is_refused(slurm: Testbed, repository: Path, tmp_path: Path) -> None:
    job = slurm.wait(slurm.sbatch([*SMALL, str(repository / SCRIPT), "x.py"], tmp_path), timeout_s=60)
    assert job.exit_code == 2
    assert "which has no slurm/environment.sh: cd to the folder that has slurm/ and submit again" in job.output


def test_the_script_runs_with_its_defaults(slurm: Testbed, repository: Path) -> None:
    job = slurm.wait(slurm.sbatch([SCRIPT, "experiments/no such.py"], repository), timeout_s=60)
    assert job.exit_code == 2, job.output  # it was scheduled: partition, GPU, CPUs and memory exist
