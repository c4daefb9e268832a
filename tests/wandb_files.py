"""Read the records of a W&B file: LevelDB's log format, after a header of 7 bytes."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER, BLOCK, RECORD_HEADER = 7, 32 * 1024, 7  # bytes
FULL, LAST = 1, 4  # kinds of records that end one


def records(path: Path) -> Iterator[Any]:
    """Yield the records of W&B's protocol in `path`."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, part = path.read_bytes(), HEADER, b""
    assert data.startswith(b":W&B")
    while position + RECORD_HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < RECORD_HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        part += data[position + RECORD_HEADER : position + RECORD_HEADER + length]
        position += RECORD_HEADER + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(part)
            part = b""
            yield record


def items(updates: Any) -> dict[str, Any]:
    """Return the values of a record's items by their names, without those of W&B itself."""
    pairs = ((item.key or "/".join(item.nested_key), json.loads(item.value_json)) for item in updates)
    return {name: value for name, value in pairs if not name.startswith("_")}


def contents(path: Path) -> dict[str, Any]:
    """Return the run, its steps, final values, artifacts and exit code of a W&B file."""
    found: dict[str, Any] = {"steps": {}, "summary": {}, "artifacts": [], "exit": None}
    for record in records(path):
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                found |= {"id": run.run_id, "name": run.display_name, "group": run.run_group, "kind": run.job_type}
                found["project"], found["config"] = run.project, items(run.config.update)
            case "history":
                found["steps"][record.history.step.num] = items(record.history.item)
            case "summary":
                found["summary"] |= items(record.summary.update)
            case "artifact":
                found["artifacts"].append([entry.path for entry in record.artifact.manifest.contents])
            case "exit":
                found["exit"] = record.exit.exit_code
    return found
