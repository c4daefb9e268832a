"""The findings of `raykd doctor` and their remedies."""

import errno
import fcntl
import os
import shlex
import sys
from pathlib import Path

import pytest
from testbed import Testbed

from raykd.cluster import doctor, staging
from raykd.cluster.doctor import Finding, examine, torch_finding
from raykd.data.load import list_datasets
from raykd.disk.mounts import Mount

MAKE = shlex.join(["make", "-C", str(Path(__file__).parents[2]), "env", f"VENV={sys.prefix}"])
H100 = ["NVIDIA H100, 535.104.05, 81559 MiB"]
NEWER = ["NVIDIA H100, 580.65.06, 81559 MiB"]


@pytest.mark.parametrize(
    ("cuda", "has_gpu", "drivers", "verdict", "part"),
    [
        ("13.2", True, NEWER, "ok", "can use the GPU"),
        ("12.6", False, [], "ok", "there is no GPU to test"),
        (
            "13.2",
            False,
            H100,
            "bad",
            f"535.104.05 supports CUDA 12 only: {MAKE} 'TORCH=torch<2.11'",
        ),
        ("13.2", False, NEWER, "bad", "CUDA_VISIBLE_DEVICES"),
        ("12.6", False, H100, "bad", "--gres=gpu:1"),
        (
            None,
            False,
            H100,
            "bad",
            "-m pip install --force-reinstall torch torchvision",
        ),
    ],
)
def test_if_torch_cannot_use_the_gpu_the_remedy_has_the_torch_to_install(cuda, has_gpu, drivers, verdict, part) -> None:
    finding = torch_finding("2.15.0", cuda, has_gpu, drivers)
    assert finding.verdict == verdict and part in str(finding)


def test_a_gpu_that_torch_cannot_use_is_reported_with_cudas_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Error 802: system not yet initialized")

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.init", fail)
    finding = next(iter(doctor._packages(NEWER)))
    assert finding.verdict == "bad" and "(RuntimeError: Error 802: system not yet initialized)" in finding.text


@pytest.mark.parametrize(("unsupported", "torch"), [("sm_70", "torch<2.11"), ("sm_60", "torch<2.8")])
def test_an_unsupported_gpu_is_bad_although_torch_detects_it(unsupported, torch) -> None:
    finding = torch_finding("2.15.0", "13.2", True, NEWER, unsupported)
    assert finding.verdict == "bad" and finding.remedy.endswith(f"'TORCH={torch}'")


def findings(folder: Path) -> dict[str, Finding]:
    """Return the findings by subject."""
    results, data = folder / "results", folder / "data"
    return {finding.subject: finding for finding in examine(results, data, data / "weights", list_datasets)}


