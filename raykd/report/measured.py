"""What was measured of a run: test.json, val.json, costs.json and usage/ in, typed records out.

As in `collect`: a file that is absent means "not measured", and so does a field that an older version did not write.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from raykd.json_fields import Fields, is_number
from raykd.messages import flattened
from raykd.report.records import Costs, Reliability, Score, Usage
from raykd.timing import WRITE_EVERY_S, Timing

Item = TypeVar("Item")


def read_score(path: Path) -> Score | None:
    """test.json or val.json. Raises: RaykdError naming the file when it is corrupt."""
    fields = Fields.read_if_there(path)
    if fields is None:
        return None
    top1, nll, num_images = (
        fields.number("top1", low=0, high=100),
        fields.number("nll", low=0),
        fields.count("num_images"),
    )
    confusion = tuple(_list(fields, "confusion", row, _count) for row in _list(fields, "confusion", None, _as_list))
    classes = _list(fields, "classes", None, flattened)
    class_top1 = _list(fields, "class_top1", None, _percent)
    sizes = {len(found) for found in (confusion, classes, class_top1, *confusion) if found}
    if len(sizes) > 1:
        fields.refuse(f"classes, class_top1 and confusion are of different sizes: {sorted(sizes)}")
    if confusion and sum(map(sum, confusion)) != num_images:
        fields.refuse(f"confusion has {sum(map(sum, confusion))} images, num_images is {num_images}")
    return Score(
        top1,
        nll,
        num_images,
        fields.other_numbers(known=("top1", "nll", "num_images")),
        fields.optional_text("weights_sha256"),
        classes,
        class_top1,
        confusion,
        fields.optional("reliability", lambda name: _reliability(Fields(path, fields.mapping(name)))),
    )


def read_costs(path: Path) -> Costs | None:
    """costs.json. Raises: RaykdError naming the file when it is corrupt."""
    fields = Fields.read_if_there(path)
    if fields is None:
        return None
    return Costs(
        fields.text("shape"),
        fields.text("device"),
        fields.text("precision"),
        fields.optional("threads", fields.count),
        fields.count("parameters"),
        fields.count("flops"),
        _timing(Fields(path, fields.mapping("latency_ms"))),
        _timing(Fields(path, fields.mapping("images_per_s"))),
    )


def read_usage(folder: Path) -> Usage | None:
    """All workers' files in usage/, added up; None too where they begin in the middle of the run.

    Raises: RaykdError naming the file when one is corrupt.
    """
    files = [Fields.read(path) for path in sorted(folder.glob("*.json"))]
    for file in files:
        if file.optional_text("run") not in (None, folder.parent.name):
            file.refuse(f"it is of the run '{file.text('run')}'")
    pieces = [Fields(file.path, piece) for file in files for piece in _list(file, "pieces", None, _as_object)]
    if not pieces:
        return None
    gpu_seconds = sum(piece.number("seconds", low=0) * piece.number("gpus", low=0) for piece in pieces)
    joules = [piece.optional("joules", lambda name, piece=piece: piece.number(name, low=0)) for piece in pieces]
    reasons = [piece.optional_text("no_joules_because") for piece in pieces]
    known = [one for one in joules if one is not None]
    total = sum(known) if len(known) == len(pieces) else None
    # Before there was "since": it is less than was trained, by more than kills can have cost.
    run, first = Fields.read_if_there(folder.parent / "run.json"), [p for p in pieces if p.path == files[0].path]
    written = sum(piece.number("seconds", low=0) for piece in first) + WRITE_EVERY_S * len(first)
    is_short = run is not None and written < run.number("seconds", low=0)
    if is_short or any(file.optional_text("since") is not None for file in files):
        return None
    return Usage(gpu_seconds, total, tuple(dict.fromkeys(flattened(reason) for reason in reasons if reason)))


def _timing(fields: Fields) -> Timing:
    median, p10, p90 = (fields.number(name, low=0) for name in ("median", "p10", "p90"))
    return Timing(median, p10, p90, fields.count("passes"), fields.count("batch_size"))


def _reliability(fields: Fields) -> Reliability:
    found = Reliability(
        _list(fields, "count", None, _count),
        _list(fields, "confidence", None, _fraction),
        _list(fields, "accuracy", None, _fraction),
    )
    if not len(found.count) == len(found.confidence) == len(found.accuracy):
        fields.refuse("reliability has bins without a count, a confidence or an accuracy")
    return found


def _list(fields: Fields, name: str, values: Any, item: Callable[[Any], Item]) -> tuple[Item, ...]:
    """Each of `values`, or of the field itself where these are None, as `item` has it; () where there is no field.

    item: raises ValueError or TypeError for what cannot be one.
    """
    values = fields.values.get(name) if values is None else values
    try:
        return tuple(item(value) for value in _as_list(values if values is not None else []))
    except (ValueError, TypeError):
        return fields.refuse(f"field '{name}' holds what cannot be there: {values!r:.80}")


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _as_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError
    return value


def _within(value: Any, high: float) -> float | None:
    if value is not None and not (is_number(value) and 0 <= value <= high):
        raise ValueError
    return value


def _percent(value: Any) -> float | None:
    return _within(value, 100.0)


def _fraction(value: Any) -> float | None:
    return _within(value, 1.0 + 1e-9)
