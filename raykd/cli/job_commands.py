"""Commands for a running Slurm job, typed on the cluster's login node. Each runs as a step of that job."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from raykd.errors import ConfigError


def submit(arguments: Namespace) -> None:
    if not arguments.words:
        raise ConfigError("submit requires an experiment file: python -m raykd submit experiments/tune_cnn.py")
    job = _job(arguments)
    request = {"words": arguments.words, "follow": arguments.follow, "again": f"--job {job}"}
    _ask(job, "submit", request, arguments.follow)


def status(arguments: Namespace) -> None:
    _ask(_job(arguments), "status", {})


def logs(arguments: Namespace) -> None:
    _ask(_job(arguments), "logs", {"name": arguments.name, "follow": arguments.follow}, arguments.follow)


def stop(arguments: Namespace) -> None:
    _ask(_job(arguments), "stop", {"name": arguments.name})


def dashboard(arguments: Namespace) -> None:
    from raykd.cluster.login_client import how_to_watch

    print(how_to_watch(_job(arguments)))


JOB_COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "submit": submit,
    "status": status,
    "logs": logs,
    "stop": stop,
    "dashboard": dashboard,
}


def _job(arguments: Namespace) -> int:
    """Return the job id of the command line, else that of the only running job of raykd."""
    from raykd.cluster.slurm_job import only_job

    return arguments.job if arguments.job is not None else only_job()


def _ask(job: int, action: str, arguments: dict[str, Any], follow: bool = False) -> None:
    """Send `action` to the job. If it fails, the job's step has printed the reason: exit with its code."""
    from raykd.cluster.login_client import ask

    if code := ask(job, action, arguments, follow):
        raise SystemExit(code)
