"""The report of one machine: parts, their figures, failures and omissions. Imports no torch.

report.json   {"parts": {part: {"seconds", "figures", "failed", "left_out"}}, "in_progress": {...} or null}
report.txt    the same as text

Both files are rewritten after every figure, so that a killed process loses only the figure in progress. A process that
starts again on the same folder continues after the last figure.
"""

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TRACEBACK_LINES = 14  # the last ones, kept of a failure
LIMIT_S = 90.0  # a figure that takes longer hangs, unless it says otherwise
OVERRUN_S = 30.0  # by which a figure may exceed the time of its part; a new process would cost nearly as much
WHOLE = "part"  # the name of a failure that is not one of a figure's
REQUIRES_CUDA = "requires CUDA"
NO_TIME = "no time left"


class GpuLost(Exception):
    """This process cannot use the GPU any longer; another one can."""


class Report:
    """The report below `folder`, read from there where one exists."""

    def __init__(self, folder: Path) -> None:
        self._json, self._text = folder / "report.json", folder / "report.txt"
        folder.mkdir(parents=True, exist_ok=True)
        self.values: dict[str, Any] = {"parts": {}, "in_progress": None, "processes": 0}
        if self._json.is_file():
            self.values = json.loads(self._json.read_text())

    @property
    def parts(self) -> dict[str, Any]:
        """The record of each part that has started, by name."""
        return self.values["parts"]

    def figure(self, part: str, name: str) -> Any:
        """Return a figure measured before, or None."""
        return self.parts.get(part, {}).get("figures", {}).get(name)

    def is_over(self, part: str) -> bool:
        """Return whether the part was measured to its end, or its process was killed between two figures."""
        record = self.parts.get(part)
        return record is not None and (record["seconds"] is not None or WHOLE in record["failed"])

    @property
    def progress(self) -> int:
        """Number of figures that were measured, failed or left out."""
        kinds = ("figures", "failed", "left_out")
        return sum(len(part[kind]) for part in self.parts.values() for kind in kinds)

    def part(self, name: str) -> dict[str, Any]:
        """Return the record of a part. A new one starts now."""
        empty = {"began": time.time(), "seconds": None, "figures": {}, "failed": {}, "left_out": {}, "took_s": {}}
        return self.parts.setdefault(name, empty)

    def save(self) -> None:
        """Replace both files."""
        _replace(self._json, json.dumps(self.values, indent=1, default=str) + "\n")
        _replace(self._text, text_of(self.values))

    def fail_in_progress(self, why: str) -> None:
        """Record the figure in progress, whose process ended, as failed."""
        if current := self.values["in_progress"]:
            self.part(current["part"])["failed"][current["figure"]] = why
        self.values["in_progress"] = None
        self.save()


