"""What a command tells the batch script of the Slurm job that it runs in: the results folder that it trains into.

The batch script compares the folder's progress across restarts of the job. Outside a job nothing is written.
"""

import os
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "RAYKD_RESULTS_NOTE"  # a file in the job's private folder


def note_results(results: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Record `results`. A note that cannot be written is not worth ending a training for."""
    if path := environ.get(VARIABLE):
        try:
            Path(path).write_text(str(results.absolute()), encoding="utf-8")
        except OSError:
            return


def noted_results(path: Path) -> Path | None:
    """What was recorded at `path`, or None."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    return Path(text) if text else None
