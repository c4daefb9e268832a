"""Weights from files: fitting weights are read, and everything else is refused with a one-line error."""

import os
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import pytest
import timm
import torch
from safetensors.torch import load_file, save, save_file
from small_runs import NO_WEIGHTS, digits, experiment, recipe
from torch import Tensor, nn

from raykd import models
from raykd.errors import ConfigError
from raykd.models import ImageSpec
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm
from raykd.models.weights import load_tensors, load_weights, read_metadata, read_state, save_weights
from raykd.provenance import file_sha256
from raykd.spec.plan import make_plan
from raykd.training.training_step import make_model

IMAGES = ImageSpec(10, 16, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
TINY = ResNet((1, 1, 1, 1), width=8)


def network(model: ResNet | Timm = TINY, images: ImageSpec = IMAGES, seed: int = 0) -> nn.Module:
    return models.build(model, images, seed).network


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


UNPRIVILEGED_USER = 65_534


def refuse_as_unprivileged_user(path: Path) -> None:
    """Check that a file that may not be read is refused. Runs in a child process without root's rights."""
    if os.getuid() == 0:
        os.setuid(UNPRIVILEGED_USER)
    for read in (lambda: load_weights(network(), path), lambda: read_metadata(path)):
        with pytest.raises(ConfigError, match=r"weights file '.*' cannot be read \(Permission denied\); set its"):
            read()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_file_without_permission_is_refused_in_one_line(name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:  # pytest's folders cannot be entered by other users
        Path(temporary).chmod(0o755)
        path = Path(temporary) / name
        save_weights(path, network().state_dict())
        path.chmod(0o000)
        assert children.wait(children.start(refuse_as_unprivileged_user, path)) == 0


def refused(path: Path, into: nn.Module | None = None) -> str:
    """Return the message of the ConfigError, which names the file and is one line."""
    with pytest.raises(ConfigError) as caught:
        load_weights(into or network(), path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def with_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.safetensors", save_file),
        ("a.pth", torch.save),
        ("legacy.pth", lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False)),
        ("wrapped.pth", lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path)),
        ("nested.pt", lambda state, path: torch.save({"model": {"state_dict": with_prefix(state)}}, path)),
        ("half.pth", lambda state, path: torch.save({n: t.double() for n, t in state.items()}, path)),
    ],
)
def test_weights_are_read_from_every_usual_file(name: str, write: Callable[..., Any], tmp_path: Path) -> None:
    theirs, ours = network(seed=1), network(seed=0)
    write(theirs.state_dict(), tmp_path / name)
    load_weights(ours, tmp_path / name)
    assert equal(ours.state_dict(), theirs.state_dict())


def test_saved_weights_are_read_bit_for_bit_with_their_metadata(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last), "b": torch.tensor(3)}
    save_weights(tmp_path / "a.safetensors", state, {"raykd": "header"})
    assert equal(read_state(tmp_path / "a.safetensors"), state)
    assert read_metadata(tmp_path / "a.safetensors") == {"raykd": "header"}
    assert read_metadata(tmp_path / "a.pth") == {}


def test_weights_of_a_network_that_reads_the_version_of_its_state_dict_are_loaded_again(tmp_path: Path) -> None:
    """torchvision's MNASNet refuses a state dict without versions, and safetensors keeps none."""
    one, other = (models.build(models.find("torchvision:mnasnet0_5"), IMAGES, seed) for seed in (0, 1))
    save_weights(tmp_path / "a.safetensors", one.network.state_dict())
    load_weights(other.network, tmp_path / "a.safetensors")
    assert equal(one.state_dict(), other.state_dict())
    of_checkpoint = {name: tensor + 1 for name, tensor in one.state_dict().items()}
    load_tensors(other, of_checkpoint)
    assert equal(other.state_dict(), of_checkpoint)


