"""Records of runs and searches as raykd writes them, for tests that train nothing. Imports no torch."""

from typing import TYPE_CHECKING, Any

from raykd.store.records import Best, ComputeRecord, RunRecord, SearchRecord

if TYPE_CHECKING:
    from raykd.spec.plan import Run

STARTED = "2026-01-02T03:04:05+00:00"
ORIGIN: dict[str, Any] = {
    "versions": {"raykd": "0.1.0", "torch": "2.15.0"},
    "hardware": {"cpu": "a processor", "gpu": None},
    "git": {"revision": "0123456789", "source_sha256": "ab"},
}


def run_record(**changes: Any) -> RunRecord:
    """Return the record of a finished baseline, with `changes`."""
    fields: dict[str, Any] = {
        "name": "run",
        "family": "small",
        "stage": "baseline",
        "model": "resnet8",
        "method": "ce",
        "seed": 0,
        "fingerprint": "ab12",
        "config": {},
        "status": "done",
        "started": STARTED,
        "compute": ComputeRecord("cpu", "fp32", threads=2),
        "best": Best(2, 89.0),
        **ORIGIN,
    }
    return RunRecord(**fields | changes)


def record_of(run: "Run", **changes: Any) -> RunRecord:
    """Return the record of `run` after it has finished, with `changes`."""
    from raykd.config import to_dict

    identity = {name: getattr(run, name) for name in ("name", "family", "stage", "seed", "fingerprint")}
    return run_record(**identity, config=to_dict(run), **changes)


def search_record(**changes: Any) -> SearchRecord:
    """Return the record of a search of family 'cnn' over seeds 0 to 2, with `changes`."""
    fields: dict[str, Any] = {
        "family": "cnn",
        "name": "search",
        "identity": {},
        "search": {"kind": "search"},
        "default_configuration": {},
        "epochs": 9,
        "seeds": (0, 1, 2),
        "started": STARTED,
        **ORIGIN,
        "versions": {"torch": "2.15.0", "optuna": "5.0.0"},
    }
    return SearchRecord(**fields | changes)
