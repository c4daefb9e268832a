"""Translate sbatch options into options that the #SBATCH lines of the batch script allow.

The script requests --gres, --mem and --cpus-per-task. Slurm ignores or refuses other ways to request the same:
--gpus-per-node has no effect beside --gres, and --mem-per-cpu beside --mem is an error. The submit scripts translate
their options here.

    python -m raykd.cluster.sbatch_options [--without-gpus] -- OPTIONS...      prints the options, quoted for a shell
"""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd.cluster.slurm_commands import SCRIPT
from raykd.errors import ConfigError

# Long names of sbatch's short options that take a value.
SHORT = {
    "A": "account", "a": "array", "b": "begin", "C": "constraint", "c": "cpus-per-task", "d": "dependency",
    "D": "chdir", "e": "error", "F": "nodefile", "G": "gpus", "i": "input", "J": "job-name", "L": "licenses",
    "m": "distribution", "M": "clusters", "n": "ntasks", "N": "nodes", "o": "output", "p": "partition", "q": "qos",
    "S": "core-spec", "t": "time", "w": "nodelist", "x": "exclude",
}  # fmt: skip
GPU_OPTIONS = ("gres", "gpus", "gpus-per-node", "gpus-per-task")  # the last one wins
REPLACED = (*GPU_OPTIONS, "mem", "mem-per-cpu", "mem-per-gpu", "cpus-per-task", "cpus-per-gpu")
# Options that --without-gpus drops, for a job on one CPU.
DROPPED = (*REPLACED, "gpus-per-socket", "gpu-bind", "gpu-freq", "nodes", "ntasks", "ntasks-per-node", "exclusive")
SIZE = re.compile(r"(\d+)([KMGT]?)B?", re.IGNORECASE)  # MiB without a unit
MEBIBYTES = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}


@dataclass(frozen=True)
class Option:
    """An option with its long name ('' if it has none), its value, and the words as they were typed."""

    name: str
    value: str
    arguments: tuple[str, ...]


def split(arguments: Sequence[str], only_options: bool = False) -> tuple[list[Option], list[str]]:
    """Return the options at the beginning of `arguments`, and the arguments after them.

    only_options: nothing follows the options, so the value of a long option may be a separate word.
    """
    options, rest = [], list(arguments)
    while rest and rest[0].startswith("-"):
        typed = [rest.pop(0)]
        if typed[0].startswith("--"):
            name, equals, value = typed[0][2:].partition("=")
            value_follows = only_options and not equals and rest and not rest[0].startswith("-")
        else:
            name, value = SHORT.get(typed[0][1:2], ""), typed[0][2:]
            value_follows = name and not value and rest
        if value_follows:
            value = rest.pop(0)
            typed.append(value)
        options.append(Option(name, value, tuple(typed)))
    return options, rest


def value_of(options: Sequence[Option], name: str) -> str:
    """Return the last value of an option, which is the one that sbatch uses; '' if it was not typed."""
    return next((option.value for option in reversed(options) if option.name == name), "")


def translate(options: Sequence[Option], defaults: Mapping[str, str]) -> list[str]:
    """Return the options for sbatch. defaults: those of the script's #SBATCH lines.

    Raises ConfigError for a value that is no number or size, or that does not fit the other options.
    """
    cpus = value_of(options, "cpus-per-task") or defaults.get("cpus-per-task", "1")
    gres = _gres(options)
    resources = (gres if gres is not None else defaults.get("gres", "none")).split(",")
    parts = [resource.split(":") for resource in resources]  # gpu[:TYPE][:COUNT]
    num_gpus = sum(int(part[-1]) if part[-1].isdecimal() else 1 for part in parts if part[0] == "gpu")
    for name in ("cpus-per-gpu", "mem-per-gpu"):  # would be 0 CPUs, or --mem=0, all of a node's memory
        if not num_gpus and (size := value_of(options, name)):
            raise ConfigError(f"--{name}={size}: the job has no GPU; request --cpus-per-task=N and --mem=8G instead")
    translated = [] if gres is None else [f"--gres={gres}"]
    if per_gpu := value_of(options, "cpus-per-gpu"):
        cpus = str(_number("--cpus-per-gpu", per_gpu) * num_gpus)
    if per_gpu or value_of(options, "cpus-per-task"):
        translated.append(f"--cpus-per-task={_number('--cpus-per-task', cpus)}")
    for name, count in (("mem-per-cpu", _number("--cpus-per-task", cpus)), ("mem-per-gpu", num_gpus)):
        if size := value_of(options, name):
            if not (match := SIZE.fullmatch(size)):
                raise ConfigError(f"--{name}={size}: must be a size, such as 4G")
            translated.append(f"--mem={round(int(match[1]) * MEBIBYTES[match[2].upper()] * count)}M")
    if memory := value_of(options, "mem"):
        translated.append(f"--mem={memory}")
    return [word for option in options if option.name not in REPLACED for word in option.arguments] + translated


def _gres(options: Sequence[Option]) -> str | None:
    """Return the --gres value that is equivalent to the last of GPU_OPTIONS; None if none was typed."""
    option = next((option for option in reversed(options) if option.name in GPU_OPTIONS), None)
    if option is None or option.name == "gres":
        return None if option is None else option.value
    kind, _, text = option.value.rpartition(":")
    count = _number(f"--{option.name}", text)
    nodes = _number("--nodes", (value_of(options, "nodes") or "1").partition("-")[0])
    if not nodes:
        raise ConfigError(f"--nodes={value_of(options, 'nodes')}: must be at least 1")
    if option.name == "gpus":
        if count % nodes:
            reason = f"{count} GPUs cannot be divided among {nodes} nodes"
            raise ConfigError(f"--gpus={option.value}: {reason}; request --gres=gpu:N, where N is the number per node")
        count //= nodes
    if option.name == "gpus-per-task":
        count *= _number("--ntasks-per-node", value_of(options, "ntasks-per-node") or "1")
    return f"gpu:{kind}:{count}" if kind and count else f"gpu:{count}" if count else "none"


def _number(option: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{option}={text}: must be an integer")
    return int(text)


def script_defaults() -> dict[str, str]:
    """Return the options of the script's #SBATCH lines by name."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", Path(SCRIPT).read_text(), re.MULTILINE))


def main(arguments: Sequence[str]) -> int:
    """Print the options for sbatch, quoted for a shell. Return 2, and print one line, if an option is invalid."""
    flags = list(arguments[: list(arguments).index("--")])
    options, _ = split(arguments[len(flags) + 1 :], only_options=True)
    if flags:  # --without-gpus
        options = [option for option in options if option.name not in DROPPED]
    try:
        print(shlex.join(translate(options, script_defaults())))
    except ConfigError as error:
        print(f"raykd: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
