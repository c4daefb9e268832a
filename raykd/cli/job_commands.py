"""Commands for a running Slurm job, typed on the cluster's login node. Each runs as a step of that job."""

from argparse import REMAINDER, Namespace
from collections.abc import Callable

from raykd.cli.argument_parser import Parser
from raykd.errors import COMMAND, ConfigError

JOB_COMMANDS = ("submit", "status", "logs", "stop", "dashboard")  # implemented in raykd/cluster/head_client.py


def add_job_commands(add_command: Callable[[str, str], Parser]) -> None:
    """Add JOB_COMMANDS to the command line. add_command: makes the parser of a command from its name and help."""

    def add(name: str, text: str, job_argument: str = "--job") -> Parser:
        command = add_command(name, text)
        nargs = None if job_argument.startswith("-") else "?"
        text = "the Slurm job (default: the only running job of raykd)"
        command.add_argument(job_argument, type=int, metavar="JOBID", help=text, nargs=nargs)
        return command

    submit = add("submit", "submit an experiment to the Ray cluster of a running job")
    submit.add_argument("-f", "--follow", action="store_true", help="print its output, and end with its exit code")
    submit.add_argument("experiment", nargs=REMAINDER, metavar="NAME|FILE [ARGS...]")
    add("status", "list the experiments submitted to a running job")
    logs = add("logs", "print the output of a submitted experiment")
    logs.add_argument("-f", "--follow", action="store_true", help="keep printing until the experiment ends")
    stop = add("stop", "save and end a submitted experiment")
    for command in (logs, stop):
        text = "as `status` lists it (default: the last)"
        command.add_argument("name", nargs="?", default="", metavar="NAME", help=text)
    add("dashboard", "explain how to open a running job's Ray dashboard on your own machine", job_argument="job")


def run_job_command(arguments: Namespace) -> None:
    """Run one of JOB_COMMANDS. If the step of the job fails, it has printed the reason: exit with its code."""
    from raykd.cluster.login_client import dashboard_instructions, run_on_head
    from raykd.cluster.slurm_commands import only_job

    values = dict(vars(arguments))
    command, job = values.pop("command"), values.pop("job")
    if command == "submit" and not values["experiment"]:
        raise ConfigError(f"submit requires an experiment file: {COMMAND} submit experiments/tune_cnn.py")
    if job is None:
        job = only_job()
    if command == "dashboard":
        print(dashboard_instructions(job))
    elif code := run_on_head(job, command, values):
        raise SystemExit(code)
