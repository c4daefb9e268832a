"""What a run used, over all its workers and resumes."""

from pathlib import Path

from raykd.damage import damaged
from raykd.messages import flattened
from raykd.report.records import Usage
from raykd.store.codec import read_dataclass
from raykd.store.records import UsageFile


def read_usage(folder: Path) -> Usage | None:
    """Return the sum of the files in `folder`, a run's usage/; None where a part of the run is in none of them.

    Raises DamagedFile.
    """
    files = [file for path in sorted(folder.glob("*.json")) if (file := _read(path)) is not None]
    pieces = [piece for file in files for piece in file.pieces]
    if not pieces or any(file.since is not None for file in files):
        return None
    known = [piece.joules for piece in pieces if piece.joules is not None]
    reasons = dict.fromkeys(flattened(piece.no_joules_because) for piece in pieces if piece.no_joules_because)
    return Usage(
        gpu_seconds=sum(piece.seconds * piece.gpus for piece in pieces),
        joules=sum(known) if len(known) == len(pieces) else None,
        no_joules_because=tuple(reasons),
    )


def _read(path: Path) -> UsageFile | None:
    file, run = read_dataclass(UsageFile, path), path.parents[1].name
    if file is not None and file.run != run:
        raise damaged(path, f"it is of the run '{file.run}'")
    return file
