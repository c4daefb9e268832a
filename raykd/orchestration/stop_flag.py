"""A word from the command to its trials that they save and stop, on whichever node they are."""

import threading
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError

ASK_EVERY_S = 0.5


class StopFlag:
    """The command's side, an actor of no CPUs beside it."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


class StopLink:
    """A trial's side: a thread asks, so that no step waits for the answer."""

    def __init__(self, flag: Any) -> None:
        self._flag = flag
        self._ended, self._stopping = threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._ask, daemon=True, name="raykd-stop").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def should_stop(self) -> bool:
        return self._stopping.is_set()

    def _ask(self) -> None:
        while not self._ended.wait(ASK_EVERY_S):
            try:
                if ray.get(self._flag.is_set.remote(), timeout=ASK_EVERY_S * 20):
                    self._stopping.set()
                    return
            except RayError:  # the command is gone, and Ray will end this process
                self._stopping.set()
                return
