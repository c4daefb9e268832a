"""The job's private MPS: where it starts, which GPUs it serves, what its clients receive, and how it ends. No GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_mps import calls, pids, programs
from slurm_jobs import DRIVERS, SCRIPT, leftovers
from test_subreaper import is_running
from testbed import Testbed

from raykd.cluster import mps
from raykd.cluster.allocation import Node
from raykd.errors import ConfigError, RayNotStarted

STEP = [sys.executable, "-m", "raykd.cluster.subreaper", sys.executable, "-m", "raykd.cluster.mps"]
RAY = ["ray", "start"]
NODE = Node("cn1", 8, 2, None)


def run_after_mps(folder: Path, num_gpus: int, program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the shell command `program` in the place of `ray start`, after MPS."""
    kept = {name: value for name, value in os.environ.items() if name != mps.VISIBLE}
    command = [*STEP, str(folder), str(num_gpus), "bash", "-c", program]
    return subprocess.run(command, env=kept | environ, capture_output=True, text=True, timeout=40, check=False)


def test_ray_starts_as_a_client_of_a_daemon_of_its_own_folder_and_gpus(tmp_path: Path) -> None:
    path = programs(tmp_path)
    done = run_after_mps(
        tmp_path, 1, "echo $CUDA_MPS_PIPE_DIRECTORY $CUDA_VISIBLE_DEVICES", CUDA_VISIBLE_DEVICES="1", **path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/mps GPU-bbb\n"
    (call,) = calls(tmp_path)
    assert call.split()[1:] == ["-f", f"pipes={tmp_path}/mps", f"logs={tmp_path}/mps-log", "visible=GPU-bbb"]
    assert (tmp_path / "mps").stat().st_mode & 0o077 == 0


def test_daemon_and_server_end_with_ray_and_no_other_daemon_is_called(tmp_path: Path) -> None:
    done = run_after_mps(tmp_path, 2, "exit 5", **programs(tmp_path))
    assert done.returncode == 5
    processes = pids(tmp_path)
    assert len(processes) >= 2 and not any(map(is_running, processes))
    assert all(f"pipes={tmp_path}/mps" in call for call in calls(tmp_path))


def test_slurms_sigterm_leaves_the_daemon_to_runs_that_save(tmp_path: Path) -> None:
    """Slurm sends it to every process of a job that it cancels, preempts or requeues."""
    program = f"pid=$(cut -d' ' -f1 {tmp_path}/calls); kill $pid; sleep 0.2; grep State /proc/$pid/status"
    done = run_after_mps(tmp_path, 2, program, **programs(tmp_path))
    assert done.returncode == 0 and "zombie" not in done.stdout, done.stdout


def test_a_daemon_that_fails_is_reported_with_its_last_line_and_ray_does_not_start(tmp_path: Path) -> None:
    failing = programs(tmp_path, failure="echo 'Cannot start: no permission'; exit 1")
    done = run_after_mps(tmp_path, 2, "echo Ray has started", **failing)
    assert done.returncode == RayNotStarted.exit_code and "Ray has started" not in done.stdout
    line = "raykd: RAYKD_MPS = 1: nvidia-cuda-mps-control ended with exit code 1 (Cannot start: no permission); submit"
    assert line in done.stderr


def test_a_daemon_that_does_not_listen_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "START_S", 0.3)
    path = programs(tmp_path, failure="exec sleep 1")
    monkeypatch.setenv("PATH", path["PATH"])
    with pytest.raises(RayNotStarted, match="does not listen after 0 s; submit with RAYKD_MPS=0"):
        mps.start(tmp_path, 1, path | {mps.VISIBLE: "GPU-aaa"})


