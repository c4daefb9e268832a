"""The files of a report."""

import json
from pathlib import Path
from typing import Any

from raykd.report.build import load
from raykd.report.render import files


def contents(results: Path) -> dict[Path, bytes]:
    """Return the bytes of report.json and of every file below report/."""
    paths = [results / "report.json", *(path for path in (results / "report").rglob("*") if path.is_file())]
    return {path: path.read_bytes() for path in paths}


def summary_of(results: Path) -> dict[str, Any]:
    """Return what summary.json of a report would hold, without its page."""
    return json.loads(files.summary_json(load(results)))
