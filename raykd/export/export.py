"""One run's best weights in one format, with config.json and the model card beside them; compared before they stand.

The formats by the name that --format takes.
"""

import json
from pathlib import Path

import torch

from raykd.errors import RaykdError
from raykd.export.card import model_card
from raykd.export.done_run import DoneRun, read_done
from raykd.export.facts import config_of
from raykd.export.find_run import find_run
from raykd.export.format import Deployed, Form, example_images
from raykd.export.onnx_format import Onnx
from raykd.export.output_folder import filling, require_place
from raykd.export.safetensors_format import Safetensors
from raykd.export.timm_format import TimmFolder
from raykd.export.torch_export_format import TorchExport
from raykd.provenance import file_sha256

FORMATS: dict[str, Form] = {form.name: form for form in (Safetensors(), Onnx(), TorchExport(), TimmFolder())}


CARD, CONFIG = "README.md", "config.json"
FILES = {CARD, CONFIG, *(form.file for form in FORMATS.values())}

# Of the largest logit. Another runtime adds in another order, which is 1e-6 or so of it; a wrong graph is far off.
LARGEST_DIFFERENCE = 1e-4
_BATCHES = (1, 16)


def export_run(results: Path, word: str, form_name: str, output: Path | None, overwrite: bool) -> str:
    """Write the run called `word` in the format `form_name`; returns a line that says where, and what.

    output: None for <results>/exported/<run>-<format>. Raises ConfigError for what cannot be exported or written, with
    nothing changed; RaykdError where the format's own tools fail, or compute something else than the run.
    """
    form = FORMATS[form_name]
    done = read_done(find_run(results, word))
    place = (
        output or results / "exported" / f"{done.folder.path.name}-{form.name}"
    ).resolve()  # a link stays, and is filled
    require_place(place, overwrite, FILES)
    form.require(done)
    with filling(place) as folder:
        difference = _write(done, form, folder)
        require_place(place, overwrite, FILES)  # once more: what came there meanwhile is not lost
        sizes = ", ".join(f"{path.name} ({path.stat().st_size / 1024:,.0f} KiB)" for path in _files(folder))
    return f"{output or place}: {sizes}; logits within {difference:.1g} of the run's"


def _write(done: DoneRun, form: Form, folder: Path) -> float:
    """Fill `folder`; returns how far its logits are from the run's."""
    try:
        config = form.write(done, folder, config_of(done, form))
        (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        difference = _difference(done, form, folder)
    except (RaykdError, OSError):
        raise
    except Exception as error:  # tools of others raise whatever they stumble on
        raise RaykdError(
            f"{done.folder.path.name} as {form.name}: {_line(error)}; nothing was kept, try another format"
        ) from error
    if not difference <= LARGEST_DIFFERENCE:
        raise RaykdError(
            f"{done.folder.path.name} as {form.name} would give logits {difference:.2g} off the run's, as a share of "
            "the largest; nothing was kept, try another format"
        )
    files = {path.name: file_sha256(path) for path in _files(folder)}
    (folder / CARD).write_text(model_card(done, form, files, difference), encoding="utf-8")
    return difference


@torch.no_grad()
def _difference(done: DoneRun, form: Form, folder: Path) -> float:
    """The largest over batches of several sizes, as a share of the largest logit."""
    exported, own = form.read(done, folder), Deployed(done.model)
    found = []
    for batch in _BATCHES:
        images = example_images(done, batch, seed=batch)
        wanted = own(images)
        found.append(((exported(images) - wanted).abs().max() / wanted.abs().max()).item())
    return max(found)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name in FILES)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
