"""Separate processes for measurements that one process cannot do: several runs side by side, and profiles.

A worker that hangs or loses its CUDA context is killed, and its caller gets an exception.
"""

import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TRACEBACK_CHARACTERS = 1500
END_S = 5.0


class WorkerFailed(Exception):
    """A call raised an exception in the worker, or returned no answer in time."""


class Worker:
    """A spawned process that calls functions of importable modules, one after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child_end = context.Pipe()
        self._number = 0  # of the last call
        self._process = context.Process(target=_serve, args=(child_end,), daemon=True)
        self._process.start()
        child_end.close()

    def send(self, function: Callable[..., Any], *values: Any) -> None:
        """Start a call, whose value `result` returns. An earlier call that took too long is completed first."""
        self._number += 1
        try:
            self._connection.send((self._number, function, values))
        except OSError as error:
            raise WorkerFailed(f"the worker process has ended: {error}") from None

    def result(self, timeout_s: float) -> Any:
        """Return the value of the call. Raises WorkerFailed if it raised, or took longer than `timeout_s` seconds."""
        number, until = -1, time.monotonic() + timeout_s
        try:
            while number != self._number:  # the answer of an earlier call may arrive late
                if not self._connection.poll(max(0.0, until - time.monotonic())):
                    raise WorkerFailed(f"no answer within {timeout_s:.0f} s")
                number, is_result, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerFailed(f"the worker process ended: {type(error).__name__}") from None
        if not is_result:
            raise WorkerFailed(value)
        return value

    def call(self, timeout_s: float, function: Callable[..., Any], *values: Any) -> Any:
        self.send(function, *values)
        return self.result(timeout_s)

    def end(self) -> None:
        """Kill the process. Nothing in it needs to be saved."""
        self._process.kill()
        self._process.join(END_S)
        self._connection.close()


def _serve(connection: Connection) -> None:
    while True:
        try:
            number, function, values = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = number, True, function(*values)
        except BaseException:  # noqa: BLE001  # sent to the caller
            answer = number, False, traceback.format_exc()[-TRACEBACK_CHARACTERS:]
        try:
            connection.send(answer)
        except OSError:
            return
