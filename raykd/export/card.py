"""The model card: README.md beside the weights, Markdown under YAML that model hubs read."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from raykd.export import facts
from raykd.export.done_run import DoneRun
from raykd.export.format import Form
from raykd.export.sources import source_of
from raykd.export.timm_format import architecture_of
from raykd.models.resnet_cifar import ResNet
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.spec.stages import Stage

# How to build a network of this kind with others' packages alone, as a template.
_NETWORKS: dict[type, str] = {ResNet: "network_resnet.py.j2", ViT: "network_vit.py.j2", Timm: "network_timm.py.j2"}

_ORIGINS: dict[Stage, str] = {
    "teacher": "a teacher",
    "baseline": "a student that was trained without a teacher",
    "distilled": "a student that was distilled from a teacher",
}


def model_card(done: DoneRun, form: Form, files: dict[str, str], difference: float) -> str:
    """The card of what lies in `files` (SHA-256 by name), whose logits were `difference` off the run's."""
    model = done.header.model
    timm_name, timm_arguments = architecture_of(done) if isinstance(model, Timm | ViT) else ("", {})
    card = _environment().get_template("card.md.j2")
    return card.render(
        done=done,
        form=form,
        model=model,
        origin=_ORIGINS[done.run.stage],
        images=done.header.images,
        size=done.header.images.size,
        network_size=done.network_size,
        timm_name=timm_name,
        timm_arguments=timm_arguments,
        torch_version=torch.__version__,
        network=_NETWORKS.get(type(model)),
        use=f"use_{form.name.replace('-', '_')}.md.j2",
        source=source_of(done.header.data),
        tags=_tags(done),
        settings=facts.settings_of(done),
        teacher=facts.teacher_of(done),
        teacher_settings=facts.teacher_settings_of(done),
        validation=facts.validation_of(done),
        test=facts.test_of(done),
        provenance=facts.provenance_of(done, files),
        difference=difference,
    )


def _tags(done: DoneRun) -> list[str]:
    distilled = ["knowledge-distillation", done.record.method] if done.run.teacher else []
    return ["image-classification", *distilled, done.header.model.label, "raykd"]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown, not HTML; what comes from outside goes through `cell` or `quoted`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(cell=_cell, quoted=_quoted)
    return environment


def _cell(text: Any) -> str:
    """In a table, or a line: neither ends the cell, nor the line, nor begins a tag."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _quoted(value: Any) -> str:
    """As JSON has it, which YAML and Python read too."""
    return json.dumps(value, ensure_ascii=False)
