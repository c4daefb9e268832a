"""Send raykd's warnings in a worker to the command's log.

Ray writes the output of its workers to files in its session's folder. The command does not read them, and removes a
private session at its end, so a warning that a worker only prints would be lost.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raykd.errors import one_line

WARNING = "warning: "  # how such a line starts
_logger = logging.getLogger("raykd")  # of all modules of raykd


class _Forwarding(logging.Handler):
    """Passes each warning to `log` as one line."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log(f"{WARNING}{one_line(record.getMessage())}")
        except Exception:  # noqa: BLE001 - as other handlers: a warning fails no run
            self.handleError(record)


@contextmanager
def warnings_to(log: Callable[[str], None]) -> Iterator[None]:
    """Pass raykd's warnings in this process, from any thread, to `log` within the block, instead of printing them."""
    handler, propagates = _Forwarding(log), _logger.propagate
    _logger.addHandler(handler)
    _logger.propagate = False
    try:
        yield
    finally:
        _logger.propagate = propagates
        _logger.removeHandler(handler)
