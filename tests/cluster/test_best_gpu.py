"""The GPU that is requested, from the output of sinfo and on a real Slurm."""

import shlex
import time
from pathlib import Path

import pytest
from testbed import Testbed

from raykd.cluster.best_gpu import GpuType, choose, main, rank_of, read_types
from raykd.errors import ConfigError

RANK = ["h200", "h100", "a100", "v100"]
SINFO = """\
gpu1           |mixed               |gpu:h100:4(S:0-1)   |gpu:h100:3(IDX:0-2) |
gpu2           |idle                |gpu:a100:8          |gpu:a100:0          |
gpu3           |drained             |gpu:h100:4          |gpu:h100:0          |
gpu4           |allocated           |gpu:a100:8          |gpu:a100:2          |
gpu5           |idle~               |gpu:v100:2,shard:8  |gpu:v100:0,shard:0  |
cpu1           |idle                |(null)              |gpu:0               |
"""


def test_only_usable_nodes_have_free_gpus() -> None:
    counts = {gpu.name: (sum(gpu.free), gpu.num_total) for gpu in read_types(SINFO)}
    assert counts == {"h100": (1, 8), "a100": (8, 16), "v100": (2, 2)}


def test_gpus_without_a_count_of_used_ones_are_free_and_no_count_is_negative() -> None:
    table = "n1|idle|gpu:h100:4|(null)|\nn2|mixed|gpu:h100:2|gpu:h100:3|\n"  # a node whose configuration was reduced
    assert read_types(table) == [GpuType("h100", (4, 0), 6)]


def test_the_best_free_type_is_chosen_with_a_reason() -> None:
    gres, reason = choose(read_types(SINFO), RANK)
    assert gres == "gpu:h100:1"
    assert reason == "h100 is the best free type (h100 1 of 8 free, a100 8 of 16 free, v100 2 of 2 free)"


def test_a_better_type_without_free_gpus_is_skipped() -> None:
    assert (
        choose([GpuType("h200", (0,), 8), GpuType("v100", (1,), 4), GpuType("a100", (3,), 4)], RANK)[0] == "gpu:a100:1"
    )


def test_a_type_without_a_rank_comes_last() -> None:
    assert choose([GpuType("b300", (4,), 4), GpuType("v100", (1,), 4)], RANK)[0] == "gpu:v100:1"
    assert choose([GpuType("b300", (4,), 4), GpuType("v100", (0,), 4)], RANK)[0] == "gpu:b300:1"


def test_any_type_is_requested_if_none_is_free() -> None:
    gres, reason = choose([GpuType("h100", (0,), 8), GpuType("a100", (0,), 8)], RANK)
    assert gres == "gpu:1" and reason.startswith("no GPU is free (h100 0 of 8 free")


def test_gpus_without_a_type_are_requested_without_one() -> None:
    assert choose(read_types("n1|idle|gpu:4|gpu:1|\n"), RANK)[0] == "gpu:1"


@pytest.mark.parametrize(
    ("name", "ranked"),
    [
        ("nvidia_h100_80gb_hbm3", "h100"),
        ("NVIDIA_H100_NVL", "h100"),
        ("nvidia_a100-sxm4-80gb", "a100"),
        ("nvidia_l40s", "l40s"),
        ("quadro_rtx_8000", "rtx8000"),
        ("nvidia_rtx_6000_ada_generation", "rtx6000"),
        ("tesla_v100-sxm2-32gb", "v100"),
        ("tesla_t4", "t4"),
        ("nvidia_gh200_480gb", None),
        ("nvidia_a100_1g.10gb", None),
        ("t400", None),
    ],
)
def test_a_detected_type_has_the_rank_of_its_gpu(name: str, ranked: str | None) -> None:
    rank = ["h200", "h100", "a100", "l40s", "rtx6000", "v100", "rtx8000", "t4"]
    assert rank_of(name, rank) == (len(rank) if ranked is None else rank.index(ranked))


def test_a_detected_type_is_requested_by_its_full_name() -> None:
    table = "n1|idle|gpu:tesla_t4:4|gpu:tesla_t4:0|\nn2|idle|gpu:nvidia_h100_80gb_hbm3:8|gpu:nvidia_h100_80gb_hbm3:7|\n"
    assert choose(read_types(table), ["h100", "t4"])[0] == "gpu:nvidia_h100_80gb_hbm3:1"


