"""Commands for a job that runs, from the login node: each goes to the head's node as a step of that job.

So nobody needs a port that others could reach, nor the token: Slurm lets the job's owner in, and no one else.
"""

import getpass
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from threading import Event, Timer
from typing import Any

from raykd.cluster.ray_variables import without_ray
from raykd.cluster.slurm_job import RunningJob, running_job
from raykd.errors import RaykdError

LOCAL_PORT = 8265  # on the user's own machine
TIMEOUT_S = 120.0
OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")  # how to reach it, and no request
CTRL_C = 128 + signal.SIGINT
SRUN_REPEATS = re.compile(r"Exited with exit code|Exit \d+|Force Terminated")  # what the exit code says too


def ask(job_id: int, action: str, arguments: dict[str, Any], follow: bool = False) -> int:
    """Do `action` of head_client.py on the head's node, its output ours; returns its exit code."""
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
    """Run a step of the job. Its errors are printed here, except srun's own line that repeats the exit code.

    The step is no part of the terminal's process group: ctrl-C ends it only by way of this process.
    """
    command, late = _step(job, action, arguments), Event()
    pipes = {"stdout": stdout, "stderr": subprocess.PIPE}
    try:
        step = subprocess.Popen(command, env=_environment(), text=True, start_new_session=True, **pipes)
    except OSError as error:
        raise _no_step(job, str(error)) from None
    with step:
        timer = Timer(timeout_s or 0.0, lambda: (late.set(), step.kill()))
        timer.daemon = True
        if timeout_s:
            timer.start()
        try:
            assert step.stderr is not None
            reason = _print_errors(step.stderr)
            said = step.stdout.read() if step.stdout else ""
        except KeyboardInterrupt:
            step.terminate()
            print(_after_ctrl_c(job, action), file=sys.stderr)
            raise SystemExit(CTRL_C) from None
        finally:
            timer.cancel()
    if late.is_set():
        raise RaykdError(f"job {job.job_id} does not answer within {timeout_s:g} s; is its node well? See {job.log}")
    if step.returncode and reason:
        raise _no_step(job, reason)
    code = step.returncode if step.returncode >= 0 else 128 - step.returncode
    return subprocess.CompletedProcess(command, code, said)


def _print_errors(lines: Iterable[str]) -> str:
    """Print what the step prints as it comes, then srun's own lines; where there are only those, return the last."""
    of_srun, has_printed = [], False
    for line in lines:
        if not line.startswith("srun: "):
            sys.stderr.write(line)
            has_printed = True
        elif not SRUN_REPEATS.search(line):
            of_srun.append(line)
    if not has_printed:
        return of_srun[-1].strip() if of_srun else ""
    sys.stderr.writelines(of_srun)
    return ""


def _no_step(job: RunningJob, reason: str) -> RaykdError:
    return RaykdError(f"cannot run a step of job {job.job_id} on {job.head} ({reason}); see {job.log}")


def _after_ctrl_c(job: RunningJob, action: str) -> str:
    """Ctrl-C ends this command. It does not end the experiment, which the job runs."""
    job_id = job.job_id
    if action in ("submit", "logs"):
        return (
            f"raykd: no longer following; what was sent to job {job_id} keeps running: 'python -m raykd status --job "
            f"{job_id}' lists it, 'logs --job {job_id} -f' follows it, 'stop --job {job_id}' ends it"
        )
    return f"raykd: {action} was interrupted; job {job_id} keeps running"


def _environment() -> dict[str, str]:
    """This shell's, without what another Ray or another job left there: srun reads SLURM_* variables as its options."""
    return {
        name: value
        for name, value in without_ray(os.environ).items()
        if not name.startswith(("SLURM_", "SRUN_")) or name in OF_THE_CLUSTER
    }


def _step(job: RunningJob, action: str, arguments: dict[str, Any]) -> list[str]:
    """With the modules and the environment that slurm/site.sh names, as the job has them."""
    script = 'source slurm/environment.sh >&2 && exec python -m raykd.cluster.head_client "$@"'
    return [
        *("srun", f"--jobid={job.job_id}", "--overlap", "--quiet", "--disable-status", "--input=none", "--unbuffered"),
        *("--nodes=1", f"--nodelist={job.head}", "--ntasks=1", "--cpus-per-task=1", "--mem=0", "--gres=none"),
        *(f"--chdir={job.folder}", "bash", "-c", script, "raykd"),
        *(str(job.job_id), action, json.dumps(arguments)),
    ]
