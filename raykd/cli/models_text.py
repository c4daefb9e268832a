"""The text of `raykd models`: the names that a recipe's `model` accepts."""

from collections.abc import Iterator

from raykd.errors import COMMAND, ConfigError
from raykd.models import MODELS, ImageSpec, find, num_parameters
from raykd.models.hf_files import PREFIX as HF_PREFIX
from raykd.models.hf_files import cached_repositories

_IMAGES = ImageSpec(num_classes=10, size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
_OTHERS = (
    ("timm:NAME", "any image model of timm"),
    ("torchvision:NAME", "any image classifier of torchvision"),
    ("hf:FOLDER", f"any image classifier of Hugging Face transformers; see `{COMMAND} models hf`"),
    ("my_net.py:MyNet", "any torch.nn.Module in a file; see docs/custom_network.md"),
)
_HUGGING_FACE = f"""\
hf:FOLDER        a folder of save_pretrained: config.json, model.safetensors, preprocessor_config.json
hf:OWNER/NAME    a repository in the local cache of the Hugging Face Hub;
                 `{COMMAND} prefetch EXPERIMENT` downloads it

--set teacher.model=hf:FOLDER                                         its network, from scratch
--set teacher.model=hf:FOLDER --set teacher.model.weights=pretrained  with its weights, and a new head for other classes
--teacher-checkpoint hf:FOLDER                                        a trained classifier of the same classes

These models require the package transformers. Image classifiers in the cache:"""


def models_text(part: str = "") -> str:
    """Return the list of raykd's models with their numbers of parameters.

    part: return all names that contain it instead, including timm's, torchvision's and cached `hf:` models; 'hf'
    returns the help on Hugging Face models.

    Raises ConfigError if no name contains `part`.
    """
    if part.lower() in ("hf", HF_PREFIX):
        cached = [f"{HF_PREFIX}{name}" for name in cached_repositories()]
        return "\n".join([_HUGGING_FACE, *(cached or ["none"])])
    if part:
        names = [name for name in _all_names() if part.lower() in name.lower()]
        if not names:
            raise ConfigError(f"models {part}: no name contains it; `{COMMAND} models` lists raykd's names")
        return "\n".join(names)
    rows = [(name, _parameters(name)) for name in MODELS]
    lines = [f"{'name':<18}  parameters (10 classes, 32x32)", *(f"{name:<18}  {count}" for name, count in rows)]
    others = [f"{name:<18}  {text}" for name, text in _OTHERS]
    search = f"`{COMMAND} models convnext` lists all names that contain 'convnext'"
    return "\n".join([*lines, "", *others, "", search])


def _parameters(name: str) -> str:
    count = num_parameters(find(name), _IMAGES)
    return "unknown" if count is None else f"{count / 1e6:,.2f} M"


def _all_names() -> Iterator[str]:
    import timm
    from torchvision import models

    yield from MODELS
    yield from (f"timm:{name}" for name in timm.list_models())
    yield from (f"torchvision:{name}" for name in models.list_models(module=models))
    yield from (f"{HF_PREFIX}{name}" for name in cached_repositories())
