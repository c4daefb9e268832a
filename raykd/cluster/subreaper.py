"""Run `ray start` on a node of the job, supervise the processes that it starts, and end them all.

    python -m raykd.cluster.subreaper [--timeout=SECONDS] ray start --head ...

`ray start` without --block exits when Ray is up, and Ray's processes become children of this process (a subreaper). If
the GCS or the raylet is lost, this process ends. Any other process, such as the dashboard, is started again.
With --block, Ray would end if any of them is lost, and would leave agents behind.

SIGTERM does not end this process, and is blocked in Ray's processes: Slurm sends it to every process of the job when it
preempts, requeues or cancels the job, and saving a run requires Ray. END_SIGNAL ends this process.
Exit code: the command's if it fails, 1 if Ray is lost, 128 + number on a signal.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raykd.cluster.descendants import children_of, kill_descendants

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that this process receives when its parent ends
PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphaned descendants become children of this process

END_SIGNAL = signal.SIGUSR1  # srun forwards it to the task; SIGTERM makes srun kill the step
NOTICE = "raykd: "  # the start of a line that is copied to the job's output
_AWAITED = (END_SIGNAL, signal.SIGTERM, signal.SIGCHLD)
POLL_S = 0.5
ESSENTIAL = ("gcs_server", "raylet")  # without them the node is lost
SLOW_START_S = 20.0  # `ray start` gives up after 30 s; a much earlier failure is no slow start
MAX_RESTARTS = 5  # restarts of each other process of Ray


@dataclass(frozen=True)
class _Process:
    """One of Ray's processes, with the command and environment that start it again."""

    name: str
    command: list[str]
    environment: dict[str, str]


def hold_signals() -> None:
    """Let END_SIGNAL end this process by an exit that cleans up, and hold back SIGTERM until `main` runs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.signal(END_SIGNAL, lambda number, _: sys.exit(128 + number))


def main(command: Sequence[str], timeout_s: float = 0.0, is_over: Callable[[], bool] = lambda: False) -> int:
    """Run `command`, supervise the processes that it leaves behind, and return the exit code.

    The process must have no other children. timeout_s: how long a failing start may be repeated. is_over: called
    repeatedly after a SIGTERM; returns whether to end.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an ignored signal would not be reported
    signal.signal(END_SIGNAL, signal.SIG_DFL)
    libc.prctl(PR_SET_PDEATHSIG, END_SIGNAL, 0, 0, 0)
    try:
        return _Subreaper(command, timeout_s, is_over).run()
    finally:
        kill_descendants()


