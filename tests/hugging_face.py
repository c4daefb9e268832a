"""Tiny folders of transformers' image classifiers, as save_pretrained and preprocessors write them."""

import json
from pathlib import Path
from typing import Any

SIZE = 16  # pixels per side of the ViT's images
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.15]
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": SIZE,
        "patch_size": 4,
    },
    "dinov2": {  # it interpolates the position embeddings of its larger image size
        "model_type": "dinov2",
        "architectures": ["Dinov2ForImageClassification"],
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 4,
    },
    "resnet": {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    },
}
PREPROCESSOR = {"do_normalize": True, "image_mean": MEAN, "image_std": STD, "size": {"height": SIZE, "width": SIZE}}


def write_folder(folder: Path, kind: str = "vit", preprocessor: dict[str, Any] | None = None, **config: Any) -> Path:
    """Write config.json and preprocessor_config.json of a tiny network, without weights, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind] | config))
    content = PREPROCESSOR if preprocessor is None else preprocessor
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def into_cache(cache: Path, name: str, **config: Any) -> Path:
    """Write a repository with a tiny ViT without weights into a cache of the Hub, and return its snapshot's folder."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text("abc")
    return write_folder(repository / "snapshots" / "abc", **config)


def save_classifier(folder: Path, kind: str = "vit", classes: tuple[str, ...] = tuple("0123456789")) -> Any:
    """Save a tiny classifier with random weights, as transformers does, and return its network."""
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification

    names = dict(enumerate(classes))
    config = AutoConfig.for_model(**CONFIGS[kind], id2label=names, label2id={name: at for at, name in names.items()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = AutoModelForImageClassification.from_config(config).eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return network
