"""The model card: its code runs and predicts like the run, its metrics are the run's, and hubs can read its YAML."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_runs import ALL_CASES, logits_of, pil_images, relative_difference
from huggingface_hub import ModelCard
from nightly import nightly_except
from safetensors.torch import load_file
from small_runs import digits, recipe, run_of, train

from raykd import models
from raykd.data.dataset_names import BUILT_IN
from raykd.export.card import model_card
from raykd.export.data_sources import source_of
from raykd.export.export import FORMATS, export_run
from raykd.export.finished_run import FinishedRun, read_finished_run
from raykd.models.four_stage_resnet import ResNet
from raykd.models.weights import save_weights
from raykd.provenance import file_sha256
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.model_file import images_of

LIMIT = 1e-5
FORM = FORMATS["safetensors"]


def card_of(run: FinishedRun) -> str:
    return model_card(run, FORM, {}, 0.0)


@pytest.mark.parametrize(("kind", "form"), nightly_except([("resnet", "safetensors")], ALL_CASES))
def test_the_code_in_the_card_predicts_like_the_run(kind, form, students, exported, tmp_path, monkeypatch, capsys):
    """Run each block in a folder with the exported files and the image of a digit."""
    blocks = re.findall(r"```python\n(.*?)```", (exported(kind, form) / "README.md").read_text(), flags=re.S)
    assert len(blocks) == (2 if form == "safetensors" else 1)
    for file in exported(kind, form).iterdir():
        os.link(file, tmp_path / file.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "network", raising=False)
    pil_images()[5].save("image.png")
    expected = logits_of(students[kind], digits().test.images[5:6])
    for position, block in enumerate(blocks):
        assert ("raykd" in re.sub(r'\["raykd"\]', "", block)) == (form == "safetensors" and position == 0)
        names: dict = {}
        exec(compile(block, f"card of {kind} as {form}", "exec"), names)  # noqa: S102 - the test is about this code
        assert relative_difference(torch.as_tensor(names["logits"]), expected) < LIMIT
        assert capsys.readouterr().out == f"{expected.argmax().item()}\n"


@pytest.mark.nightly
def test_model_hubs_can_read_the_yaml(students, exported):
    for form in FORMATS:
        data = ModelCard.load(exported("vit", form) / "README.md").data
        assert data.pipeline_tag == "image-classification" and data.license == "unknown"
        assert data.library_name == FORMATS[form].library
        (result,) = data.eval_results or []
        top1 = json.loads(students["vit"].test.read_text())["top1"]
        assert (result.dataset_split, result.metric_type) == ("test", "accuracy")
        assert result.metric_value == pytest.approx(top1 / 100, abs=1e-6)
        assert "knowledge-distillation" in (data.tags or [])


def test_the_card_has_the_runs_metrics(students, exported):
    folder = students["resnet"]
    text, record, test = card(exported), folder.require_record(), json.loads(folder.test.read_text())
    best = folder.history()[record.best.epoch]
    for row in (
        f"| top-1 | {test['top1']:.2f} % |",
        f"| cross-entropy, nats per image | {test['nll']:.4f} |",
        "| images | 597 |",
        f"| epoch, from 0 | {record.best.epoch} of 3 |",
        f"| top-1 | {record.best.val_top1:.2f} % |",
        f"| cross-entropy, nats per image | {best['val_loss']:.4f} |",
        f"| git revision | {record.git['revision']} |",
        f"| fingerprint | {record.fingerprint} |",
        f"torch {record.versions['torch']}",
        f"{record.parameters:,} parameters",
    ):
        assert row in text, row
    assert record.started in text and record.ended in text


def card(exported) -> str:
    return (exported("resnet", "safetensors") / "README.md").read_text()


def test_the_card_has_every_field_of_the_run_and_of_its_teacher(students, exported):
    text = card(exported)
    of_student, _, of_teacher = text.partition("<details>")
    for row in ("| recipe.model.width | 8 |", "| recipe.optimizer.lr | 0.05 |", "| method.temperature | 4.0 |",
                "| method.alpha | 0.5 |", "| seed | 0 |", "| recipe.epochs | 3 |"):  # fmt: skip
        assert row in of_student, row
    assert "| recipe.model.width | 16 |" in of_teacher
    for part in (of_student, of_teacher):  # the kind of an object is the value of its path
        assert "| recipe.model | resnet |" in part and "kind" not in part and "|  |" not in part
    teacher = read_finished_run(students["resnet"]).spec.teacher
    assert teacher is not None
    folder = RunStore.of(students["resnet"]).folder(teacher)
    top1 = json.loads(folder.test.read_text())["top1"]
    assert f"`{teacher.name}` ({teacher.model.label}), test top-1 {top1:.2f} %" in of_student


@pytest.mark.parametrize("form", nightly_except(["safetensors"], FORMATS))
def test_the_checksums_in_the_card_match_the_files(form, exported):
    folder: Path = exported("vit", form)
    checksums = dict(re.findall(r"\| SHA-256 of (\S+) \| ([0-9a-f]{64}) \|", (folder / "README.md").read_text()))
    files = {path.name: file_sha256(path) for path in folder.iterdir() if path.name != "README.md"}
    assert len(files) == 2 and checksums == files


def test_further_numbers_in_test_json_are_in_the_card(students):
    run = read_finished_run(students["resnet"])
    more = {"top5": 99.5, "calibration": {"ece": 0.0321}, "per_class": [1, 2], "note": "x"}
    text = card_of(with_test(run, run.test_metrics | more))
    assert "| top5 | 99.50 % |" in text and "| calibration.ece | 0.0321 |" in text
    assert "per_class" not in text and "| note" not in text


def test_the_card_of_a_run_without_a_test_claims_no_test_result(students):
    text = card_of(with_test(read_finished_run(students["resnet"]), {}))
    assert "these weights were not evaluated on the test split" in text and "model-index" not in text
    assert ModelCard(text).data.eval_results is None


def test_a_test_of_other_weights_is_not_in_the_card(students, results, tmp_path):
    other = students["vit"].test.read_text()
    copy = RunFolder(tmp_path / "run")
    copy.path.mkdir()
    for name in ("run.json", "best.safetensors", "history.parquet"):
        os.link(students["resnet"].path / name, copy.path / name)
    copy.test.write_text(other)
    assert "these weights were not evaluated on the test split" in card_of(read_finished_run(copy))


def test_no_class_name_breaks_the_card(students):
    run = read_finished_run(students["resnet"])
    names = ("a|b", "<script>", "two\nlines", "---", "`", *"56789")
    text = card_of(replace(run, header=replace(run.header, classes=names)))
    assert "a\\|b, &lt;script>, two lines, ---" in text and "<script" not in text


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_card_has_origin_and_license_of_known_data(name):
    source = source_of(name)
    assert "raykd" not in source.origin + source.license and source.title != name
    if name.startswith("cifar"):
        number = "100" if "100" in name else "10"
        assert source.hub == f"uoft-cs/cifar{number}" and f"CIFAR-{number}" in source.title
        assert "Krizhevsky 2009" in source.origin and "state no license" in source.license


def test_the_card_of_a_baseline_names_no_teacher(tmp_path):
    run = run_of("baseline")
    folder = RunFolder(tmp_path / run.name)
    train(run, folder)
    text = card_of(read_finished_run(folder))
    assert "without a teacher" in text and "Teacher:" not in text and "<details>" not in text
    assert "knowledge-distillation" not in text


def test_the_card_of_imported_weights_claims_no_recipe(tmp_path):
    file, source = tmp_path / "weights.safetensors", RunFolder(tmp_path / "source")
    model = ResNet((1, 1, 1, 1), 8)
    train(run_of("teacher", teacher=recipe(model=model)), source)
    save_weights(file, load_file(source.best))
    run = run_of("teacher", teacher=recipe(model=model), teacher_checkpoint=str(file))
    folder = RunFolder(tmp_path / run.name)
    train(run, folder)
    text = card_of(read_finished_run(folder))
    assert "trained elsewhere and imported" in text and "validation selected" not in text.lower()
    assert f"| imported.sha256 | {file_sha256(file)} |" in text


def test_the_path_of_initial_weights_is_not_exported_but_their_hash_is(tmp_path):
    start = tmp_path / "private-place" / "start.safetensors"
    save_weights(start, models.build(ResNet((1, 1, 1, 1), 8), images_of(digits()), 1).network.state_dict())
    run = run_of("baseline", student=recipe(model=ResNet((1, 1, 1, 1), 8, weights=str(start)), epochs=1))
    train(run, RunFolder(tmp_path / "results" / "small" / run.name))
    output = tmp_path / "exported"
    export_run(tmp_path / "results", run.name, "safetensors", output, overwrite=False)
    for path in output.iterdir():
        assert b"private-place" not in path.read_bytes(), path.name
    assert file_sha256(start) in (output / "README.md").read_text()


def with_test(run: FinishedRun, test_metrics: dict) -> FinishedRun:
    """Return the run with another test.json."""
    other = replace(run)
    vars(other)["test_metrics"] = test_metrics
    return other
