"""Keep the ends of Ray's logs of a job that failed, beside the job's log: Ray's folder is removed with the job.

    slurm-4711-ray-logs/cn1.tar.gz      with the logs of the head, the driver's node
    slurm-4711-ray-logs/cn2.tar.gz

The head makes the folder before it ends the other nodes, which add their logs if it exists.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from raykd.cluster.job_folder import JobFolder
from raykd.disk.lookup import is_file, is_folder

VARIABLE = "RAYKD_KEPT_LOGS"  # environment variable: the path of the folder
MAX_LOG_BYTES = 1_000_000  # the end of each log
MAX_BYTES = 100_000_000  # of a node's logs; a long search starts thousands of workers
SUFFIXES = (".log", ".out", ".err")


def path_beside(log: Path) -> Path:
    """Return the folder for the logs of a job whose log is `log`."""
    return log.with_name(f"{log.stem}-ray-logs")


def keep(target: Path, folder: JobFolder, node: str) -> bool:
    """Write the ends of the logs below the job's `folder` on `node` to `target`/NODE.tar.gz, for this user only.

    Return whether that succeeded; on a full disk it does not.
    """
    with suppress(OSError):
        target.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(target / f"{node}.tar.gz", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
            left = MAX_BYTES
            for path in _logs(folder):
                content = _end_of(path)
                if content and (left := left - len(content)) >= 0:
                    entry = tarfile.TarInfo(f"{node}/{path.name}")
                    entry.size, entry.mtime = len(content), int(path.stat().st_mtime)
                    archive.addfile(entry, io.BytesIO(content))
        return True
    return False


def keep_if_requested(folder: JobFolder, node: str, has_failed: bool) -> None:
    """Keep the logs of a node other than the head's, if Ray failed there or the head has kept its own."""
    target = Path(os.environ.get(VARIABLE, ""))
    if VARIABLE in os.environ and (has_failed or is_folder(target)):
        keep(target, folder, node)


def _logs(folder: JobFolder) -> Iterator[Path]:
    """Yield the outputs of `ray start`, then Ray's logs, those of the raylet and the GCS first, the newest first."""
    yield from sorted(folder.path.glob("*.log"))
    logs = folder.ray_path / "session_latest" / "logs"
    found = [path for path in logs.iterdir() if path.suffix in SUFFIXES] if is_folder(logs) else []
    times = {path: path.stat().st_mtime for path in found if is_file(path)}
    yield from sorted(times, key=lambda path: (not path.name.startswith(("raylet", "gcs_server")), -times[path]))


def _end_of(path: Path) -> bytes:
    """Return the last MAX_LOG_BYTES of a file; b'' if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_LOG_BYTES))
            return file.read(MAX_LOG_BYTES)
    except OSError:
        return b""
