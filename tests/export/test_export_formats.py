"""Whatever format it leaves in, a student answers as it did in raykd: on all 597 digits of the test set."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from export_runs import CASES, FORMATS_OF, MODELS, logits_of, off, pictures
from safetensors.torch import load_file
from small_runs import IMAGE_SIZE, digits

from raykd.cli.parser import EXPORT_FORMATS
from raykd.export.done_run import read_done
from raykd.export.export import FORMATS
from raykd.provenance import file_sha256
from raykd.training.model_file import load_model

KINDS = tuple(MODELS)
IN_TIMM = [kind for kind in KINDS if "timm" in FORMATS_OF[kind]]
LIMIT = 1e-5  # of the largest logit: float32 added in another order


def test_the_command_line_names_every_format():
    assert tuple(FORMATS) == EXPORT_FORMATS


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_in_raykd_is_the_run_in_every_bit(kind, students, exported):
    images = digits().test.images
    again = load_model(exported(kind, "safetensors") / "model.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again(images).logits, logits_of(students[kind], images))


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_is_the_very_file_that_was_tested(kind, students, exported):
    tested = json.loads(students[kind].test.read_text())
    assert file_sha256(exported(kind, "safetensors") / "model.safetensors") == tested["weights_sha256"]


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_in_onnxruntime_gives_the_runs_logits_for_any_batch(kind, students, exported):
    session = onnxruntime.InferenceSession(exported(kind, "onnx") / "model.onnx", providers=["CPUExecutionProvider"])
    images = digits().test.images
    wanted = logits_of(students[kind], images)
    for batch in (1, 2, 7, len(images)):
        (found,) = session.run(["logits"], {"images": images[:batch].contiguous().numpy()})
        assert off(torch.from_numpy(found), wanted[:batch]) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_torch_export_gives_the_runs_logits_for_any_batch(kind, students, exported):
    network = torch.export.load(exported(kind, "torch-export") / "model.pt2").module()
    images = digits().test.images
    wanted = logits_of(students[kind], images)
    for batch in (1, 2, 7, len(images)):
        assert off(network(images[:batch]).detach(), wanted[:batch]) < LIMIT


@pytest.mark.parametrize("kind", IN_TIMM)
def test_timm_loads_the_folder_by_itself(kind, students, exported):
    network = timm.create_model(f"local-dir:{exported(kind, 'timm')}", pretrained=True).eval()
    state = load_file(students[kind].best)
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    config = timm.data.resolve_data_config(model=network)
    size = IMAGE_SIZE if kind.startswith("vit") else 32
    assert tuple(config["input_size"]) == (3, size, size)
    assert (tuple(config["mean"]), tuple(config["std"])) == (digits().mean, digits().std)


@pytest.mark.parametrize("kind", ["vit", "vit_token"])
def test_timms_own_transform_of_pictures_gives_the_runs_logits(kind, students, exported):
    network = timm.create_model(f"local-dir:{exported(kind, 'timm')}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=network))
    pixels = torch.stack([torch.as_tensor(transform(picture)) for picture in pictures()])
    with torch.no_grad():
        assert off(network(pixels), logits_of(students[kind], digits().test.images)) < LIMIT


@pytest.mark.parametrize("kind", IN_TIMM)
def test_timm_gives_an_exported_network_another_head(kind, exported):
    network = timm.create_model(f"local-dir:{exported(kind, 'timm')}", pretrained=True, num_classes=3).eval()
    state = load_file(exported(kind, "timm") / "model.safetensors")
    kept = [name for name, value in network.state_dict().items() if torch.equal(value, torch.as_tensor(state[name]))]
    num_heads = 2 if kind == "vit_token" else 1
    assert len(kept) == len(state) - 2 * num_heads  # all but a head's weight and bias
    size = IMAGE_SIZE if kind.startswith("vit") else 32
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 3)


def test_fractions_instead_of_bytes_are_refused_and_not_answered_wrongly(exported):
    fractions = digits().test.images[:2] / 255
    session = onnxruntime.InferenceSession(exported("resnet", "onnx") / "model.onnx")
    with pytest.raises(Exception, match=r"expected: \(tensor\(uint8\)\)"):
        session.run(None, {"images": fractions.numpy()})
    with pytest.raises(RuntimeError, match="dtype mismatch"):
        torch.export.load(exported("resnet", "torch-export") / "model.pt2").module()(fractions)


def test_pictures_of_another_size_are_refused_and_not_answered_wrongly(exported):
    large = np.zeros((2, 3, 9, 9), dtype=np.uint8)
    session = onnxruntime.InferenceSession(exported("resnet", "onnx") / "model.onnx")
    with pytest.raises(Exception, match="Expected: 8"):
        session.run(None, {"images": large})
    with pytest.raises(AssertionError, match=r"size\(\)\[2\] == 8"):
        torch.export.load(exported("resnet", "torch-export") / "model.pt2").module()(torch.from_numpy(large))


def test_an_onnx_file_says_what_it_takes_and_what_it_is_of(students, exported):
    model = onnx.load(exported("resnet", "onnx") / "model.onnx")
    (images,), (logits,) = model.graph.input, model.graph.output
    axes = [axis.dim_param or axis.dim_value for axis in images.type.tensor_type.shape.dim]
    assert (images.name, axes) == ("images", ["batch", 3, IMAGE_SIZE, IMAGE_SIZE])
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    (said,) = (json.loads(item.value) for item in model.metadata_props if item.key == "raykd")
    assert said["run"] == students["resnet"].path.name and said["classes"] == list("0123456789")


def test_torch_export_needs_no_raykd(exported, tmp_path):
    """A process in which raykd cannot be imported."""
    path, answer = exported("resnet", "torch-export") / "model.pt2", tmp_path / "answer.pt"
    code = (
        "import sys; sys.modules['raykd'] = None\nimport json, torch\nextra = {'raykd.json': ''}\n"
        f"network = torch.export.load({str(path)!r}, extra_files=extra).module()\n"
        f"torch.save(network(torch.full((3, 3, 8, 8), 7, dtype=torch.uint8)), {str(answer)!r})\n"
        "print(json.loads(extra['raykd.json'])['architecture'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == f"{MODELS['resnet'].label}\n"
    assert torch.load(answer).shape == (3, 10)


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_an_export_is_three_files(kind: str, form: str, exported):
    folder: Path = exported(kind, form)
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", FORMATS[form].file}


def test_the_statistics_that_are_written_down_are_the_models_in_every_bit(own_run):
    """Of a person's own pictures they are measured, and have as many digits as there are."""
    done = read_done(own_run)
    for written, own in ((done.mean, done.model.mean), (done.std, done.model.std)):
        assert torch.equal(torch.tensor(written).mul(255), own.flatten())
