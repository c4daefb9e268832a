"""In every format, a student computes the same logits as in raykd, on all 597 test images of the digits."""

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
from export_runs import CASES, FORMATS_OF, MODELS, logits_of, pil_images, relative_difference
from nightly import nightly_except
from safetensors.torch import load_file
from small_runs import IMAGE_SIZE, digits

from raykd.cli.parser import EXPORT_FORMATS
from raykd.export.export import FORMATS
from raykd.export.finished_run import read_finished_run
from raykd.models.model import BuiltInModel
from raykd.provenance import file_sha256
from raykd.training.model_file import load_model

KINDS = nightly_except(["resnet"], MODELS)
IN_TIMM = nightly_except(["timm_vit"], [kind for kind in MODELS if "timm" in FORMATS_OF[kind]])
LIMIT = 1e-5  # of the largest value: float32 summed in another order


def test_the_command_line_lists_every_format():
    assert tuple(FORMATS) == EXPORT_FORMATS


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_in_raykd_is_bit_identical_to_the_run(kind, students, exported):
    images = digits().test.images
    network = load_model(exported(kind, "safetensors") / "model.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(network(images).logits, logits_of(students[kind], images))


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_is_the_file_that_was_tested(kind, students, exported):
    test_metrics = json.loads(students[kind].test.read_text())
    assert file_sha256(exported(kind, "safetensors") / "model.safetensors") == test_metrics["weights_sha256"]


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_in_onnxruntime_computes_the_runs_logits_for_any_batch(kind, students, exported):
    session = onnxruntime.InferenceSession(exported(kind, "onnx") / "model.onnx", providers=["CPUExecutionProvider"])
    images = digits().test.images
    expected = logits_of(students[kind], images)
    for batch in (1, 2, 7, len(images)):
        (logits,) = session.run(["logits"], {"images": images[:batch].contiguous().numpy()})
        assert relative_difference(torch.from_numpy(logits), expected[:batch]) < LIMIT


@pytest.mark.nightly
@pytest.mark.parametrize("kind", MODELS)
def test_torch_export_computes_the_runs_logits_for_any_batch(kind, students, exported):
    network = torch.export.load(exported(kind, "torch-export") / "model.pt2").module()
    images = digits().test.images
    expected = logits_of(students[kind], images)
    for batch in (1, 2, 7, len(images)):
        assert relative_difference(network(images[:batch]).detach(), expected[:batch]) < LIMIT


@pytest.mark.parametrize("kind", IN_TIMM)
def test_timm_loads_the_folder_without_raykd(kind, students, exported):
    network = timm.create_model(f"local-dir:{exported(kind, 'timm')}", pretrained=True).eval()
    state = load_file(students[kind].best)
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    config = timm.data.resolve_data_config(model=network)
    size = IMAGE_SIZE if kind.startswith("vit") else 32
    assert tuple(config["input_size"]) == (3, size, size)
    assert (tuple(config["mean"]), tuple(config["std"])) == (digits().mean, digits().std)


@pytest.mark.parametrize("kind", ["vit", "vit_token"])
def test_timms_transform_of_pil_images_leads_to_the_runs_logits(kind, students, exported):
    network = timm.create_model(f"local-dir:{exported(kind, 'timm')}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=network))
    pixels = torch.stack([torch.as_tensor(transform(image)) for image in pil_images()])
    with torch.no_grad():
        assert relative_difference(network(pixels), logits_of(students[kind], digits().test.images)) < LIMIT


@pytest.mark.parametrize("kind", IN_TIMM)
def test_timm_replaces_the_head_of_an_exported_network(kind, exported):
    network = timm.create_model(f"local-dir:{exported(kind, 'timm')}", pretrained=True, num_classes=3).eval()
    state = load_file(exported(kind, "timm") / "model.safetensors")
    new_state = network.state_dict()
    unchanged = [name for name in new_state if torch.equal(new_state[name], torch.as_tensor(state[name]))]
    num_heads = 2 if kind == "vit_token" else 1
    assert len(unchanged) == len(state) - 2 * num_heads  # all but the weight and bias of each head
    size = IMAGE_SIZE if kind.startswith("vit") else 32
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 3)


def test_images_scaled_to_fractions_are_refused(exported):
    fractions = digits().test.images[:2] / 255
    session = onnxruntime.InferenceSession(exported("resnet", "onnx") / "model.onnx")
    with pytest.raises(Exception, match=r"expected: \(tensor\(uint8\)\)"):
        session.run(None, {"images": fractions.numpy()})
    with pytest.raises(RuntimeError, match="dtype mismatch"):
        torch.export.load(exported("resnet", "torch-export") / "model.pt2").module()(fractions)


def test_images_of_another_size_are_refused(exported):
    large = np.zeros((2, 3, 9, 9), dtype=np.uint8)
    session = onnxruntime.InferenceSession(exported("resnet", "onnx") / "model.onnx")
    with pytest.raises(Exception, match="Expected: 8"):
        session.run(None, {"images": large})
    with pytest.raises(AssertionError, match=r"size\(\)\[2\] == 8"):
        torch.export.load(exported("resnet", "torch-export") / "model.pt2").module()(torch.from_numpy(large))


def test_an_onnx_file_describes_its_input_and_its_run(students, exported):
    model = onnx.load(exported("resnet", "onnx") / "model.onnx")
    (images,), (logits,) = model.graph.input, model.graph.output
    axes = [axis.dim_param or axis.dim_value for axis in images.type.tensor_type.shape.dim]
    assert (images.name, axes) == ("images", ["batch", 3, IMAGE_SIZE, IMAGE_SIZE])
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    (config,) = (json.loads(item.value) for item in model.metadata_props if item.key == "raykd")
    assert config["run"] == students["resnet"].path.name and config["classes"] == list("0123456789")


@pytest.mark.nightly
def test_torch_export_loads_where_raykd_cannot_be_imported(exported, tmp_path):
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
def test_an_export_is_three_files_and_the_code_of_a_network_of_raykd(kind: str, form: str, exported):
    folder: Path = exported(kind, form)
    code = {"network.py"} if isinstance(MODELS[kind], BuiltInModel) and form == "safetensors" else set()
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", FORMATS[form].file} | code


def test_the_written_mean_and_std_are_bit_identical_to_the_models(custom_run):
    """The statistics of custom images are computed from the images, and have all digits of float32."""
    run = read_finished_run(custom_run)
    for written, used in ((run.mean, run.model.mean), (run.std, run.model.std)):
        assert torch.equal(torch.tensor(written).mul(255), used.flatten())
