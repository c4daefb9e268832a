"""The console of a command's progress, and what becomes of output that nobody reads any more.

python mine.py | head -1        the first line is printed, and the training continues
raykd report 2>&1 | less        also if the reader of both streams is closed
"""

import os
from contextlib import suppress
from typing import IO, Any

from rich.console import Console


class LogConsole(Console):
    """A console for the progress of a command. A reader that ends, such as `| head`, does not end the command.

    rich's console would end the process with exit code 1. Here the command continues as after a closed terminal.
    """

    def on_broken_pipe(self) -> None:
        """Discard what is printed from now on."""
        discard_output(self.file)


def discard_output(stream: IO[Any] | None) -> None:
    """Redirect the file descriptor of `stream` to /dev/null, so that neither it nor its flush at the end fails."""
    if stream is None:  # Python has no stream for a descriptor that is closed at its start
        return
    with suppress(OSError, ValueError):  # a stream of a notebook has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