@pytest.mark.parametrize(
    ("buffer", "stored", "reason"),
    [
        (torch.tensor([True, False]), torch.ones(2), "mask is float32, and weights must be bool"),
        (torch.tensor([0.0, -torch.inf]), torch.tensor([torch.nan, 0.0]), "1 of the 2 values of mask are NaN"),
        (torch.tensor([1j, 2.0]), torch.ones(2), "mask is float32, and weights must be complex64"),
        (torch.arange(2), torch.tensor([True, False]), "mask is bool, and weights must be int64"),
    ],
)
def test_buffers_with_other_values_than_a_new_network_can_have_are_refused(
    buffer: Tensor, stored: Tensor, reason: str, tmp_path: Path
) -> None:
    network = nn.Sequential(nn.Linear(2, 3))
    network.register_buffer("mask", buffer)
    save_weights(tmp_path / "a.safetensors", network.state_dict() | {"mask": stored})
    with pytest.raises(ConfigError, match=f"cannot be used: {reason}"):
        load_weights(network, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "buffer",
    [
        torch.ones(2, 2, dtype=torch.bool).tril(),
        torch.tensor([0.0, -torch.inf]),
        torch.tensor([1j, 2.0]),
        torch.arange(2),
    ],
    ids=lambda buffer: str(buffer.dtype),
)
def test_buffers_of_users_networks_are_loaded_as_they_were_saved(buffer: Tensor, tmp_path: Path) -> None:
    """Masks of attention are Boolean or have -inf, and rotary embeddings may be complex."""

    def made() -> nn.Module:
        network = nn.Sequential(nn.Linear(2, 3))
        network.register_buffer("mask", buffer.clone())
        return network

    one, other = made(), made()
    save_weights(tmp_path / "a.safetensors", one.state_dict())
    load_weights(other, tmp_path / "a.safetensors")
    assert equal(one.state_dict(), other.state_dict())


def test_weights_with_two_names_are_saved_under_both(tmp_path: Path) -> None:
    """timm's CoaT uses one module in several blocks; safetensors refuses tensors that share memory."""
    one, other = (nn.ModuleDict({"a": layer, "b": layer}) for layer in (nn.Linear(2, 3), nn.Linear(2, 3)))
    save_weights(tmp_path / "a.safetensors", one.state_dict() | {"view": one["a"].weight[:1], "empty": torch.ones(0)})
    saved = read_state(tmp_path / "a.safetensors")
    assert torch.equal(saved.pop("view"), one["a"].weight[:1]) and not len(saved.pop("empty"))
    load_tensors(other, saved)
    assert equal(other.state_dict(), one.state_dict()) and other["a"] is other["b"]


def test_missing_file_is_refused(tmp_path: Path) -> None:
    for name in ("none.safetensors", "none.pth"):
        assert "does not exist; check the path" in refused(tmp_path / name)


def test_error_for_a_folder_lists_the_weights_in_it(tmp_path: Path) -> None:
    assert "is a folder; name a file of weights" in refused(tmp_path)
    save_file(network().state_dict(), tmp_path / "inside.safetensors")
    assert "is a folder; name a file in it, such as inside.safetensors" in refused(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["a.safetensors", "zip.pth", "legacy.pth"])
def test_truncated_file_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    if kind.endswith("safetensors"):
        save_file(network().state_dict(), tmp_path / kind)
    else:
        torch.save(network().state_dict(), tmp_path / kind, _use_new_zipfile_serialization=kind == "zip.pth")
    content = (tmp_path / kind).read_bytes()
    (tmp_path / kind).write_bytes(content[: int(len(content) * share)])
    refused(tmp_path / kind)


