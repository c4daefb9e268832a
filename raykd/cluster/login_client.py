"""The commands for a running job, on the login node. Each runs on the head's node, as a step of that job.

No port has to be reachable for others, and the token stays on the head's node: Slurm gives access only to the job's
owner.
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
from raykd.cluster.slurm_commands import RunningJob, running_job
from raykd.errors import COMMAND, RaykdError

LOCAL_PORT = 8265  # on the user's machine
TIMEOUT_S = 120.0
CLUSTER_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")  # they name the cluster and the credentials
CTRL_C = 128 + signal.SIGINT
SRUN_REPEATS = re.compile(r"Exited with exit code|Exit \d+|Force Terminated")  # lines that repeat the exit code


def run_on_head(job_id: int, command: str, arguments: dict[str, Any]) -> int:
    """Run a command of head_client.py on the head's node, with its output here. Return its exit code."""
    return _run(running_job(job_id), command, arguments, None if arguments.get("follow") else TIMEOUT_S).returncode


def dashboard_instructions(job_id: int) -> str:
    """Return what to type in order to open the dashboard on the user's machine."""
    job = running_job(job_id)
    done = _run(job, "dashboard", {}, TIMEOUT_S, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)
    facts = json.loads(done.stdout.splitlines()[-1])
    user = getpass.getuser()
    return "\n".join(
        [
            "on your own machine, run this and leave it running:",
            f"    ssh -N -L {LOCAL_PORT}:127.0.0.1:{facts['dashboard']} -J {user}@{socket.getfqdn()} {user}@{job.head}",
            f"then open http://127.0.0.1:{LOCAL_PORT} in the browser there",
            "the page requires a token; print it here with:",
            f"    srun --jobid={job_id} --overlap --ntasks=1 --nodelist={job.head} cat {shlex.quote(facts['token'])}",
        ]
    )


def _run(
    job: RunningJob, command: str, arguments: dict[str, Any], timeout_s: float | None, stdout: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a step of the job. Print its errors, except srun's line that repeats the exit code.

    The step is outside the terminal's process group, so that ctrl-C ends it only through this process.
    """
    srun, is_late = _srun(job, command, arguments), Event()
    pipes = {"stdout": stdout, "stderr": subprocess.PIPE}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # ctrl-C waits until it can end the step
    try:
        step = subprocess.Popen(srun, env=_environment(), text=True, start_new_session=True, **pipes)
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise _step_error(job, str(error)) from None
    with step:
        timer = Timer(timeout_s or 0.0, lambda: (is_late.set(), step.kill()))
        timer.daemon = True
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if timeout_s:
                timer.start()
            assert step.stderr is not None
            reason = _print_errors(step.stderr)
            output = step.stdout.read() if step.stdout else ""
        except KeyboardInterrupt:
            step.terminate()
            print(_after_ctrl_c(job, command), file=sys.stderr)
            raise SystemExit(CTRL_C) from None
        finally:
            timer.cancel()
    if is_late.is_set():
        raise RaykdError(
            f"job {job.job_id} did not answer within {timeout_s:g} s; check its node {job.head}, and the log {job.log}"
        )
    if step.returncode and reason:
        raise _step_error(job, reason)
    code = step.returncode if step.returncode >= 0 else 128 - step.returncode
    return subprocess.CompletedProcess(srun, code, output)


def _print_errors(lines: Iterable[str]) -> str:
    """Print the step's errors as they come, then srun's. If there are only srun's, return the last one instead."""
    srun_lines, has_printed = [], False
    for line in lines:
        if not line.startswith("srun: "):
            sys.stderr.write(line)
            has_printed = True
        elif not SRUN_REPEATS.search(line):
            srun_lines.append(line)
    if not has_printed:
        return srun_lines[-1].strip() if srun_lines else ""
    sys.stderr.writelines(srun_lines)
    return ""


def _step_error(job: RunningJob, reason: str) -> RaykdError:
    return RaykdError(f"cannot run a step of job {job.job_id} on {job.head} ({reason}); see {job.log}")


def _after_ctrl_c(job: RunningJob, command: str) -> str:
    """Return the message after ctrl-C, which ends this command but not the experiment."""
    job_id = job.job_id
    if command in ("submit", "logs"):
        return (
            f"raykd: no longer following; the experiments of job {job_id} keep running: '{COMMAND} status --job "
            f"{job_id}' lists them, 'logs --job {job_id} -f' follows the last, 'stop --job {job_id}' stops it"
        )
    return f"raykd: {command} was interrupted; job {job_id} keeps running"


def _environment() -> dict[str, str]:
    """Return this shell's environment without leftovers of a Ray cluster or a job: srun reads SLURM_* as options."""
    return {
        name: value
        for name, value in without_ray(os.environ).items()
        if not name.startswith(("SLURM_", "SRUN_")) or name in CLUSTER_VARIABLES
    }


def _srun(job: RunningJob, command: str, arguments: dict[str, Any]) -> list[str]:
    """Return the srun of the step, which has the job's modules and environment (slurm/site.sh)."""
    # A project that an earlier version made has a slurm/environment.sh without RAYKD_PYTHON.
    script = 'source slurm/environment.sh >&2 && exec "${RAYKD_PYTHON[@]-python}" -m raykd.cluster.head_client "$@"'
    return [
        *("srun", f"--jobid={job.job_id}", "--overlap", "--quiet", "--disable-status", "--input=none", "--unbuffered"),
        *("--nodes=1", f"--nodelist={job.head}", "--ntasks=1", "--cpus-per-task=1", "--mem=0", "--gres=none"),
        *(f"--chdir={job.folder}", "bash", "-c", script, "raykd"),
        *(str(job.job_id), command, json.dumps(arguments)),
    ]
