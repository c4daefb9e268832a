"""Bad networks in a user's file: the file, the class, its constructor, its forward, and the submodules."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from user_network import UserNet

from bad_inputs.case import BadInput, experiment_file

NETWORK = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        maps = self.norm(self.stem(x))
        return self.head(maps.mean((2, 3)))
"""


def changed(old: str, new: str) -> str:
    """Return NETWORK with `new` in place of `old`."""
    assert old in NETWORK
    return NETWORK.replace(old, new)


# name -> (text of mine.py, settings beside student.model=mine.py:Mine, parts of the message)
NETWORKS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "a network file that does not import": (
        NETWORK + "\nimport nothing_of_that_name\n",
        (),
        ("network file '", "mine.py' fails at line 16 with ModuleNotFoundError"),
    ),
    "a network file that is not Python": ("class Mine(\n", (), ("network file '", "fails at line 1 with SyntaxError")),
    "a network file that imports what another beside it lacks": (
        "from blocks import Block\n" + NETWORK,
        (),
        ("mine.py' fails at line 1 with ImportError: cannot import name 'Block'",),
    ),
    "a forward that returns auxiliary logits in training": (
        changed(
            "return self.head(maps.mean((2, 3)))",
            "y = self.head(maps.mean((2, 3)))\n        return (y, y) if self.training else y",
        ),
        (),
        ("forward() returns a value of type tuple in training mode", "float tensor [B, 10]", "return it alone"),
    ),
    "a network file without the class": (changed("Mine", "Mines"), (), ("has no class 'Mine'; did you mean 'Mines'?",)),
    "a class that is no module": (
        "class Mine:\n    pass\n",
        (),
        ("network Mine is no class derived from torch.nn.Module",),
    ),
    "a constructor without num_classes": (
        changed("num_classes, ", "").replace("num_classes", "10"),
        (),
        ("its __init__ has no parameter num_classes",),
    ),
    "a constructor with a name that raykd uses": (
        changed("width=8", "weights=None, width=8"),
        (),
        ("raykd reserves the name 'weights' for every network", "rename the parameter"),
    ),
    "a constructor with the name of a method of raykd's": (
        changed("width=8", "label='net', width=8"),
        (),
        ("raykd reserves the name 'label' for every network",),
    ),
    "a parameter without a default": (
        changed("width=8", "width"),
        (),
        ("Mine requires 'width', which has no default", "give it one in __init__"),
    ),
    "a field that the constructor lacks": (
        NETWORK,
        ("student.model.widht=3",),
        ("unknown config field 'student.model.widht'", "did you mean 'width'?"),
    ),
    "a field of another type": (
        NETWORK,
        ("student.model.width=wide",),
        ("student.model.width=wide: 'wide' is not an integer",),
    ),
    "a constructor that rejects the fields": (
        NETWORK,
        ("student.model.width=-1",),
        ("model = Mine: its __init__(num_classes=10, width=-1) fails at line 8 with RuntimeError", "set other values"),
    ),
    "a constructor that ends the process": (
        changed("super().__init__()", "super().__init__(); exit(0)"),
        (),
        ("its __init__(num_classes=10, width=8) ends the process at line 7",),
    ),
    "a forward that fails": (
        changed("self.norm(self.stem(x))", "self.norms(self.stem(x))"),
        (),
        ("its forward() with an image of 16x16 pixels fails at line 13 with AttributeError", "it must accept"),
    ),
    "a forward that returns nothing": (
        changed("return self.head", "self.head"),
        (),
        ("Mine: forward() returns nothing", "must return logits, a float tensor [B, 10]"),
    ),
    "a forward that returns feature maps": (
        changed("self.head(maps.mean((2, 3)))", "maps"),
        (),
        ("returns a float32 tensor [1, 8, 16, 16] for one image", "must return logits"),
    ),
    "a forward for another number of classes": (
        changed("nn.Linear(width, num_classes)", "nn.Linear(width, 1000)"),
        (),
        ("returns logits for 1000 classes, and the data has 10", "make the last layer from num_classes"),
    ),
    "a network that cannot take the size": (
        changed("maps.mean((2, 3))", "nn.functional.avg_pool2d(maps, 32).flatten(1)"),
        (),
        ("its forward() with an image of 16x16 pixels fails at line 14 with RuntimeError", "of this size"),
    ),
    "an embedding that is no submodule": (
        NETWORK,
        ("student.model.embedding=hed",),
        ("embedding = 'hed' in Mine: is no submodule; it has stem, norm, head; did you mean 'head'?",),
    ),
    "an embedding that is a feature map": (
        NETWORK,
        ("student.model.embedding=norm",),
        ("embedding = 'norm' in Mine: returns a float32 tensor [1, 8, 16, 16]", "these could serve: head"),
    ),
    "a feature map that is a vector": (
        NETWORK,
        ("student.model.features=stem,head",),
        ("features = 'head' in Mine: returns a float32 tensor [1, 10]", "these could serve: stem, norm"),
    ),
    "a submodule that forward does not call": (
        changed("self.head = ", "self.unused = nn.Conv2d(3, 3, 1)\n        self.head = "),
        ("student.model.features=unused",),
        ("features = 'unused' in Mine: forward() does not call it",),
    ),
    "a feature map named twice": (
        NETWORK,
        ("student.model.features=stem,stem",),
        ("features = ('stem', 'stem') in Mine: names a submodule twice",),
    ),
    "a mean without a std": (NETWORK, ("student.model.mean=0.5,0.5,0.5",), ("requires both mean and std",)),
    "a std of 0": (
        NETWORK,
        ("student.model.mean=0.5,0.5,0.5", "student.model.std=0,0.2,0.2"),
        ("std = (0.0, 0.2, 0.2) in Mine", "above 0 up to 1"),
    ),
    "pretrained weights of a custom network": (
        NETWORK,
        ("student.model.weights=pretrained",),
        ("weights = 'pretrained' in Mine: must be a file",),
    ),
    "a method that needs maps that the network does not name": (
        NETWORK,
        ("method=fitnets",),
        ("method = FitNets: requires feature maps of the student", "one of stem [8, 16, 16], norm [8, 16, 16]"),
    ),
    "batch norm that sees one value per channel": (
        changed("self.norm(self.stem(x))", "self.norm(self.stem(x).mean((2, 3), keepdim=True))"),
        ("student.batch_size=1",),
        ("student.batch_size = 1: batch norm of the model mine cannot train on 1 image", "student.batch_size=2"),
    ),
}


