"""Who is given an export learns nothing of the machine that it was made on: no path, no host, whatever the format."""

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
    """Each file, and each member of one that is an archive."""
    for path in sorted(folder.iterdir()):
        yield path.name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path.name}: {name}", archive.read(name)) for name in archive.namelist())


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_no_path_of_the_machine_is_in_any_file(kind, form, students, results, exported):
    """Neither of the code, whose lines exporters of graphs note for each node, nor of runs, home or host."""
    _, _, host = students[kind].record()["writer"].partition(" on ")
    telling = (CODE, sys.prefix, Path.home(), results, f" on {host}", "site-packages")
    for name, content in contents(exported(kind, form)):
        for word in map(str, telling):
            assert word.encode() not in content, f"{name} of {kind} as {form} says {word}"


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_of_ones_own_pictures_is_named_without_where_it_lies(form, own_run, tmp_path):
    export_run(own_run.path.parents[1], own_run.path.name, form, tmp_path / "out", overwrite=False)
    for name, content in contents(tmp_path / "out"):
        assert PRIVATE.encode() not in content, name
    text = (tmp_path / "out" / "README.md").read_text()
    assert "tells the 3 classes of flowers apart" in text and "Classes, in the logits' order: class0, class1" in text


def test_weights_without_the_folders_path_are_the_runs_in_every_bit(own_run, tmp_path):
    export_run(own_run.path.parents[1], own_run.path.name, "safetensors", tmp_path / "out", overwrite=False)
    file = tmp_path / "out" / "model.safetensors"
    wanted, found = load_file(own_run.best), load_file(file)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    header = read_header(file)
    assert header is not None and (header.data, header.classes) == ("folder:flowers", ("class0", "class1", "class2"))


def test_exported_weights_find_their_images_again_below_another_data_folder(own_run, tmp_path):
    export_run(own_run.path.parents[1], own_run.path.name, "safetensors", tmp_path / "out", overwrite=False)
    header = read_header(tmp_path / "out" / "model.safetensors")
    assert header is not None
    write_digits(tmp_path / "elsewhere" / "flowers")
    dataset = load_dataset(header.data, tmp_path / "elsewhere", header.images.size)
    assert (dataset.class_names, images_of(dataset)) == (header.classes, header.images)
    with torch.no_grad():
        images = dataset.test.images
        network, own = load_model(tmp_path / "out" / "model.safetensors").eval(), load_model(own_run.best).eval()
        assert torch.equal(network(images).logits, own(images).logits)
