"""Translation of options into those that the batch script's #SBATCH lines allow."""

import pytest

from raykd.cluster.sbatch_options import script_defaults, split, translate, value_of
from raykd.errors import ConfigError

DEFAULTS = {"gres": "gpu:1", "cpus-per-task": "8", "mem": "32G", "nodes": "1"}


def translated(line: str) -> str:
    return " ".join(translate(split(line.split())[0], DEFAULTS))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", ""),
        ("--time=1:00:00 --gres=gpu:2 -A me", "--time=1:00:00 -A me --gres=gpu:2"),
        ("--gpus-per-node=2", "--gres=gpu:2"),
        ("--gpus-per-node=h100:2", "--gres=gpu:h100:2"),
        ("--gpus=2", "--gres=gpu:2"),
        ("-G 2", "--gres=gpu:2"),
        ("-Gh100:2", "--gres=gpu:h100:2"),
        ("-N 2 --gpus=4", "-N 2 --gres=gpu:2"),
        ("--nodes=2-4 --gpus=4", "--nodes=2-4 --gres=gpu:2"),
        ("--gpus=0", "--gres=none"),
        ("--gpus-per-task=2", "--gres=gpu:2"),
        ("--gpus-per-task=a100:1 --ntasks-per-node=2", "--ntasks-per-node=2 --gres=gpu:a100:2"),
        ("--gpus=4 --gres=gpu:2", "--gres=gpu:2"),
        ("--mem-per-cpu=2G", "--mem=16384M"),
        ("--mem-per-cpu=2000 -c4", "--cpus-per-task=4 --mem=8000M"),
        ("--mem-per-cpu=2097152K -c4", "--cpus-per-task=4 --mem=8192M"),
        ("--mem-per-gpu=1T", "--mem=1048576M"),
        ("--mem-per-gpu=10G", "--mem=10240M"),
        ("--mem-per-gpu=10G --gpus=3", "--gres=gpu:3 --mem=30720M"),
        ("--cpus-per-gpu=6 --gres=gpu:2", "--gres=gpu:2 --cpus-per-task=12"),
        ("--cpus-per-gpu=4 --mem-per-cpu=1G", "--cpus-per-task=4 --mem=4096M"),
        ("--mem=0", "--mem=0"),
    ],
)
def test_a_request_is_translated_into_one_that_the_script_allows(typed: str, expected: str) -> None:
    assert translated(typed) == expected


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--gpus=3 -N2", r"^--gpus=3: 3 GPUs cannot be divided among 2 nodes; request --gres=gpu:N"),
        ("--gpus=many", r"^--gpus=many: must be an integer$"),
        ("--gpus-per-node=h100", r"^--gpus-per-node=h100: must be an integer$"),
        ("--mem-per-cpu=lots", r"^--mem-per-cpu=lots: must be a size, such as 4G$"),
        ("--gpus=2 -N0", r"^--nodes=0: must be at least 1$"),
        ("--gres=none --mem-per-gpu=8G", r"^--mem-per-gpu=8G: the job has no GPU; request"),
        ("--cpus-per-gpu=4 --gpus=0", r"^--cpus-per-gpu=4: the job has no GPU; request"),
        ("--cpus-per-gpu=0x2", r"^--cpus-per-gpu=0x2: must be an integer$"),
    ],
)
def test_an_invalid_request_is_named(typed: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translated(typed)


def test_words_after_the_options_belong_to_the_experiment() -> None:
    options, rest = split(["-p", "big", "--time=5", "x.py", "--gpus=2"])
    assert ([option.arguments for option in options], rest) == ([("-p", "big"), ("--time=5",)], ["x.py", "--gpus=2"])
    assert value_of(options, "partition") == "big"


def test_the_value_of_a_long_option_may_be_a_separate_word_if_only_options_are_expected() -> None:
    options, rest = split(["--gpus", "2", "--exclusive", "--mem", "4G"], only_options=True)
    assert [(option.name, option.value) for option in options] == [("gpus", "2"), ("exclusive", ""), ("mem", "4G")]
    assert rest == []


def test_the_last_value_of_an_option_wins() -> None:
    assert value_of(split(["--partition=a", "-pb"])[0], "partition") == "b"


def test_defaults_are_read_from_the_scripts_sbatch_lines(repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    defaults = script_defaults()
    assert defaults["gres"] == "gpu:1" and defaults["cpus-per-task"].isdecimal() and defaults["mem"].endswith("G")
