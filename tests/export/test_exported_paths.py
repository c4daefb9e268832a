"""No export, in any format, contains a path or the name of the machine that trained or exported."""

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from export_runs import CASES, PRIVATE, write_digits
from safetensors.torch import load_file

import raykd
from raykd.data.load import load_dataset
from raykd.export.export import FORMATS, export_run
from raykd.training.model_file import images_of, load_model, read_header

CODE = Path(raykd.__file__).parents[1]


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each file, and each member of a file that is an archive."""
    for path in sorted(folder.iterdir()):
        yield path.name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path.name}: {name}", archive.read(name)) for name in archive.namelist())


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_no_file_contains_a_path_of_the_machine(kind, form, students, results, exported):
    """Exporters of graphs record source lines for each node; they are removed."""
    host = students[kind].require_record().host
    private = (CODE, sys.prefix, Path.home(), results, f" on {host}", "site-packages")
    for name, content in contents(exported(kind, form)):
        for word in map(str, private):
            assert word.encode() not in content, f"{name} of {kind} as {form} contains {word}"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.nightly
def test_a_folder_of_custom_images_is_named_without_its_path(form, custom_run, tmp_path):
    export_run(custom_run.path.parents[1], custom_run.path.name, form, tmp_path / "out", overwrite=False)
    for name, content in contents(tmp_path / "out"):
        assert PRIVATE.encode() not in content, name
    text = (tmp_path / "out" / "README.md").read_text()
    assert "classifies the images of flowers into 3 classes" in text
    assert "Classes, in the order of the logits: class0, class1" in text


def test_weights_whose_header_lost_its_path_are_bit_identical_to_the_runs(custom_run, tmp_path):
    export_run(custom_run.path.parents[1], custom_run.path.name, "safetensors", tmp_path / "out", overwrite=False)
    file = tmp_path / "out" / "model.safetensors"
    original, exported = load_file(custom_run.best), load_file(file)
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[name], original[name]) for name in original)
    header = read_header(file)
    assert header is not None and (header.data, header.classes) == ("folder:flowers", ("class0", "class1", "class2"))


def test_exported_weights_can_be_used_on_their_images_in_another_data_folder(custom_run, tmp_path):
    export_run(custom_run.path.parents[1], custom_run.path.name, "safetensors", tmp_path / "out", overwrite=False)
    header = read_header(tmp_path / "out" / "model.safetensors")
    assert header is not None
    write_digits(tmp_path / "elsewhere" / "flowers")
    dataset = load_dataset(header.data, tmp_path / "elsewhere", header.images.size)
    assert (dataset.class_names, images_of(dataset)) == (header.classes, header.images)
    with torch.no_grad():
        images = dataset.test.images
        exported = load_model(tmp_path / "out" / "model.safetensors").eval()
        original = load_model(custom_run.best).eval()
        assert torch.equal(exported(images).logits, original(images).logits)
