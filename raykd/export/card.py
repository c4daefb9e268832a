"""The model card: README.md beside the weights. It is Markdown below YAML that model hubs read."""

import json
import re
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from raykd.config import to_dict
from raykd.data.load import stored_size
from raykd.data.types import Resizing
from raykd.export import facts
from raykd.export.data_sources import source_of
from raykd.export.finished_run import FinishedRun, code_of
from raykd.export.format import ExportFormat
from raykd.export.timm_format import architecture_of
from raykd.models.custom_network import Network
from raykd.models.hf_model import HuggingFace
from raykd.models.model import BuiltInModel
from raykd.models.timm_model import Timm
from raykd.models.torchvision_model import Torchvision
from raykd.models.vit_cifar import ViT
from raykd.spec.stages import Stage

# Templates of code that builds a network of this kind without raykd.
_NETWORKS: dict[type, str] = {
    BuiltInModel: "network_built_in.py.j2",
    ViT: "network_vit.py.j2",
    Timm: "network_timm.py.j2",
    Network: "network_custom.py.j2",
    Torchvision: "network_torchvision.py.j2",
    HuggingFace: "network_hf.py.j2",
}

_ORIGINS: dict[Stage, str] = {
    "teacher": "a teacher",
    "baseline": "a student that was trained without a teacher",
    "distilled": "a student that was distilled from a teacher",
}


def model_card(run: FinishedRun, form: ExportFormat, checksums: dict[str, str], difference: float) -> str:
    """Return the card.

    checksums: SHA-256 of each exported file. difference: the largest difference between the outputs of the export and
    of the run, as a fraction of the run's largest output.
    """
    model = run.header.model
    timm_name, timm_arguments = architecture_of(run) if isinstance(model, Timm | ViT) else ("", {})
    built_in, arguments = model.construction(len(run.header.classes)) if isinstance(model, BuiltInModel) else (None, {})
    distillation = ["knowledge-distillation", run.record.method] if run.spec.teacher else []
    card = _environment().get_template("card.md.j2")
    return card.render(
        run=run,
        form=form,
        model=model,
        origin=_ORIGINS[run.spec.stage if distillation or run.spec.stage == "teacher" else "baseline"],
        images=run.header.images,
        **_evaluation_view(run),
        network_size=run.network_size,
        network_images=replace(run.header.images, size=run.network_size),
        timm_name=timm_name,
        timm_arguments=timm_arguments,
        torchvision_arguments=model.all_arguments(run.network_size) if isinstance(model, Torchvision) else {},
        hf_config=model.config_of(run.model.network) if isinstance(model, HuggingFace) else {},
        built_in=built_in,
        built_in_arguments=arguments,
        # The attribute of the network's output that holds the logits; '' if the output is the logits.
        logits=".logits" if isinstance(model, BuiltInModel | HuggingFace) else "",
        torch_version=torch.__version__,
        network=_network_of(run),
        code=code_of(run).rstrip(),
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", code_of(run))), default=0)),  # longer than any in the code
        use=f"use_{form.name.replace('-', '_')}.md.j2",
        source=source_of(run.header.data),
        tags=[*(["image-classification"] if run.output == "logits" else []), *distillation, model.label, "raykd"],
        configuration=facts.configuration_rows(
            {name: value for name, value in run.configuration.items() if name != "teacher"}
        ),
        teacher=facts.teacher_text(run),
        teacher_recipe=facts.configuration_rows(to_dict(run.spec.teacher, results_only=True) or {}),
        validation=facts.validation_rows(run),
        test=facts.metric_rows(run.test_metrics),
        provenance=facts.provenance_rows(run, checksums),
        difference=difference,
    )


def _evaluation_view(run: FinishedRun) -> dict[str, Any]:
    """Return the variables of the code that computes the pixels that the run was evaluated on.

    size: pixels per side. stored_size: the same, or that of the images that are averaged down to it. center_crop: as in
    `Data`. resizing: of a pack, before.
    """
    size = run.header.images.size
    stored = stored_size(run.header.data) or size
    return {
        "size": size,
        "stored_size": stored,
        "center_crop": run.spec.data.center_crop,
        "resizing": run.header.resizing or Resizing(),
    }


def _network_of(run: FinishedRun) -> str | None:
    """Return the template of the code that builds the network without raykd; None if there is none."""
    kinds = _NETWORKS if run.output == "logits" else {}
    return next((file for kind, file in kinds.items() if isinstance(run.header.model, kind)), None)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown, not HTML; external text goes through `cell` or `quoted`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    quoted = partial(json.dumps, ensure_ascii=False)  # YAML and Python read JSON
    environment.filters.update(cell=_cell, python=repr, quoted=quoted)
    return environment


def _cell(text: Any) -> str:
    """Escape text for a table cell or a line: it cannot end the cell or the line, or begin a tag."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
