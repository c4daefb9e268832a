"""Export the best weights of one run: the file in one format, config.json and the model card.

The written file is loaded and compared with the run before the export is kept.
"""

import json
from pathlib import Path

import torch

from raykd.errors import RaykdError, reason_of
from raykd.export.card import model_card
from raykd.export.facts import config_json
from raykd.export.finished_run import DeployedModel, FinishedRun, code_of, read_finished_run
from raykd.export.format import ExportFormat, example_images
from raykd.export.onnx_format import OnnxFormat
from raykd.export.output_folder import require_replaceable, writing_folder
from raykd.export.safetensors_format import SafetensorsFormat
from raykd.export.standalone import standalone_source
from raykd.export.timm_format import TimmFormat
from raykd.export.torch_export_format import TorchExportFormat
from raykd.models.model import BuiltInModel
from raykd.provenance import file_sha256
from raykd.spec.stages import EXPORTED
from raykd.store.run_names import find_run
from raykd.units import disk_size

FORMATS: dict[str, ExportFormat] = {
    form.name: form for form in (SafetensorsFormat(), OnnxFormat(), TorchExportFormat(), TimmFormat())
}

CARD, CONFIG, CODE = "README.md", "config.json", "network.py"
FILES = {CARD, CONFIG, CODE, *(form.file for form in FORMATS.values())}

# A fraction of the largest value. Another runtime sums in another order, which changes about 1e-6 of it. A wrong graph
# changes far more.
MAX_DIFFERENCE = 1e-4


def export_run(results: Path, run_name: str, format_name: str, output: Path | None, overwrite: bool) -> str:
    """Write the run `run_name` in the format `format_name`, and return one line that names the folder and its files.

    output: None for <results>/exported/<run>-<format>, of a trial <family>-<search>-<number>-<format>.

    Raises ConfigError, with nothing changed, if the run cannot be exported or the folder not written; RaykdError if the
    format's tools fail, or compute another output than the run.
    """
    form = FORMATS[format_name]
    run = read_finished_run(find_run(results, run_name))
    name = run.folder.name.replace("/", "-")  # unique for trials too: a family's name has no hyphen
    folder = output or results / EXPORTED / f"{name}-{form.name}"
    target = folder.resolve()  # if it is a link, the folder that it points to
    require_replaceable(target, overwrite, FILES)
    form.require(run)
    with writing_folder(target) as temporary:
        difference = _write(run, form, temporary)
        require_replaceable(target, overwrite, FILES)  # again, for files that were put there in the meantime
        sizes = ", ".join(f"{path.name} ({disk_size(path.stat().st_size)})" for path in _files(temporary))
    return f"{output or target}: {sizes}; {run.output} within {difference:.1g} of the run's"


def _write(run: FinishedRun, form: ExportFormat, folder: Path) -> float:
    """Write all files into `folder` and return the difference of the exported output from the run's."""
    name = run.folder.name
    try:
        config = form.write(run, folder, config_json(run, form))
        (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if code := code_of(run) or ("" if form.preprocesses else _built_in_code(run)):
            (folder / CODE).write_text(code, encoding="utf-8", newline="")
        difference = _difference(run, form, folder)
    except (RaykdError, OSError):
        raise
    except Exception as error:  # exporters of other libraries raise any type
        raise RaykdError(f"{name} as {form.name}: {reason_of(error)}; nothing was kept, try another format") from error
    if not difference <= MAX_DIFFERENCE:
        raise RaykdError(
            f"{name} as {form.name}: its {run.output} differs from the run's by {difference:.2g} of the largest value; "
            "nothing was kept, try another format"
        )
    checksums = {path.name: file_sha256(path) for path in _files(folder)}
    (folder / CARD).write_text(model_card(run, form, checksums, difference), encoding="utf-8")
    return difference


def _built_in_code(run: FinishedRun) -> str:
    """Return the code of a network of raykd, which the code in the model card imports; '' for other networks."""
    model = run.header.model
    return standalone_source(model.construction(len(run.header.classes))[0]) if isinstance(model, BuiltInModel) else ""


@torch.no_grad()
def _difference(run: FinishedRun, form: ExportFormat, folder: Path) -> float:
    """Return the largest difference of the output over several batch sizes, as a fraction of its largest value."""
    exported, original = form.read(run, folder), DeployedModel(run.model, run.output)
    differences = []
    for batch_size in (1, 16):
        images = example_images(run, batch_size, seed=batch_size)
        expected = original(images)
        differences.append(((exported(images) - expected).abs().max() / expected.abs().max()).item())
    return max(differences)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name in FILES)
