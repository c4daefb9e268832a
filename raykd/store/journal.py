"""The journal of a search's study: Optuna's file backend, where each line has its number and a checksum.

So a line that is damaged, missing or out of place is noticed. Only the holder of the search's lock writes here.
"""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from raykd.provenance import json_checksum
from raykd.store.damage import damaged

LINE, CHECKSUM = "line", "checksum"


class CheckedJournal(JournalFileBackend):
    """Optuna's storage appends operations to it, and reads those of others."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_NoLock(str(path)))
        self._path = path
        self._offsets = [0]  # where each line begins that was read so far, and the next

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Return the operations from that number on. Raises DamagedFile."""
        number = min(log_number_from, len(self._offsets) - 1)
        with self._path.open("rb") as file:
            file.seek(self._offsets[number])
            for line in file:
                if not line.endswith(b"\n") and b"\0" not in line:  # it is being written, or its writer was killed
                    return
                if number + 1 == len(self._offsets):
                    self._offsets.append(self._offsets[number] + len(line))
                if number >= log_number_from:
                    yield self._checked(number, line)
                number += 1

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add operations, and flush them to the disk."""
        first = self._count()
        numbered = [{**json.loads(json.dumps(log)), LINE: first + offset} for offset, log in enumerate(logs)]
        super().append_logs([{**log, CHECKSUM: json_checksum(log)} for log in numbered])

    def _count(self) -> int:
        """Return the number of lines in the file."""
        number = len(self._offsets) - 1
        with self._path.open("rb") as file:
            file.seek(self._offsets[-1])
            return number + sum(line.endswith(b"\n") for line in file)

    def _checked(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            log = json.loads(line)
            found = log.pop(CHECKSUM)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise damaged(self._path, f"line {number + 1} is no operation of a study with its checksum") from None
        if found != json_checksum(log) or log.pop(LINE, None) != number:
            raise damaged(self._path, f"line {number + 1} does not match its checksum, or lines before it are missing")
        return log


class _NoLock(JournalFileOpenLock):
    """Nothing to lock: whoever writes the journal holds the folder's lock, which the kernel frees with its process.

    Optuna's own is a file, which a killed process leaves behind, and the next waits for half a minute.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass
