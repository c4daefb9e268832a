"""Ray on one node of the job: its process here (for other nodes an srun), its log, why it ended.

Ending a process that this room has started: asked first, killed if it does not listen.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from raykd.cluster.subreaper import END_SIGNAL, NOTICE


def stop(process: subprocess.Popen, timeout_s: float) -> None:
    """SIGTERM, and SIGKILL when it still runs `timeout_s` later. Nothing happens to one that has ended."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


STOP_TIMEOUT_S = 10
LOG_LINES = 15
TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
STEP_ID = re.compile(r"^step=(\d+)$", re.MULTILINE)  # worker_node.py prints it
RAY_LOG_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \S+\s+[A-Z]+ \S+ -- *")


class RayStep:
    """A running step. `name` is for messages: "Ray's head", "Ray on cn2"."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log_path: Path, secret: str = ""
    ) -> None:
        """`secret` is given to the command on its standard input: a command line and an environment can be read."""
        self.name = name
        self._log_path = log_path
        self._started = time.monotonic()
        self._num_notices = len(self._notices()) if log_path.exists() else 0  # of an earlier Ray of this job
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
            )
        assert self._process.stdin is not None
        try:
            with self._process.stdin as pipe:
                pipe.write(secret)
        except BrokenPipeError:  # it has ended already, and `failure` says why
            pass

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def failure(self, when: str) -> str:
        """Why the step has ended (exit code, likely reason, the end of its log), or '' while it runs."""
        if not self.has_ended():
            return ""
        code = self._process.returncode
        return f"{self.name} ended with exit code {code} after {self.age_s:.0f} s, {when}{self.log_tail()}"

    def log_tail(self) -> str:
        """': reason' and the log's last lines."""
        text = TERMINAL_COLOURS.sub("", self._log_path.read_text(errors="replace"))
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return "\n    ".join([f": {likely_reason(lines)}", *lines[-LOG_LINES:]])

    def notices(self) -> list[str]:
        """What subreaper.py has reported since the last call."""
        notices = self._notices()
        new = notices[self._num_notices :]
        self._num_notices = len(notices)
        return new

    def _notices(self) -> list[str]:
        lines = self._log_path.read_text(errors="replace").split("\n")[:-1]  # the last may be half written
        return [line.removeprefix(NOTICE) for line in lines if line.startswith(NOTICE)]

    def detach(self) -> str:
        """Kill srun, which leaves its step running, and return the step's number, or '' where it is not known.

        At scancel, requeue and time limit Slurm sends SIGTERM to srun, which then kills its step at once, and training
        could not be saved. srun's own child has to go first: it ends the step of a parent that is killed.
        """
        found = STEP_ID.findall(self._log_path.read_text(errors="replace"))
        if not found or self.has_ended():
            return ""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for process in [*map(int, children.read_text().split()), self._process.pid]:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        return found[-1]

    def ask_to_end(self) -> None:
        """Without waiting: steps on several nodes then end side by side."""
        if not self.has_ended():
            self._process.send_signal(END_SIGNAL)

    def stop(self) -> None:
        """End it and all that Ray started there. One that is detached ends without the head."""
        self.ask_to_end()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            stop(self._process, STOP_TIMEOUT_S)


def likely_reason(lines: Sequence[str]) -> str:
    """The one line of a step's log that says why it ended: of Ray's if there is one, not of Slurm's."""
    for line, following in pairwise(lines):
        if "exited unexpectedly" in line:  # then Ray names the process, and prints pages of that one's log
            return RAY_LOG_PREFIX.sub("", f"{line} {RAY_LOG_PREFIX.sub('', following)}")
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd"))] or lines
    return RAY_LOG_PREFIX.sub("", own[-1].strip()) if own else "it printed nothing"
