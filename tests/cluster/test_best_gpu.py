"""Which GPU is asked for, from what sinfo prints, and on a real Slurm."""

import shlex
import time
from pathlib import Path

import pytest
from testbed import Testbed

from raykd.cluster.best_gpu import GpuType, choose, main, read_types
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


def test_free_gpus_are_those_of_nodes_that_take_jobs() -> None:
    assert read_types(SINFO) == [GpuType("h100", 1, 8), GpuType("a100", 8, 16), GpuType("v100", 2, 2)]


def test_best_type_that_is_free_is_chosen_and_why_is_said() -> None:
    gres, why = choose(read_types(SINFO), RANK)
    assert gres == "gpu:h100:1"
    assert why == "h100 is the best of what is free (h100 1 of 8 free, a100 8 of 16 free, v100 2 of 2 free)"


def test_better_type_that_is_taken_is_passed_over() -> None:
    assert choose([GpuType("h200", 0, 8), GpuType("v100", 1, 4), GpuType("a100", 3, 4)], RANK)[0] == "gpu:a100:1"


def test_type_that_the_rank_does_not_know_comes_last() -> None:
    assert choose([GpuType("b300", 4, 4), GpuType("v100", 1, 4)], RANK)[0] == "gpu:v100:1"
    assert choose([GpuType("b300", 4, 4), GpuType("v100", 0, 4)], RANK)[0] == "gpu:b300:1"


def test_any_type_is_asked_for_when_none_is_free() -> None:
    gres, why = choose([GpuType("h100", 0, 8), GpuType("a100", 0, 8)], RANK)
    assert gres == "gpu:1" and why.startswith("no GPU is free (h100 0 of 8 free")


def test_gpus_without_a_type_are_asked_for_without_one() -> None:
    assert choose(read_types("n1|idle|gpu:4|gpu:1|\n"), RANK)[0] == "gpu:1"


def test_partition_without_gpus_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no GPUs; name another"):
        choose(read_types("cpu1|idle|(null)|gpu:0|\n"), RANK)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--dry-run"], "no experiment named"),
        (["no/such.py"], "no experiment file 'no/such.py'"),
        (["--time", "1:00:00", "x.py"], "no experiment file '1:00:00'; sbatch's options are written --time=1:00:00"),
    ],
)
def test_mistake_is_one_line_before_slurm_is_asked(words: list[str], part: str, capsys) -> None:
    assert main(["--partition", "p", "--rank", "h100", "--", *words]) == 2
    said = capsys.readouterr().err
    assert part in said and said.count("\n") == 1


@pytest.mark.slurm
def test_job_goes_to_the_best_free_gpu_of_a_real_partition(slurm: Testbed, repository: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "it's $(an) experiment.py"
    experiment.write_text("")
    script = str(repository / "slurm/submit_best_gpu.sh")
    holder = slurm.sbatch(["--nodelist=cn1,cn2", "--nodes=2", "--gres=gpu:h100:2", "--wrap=sleep 60"], repository)
    while slurm.job(holder)["JobState"] != "RUNNING":
        time.sleep(0.1)
    try:
        said = slurm.run([script, "--dry-run", "--time=5:00", str(experiment), "a b"], tmp_path)
    finally:
        slurm.run(["scancel", str(holder)])
        slurm.wait(holder, timeout_s=20)
    why, command = said.splitlines()[-2:]
    assert why == "raykd: a100 is the best of what is free (h100 0 of 4 free, a100 2 of 2 free)"
    words = shlex.split(command)
    assert words[:4] == ["sbatch", "--partition=markov_gpu", "--gres=gpu:a100:1", "--time=5:00"]
    assert words[4:] == ["slurm/ray_cluster.slurm", str(experiment), "a b"]
    said = slurm.run([script, "--dry-run", str(experiment)], tmp_path)
    assert "--gres=gpu:h100:1" in said
