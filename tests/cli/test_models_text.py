"""`raykd models`: raykd's names, those of the libraries, and how to name a folder of transformers."""

from pathlib import Path

import pytest
from hugging_face import into_cache

from raykd.cli.models_text import models_text
from raykd.errors import ConfigError
from raykd.models import MODELS


def test_every_name_of_raykd_is_listed_with_its_parameters() -> None:
    lines = models_text().splitlines()
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in MODELS)
    assert any(line.startswith("hf:FOLDER ") for line in lines)


def test_a_part_of_a_name_lists_the_libraries_names_and_an_unknown_one_is_refused() -> None:
    assert "torchvision:convnext_tiny" in models_text("convnext") and "timm:convnext_tiny" in models_text("ConvNeXt")
    with pytest.raises(ConfigError, match="models convnixt: no name contains it"):
        models_text("convnixt")


def test_hf_explains_how_to_name_a_folder_and_lists_the_cache(hub_cache: Path) -> None:
    assert models_text("hf").endswith("Image classifiers in the cache:\nnone")
    into_cache(hub_cache, "me/tiny")
    assert models_text("hf").splitlines()[-1] == "hf:me/tiny"
