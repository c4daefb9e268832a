"""Facts about an exported model: the content of config.json, and the rows of the model card's tables."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raykd.config import dotted, to_dict
from raykd.config.codec import read_record
from raykd.export.finished_run import FinishedRun
from raykd.export.format import ExportFormat
from raykd.provenance import source, versions
from raykd.store.records import Metrics
from raykd.store.run_store import RunStore
from raykd.training.final_evaluation import is_tested

Rows = list[tuple[str, str]]

_PERCENT = ("top1", "val_top1", "top5", "val_top5")
_NAMES = {
    "top1": "top-1",
    "nll": "cross-entropy, nats per image",
    "num_images": "images",
    "val_top1": "top-1",
    "val_loss": "cross-entropy, nats per image",
}


def config_json(run: FinishedRun, form: ExportFormat) -> dict[str, Any]:
    """Return config.json: the network, its preprocessing, its classes and its origin."""
    size, classes = run.header.images.size, run.header.classes
    return {
        "format": form.name,
        "architecture": run.header.model.label,
        "model": to_dict(run.header.model, results_only=True),
        "input": {"dtype": "uint8", "shape": ["batch", 3, size, size], "channels": "RGB", "range": [0, 255]},
        "preprocessing": {
            "inside": form.preprocesses,
            "center_crop": run.spec.data.center_crop,
            "mean": run.mean,
            "std": run.std,
            "resize_to": run.model.input_size,
            "resize_by": run.model.mode if run.model.input_size else None,
        },
        "output": {"name": run.output, "dtype": "float32", "shape": ["batch", run.output_width]},
        "classes": list(classes),
        "run": run.folder.name,
        "fingerprint": run.record.fingerprint,
        "weights_sha256": run.weights_sha256,
        "configuration": run.configuration,
        "validation": asdict(run.record.best) if run.record.best else {},
        "test": run.test_metrics,
    }


def validation_rows(run: FinishedRun) -> Rows:
    """Return the metrics of the best epoch on the validation split, which selected it."""
    best = run.record.best
    assert best is not None
    epochs = run.folder.history() if best.epoch is not None else []
    epoch: Mapping[str, Any] = next((row for row in epochs if row.get("epoch") == best.epoch), {})
    metrics = {name: value for name, value in epoch.items() if name.startswith("val_")}
    return metric_rows(metrics | {"val_top1": best.val_top1})


def metric_rows(values: Mapping[str, Any]) -> Rows:
    """Return the single numbers among `values`. The lists and texts of test.json are in config.json only."""
    numbers = {path: value for path, value in dotted(values) if isinstance(value, int | float)}
    return [(_NAMES.get(name, name), _number_text(name, number)) for name, number in numbers.items()]


def teacher_text(run: FinishedRun) -> str:
    """Return the name of each teacher's run, with its accuracy if the results have that run; '' if none."""
    texts, store = [], RunStore.of(run.folder)
    for teacher in run.spec.teachers:
        folder = store.folder(teacher)
        metrics = read_record(Metrics, folder.test) if is_tested(folder) else None
        accuracy = f", test top-1 {_number_text('top1', metrics.top1)}" if metrics else ""
        texts.append(f"`{teacher.name}` ({teacher.model.label}){accuracy}")
    return "; ".join(texts)


def provenance_rows(run: FinishedRun, checksums: Mapping[str, str]) -> Rows:
    """Return the origin of the weights. checksums: SHA-256 of each file beside the card, by its name."""
    record = run.record
    hardware = [value for value in record.hardware.values() if value]
    return [
        ("run", run.folder.name),
        ("fingerprint", run.record.fingerprint),
        ("trained", f"{record.started} to {record.ended}, {record.seconds:.0f} s"),
        ("computed in", f"{record.compute.precision} on {', '.join(hardware)}; the weights are float32"),
        ("git revision", _text(record.git.get("revision"))),
        ("SHA-256 of raykd's source", _text(record.git.get("source_sha256"))),
        ("the same at export", _text(source()["source_sha256"])),
        ("versions at training", _version_list(record.versions)),
        ("versions at export", _version_list(versions())),
        ("SHA-256 of the run's best weights", run.weights_sha256),
        *((f"SHA-256 of {name}", digest) for name, digest in checksums.items()),
    ]


def _version_list(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def configuration_rows(configuration: Mapping[str, Any]) -> Rows:
    """Return (dotted path, value) of each field. An object has a row with its kind, unless its path ends in it."""
    rows = []
    for path, value in dotted(configuration):
        section, _, name = path.rpartition(".")
        if name != "kind":
            rows.append((path, _text(value)))
        elif section and value != section.rpartition(".")[2]:
            rows.append((section, _text(value)))
    return rows


def _number_text(name: str, value: float) -> str:
    return f"{value:.2f} %" if name in _PERCENT else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value) or "none"
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