@pytest.mark.parametrize("kind", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize(
    "content",
    [b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", b"{}", b"\x80\x02.", b"0", b"\0" * 99],
)
def test_other_files_are_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / kind).write_bytes(content)
    refused(tmp_path / kind)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """Random bytes are changed in the three formats; 120 files, always the same."""
    generator = torch.Generator().manual_seed(0)
    state, path = nn.Linear(4, 3).state_dict(), tmp_path / "a.pth"
    torch.save(state, path)
    zipped = path.read_bytes()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    contents = {"a.pth": zipped, "legacy.pth": path.read_bytes(), "a.safetensors": save(state)}
    for name, content in contents.items():
        for _ in range(40):
            damaged = bytearray(content)
            for position in torch.randint(0, min(400, len(content)), (3,), generator=generator).tolist():
                damaged[position] = int(torch.randint(0, 256, (), generator=generator))
            (tmp_path / name).write_bytes(damaged)
            try:
                load_weights(nn.Linear(4, 3), tmp_path / name)
            except ConfigError as error:
                assert "\n" not in str(error)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_pickle_is_refused_and_not_executed(
    write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write({"conv1.weight": Harmful()}, tmp_path / "a.pth")
    assert "torch.save(model.state_dict(), 'weights.pth')" in refused(tmp_path / "a.pth")
    torch.save(network(), tmp_path / "whole.pth")
    assert "is a whole pickled model" in refused(tmp_path / "whole.pth")
    assert not (tmp_path / "harmed").exists()


def test_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    for content in ({"epoch": 3}, {"net": {"a": 1}}, [torch.zeros(1)], torch.zeros(1), {"model": 3}):
        torch.save(content, tmp_path / "a.pth")
        assert "holds no state dict of tensors" in refused(tmp_path / "a.pth")


def test_error_for_another_number_of_classes_names_the_head_and_both_shapes(tmp_path: Path) -> None:
    save_file(network(images=replace(IMAGES, num_classes=7)).state_dict(), tmp_path / "a.safetensors")
    message = refused(tmp_path / "a.safetensors")
    assert "number of classes" in message and "fc." in message and "(7,)" in message and "(10,)" in message


def test_errors_distinguish_width_from_depth(tmp_path: Path) -> None:
    save_file(network(ResNet((1, 1, 1, 1), 12)).state_dict(), tmp_path / "wide.safetensors")
    assert "width" in refused(tmp_path / "wide.safetensors")
    save_file(network(ResNet((2, 1, 1, 1), 8)).state_dict(), tmp_path / "deep.safetensors")
    assert "it has layer1.1." in refused(tmp_path / "deep.safetensors")
    deep = network(ResNet((2, 1, 1, 1), 8))
    save_file(network().state_dict(), tmp_path / "flat.safetensors")
    assert "it lacks layer1.1." in refused(tmp_path / "flat.safetensors", deep)


def test_a_refused_file_does_not_change_the_network(tmp_path: Path) -> None:
    ours = network()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    state = network(seed=1).state_dict()
    del state["fc.bias"]
    save_file(state, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", ours)
    assert equal(ours.state_dict(), before)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "deit_tiny_distilled_patch16_224"])
def test_pretraining_on_other_classes_keeps_the_new_head(name: str, tmp_path: Path) -> None:
    size: dict[str, Any] = {} if "convnext" in name else {"img_size": 32}
    pretrained = timm.create_model(name, num_classes=23, **size)
    save_file(pretrained.state_dict(), tmp_path / "a.safetensors")
    ours = network(Timm(name, input_size=32), seed=5)
    fresh = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    load_weights(ours, tmp_path / "a.safetensors", new_head=True)
    heads = 0
    for key, tensor in ours.state_dict().items():
        is_head = pretrained.state_dict()[key].shape != tensor.shape
        heads += is_head
        assert torch.equal(tensor, fresh[key] if is_head else pretrained.state_dict()[key]), key
    assert heads in (2, 4)
    with pytest.raises(ConfigError, match="number of classes"):
        load_weights(ours, tmp_path / "a.safetensors")


def test_vit_tiny_starts_from_a_local_file_at_224_with_a_new_head(tmp_path: Path) -> None:
    pretrained = timm.create_model("vit_tiny_patch16_224")
    save_file(pretrained.state_dict(), tmp_path / "vit_tiny_patch16_224.safetensors")
    teacher = recipe(model="vit_tiny")
    plan = make_plan(experiment(teacher=teacher), digits(), tmp_path, ("teacher",))
    assert plan.runs[0].initial is not None
    model = make_model(plan.runs[0], digits()).eval()
    state, theirs = model.network.state_dict(), pretrained.state_dict()
    assert state["head.weight"].shape == (10, 192)
    assert all(torch.equal(state[name], theirs[name]) for name in state if not name.startswith("head."))
    seen = []
    model.network.get_submodule("patch_embed").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        assert model(digits().train.images[:2]).logits.shape == (2, 10)
    assert seen == [(2, 3, 224, 224)]


def test_positions_of_another_size_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", img_size=64).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="pos_embed is"):
        load_weights(network(Timm("test_vit", input_size=32)), tmp_path / "a.safetensors", new_head=True)


def test_plan_with_a_weights_file_builds_the_model_from_it(tmp_path: Path) -> None:
    save_file(network(seed=7).state_dict(), tmp_path / "a.safetensors")
    started = replace(TINY, weights=str(tmp_path / "a.safetensors"))
    run = make_plan(experiment(student=recipe(model=started)), digits(), NO_WEIGHTS, ("baseline",)).runs[0]
    assert equal(make_model(run, digits()).network.state_dict(), load_file(tmp_path / "a.safetensors"))


def test_fingerprint_depends_on_the_bytes(tmp_path: Path) -> None:
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (file_sha256(tmp_path / name) for name in "abc")
    assert a == b != c and len(a) == 64
