"""The journal of a search's study: Optuna's file backend with a line number and a checksum in each line.

These reveal a line that is damaged, missing or out of order. Only the holder of the search's lock writes to the file.
"""

import errno
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from raykd.config.codec import json_checksum
from raykd.disk.damage import damaged

LINE, CHECKSUM = "line", "checksum"


class CheckedJournal(JournalFileBackend):
    """Optuna's journal of operations, one JSON object per line, checked when read."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_NoLock(str(path)))
        self._path = path
        self._offsets = [0]  # offsets of the lines read so far, and of the next line

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the operations from number `log_number_from` on. Raises DamagedFile."""
        number = min(log_number_from, len(self._offsets) - 1)
        with self._path.open("rb") as file:
            file.seek(self._offsets[number])
            for line in file:
                if not line.endswith(b"\n") and b"\0" not in line:  # the write is in progress or was interrupted
                    return
                if number + 1 == len(self._offsets):
                    self._offsets.append(self._offsets[number] + len(line))
                if number >= log_number_from:
                    yield self._parse(number, line)
                number += 1

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations and flush them to disk. An error, as of a full disk, leaves none of them in the file."""
        with self._path.open("rb") as file:
            file.seek(self._offsets[-1])
            num_lines = len(self._offsets) - 1 + sum(line.endswith(b"\n") for line in file)
            end = file.tell()
        numbered = [{**json.loads(json.dumps(log)), LINE: number} for number, log in enumerate(logs, num_lines)]
        try:
            super().append_logs([{**log, CHECKSUM: json_checksum(log)} for log in numbered])
        except BaseException:
            os.truncate(self._path, end)  # the next operation would be appended to half a line
            raise

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            log = json.loads(line)
            checksum = log.pop(CHECKSUM)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise damaged(self._path, f"line {number + 1} is not an operation of a study with a checksum") from None
        if checksum != json_checksum(log) or log.pop(LINE, None) != number:
            raise damaged(self._path, f"line {number + 1} does not match its checksum, or lines before it are missing")
        return log


class ReadOnlyJournal(CheckedJournal):
    """The same journal for readers, which may read it while the holder of the lock appends to it."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raises PermissionError."""
        raise PermissionError(errno.EACCES, "a study is open for reading only", str(self._path))


class _NoLock(JournalFileOpenLock):
    """No lock, because the writer of the journal holds the search folder's lock.

    The kernel releases that lock when its process ends. A killed process would leave Optuna's lock file behind, and the
    next process would wait for it for half a minute.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass
