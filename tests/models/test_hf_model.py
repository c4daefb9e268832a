"""Image classifiers of transformers by folder: outputs, weights under published names, identity, preprocessing."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face import CONFIGS, MEAN, PREPROCESSOR, SIZE, STD, into_cache, save_classifier, write_folder
from safetensors.torch import load_file, save_file
from small_runs import NO_WEIGHTS, digits, experiment, recipe
from torch import Tensor

from raykd import models
from raykd.config import from_dict, to_dict
from raykd.errors import ConfigError
from raykd.models import ImageModel, ImageSpec, Model, hf_files
from raykd.models.hf_model import HuggingFace
from raykd.models.weights import load_weights
from raykd.spec.plan import make_plan
from raykd.training.training_step import make_model

IMAGES = ImageSpec(10, SIZE, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
KINDS = ("vit", "resnet", "dinov2")


def pixels(size: int = SIZE) -> Tensor:
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def built(model: Model, *needs: str, images: ImageSpec = IMAGES) -> ImageModel:
    image_model = models.build(model, images, seed=0).eval()
    image_model.request(needs)
    return image_model


def loaded(model: Model, file: Path, *needs: str, new_head: bool = False) -> ImageModel:
    image_model = built(model, *needs)
    load_weights(image_model.network, file, new_head=new_head, heads=image_model.heads())
    return image_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Return (folder, network of transformers) of each kind."""
    root = tmp_path_factory.mktemp("hf")
    return {kind: (root / f"tiny-{kind}", save_classifier(root / f"tiny-{kind}", kind)) for kind in KINDS}


# ---- the network ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_has_the_logits_of_transformers_for_its_own_normalization(
    kind: str, folders: dict[str, tuple[Path, Any]]
) -> None:
    folder, network = folders[kind]
    model = loaded(HuggingFace(str(folder), weights="pretrained"), folder / "model.safetensors", "embedding")
    normalized = (pixels() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    outputs = model(pixels())
    assert torch.allclose(outputs.logits, network(normalized).logits, atol=1e-5)
    (head,) = model.heads()
    assert outputs.embedding is not None and torch.equal(head(outputs.embedding), outputs.logits)  # type: ignore[operator]


def test_images_are_resized_to_the_folders_size_unless_another_one_is_set(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "vit")
    small = replace(IMAGES, size=8)
    assert built(HuggingFace(str(folder)), images=small).input_size == SIZE
    other = built(HuggingFace(str(folder), input_size=12), images=small)
    assert other.input_size == 12 and other.network.config.image_size == 12  # type: ignore[union-attr]
    assert built(HuggingFace(str(folder), input_size=8), images=small).input_size is None


def test_a_network_that_takes_any_size_keeps_its_position_embeddings(folders: dict[str, tuple[Path, Any]]) -> None:
    folder, network = folders["dinov2"]
    model = loaded(HuggingFace(str(folder), input_size=8), folder / "model.safetensors")
    assert model.network.config.image_size == 24  # type: ignore[union-attr]
    normalized = (pixels(8).float() - model.mean) / model.std
    assert torch.allclose(model.forward_normalized(normalized).logits, network(normalized).logits, atol=1e-5)


def test_named_submodules_are_the_feature_maps(folders: dict[str, tuple[Path, Any]]) -> None:
    stages = ("resnet.encoder.stages.0", "resnet.encoder.stages.1")
    model = built(HuggingFace(str(folders["resnet"][0]), features=stages), "features")
    assert [tuple(maps.shape[1:]) for maps in model(pixels()).features] == [(8, 4, 4), (16, 2, 2)]


def test_without_a_classifier_the_output_is_the_embedding(folders: dict[str, tuple[Path, Any]]) -> None:
    folder, _ = folders["vit"]
    whole = loaded(HuggingFace(str(folder)), folder / "model.safetensors", "embedding")(pixels())
    model = HuggingFace(str(folder), classifier=False)
    tower = loaded(model, folder / "model.safetensors", "embedding", new_head=True)(pixels())
    assert tower.logits.shape == (2, 0) and tower.embedding is not None and whole.embedding is not None
    assert torch.equal(tower.embedding, whole.embedding)


def test_a_network_that_transformers_has_no_classifier_of_is_built_without_one(tmp_path: Path) -> None:
    """DINOv3, a foundation model: its embedding is the pooled output."""
    from transformers import AutoConfig, AutoModel

    config = {name: value for name, value in CONFIGS["vit"].items() if name != "architectures"}
    network = AutoModel.from_config(AutoConfig.for_model(**config | {"model_type": "dinov3_vit"})).eval()
    network.save_pretrained(tmp_path / "dino")
    model = HuggingFace(str(tmp_path / "dino"), classifier=False)
    tower = loaded(model, tmp_path / "dino" / "model.safetensors", "embedding", new_head=True)
    outputs = tower(pixels())
    normalized = (pixels().float() - tower.mean) / tower.std
    assert outputs.logits.shape == (2, 0) and outputs.embedding is not None
    assert torch.allclose(outputs.embedding, network(normalized).pooler_output, atol=1e-6)
    with pytest.raises(ConfigError, match=r"no image classifier of model_type 'dinov3_vit'; .*classifier=false"):
        built(HuggingFace(str(tmp_path / "dino")))


def test_initial_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    model = HuggingFace(str(write_folder(tmp_path / "vit")))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (models.build(model, IMAGES, seed=3).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- weights ----


def test_weights_of_other_classes_keep_a_new_head(folders: dict[str, tuple[Path, Any]]) -> None:
    folder, network = folders["resnet"]
    hundred = replace(IMAGES, num_classes=100)
    model = built(HuggingFace(str(folder)), images=hundred)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    state = torch.random.get_rng_state()
    load_weights(model.network, folder / "model.safetensors", new_head=True, heads=model.heads())
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in model.network.state_dict().items():
        expected = before[name] if name.startswith("classifier") else network.state_dict()[name]
        assert torch.equal(value, expected), name
    with pytest.raises(ConfigError, match=r"another number of classes: classifier\.1\.\w+ is \(10.*requires \(100"):
        load_weights(model.network, folder / "model.safetensors", heads=model.heads())


def test_weights_without_a_classifier_fit_and_others_name_what_is_missing_and_what_is_extra(
    folders: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, network = folders["vit"]
    state = load_file(folder / "model.safetensors")
    base = {name.removeprefix("vit."): value for name, value in state.items() if name.startswith("vit.")}
    save_file(base | {"pooler.dense.weight": torch.zeros(16, 16)}, tmp_path / "base.safetensors")
    model = loaded(HuggingFace(str(folder)), tmp_path / "base.safetensors", new_head=True)
    assert torch.equal(model.network.vit.layernorm.weight, network.vit.layernorm.weight)  # type: ignore[union-attr,operator]
    del state["vit.layernorm.bias"]
    save_file(state | {"vit.scale": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"it lacks vit\.layernorm\.bias and has vit\.scale, which the model lacks"):
        loaded(HuggingFace(str(folder)), tmp_path / "other.safetensors")


def test_a_pickled_file_is_read_without_its_code(folders: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder, network = folders["vit"]
    copy = write_folder(tmp_path / "old")
    torch.save(load_file(folder / "model.safetensors"), copy / "pytorch_model.bin")
    model = HuggingFace(str(copy), weights="pretrained")
    assert model.pretrained_file(NO_WEIGHTS) == copy / "pytorch_model.bin"
    read = loaded(model, copy / "pytorch_model.bin").network.state_dict()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in read.items())
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(print))
    with pytest.raises(ConfigError, match=r"holds more than tensors, .*, and is not loaded"):
        loaded(model, copy / "pytorch_model.bin")


def test_a_run_starts_from_the_folders_weights(folders: dict[str, tuple[Path, Any]]) -> None:
    folder, network = folders["vit"]
    student = recipe(model=HuggingFace(str(folder), weights="pretrained"))
    run = make_plan(experiment(student=student), digits(), NO_WEIGHTS, ["baseline"]).runs[0]
    assert run.initial is not None and run.initial.path == str(folder / "model.safetensors")
    state = make_model(run, digits()).network.state_dict()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())


# ---- identity ----


def test_fingerprints_depend_on_the_folders_content_and_not_on_its_path(
    folders: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    def fingerprint(folder: Path, **fields: Any) -> str:
        student = recipe(model=HuggingFace(str(folder), **fields))
        return make_plan(experiment(student=student), digits(), NO_WEIGHTS, ["baseline"]).runs[0].fingerprint

    folder, moved = folders["vit"][0], tmp_path / "moved"
    shutil.copytree(folder, moved)
    scratch, started = fingerprint(folder), fingerprint(folder, weights="pretrained")
    assert (fingerprint(moved), fingerprint(moved, weights="pretrained")) == (scratch, started)
    state = load_file(moved / "model.safetensors")
    save_file(state | {"classifier.bias": torch.ones(10)}, moved / "model.safetensors")
    assert fingerprint(moved) == scratch and fingerprint(moved, weights="pretrained") not in (scratch, started)
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"id2label": {"0": "x"}, "_attn_implementation": "me/code"}))
    assert fingerprint(moved) == scratch
    (moved / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    assert fingerprint(moved) != scratch


def test_run_json_has_the_architecture_so_that_no_folder_is_needed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "my-vit")
    model = HuggingFace(str(folder))
    entry = json.loads(json.dumps(to_dict(model)))
    copied = pickle.loads(pickle.dumps(model))  # noqa: S301 - pickled here
    shutil.rmtree(folder)
    assert entry["repository"]["config"] == CONFIGS["vit"] and from_dict(Model, entry) == model == copied
    assert model.label == "hf-my-vit" and str(folder) not in json.dumps(to_dict(model, results_only=True))
    assert built(copied)(pixels()).logits.shape == (2, 10)