@pytest.mark.parametrize(
    ("visible", "num_gpus", "uuids"),
    [
        ("0", 1, ["GPU-aaa"]),
        ("1,0", 2, ["GPU-bbb", "GPU-aaa"]),
        (None, 2, ["GPU-aaa", "GPU-bbb"]),
        ("GPU-ccc", 1, ["GPU-ccc"]),
        ("MIG-ddd", 1, ["MIG-ddd"]),
    ],
)
def test_gpus_are_named_by_uuid(
    visible: str | None, num_gpus: int, uuids: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", programs(tmp_path)["PATH"])
    assert mps.gpu_uuids({} if visible is None else {mps.VISIBLE: visible}, num_gpus) == uuids


@pytest.mark.parametrize("visible", ["", "7"])
def test_unknown_gpus_start_no_daemon(visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", programs(tmp_path)["PATH"])
    line = rf"CUDA_VISIBLE_DEVICES='{visible}' does not name 1 of the GPUs 0, 1 of nvidia-smi; submit with RAYKD_MPS=0"
    with pytest.raises(RayNotStarted, match=line):
        mps.start(tmp_path, 1, {mps.VISIBLE: visible})
    assert not calls(tmp_path)


def test_mps_is_off_by_default_and_on_nodes_without_gpus(tmp_path: Path) -> None:
    requested = programs(tmp_path) | {mps.VARIABLE: "1"}
    assert mps.after_mps(RAY, NODE, tmp_path, {}) == RAY
    assert mps.after_mps(RAY, NODE, tmp_path, {mps.VARIABLE: "0"}) == RAY
    assert mps.after_mps(RAY, Node("cn1", 8, 0, None), tmp_path, requested) == RAY
    assert mps.after_mps(RAY, NODE, tmp_path, requested)[2:] == ["raykd.cluster.mps", str(tmp_path), "2", *RAY]


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"RAYKD_MPS": "yes"}, r"RAYKD_MPS = 'yes': must be 1 to start MPS on the job's GPUs, or 0"),
        ({"RAYKD_MPS": "1", "PATH": "/none"}, "RAYKD_MPS = 1: 'nvidia-cuda-mps-control' is not on PATH; submit with"),
        (
            {"RAYKD_MPS": "1", "CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps"},
            "CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps names an MPS that is used already; set RAYKD_MPS=0 to use it",
        ),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(environ: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        mps.is_requested(environ)


@pytest.mark.slurm
def test_a_job_without_nvidias_program_is_refused_in_one_line(slurm: Testbed, repository: Path) -> None:
    words = ["--cpus-per-task=2", "--mem=6G", SCRIPT, str(DRIVERS / "waits_for_signal.py")]
    job = slurm.wait(slurm.sbatch(words, repository, {"RAYKD_MPS": "1"}), timeout_s=60)
    assert job.exit_code == 2, job.output
    (line,) = [line for line in job.output.splitlines() if "RAYKD_MPS" in line]
    assert line.startswith("raykd: RAYKD_MPS = 1: 'nvidia-cuda-mps-control' is not on PATH; submit with RAYKD_MPS=0")


@pytest.mark.slurm
@pytest.mark.nightly
def test_each_node_of_a_job_has_its_mps_which_ends_with_the_job(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    path = programs(tmp_path)
    words = ["--nodes=2", "--cpus-per-task=1", "--mem=6G", SCRIPT, str(DRIVERS / "reports_mps.py")]
    job = slurm.wait(slurm.sbatch(words, repository, {"RAYKD_MPS": "1", **path}), timeout_s=240)
    assert job.exit_code == 0, job.output
    assert "starting MPS and Ray" in job.output
    pipes = sorted(line.split("=")[1] for line in job.output.splitlines() if line.startswith("pipes="))
    folders = [Path(folder) for folder in pipes]
    assert len(set(folders)) == 2 and all(folder.match("/tmp/rk-*/mps") for folder in folders)
    served = {call.split()[2].removeprefix("pipes=") for call in calls(tmp_path)}  # more often if Ray starts again
    assert served == set(pipes), job.output
    assert leftovers(slurm) == []