def test_every_bad_finding_has_a_remedy_and_no_file_is_left(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RAYKD_TMP", "/tmp/" + "long/" * 12)
    bad = {subject: finding for subject, finding in findings(tmp_path).items() if finding.verdict == "bad"}
    assert {"data", "tmp"} <= set(bad) and all(finding.remedy for finding in bad.values())
    assert "prefetch" in bad["data"].remedy
    assert list(tmp_path.iterdir()) == []


def test_custom_data_sets_are_listed(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / "data" / "flowers" / part / "rose").mkdir(parents=True)
    assert findings(tmp_path)["data"] == Finding("ok", "data", f"folder:flowers in {tmp_path / 'data'}")


def test_a_results_folder_without_locks_is_bad(tmp_path: Path, monkeypatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    finding = findings(tmp_path)["results"]
    assert finding.verdict == "bad" and "-o flock" in finding.remedy


def test_the_locks_of_the_results_folder_are_named(tmp_path: Path, monkeypatch) -> None:
    def found(kind: str, *options: str) -> Finding:
        monkeypatch.setattr(doctor, "mount_of", lambda _: Mount("/m", kind, frozenset(options)))
        return next(doctor._results(tmp_path))

    assert "writable, supports locks (ext4)" in found("ext4").text
    local = found("lustre", "localflock")
    assert (local.verdict, local.text) == ("bad", f"{tmp_path}: /m has locks of one node only (localflock)")
    assert "-o flock" in local.remedy
    assert found("beegfs", "cfgFile=/none").verdict == "-"


def test_a_full_disk_is_bad(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1e18)
    finding = findings(tmp_path)["results"]
    assert finding.verdict == "bad" and "free at least" in finding.remedy


@pytest.mark.parametrize(("mode", "names_mps"), [("Default", False), ("Exclusive_Process", True)])
def test_a_gpu_for_one_process_is_named_with_the_remedy(monkeypatch, mode: str, names_mps: bool) -> None:
    monkeypatch.setattr(doctor, "_output", lambda _: f"{mode}\n{mode}\n")
    finding = doctor._gpus(["NVIDIA H100, 580.1, 81559 MiB", "NVIDIA H100, 580.1, 81559 MiB"])
    assert finding.verdict == "ok"
    assert (f"in mode {mode}, runs can share a GPU only with RAYKD_MPS=1" in finding.text) is names_mps


@pytest.mark.parametrize(("job_id", "verdict"), [("7", "bad"), ("", "-")])
def test_a_low_limit_is_bad_in_a_job_and_not_on_a_login_node(monkeypatch, job_id: str, verdict: str) -> None:
    monkeypatch.setattr(doctor, "low_limits", lambda: iter(["ulimit -u is 512, below 4,096"]))
    monkeypatch.setattr(doctor, "_has_slurm", lambda: True)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job_id:
        monkeypatch.setenv("SLURM_JOB_ID", job_id)
    finding = doctor._limits()
    assert finding.verdict == verdict and "ulimit -u is 512, below 4,096" in finding.text


def test_variables_that_bind_processes_to_cpus_are_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_PLACES", "cores")
    found = findings(tmp_path)["variables"]
    assert found.text == "OMP_PLACES=cores: ignored, because all runs would compute on the same CPU"


def test_a_job_whose_scratch_is_in_memory_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(staging, "mount_of", lambda _: Mount("/dev/shm", "tmpfs", frozenset()))
    monkeypatch.setenv("TMPDIR", "/dev/shm/ann")
    monkeypatch.delenv("RAYKD_SCRATCH", raising=False)
    assert "scratch" not in findings(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    found = findings(tmp_path)["scratch"]
    assert "TMPDIR=/dev/shm/ann is in memory" in found.text and "RAYKD_SCRATCH" in found.remedy


def test_packages_on_pythonpath_that_replace_the_environments_are_bad(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "site" / "numpy").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{tmp_path / 'site'}")
    found = findings(tmp_path)["PYTHONPATH"]
    assert (found.verdict, found.remedy) == ("bad", "unset it")
    assert found.text.endswith(f"replace those of the environment: {tmp_path / 'site'} (numpy)")


@pytest.mark.parametrize(("seconds", "verdict"), [(8, "ok"), (45, "-")])
def test_a_slow_environment_is_named_with_the_time_limit_to_set(seconds: float, verdict: str) -> None:
    found = doctor._import_time(seconds)
    assert found.verdict == verdict and ("RAYKD_START_TIMEOUT_S=400" in found.remedy) == (verdict == "-")


@pytest.mark.parametrize(
    ("version", "is_old"), [("20.02.7", True), ("19.05", True), ("20.11.9", False), ("24.05", False)]
)
def test_a_slurm_without_overlapping_steps_is_bad(programs, version: str, is_old: bool) -> None:
    programs(sbatch=f"echo slurm {version}", sinfo="echo '2|gpu:2'")
    finding = doctor._slurm()
    assert (finding.verdict == "bad") == is_old and ("requires 20.11 or later" in finding.text) == is_old


def test_results_of_an_earlier_version_are_bad(tmp_path: Path) -> None:
    record = tmp_path / "results" / "cnn" / "teacher-resnet18-s0-0123456789ab" / "run.json"
    record.parent.mkdir(parents=True)
    record.touch()
    finding = findings(tmp_path)["results"]
    assert finding.verdict == "bad" and f"migrate --results {tmp_path / 'results'}" in finding.remedy


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Replace programs by shell lines, given by name."""

    def make(**lines: str) -> None:
        folder = tmp_path / "programs"
        folder.mkdir()
        for name, line in lines.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/bin" if lines else str(folder))
        monkeypatch.delenv("SBATCH_PARTITION", raising=False)
        monkeypatch.chdir(folder)

    return make


VERSION = "echo slurm 22.05.8"


def test_every_kind_of_node_is_listed_from_any_working_directory(programs) -> None:
    kinds = "2|gpu:h100:4(S:0-1)\\n1|gpu:a100:8\\n12|(null)\\n"
    programs(sbatch=VERSION, sinfo=f'[ "$2" = --partition=markov_gpu ] && printf "{kinds}"')
    kinds = "2 nodes with gpu:h100:4; 1 node with gpu:a100:8; 12 nodes without GPUs"
    assert str(doctor._slurm()) == f"ok   slurm       slurm 22.05.8; partition markov_gpu: {kinds}"


def test_a_machine_without_slurm_is_not_bad(programs) -> None:
    programs()
    assert doctor._slurm() == Finding("-", "slurm", "no sbatch here: experiments run on this machine only")
    assert doctor._gpus([]) == Finding("-", "gpu", "none on this machine")


def test_a_machine_with_slurms_commands_outside_a_cluster_is_not_bad(programs) -> None:
    error = "sinfo: fatal: Could not establish a configuration source"
    programs(sbatch=VERSION, sinfo=f"echo '{error}' >&2; exit 1")
    finding = doctor._slurm()
    assert finding.verdict == "-" and "slurm 22.05.8 is installed, but this machine is in no cluster" in finding.text


def test_a_slurm_that_does_not_answer_is_not_reported_as_a_missing_partition(programs) -> None:
    programs(sbatch=VERSION, sinfo="echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    finding = doctor._slurm()
    assert finding.verdict == "bad" and "does not answer: slurm_load_partitions: Unable to contact" in finding.text
    assert "partition '" not in str(finding) and finding.remedy == "run this on a login node of the cluster"


@pytest.mark.nightly
@pytest.mark.slurm
def test_the_partition_is_read_from_a_real_slurm(slurm: Testbed, repository: Path) -> None:
    command = ["bash", "-c", "python -m raykd doctor || true"]
    path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin"
    output = slurm.run(command, repository, {"PATH": path}, timeout_s=60)
    assert "partition markov_gpu: 2 nodes with gpu:h100:2; 1 node with gpu:a100:2" in output
    output = slurm.run(command, repository, {"PATH": path, "SBATCH_PARTITION": "elsewhere"}, timeout_s=60)
    assert "partition 'elsewhere' does not exist" in output and "sinfo -s" in output


def test_the_partition_is_that_of_the_project_in_the_current_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("SBATCH_PARTITION", raising=False)
    monkeypatch.chdir(tmp_path)
    assert doctor.default_partition() == "markov_gpu"  # of the bundled site.sh
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "site.sh").write_text("export SBATCH_PARTITION=mine\n")
    assert doctor.default_partition() == "mine"


def test_without_torch_the_check_of_the_container_is_named(tmp_path, monkeypatch) -> None:
    """Outside the container the environment has only filelock."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "slurm").mkdir()
    site = tmp_path / "slurm" / "site.sh"
    site.write_text("RAYKD_CONTAINER=(apptainer exec 'my image.sif')\n")
    (found,) = doctor._packages([])
    assert (found.verdict, found.remedy) == ("-", "apptainer exec 'my image.sif' python3 -m raykd doctor")
    site.write_text("RAYKD_CONTAINER=()\n")
    (found,) = doctor._packages([])
    assert found.verdict == "bad"
