"""What is known of an exported model: for config.json, and as rows of the model card's tables."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raykd.config import dotted, to_dict
from raykd.export.done_run import DoneRun
from raykd.export.format import Form
from raykd.provenance import source, versions
from raykd.spec.plan import Run
from raykd.store.codec import read_record
from raykd.store.records import Metrics
from raykd.store.run_folder import RunFolder
from raykd.training.evaluate_best import is_tested

Rows = list[tuple[str, str]]

_PERCENT = ("top1", "val_top1", "top5", "val_top5")
_NAMES = {
    "top1": "top-1",
    "nll": "cross-entropy, nats an image",
    "num_images": "images",
    "val_top1": "top-1",
    "val_loss": "cross-entropy, nats an image",
}


def config_of(done: DoneRun, form: Form) -> dict[str, Any]:
    """config.json: how to build the network and to feed it, what its classes are, and where it comes from."""
    size, classes = done.header.images.size, done.header.classes
    return {
        "format": form.name,
        "architecture": done.header.model.label,
        "model": to_dict(done.header.model, results_only=True),
        "input": {"dtype": "uint8", "shape": ["batch", 3, size, size], "channels": "RGB", "range": [0, 255]},
        "preprocessing": {
            "inside": form.preprocesses,
            "mean": done.mean,
            "std": done.std,
            "resize_to": done.model.input_size,
            "resize_by": done.model.mode if done.model.input_size else None,
        },
        "output": {"name": "logits", "dtype": "float32", "shape": ["batch", len(classes)]},
        "classes": list(classes),
        "run": done.folder.path.name,
        "fingerprint": done.record.fingerprint,
        "weights_sha256": done.weights_sha256,
        "settings": done.settings,
        "validation": asdict(done.record.best) if done.record.best else {},
        "test": done.tested,
    }


def settings_of(done: DoneRun) -> Rows:
    """Every setting that decided the run's result, by its dotted path; the teacher's apart."""
    return _settings({name: value for name, value in done.settings.items() if name != "teacher"})


def teacher_settings_of(done: DoneRun) -> Rows:
    return _settings(to_dict(done.run.teacher, results_only=True)) if done.run.teacher else []


def validation_of(done: DoneRun) -> Rows:
    """The best epoch's figures on the images that picked it."""
    best = done.record.best
    assert best is not None
    rows = done.folder.history() if best.epoch is not None else []
    epoch: Mapping[str, Any] = next((row for row in rows if row.get("epoch") == best.epoch), {})
    val_metrics = {name: value for name, value in epoch.items() if name.startswith("val_")}
    return [*_measures(val_metrics | {"val_top1": best.val_top1})]


def test_of(done: DoneRun) -> Rows:
    """All that test.json has in figures; none where these weights were not evaluated."""
    return [*_measures({name: value for name, value in done.tested.items() if name != "weights_sha256"})]


def teacher_of(done: DoneRun) -> str:
    """The teacher's run, and its own accuracy where it lies beside this one; of several each. '' without a teacher."""
    return "; ".join(_teacher_in_words(done.folder.path.parent, teacher) for teacher in done.run.teachers)


def _teacher_in_words(family: Path, teacher: Run) -> str:
    text, folder = f"`{teacher.name}` ({teacher.model.label})", RunFolder(family / teacher.name)
    metrics = read_record(Metrics, folder.test) if is_tested(folder) else None
    return f"{text}, test top-1 {_figure('top1', metrics.top1)}" if metrics else text


def provenance_of(done: DoneRun, files: Mapping[str, str]) -> Rows:
    """files: SHA-256 by name of what lies beside the card."""
    record = done.record
    hardware = [value for value in record.hardware.values() if value]
    return [
        ("run", done.folder.path.name),
        ("fingerprint", done.record.fingerprint),
        ("trained", f"{record.started} to {record.ended}, {record.seconds:.0f} s"),
        ("computed in", f"{record.compute.precision} on {', '.join(hardware)}; the weights are float32"),
        ("git revision", _text(record.git.get("revision"))),
        ("SHA-256 of raykd's source", _text(record.git.get("source_sha256"))),
        ("the same when it was exported", _text(source()["source_sha256"])),
        ("versions it was trained with", _listed(record.versions)),
        ("versions it was exported with", _listed(versions())),
        ("SHA-256 of the run's best weights", done.weights_sha256),
        *((f"SHA-256 of {name}", digest) for name, digest in files.items()),
    ]


def _listed(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _settings(nested: Mapping[str, Any]) -> Rows:
    """By dotted path. A kind is its section's own value; left out are the whole's, and one that says the name again."""
    rows = []
    for path, value in dotted(nested):
        section, _, name = path.rpartition(".")
        if name != "kind":
            rows.append((path, _text(value)))
        elif section and value != section.rpartition(".")[2]:
            rows.append((section, _text(value)))
    return rows


def _measures(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Figures alone: what is a list or a text in test.json stands in config.json."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _measures(value, f"{path}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path + _NAMES.get(name, name), _figure(name, value)


def _figure(name: str, value: float) -> str:
    return f"{value:.2f} %" if name in _PERCENT else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value) or "none"
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