class Part:
    """One part in progress: it measures figures until its time is over.

    A process that takes OVERRUN_S longer is killed, in a figure or between two.
    """

    def __init__(
        self,
        report: Report,
        name: str,
        budget_s: float,
        until: float,
        has_cuda: bool,
        is_usable: Callable[[], bool] = lambda: True,
    ) -> None:
        """until: time.time() at which the whole report must be complete. is_usable: whether the GPU still works."""
        self.report, self.name, self._has_cuda, self._is_usable = report, name, has_cuda, is_usable
        self._record = report.part(name)
        self.until = min(self._record["began"] + budget_s, until)
        self._watch(WHOLE, OVERRUN_S + self.left())

    def left(self) -> float:
        """Return the seconds left in this part."""
        return self.until - time.time()

    def figure(
        self, name: str, measure: Callable[[], Any], needs_s: float = 0.5, limit_s: float = LIMIT_S, cuda: bool = False
    ) -> Any:
        """Measure one figure, ready for JSON, and record it; return it, or None if it failed or was left out.

        needs_s: leave the figure out if less time is left. limit_s: the process is killed when it takes longer.
        cuda: whether it requires CUDA. An exception is recorded with the last lines of its traceback.
        """
        if name in self._record["figures"]:
            return self._record["figures"][name]
        if name in self._record["failed"]:
            return None
        if cuda and not self._has_cuda:
            return self.leave_out(name, REQUIRES_CUDA)
        if self.left() < needs_s:
            return self.leave_out(name, NO_TIME)
        self._watch(name, min(limit_s, OVERRUN_S + max(self.left(), needs_s)))
        start_s = time.perf_counter()
        try:
            value = measure()
            self._record["figures"][name] = value
            self._print(name, "; ".join(lines_of(value)) if isinstance(value, dict) else value)
        except Exception as error:  # noqa: BLE001  # one figure must not lose the others
            self.fail(name, error)
        self._record["took_s"][name] = round(time.perf_counter() - start_s, 3)
        self._watch(WHOLE, OVERRUN_S + max(self.left(), 0.0))
        if name in self._record["failed"] and self._has_cuda and not self._is_usable():
            raise GpuLost
        return self._record["figures"].get(name)

    def _watch(self, name: str, limit_s: float) -> None:
        """Record what is in progress, and for how long it may be."""
        current = {"part": self.name, "figure": name, "began": time.time(), "limit_s": limit_s}
        self.report.values["in_progress"] = current
        self.report.save()

    def fail(self, name: str, error: Exception) -> None:
        """Record the error of a figure, with the last lines of its traceback."""
        lines = "".join(traceback.format_exception(error)).splitlines()[-TRACEBACK_LINES:]
        self._record["failed"][name] = {"error": f"{type(error).__name__}: {error}"[:2000], "traceback": lines}
        self._print(name, "FAILED\n" + "\n".join(lines))

    def leave_out(self, name: str, why: str) -> None:
        """Record why a figure is not measured."""
        self._record["left_out"][name] = why
        self._print(name, f"left out: {why}")

    def end(self) -> None:
        """Record the seconds of the whole part."""
        self._record["seconds"] = time.time() - self._record["began"]
        self.report.values["in_progress"] = None
        self.report.save()
        self._print("seconds", self._record["seconds"])

    def _print(self, name: str, value: Any) -> None:
        print(f"[{self.name}] {name}: {shown(value)}"[:3000], flush=True)


def text_of(values: Mapping[str, Any]) -> str:
    """Return the report as text, with a line for each figure."""
    lines = []
    for name, part in values["parts"].items():
        seconds = part["seconds"]
        lines.append(f"== {name} ({'interrupted' if seconds is None else f'{seconds:.1f} s'})")
        for figure, value in part["figures"].items():
            texts = lines_of(value) if isinstance(value, dict) else [shown(value)]
            lines += [f"{figure:36} {texts[0]}", *(f"{'':36} {text}" for text in texts[1:])] if texts else [figure]
        for figure, failure in part["failed"].items():
            shown_lines = failure["traceback"] if isinstance(failure, dict) else [str(failure)]
            lines += [f"{figure:36} FAILED", *(f"    {line}" for line in shown_lines)]
        for why in dict.fromkeys(part["left_out"].values()):
            names = [figure for figure, reason in part["left_out"].items() if reason == why]
            lines.append(f"left out, {why}: {'; '.join(names)}")
        lines.append("")
    return "\n".join(lines) + "\n"


def lines_of(values: Mapping[str, Any]) -> list[str]:
    """Return one line for all plain values, and one for each nested dict or list."""
    plain = {name: value for name, value in values.items() if not isinstance(value, dict | list)}
    lines = ["  ".join(f"{name} {shown(value)}" for name, value in plain.items())] if plain else []
    for name, value in values.items():
        if isinstance(value, dict):
            lines.append(f"{name}: " + "  ".join(f"{key} {shown(item)}" for key, item in value.items()))
        elif isinstance(value, list):
            nested = [lines_of(item)[0] if isinstance(item, dict) and item else shown(item) for item in value]
            lines += [f"{name}: {line}" for line in nested] if any(isinstance(v, dict) for v in value) else []
            if not any(isinstance(v, dict) for v in value):
                lines.append(f"{name}: {', '.join(nested)}")
    return lines


def shown(value: Any) -> str:
    """Return a figure as text, numbers with 4 digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def _replace(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content)
    temporary.replace(path)
