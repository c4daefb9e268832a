"""Commands for a job that runs, from the login node: each goes to the head's node as a step of that job.

So nobody needs a port that others could reach, nor the token: Slurm lets the job's owner in, and no one else.
"""

import getpass
import json
import re
import shlex
import socket
import subprocess
import sys
from threading import Event, Timer
from typing import Any

from raykd.cluster.slurm_job import RunningJob, running_job
from raykd.errors import RaykdError

LOCAL_PORT = 8265  # on the user's own machine
TIMEOUT_S = 120.0


def ask(job_id: int, action: str, arguments: dict[str, Any], follow: bool = False) -> int:
    """Do `action` of client.py on the head's node, its output ours; returns its exit code."""
    return _run(running_job(job_id), action, arguments, None if follow else TIMEOUT_S).returncode


def how_to_watch(job_id: int) -> str:
    """What to type to see the dashboard from the user's own machine."""
    job = running_job(job_id)
    done = _run(job, "facts", {}, TIMEOUT_S, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)
    facts = json.loads(done.stdout.splitlines()[-1])
    user = getpass.getuser()
    return "\n".join(
        [
            "on your own machine, and leave it running:",
            f"    ssh -N -L {LOCAL_PORT}:127.0.0.1:{facts['dashboard']} -J {user}@{socket.getfqdn()} {user}@{job.head}",
            f"in its browser: http://127.0.0.1:{LOCAL_PORT}",
            "the page asks for a token; here, this prints it:",
            f"    srun --jobid={job_id} --overlap --ntasks=1 --nodelist={job.head} cat {shlex.quote(facts['token'])}",
        ]
    )


def _run(
    job: RunningJob, action: str, arguments: dict[str, Any], timeout_s: float | None, stdout: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Its errors are ours too, but for srun's own line that says what the exit code says."""
    command, late = _step(job, action, arguments), Event()
    with subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True) as step:
        timer = Timer(timeout_s or 0.0, lambda: (late.set(), step.kill()))
        timer.daemon = True
        if timeout_s:
            timer.start()
        try:
            assert step.stderr is not None
            for line in step.stderr:
                if not re.match(r"srun: error: .* Exited with exit code", line):
                    sys.stderr.write(line)
            said = step.stdout.read() if step.stdout else ""
        finally:
            timer.cancel()
    if late.is_set():
        raise RaykdError(f"job {job.job_id} does not answer within {timeout_s:g} s; is its node well? See {job.log}")
    code = step.returncode if step.returncode >= 0 else 128 - step.returncode
    return subprocess.CompletedProcess(command, code, said)


def _step(job: RunningJob, action: str, arguments: dict[str, Any]) -> list[str]:
    """With the modules and the environment that slurm/site.sh names, as the job has them."""
    script = 'source slurm/environment.sh >&2 && exec python -m raykd.cluster.client "$@"'
    return [
        *("srun", f"--jobid={job.job_id}", "--overlap", "--quiet", "--disable-status", "--input=none", "--unbuffered"),
        *("--nodes=1", f"--nodelist={job.head}", "--ntasks=1", "--cpus-per-task=1", "--mem=0", "--gres=none"),
        *(f"--chdir={job.folder}", "bash", "-c", script, "raykd"),
        *(str(job.job_id), action, json.dumps(arguments)),
    ]