@pytest.mark.parametrize("gres", ["gpu:h100:no_consume:2", "gpu:no_consume:h100:2"])
def test_gpus_that_jobs_share_are_always_free(gres: str) -> None:
    (gpu_type,) = read_types(f"n1|mixed|{gres}|gpu:h100:2(IDX:0-1)|\n")
    assert gpu_type == GpuType("h100", (2,), 2)
    assert read_types("n1|mixed|gpu:no_consume:2|gpu:2|\n") == [GpuType("", (2,), 2)]


def test_a_type_must_have_all_requested_gpus_on_one_node() -> None:
    spread = [GpuType("h100", (1, 1, 1), 6), GpuType("a100", (2, 0), 4)]
    assert choose(spread, RANK, num_gpus=2)[0] == "gpu:a100:2"
    assert choose(spread, RANK, num_nodes=3)[0] == "gpu:h100:1"
    gres, reason = choose(spread, RANK, num_gpus=2, num_nodes=2)
    assert gres == "gpu:2" and reason.startswith("2 x 2 GPUs are not free (h100 3 of 6 free")


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Path:
    """Replace sinfo by a script that writes its arguments to the returned file."""
    arguments_file = tmp_path / "arguments_file"
    (tmp_path / "sinfo").write_text(f'#!/bin/sh\necho "$@" >{arguments_file}\ncat <<END\n{SINFO}END\n')
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(repository)
    return arguments_file


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], ["--partition=gpu", "--gres=gpu:h100:1"]),
        (["-p", "big"], ["--partition=big", "--gres=gpu:h100:1"]),
        (["--partition=big", "--time=5"], ["--partition=big", "--gres=gpu:h100:1", "--time=5"]),
        (["--gpus=2"], ["--partition=gpu", "--gres=gpu:a100:2"]),
        (["-G", "2", "--mem-per-gpu=8G"], ["--partition=gpu", "--gres=gpu:a100:2", "--mem=16384M"]),
        (["--gres=gpu:2"], ["--partition=gpu", "--gres=gpu:a100:2"]),
        (["--gpus-per-node=v100:2"], ["--partition=gpu", "--gres=gpu:v100:2"]),
        (["--gres=none"], ["--partition=gpu", "--gres=none"]),
    ],
)
def test_options_of_the_user_are_kept(sinfo: Path, typed: list[str], expected: list[str], capsys) -> None:
    assert main(["--partition", "gpu", "--rank", " ".join(RANK), "--", "--dry-run", *typed, __file__]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command == ["sbatch", *expected, "slurm/ray_cluster.slurm", __file__]
    if sinfo.exists():
        assert expected[0] in sinfo.read_text().split(), "sinfo must read the partition of the job"


def test_a_partition_without_gpus_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no GPUs; set another"):
        choose(read_types("cpu1|idle|(null)|gpu:0|\n"), RANK)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--dry-run"], "no experiment file; usage: "),
        (["no/such.py"], "experiment file 'no/such.py' does not exist"),
        (
            ["--time", "1:00:00", "x.py"],
            "experiment file '1:00:00' does not exist; write sbatch's options with '='",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line_without_calling_slurm(arguments: list[str], part: str, capsys) -> None:
    assert main(["--partition", "p", "--rank", "h100", "--", *arguments]) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1


@pytest.mark.slurm
def test_a_job_goes_to_the_best_free_gpu_of_a_real_partition(slurm: Testbed, repository: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "it's $(an) experiment.py"
    experiment.write_text("")
    script = str(repository / "slurm/submit_best_gpu.sh")
    holder = slurm.sbatch(["--nodelist=cn1,cn2", "--nodes=2", "--gres=gpu:h100:2", "--wrap=sleep 60"], repository)
    while slurm.job(holder)["JobState"] != "RUNNING":
        time.sleep(0.1)
    try:
        output = slurm.run([script, "--dry-run", "--time=5:00", str(experiment), "a b"], tmp_path)
    finally:
        slurm.run(["scancel", str(holder)])
        slurm.wait(holder, timeout_s=20)
    reason, command = output.splitlines()[-2:]
    assert reason == "raykd: a100 is the best free type (h100 0 of 4 free, a100 2 of 2 free)"
    arguments = shlex.split(command)
    assert arguments[:4] == ["sbatch", "--partition=markov_gpu", "--gres=gpu:a100:1", "--time=5:00"]
    assert arguments[4:] == ["slurm/ray_cluster.slurm", str(experiment), "a b"]
    output = slurm.run([script, "--dry-run", str(experiment)], tmp_path)
    assert "--gres=gpu:h100:1" in output