def test_a_folder_that_changed_since_it_was_named_is_refused(folders: dict[str, tuple[Path, Any]], tmp_path) -> None:
    shutil.copytree(folders["vit"][0], tmp_path / "vit")
    model = HuggingFace(str(tmp_path / "vit"), weights="pretrained")
    write_folder(tmp_path / "vit", layer_norm_eps=0.1)
    with pytest.raises(ConfigError, match=r"its config\.json has changed since it was read"):
        model.pretrained_file(NO_WEIGHTS)


def test_a_folder_is_found_by_name_and_a_relative_one_keeps_its_absolute_path(tmp_path, monkeypatch) -> None:
    write_folder(tmp_path / "vit")
    monkeypatch.chdir(tmp_path)
    model = models.find("hf:vit")
    assert model == HuggingFace("vit") and isinstance(model, HuggingFace) and model.name == str(tmp_path / "vit")


# ---- preprocessing ----


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (tuple(MEAN), tuple(STD))),
        ({"image_mean": 0.5, "image_std": [0.2, 0.2, 0.2]}, ((0.5,) * 3, (0.2,) * 3)),
        ({"do_normalize": False}, ((0.0,) * 3, (1.0,) * 3)),
        ({"do_rescale": True, "rescale_factor": 0.00392156862745098}, (tuple(MEAN), tuple(STD))),
    ],
)
def test_normalizations_of_preprocessors(changes: dict[str, Any], expected: Any) -> None:
    assert hf_files.normalization_of(PREPROCESSOR | changes, "model") == expected


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        ({}, {"size": 24}, 24),
        ({}, {"size": {"height": 24, "width": 24}}, 24),
        ({}, {"size": {"shortest_edge": 24}}, 24),
        ({}, {"size": {"shortest_edge": 24, "longest_edge": 48}}, 24),
        ({}, {"size": 28, "do_center_crop": True, "crop_size": {"height": 24, "width": 24}}, 24),
        ({}, {"size": 24, "do_center_crop": False, "crop_size": 20}, 24),
        ({"image_size": 20}, {"size": 24}, 24),
        ({"image_size": 20}, {"size": 24, "do_resize": False}, 20),
        ({"image_size": [20, 20]}, {}, 20),
        ({"vision_config": {"image_size": 20}}, {}, 20),
        ({}, {}, 0),
    ],
)
def test_sizes_of_preprocessors(config: dict[str, Any], changes: dict[str, Any], expected: int) -> None:
    assert hf_files.size_of(config, changes, "model") == expected


def test_without_a_preprocessor_or_weights_images_are_normalized_as_the_data(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "vit")
    assert HuggingFace(str(folder)).input_spec(IMAGES) == IMAGES
    assert HuggingFace(str(folder), weights="pretrained").input_spec(IMAGES).mean == tuple(MEAN)
    own = HuggingFace(str(folder), weights="pretrained", mean=(0.1,) * 3, std=(0.2,) * 3)
    assert own.input_spec(IMAGES).mean == (0.1,) * 3
    (folder / "preprocessor_config.json").unlink()
    assert HuggingFace(str(folder), weights="pretrained").input_spec(IMAGES) == IMAGES


# ---- repositories ----


def test_a_cached_repository_is_found_by_its_name(hub_cache: Path) -> None:
    snapshot = into_cache(hub_cache, "me/tiny-vit")
    (snapshot / "model.safetensors").write_bytes(b"weights")
    into_cache(hub_cache, "me/text", architectures=["BertModel"])
    model = HuggingFace("me/tiny-vit", weights="pretrained")
    assert (model.name, model.label) == ("me/tiny-vit", "hf-tiny-vit")
    assert model.pretrained_file(NO_WEIGHTS) == snapshot / "model.safetensors"
    assert hf_files.cached_repositories() == ["me/tiny-vit"]


def test_a_repository_that_is_not_cached_can_be_named_and_is_refused_when_it_is_read(hub_cache: Path) -> None:
    model = HuggingFace("me/tiny-vit", weights="pretrained")
    for read in (lambda: built(model), lambda: model.pretrained_file(NO_WEIGHTS)):
        with pytest.raises(ConfigError, match=r"hf:me/tiny-vit: is no folder, and no repository .*raykd prefetch"):
            read()


def test_without_transformers_the_message_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HuggingFace(str(write_folder(tmp_path / "vit")))
    monkeypatch.setattr("raykd.models.hf_model.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"requires a package that is missing: pip install transformers"):
        built(model)