class _Subreaper:
    """The command that starts Ray, and the processes that it left behind."""

    def __init__(self, command: Sequence[str], timeout_s: float, is_over: Callable[[], bool]) -> None:
        self._command, self._is_over = list(command), is_over
        self._deadline = time.monotonic() + timeout_s
        self._attempts = 0
        self._is_warned = False
        self._processes: dict[int, _Process] = {}
        self._restarts: dict[str, int] = {}

    def run(self) -> int:
        """Return the exit code once this process has to end."""
        self._start()
        while True:
            if number := self._next_signal():
                return 128 + number
            for process, status in _ended_children():
                code = os.waitstatus_to_exitcode(status)
                is_starter = process == self._starter
                exit_code = self._starter_ended(code) if is_starter else self._child_ended(process, code)
                if exit_code is not None:
                    return exit_code

    def _next_signal(self) -> int:
        """Wait for at most POLL_S and return the signal that ends this process, or 0."""
        received = signal.sigtimedwait(_AWAITED, POLL_S)
        if received is not None and received.si_signo == END_SIGNAL:
            return END_SIGNAL
        self._is_warned |= received is not None and received.si_signo == signal.SIGTERM
        return signal.SIGTERM if self._is_warned and self._is_over() else 0

    def _start(self) -> None:
        self._attempts += 1
        self._started = time.monotonic()
        self._starter = _spawn(self._command, os.environ)

    def _starter_ended(self, code: int) -> int | None:
        """Handle the end of `ray start`: return the exit code if this process ends too, otherwise None."""
        took_s = time.monotonic() - self._started
        self._processes = _ray_processes()
        names = {process.name for process in self._processes.values()}
        is_running = "raylet" in names
        if is_running and "--head" in self._command and "gcs_server" not in names:  # it ended before `ray start` did
            return _lost("gcs_server")
        if code == 0:
            return None if is_running else 0
        if is_running:  # `ray start` has a shorter time limit than the job
            _notice(f"'ray start' gave up after {took_s:.0f} s while Ray was still starting; waiting for it")
            return None
        may_repeat = self._attempts == 1 or took_s >= SLOW_START_S
        if may_repeat and time.monotonic() < self._deadline:
            _notice(f"'ray start' failed after {took_s:.0f} s; trying again")
            kill_descendants()
            self._start()
            return None
        return code if code > 0 else 128 - code

    def _child_ended(self, process: int, code: int) -> int | None:
        """Handle the end of another child: return 1 if Ray cannot run without it, otherwise None."""
        ended = self._processes.pop(process, None)
        if ended is None:  # an unimportant orphan, such as a child of a worker or of the dashboard
            return None
        description = f"{ended.name} [exit code={code}]"
        if ended.name in ESSENTIAL:
            return _lost(description)
        self._restarts[ended.name] = count = self._restarts.get(ended.name, 0) + 1
        if count > MAX_RESTARTS:
            _notice(f"Ray's {description} ended again; training continues without it")
            return None
        _notice(f"Ray's {description} ended and is started again; training continues")
        self._processes[_spawn(ended.command, ended.environment, quiet=True)] = ended
        return None


def _spawn(command: Sequence[str], environment: "os._Environ[str] | dict[str, str]", quiet: bool = False) -> int:
    """Start a process in which only SIGTERM is blocked, and return its pid. quiet: discard its output."""
    null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)] if quiet else []
    return os.posix_spawnp(command[0], list(command), environment, file_actions=null, setsigmask=[signal.SIGTERM])


def _ended_children() -> list[tuple[int, int]]:
    """Return pid and wait status of every child that has ended."""
    ended = []
    with suppress(ChildProcessError):  # no child is left
        while (pair := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(pair)
    return ended


def _ray_processes() -> dict[int, _Process]:
    """Return Ray's processes among this process's children, by pid. `ray start` must have left them behind already."""
    processes = {}
    for process in children_of(os.getpid()):
        folder = Path(f"/proc/{process}")
        try:
            command = os.fsdecode((folder / "cmdline").read_bytes()).split("\0")[:-1]
            pairs = os.fsdecode((folder / "environ").read_bytes()).split("\0")
        except OSError:  # it has just ended
            continue
        if command and _runs_a_file(command):
            environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            processes[process] = _Process(_name(command), command, environment)
    return processes


def _runs_a_file(command: Sequence[str]) -> bool:
    """Return whether a process runs a program or script by its path, as those that `ray start` leaves behind do.

    Children of the dashboard run code from the command line, or have a title instead of a command. If the dashboard is
    lost early, they are orphans beside Ray's processes, and could not be started again.
    """
    return Path(command[0]).is_absolute() and "-c" not in command


def _name(command: Sequence[str]) -> str:
    """Return 'raylet' for /venv/ray/raylet --x, and 'dashboard.py' for python -u /venv/ray/dashboard.py --x."""
    paths = [Path(word) for word in command if not word.startswith("-")]
    is_python = paths[0].name.startswith("python")
    return paths[min(is_python, len(paths) - 1)].name


def _lost(process: str) -> int:
    """Log that a process of Ray is lost, in Ray's words, and return the exit code."""
    print(f"Some Ray subprocesses exited unexpectedly: {process}", flush=True)
    return 1


def _notice(text: str) -> None:
    print(f"{NOTICE}{text}", flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    seconds = float(arguments.pop(0).partition("=")[2]) if arguments[0].startswith("--timeout=") else 0.0
    sys.exit(main(arguments, seconds))