def custom(text: str, settings: Sequence[str]) -> Callable[[Path], Sequence[str | Path]]:
    """Return `raykd plan` with the custom network in `text` as the student's model."""

    def make(folder: Path) -> Sequence[str | Path]:
        (folder / "mine.py").write_text(text)
        (folder / "blocks.py").write_text("")
        flags = [word for setting in settings for word in ("--set", setting)]
        return ["plan", experiment_file(folder), "--set", f"student.model={folder / 'mine.py'}:Mine", *flags]

    return make


def with_weights(folder: Path) -> Sequence[str | Path]:
    """Return `raykd plan` with weights that lack one tensor of the network and have another one."""
    state = UserNet(10).state_dict()
    state["stem.scale"] = state.pop("stem.1.weight")
    torch.save(state, folder / "weights.pth")
    model = f"student.model={Path(__file__).parents[1] / 'user_network.py'}:UserNet"
    weights = f"student.model.weights={folder / 'weights.pth'}"
    return ["plan", experiment_file(folder), "--set", model, "--set", weights]


def without_file(folder: Path) -> Sequence[str | Path]:
    return ["plan", experiment_file(folder), "--set", "student.model=gone.py:Net"]


def without_class(folder: Path) -> Sequence[str | Path]:
    return ["plan", experiment_file(folder), "--set", "student.model=net.py"]


CASES = [
    *(BadInput(name, custom(text, settings), parts) for name, (text, settings, parts) in NETWORKS.items()),
    BadInput("a network file that does not exist", without_file, ("network file 'gone.py' does not exist",)),
    BadInput("a network file without a class's name", without_class, ("'net.py' names no class", "my_net.py:MyNet")),
    BadInput(
        "weights that do not fit a custom network",
        with_weights,
        ("it lacks stem.1.weight and has stem.scale, which the model lacks",),
    ),
]
