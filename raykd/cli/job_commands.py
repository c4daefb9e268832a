"""The commands for a job that runs on a cluster, typed on its login node: each a step of the job."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from raykd.errors import ConfigError


def submit(arguments: Namespace) -> None:
    if not arguments.words:
        raise ConfigError("submit wants an experiment file: python -m raykd submit experiments/tune_cnn.py")
    job = _job(arguments)
    sent = {"words": arguments.words, "follow": arguments.follow, "again": f"--job {job}"}
    _ask(job, "submit", sent, arguments.follow)


def status(arguments: Namespace) -> None:
    _ask(_job(arguments), "status", {})


def logs(arguments: Namespace) -> None:
    _ask(_job(arguments), "logs", {"name": arguments.name, "follow": arguments.follow}, arguments.follow)


def stop(arguments: Namespace) -> None:
    _ask(_job(arguments), "stop", {"name": arguments.name})


def dashboard(arguments: Namespace) -> None:
    from raykd.cluster.login_client import how_to_watch

    print(how_to_watch(_job(arguments)))


SERVICE_COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "submit": submit,
    "status": status,
    "logs": logs,
    "stop": stop,
    "dashboard": dashboard,
}


def _job(arguments: Namespace) -> int:
    """The job that was named, or the only one."""
    from raykd.cluster.slurm_commands import only_job

    return arguments.job if arguments.job is not None else only_job()


def _ask(job: int, action: str, arguments: dict[str, Any], follow: bool = False) -> None:
    """A step of the job says what is wrong itself; its exit code is ours."""
    from raykd.cluster.login_client import ask

    if code := ask(job, action, arguments, follow):
        raise SystemExit(code)
