"""The commands for a running job, on its head's node, where the dashboard and the token are.

python -m raykd.cluster.head_client JOB_ID submit|status|logs|stop|dashboard JSON        (run by login_client.py)
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from raykd.cluster.job_folder import JobFolder, folder_path
from raykd.cluster.submissions import Submissions
from raykd.errors import COMMAND, ConfigError, RaykdError


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Print an error as one line."""
    job_id, command, values = arguments
    try:
        return _run(int(job_id), command, **json.loads(values))
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _run(job_id: int, command: str, experiment: Sequence[str] = (), name: str = "", follow: bool = False) -> int:
    """Run `command`. experiment: its file and arguments. name: a submitted experiment, '' for the last."""
    folder = JobFolder(folder_path(job_id, os.environ))
    facts = folder.facts()
    if command == "dashboard":
        print(json.dumps(facts))
        return 0
    submissions = Submissions(folder)
    if command == "status":
        for submission in submissions.all():
            print(submission)
        return 0
    if command == "submit":
        name = submissions.submit(experiment, Path(facts["submit_dir"])).name
        print(
            f"submitted as {name}; follow it with: {COMMAND} logs --job {job_id} -f {shlex.quote(name)}",
            flush=True,
        )
        return _print_output(submissions, name, follow=True) if follow else 0
    submission = submissions.find(name)
    if command == "logs":
        return _print_output(submissions, submission.name, follow)
    if submission.is_over:  # command is "stop"
        raise ConfigError(
            f"{submission.name} has already {submission.status.lower()}; 'raykd status' lists all experiments"
        )
    submissions.stop(submission.name)
    print(f"{submission.name} saves and then ends", flush=True)
    return 0


def _print_output(submissions: Submissions, name: str, follow: bool) -> int:
    """Print an experiment's output. Return 0, or with `follow` its exit code."""
    for chunk in submissions.output(name, follow):
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
    if not follow:
        return 0
    submission = submissions.find(name)
    if submission.exit_code is None:
        print(f"raykd: {name} {submission.outcome}", file=sys.stderr)
    return submission.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
