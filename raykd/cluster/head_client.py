"""The commands for a running job, on its head's node, where its dashboard and its token are.

python -m raykd.cluster.head_client JOB_ID submit|status|logs|stop|facts JSON        (login_client.py does, with srun)
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raykd.cluster.job_folder import JobFolder, folder_path
from raykd.cluster.submissions import Submissions
from raykd.errors import ConfigError, RaykdError


def submit(submissions: Submissions, folder: Path, words: list[str], follow: bool, again: str) -> int:
    sent = submissions.send(words, folder)
    print(f"sent as {sent.name}; follow it with: python -m raykd logs {again} -f {sent.name}", flush=True)
    return _print(submissions, sent.name, follow=True) if follow else 0


def status(submissions: Submissions, folder: Path) -> int:
    for found in submissions.all():
        print(found)
    return 0


def logs(submissions: Submissions, folder: Path, name: str, follow: bool) -> int:
    return _print(submissions, submissions.find(name).name, follow)


def stop(submissions: Submissions, folder: Path, name: str) -> int:
    found = submissions.find(name)
    if found.is_over:
        raise ConfigError(f"{found.name} is {found.status.lower()} already")
    submissions.stop(found.name)
    print(f"{found.name} was asked to save and end", flush=True)
    return 0


def _print(submissions: Submissions, name: str, follow: bool) -> int:
    """0, or with `follow` the exit code of the experiment."""
    for text in submissions.printed(name, follow):
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
    if not follow:
        return 0
    found = submissions.find(name)
    if found.exit_code is None:
        print(f"raykd: {name} {found.how}", file=sys.stderr)
    return found.code


ACTIONS: dict[str, Callable[..., int]] = {"submit": submit, "status": status, "logs": logs, "stop": stop}


def main(words: Sequence[str]) -> int:
    """Do one command; an error is one line."""
    job_id, action, arguments = words
    folder = JobFolder(folder_path(int(job_id), os.environ))
    try:
        facts = folder.facts()
        if action == "facts":
            print(json.dumps(facts))
            return 0
        values: dict[str, Any] = json.loads(arguments)
        return ACTIONS[action](Submissions(folder), Path(facts["submit_dir"]), **values)
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
