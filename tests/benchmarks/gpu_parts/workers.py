"""Processes of their own for what one process cannot measure: several runs side by side, and profiles.

A worker that hangs or whose CUDA context is lost is ended, and costs its caller an exception.
"""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TRACEBACK_CHARACTERS = 1500
END_S = 5.0


class WorkerFailed(Exception):
    """What a call raised in the worker, with the end of its traceback; or that no answer came in time."""


class Worker:
    """A spawned process that calls functions of importable modules, one after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def send(self, function: Callable[..., Any], *values: Any) -> None:
        """Start a call; `result` returns what it returned."""
        try:
            self._connection.send((function, values))
        except OSError as error:
            raise WorkerFailed(f"the worker process has ended: {error}") from None

    def result(self, timeout_s: float) -> Any:
        """Raises WorkerFailed where the call raised, or did not return within `timeout_s` seconds."""
        try:
            if not self._connection.poll(max(0.0, timeout_s)):
                raise WorkerFailed(f"no answer within {timeout_s:.0f} s")
            is_result, found = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerFailed(f"the worker process ended: {type(error).__name__}") from None
        if not is_result:
            raise WorkerFailed(found)
        return found

    def call(self, timeout_s: float, function: Callable[..., Any], *values: Any) -> Any:
        self.send(function, *values)
        return self.result(timeout_s)

    def end(self) -> None:
        """Kill the process: nothing that it holds has to be kept."""
        self._process.kill()
        self._process.join(END_S)
        self._connection.close()


def _serve(connection: Connection) -> None:
    while True:
        try:
            function, values = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, function(*values)
        except BaseException:  # noqa: BLE001  # the caller gets it
            answer = False, traceback.format_exc()[-TRACEBACK_CHARACTERS:]
        try:
            connection.send(answer)
        except OSError:
            return
