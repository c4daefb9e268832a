"""Invalid commands for a running job, and invalid environment variables, refused before a cluster is reached."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bad_inputs.case import EXPERIMENT, BadInput, experiment_file

SEARCH = EXPERIMENT.replace(
    "    student=", "    search=Search(space={'method.alpha': uniform(0, 1)}),\n    student="
).replace("import KD", "import Search, uniform, KD")
SHOWN = (
    "JobId=7 JobName=raykd JobState={state} {host}Command=/r/slurm/ray_cluster.slurm WorkDir=/r StdOut=/r/7.out Power= "
)
MACHINE = ("run this on a machine of the cluster",)
ADDRESS = (
    "must be HOST:PORT of a running Ray cluster, such as 10.0.0.2:6379",
    "unset it to start a private Ray cluster",
)


def with_slurm(*arguments: str, **programs: str) -> Callable[[Path], Sequence[str]]:
    """Return `raykd ARGUMENTS` with scripts for Slurm's programs, each a line of shell by name."""

    def make(folder: Path) -> Sequence[str]:
        (folder / "programs").mkdir()
        for name, line in programs.items():
            (folder / "programs" / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / "programs" / name).chmod(0o755)
        return arguments

    return make


def with_programs(folder: Path) -> dict[str, str]:
    """Return a PATH with only the scripts of `with_slurm`."""
    return {"PATH": str(folder / "programs")}


def job(name: str, message_parts: tuple[str, ...], *arguments: str, exit_code: int = 2, **programs: str) -> BadInput:
    """Return the case of a command for a running job."""
    return BadInput(name, with_slurm(*arguments, **programs), message_parts, exit_code, with_programs)


def shown(state: str, host: str = "BatchHost=cn1 ") -> str:
    return f"echo '{SHOWN.format(state=state, host=host)}'"


def address(name: str, value: str, text: str = EXPERIMENT, *command: str) -> BadInput:
    """Return the case of an experiment with the environment variable RAY_ADDRESS."""

    def make(folder: Path) -> Sequence[str | Path]:
        file = experiment_file(folder, text)
        return [*command, file] if command else ["train-student", "--experiment", file]

    return BadInput(name, make, (f"RAY_ADDRESS = {value!r}", *ADDRESS), environ=lambda folder: {"RAY_ADDRESS": value})


def on_this_machine(name: str, setting: str, *message_parts: str) -> BadInput:
    """Return the case of workers that do not fit on this machine, which is known before a private Ray starts."""

    def make(folder: Path) -> Sequence[str | Path]:
        results = str(folder / "results")
        return ["run", experiment_file(folder), "--results", results, "--set", setting]

    return BadInput(name, make, message_parts)


def start_timeout(name: str, value: str, *command: str) -> BadInput:
    """Return the case of an experiment with the environment variable RAYKD_START_TIMEOUT_S."""

    def make(folder: Path) -> Sequence[str | Path]:
        if command:
            return [*command, experiment_file(folder, SEARCH)]
        return ["train-student", "--experiment", experiment_file(folder)]

    message_parts = f"RAYKD_START_TIMEOUT_S = '{value}': must be a number of seconds greater than 0", "such as 180"
    return BadInput(name, make, message_parts, environ=lambda folder: {"RAYKD_START_TIMEOUT_S": value})


CASES = [
    on_this_machine(
        "more CPUs than this machine has", "workers.cpus=9999", "workers.cpus = 9999", "no node has as many", "reduce"
    ),
    on_this_machine(
        "more GPUs than this machine has", "workers.gpus=9999", "workers.gpus = 9999", "no node has as many", "reduce"
    ),
    start_timeout("a time for Ray's start that is a word", "soon"),
    start_timeout("a time for Ray's start with a unit, for a search", "180s", "tune"),
    start_timeout("a time for Ray's start that is no number", "nan"),
    start_timeout("a negative time for Ray's start", "-5"),
    address("a Ray cluster to be searched for", "auto"),
    address("a Ray cluster by its dashboard", "http://10.0.0.2:8265"),
    address("a Ray cluster by its client server", "ray://10.0.0.2:10001"),
    address("a Ray cluster without a port", "10.0.0.2"),
    address("a Ray cluster without a host", ":6379"),
    address("a Ray cluster at a port that does not exist", "10.0.0.2:99999"),
    address("a Ray cluster with a space before it", " 10.0.0.2:6379"),
    address("a Ray cluster at a word for a port", "cn1:gcs"),
    address("a search on a Ray cluster to be searched for", "auto", SEARCH, "tune"),
    job("status without Slurm", ("No such file or directory: 'squeue'", *MACHINE), "status"),
    job("dashboard without Slurm", ("No such file or directory: 'scontrol'", *MACHINE), "dashboard", "7"),
    job(
        "logs of a job that Slurm has forgotten",
        ("Invalid job id specified", *MACHINE),
        *("logs", "--job", "7"),
        scontrol="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
    ),
    job(
        "status while Slurm is down",
        ("Unable to contact slurm controller", *MACHINE),
        "status",
        squeue="echo 'squeue: error: retrying' >&2; echo 'Unable to contact slurm controller' >&2; exit 1",
    ),
    job("status without a job", ("no raykd job is running", "--job JOBID", "squeue --me"), "status", squeue="true"),
    job(
        "stop with two jobs",
        ("several raykd jobs are running (7, 8)", "name one with --job JOBID"),
        "stop",
        squeue="echo '7|slurm/ray_cluster.slurm'; echo '8|slurm/ray_cluster.slurm'",
    ),
    job(
        "array tasks alone",
        ("no raykd job is running",),
        "status",
        squeue="echo '7_1|slurm/ray_cluster.slurm'",
    ),
    job(
        "submit to a job that waits",
        ("job 7 is pending: its Ray cluster is up only while the job is running",),
        *("submit", "--job", "7", "x.py"),
        scontrol=shown("PENDING"),
    ),
    job(
        "logs of a job that has ended",
        ("job 7 is timeout: its Ray cluster is up only while the job is running",),
        *("logs", "-f", "--job", "7"),
        scontrol=shown("TIMEOUT"),
    ),
    job("a state that is missing", ("job 7 is unknown",), "status", "--job", "7", scontrol="echo JobId=7"),
    job(
        "dashboard of a job by salloc",
        ("job 7 has no BatchHost: it was not submitted with sbatch slurm/ray_cluster.slurm",),
        *("dashboard", "7"),
        scontrol=shown("RUNNING", host=""),
    ),
    job("submit without a file", ("an experiment file", "raykd submit experiments/"), "submit"),
    job("submit with an option alone", ("an experiment file",), "submit", "-f"),
    job(
        "a step that Slurm refuses",
        ("cannot run a step of job 7 on cn1", "Unable to create step", "Access/permission denied"),
        *("status", "--job", "7"),
        exit_code=1,
        scontrol=shown("RUNNING"),
        srun="echo 'srun: error: Unable to create step for job 7: Access/permission denied' >&2; exit 1",
    ),
    job(
        "a step without srun",
        ("cannot run a step of job 7 on cn1", "No such file or directory: 'srun'"),
        *("status", "--job", "7"),
        exit_code=1,
        scontrol=shown("RUNNING"),
    ),
]
