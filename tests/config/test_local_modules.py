"""Custom classes that import the user's own modules, which are hashed, sent to workers and copied with the class."""

import hashlib
import importlib
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import experiment, run_of

from raykd.cli.experiment_file import load_experiments
from raykd.config import custom_file, local_modules, to_dict
from raykd.config.custom_file import require_unchanged
from raykd.errors import ConfigError
from raykd.export.standalone import with_local_modules
from raykd.models.custom_network import Network
from raykd.spec.overrides import override
from raykd.store.run_folder import RunFolder
from raykd.training import run_sources

NET = """
TEXT = '''it is\\n'''
{imports}
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width: int = 8):
        super().__init__()
        self.head = head(3, num_classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))
"""
HEAD = "from torch import nn\n\ndef head(inputs, outputs):\n    return nn.Linear(inputs, outputs, bias={bias})\n"
IN_A_WORKER = (
    "import pickle, sys, torch\n"
    "for content in pickle.loads(sys.stdin.buffer.read()):\n"
    "    model = pickle.loads(content)\n"
    "    network = model.network_class(num_classes=7)\n"
    "    print([*network.state_dict()], [*network(torch.zeros(1, 3, 8, 8)).shape])\n"
    "    assert pickle.loads(pickle.dumps(model)) == model\n"
)
EXPERIMENT = """
from raykd import Experiment, Network, Recipe
{imports}
experiment = Experiment(family="digits", student=Recipe(Network(Net)))
"""
# name -> the files of a project; how the experiment names the class: by its path or by its import
PROJECTS: dict[str, tuple[dict[str, str], str]] = {
    "a module beside the file": (
        {"net.py": NET.format(imports="from blocks import head"), "blocks.py": HEAD},
        "net.py:Net",
    ),
    "a package beside the file": (
        {
            "net.py": NET.format(imports="from mylib.blocks import head"),
            "mylib/__init__.py": "",
            "mylib/blocks.py": "from .linear import head\n",
            "mylib/linear.py": HEAD,
        },
        "net.py:Net",
    ),
    "a package without __init__.py": (
        {"net.py": NET.format(imports="import mylib.blocks\nhead = mylib.blocks.head"), "mylib/blocks.py": HEAD},
        "net.py:Net",
    ),
    "a relative import inside a package, by path": (
        {
            "mylib/net.py": NET.format(imports="from .blocks import head"),
            "mylib/__init__.py": "",
            "mylib/blocks.py": HEAD,
        },
        "mylib/net.py:Net",
    ),
    "an absolute import inside a package, by path": (
        {"mylib/net.py": NET.format(imports="from mylib import head"), "mylib/__init__.py": HEAD},
        "mylib/net.py:Net",
    ),
    "a class of a package, by import": (
        {
            "mylib/net.py": NET.format(imports="from .blocks import head"),
            "mylib/__init__.py": "",
            "mylib/blocks.py": HEAD,
        },
        "from mylib.net import Net",
    ),
    "a class of a package without local imports": (
        {"mylib/net.py": HEAD + NET.format(imports=""), "mylib/__init__.py": ""},
        "from mylib.net import Net",
    ),
    "a class of a module, by import": (
        {"net.py": NET.format(imports="from blocks import head"), "blocks.py": HEAD},
        "from net import Net",
    ),
    "an import inside a function": (
        {
            "net.py": NET.format(imports="def head(*sizes):\n    from blocks import head as h\n    return h(*sizes)\n"),
            "blocks.py": HEAD,
        },
        "net.py:Net",
    ),
    "a class that the named file imports": (
        {"net.py": "from blocks import Net\n", "blocks.py": HEAD + NET.format(imports="")},
        "net.py:Net",
    ),
    "a package that registers its networks and imports itself in a circle": (
        {
            "mylib/__init__.py": "from .registry import NETWORKS, register\nfrom .net import Net\nfrom . import more\n",
            "mylib/registry.py": (
                "NETWORKS = {}\n\ndef register(cls):\n"
                "    assert cls.__name__ not in NETWORKS, 'registered twice'\n"
                "    NETWORKS[cls.__name__] = cls\n    return cls\n"
            ),
            "mylib/blocks.py": HEAD,
            "mylib/net.py": NET.format(imports="from .registry import register\nfrom mylib.blocks import head").replace(
                "class Net", "@register\nclass Net"
            ),
            "mylib/more.py": "from mylib.net import Net\n\nclass More(Net):\n    pass\n",
        },
        "mylib/net.py:Net",
    ),
    "optional imports of what is missing": (
        {
            "net.py": NET.format(
                imports="from mylib import *\ntry:\n    from mylib.fast import conv\nexcept ModuleNotFoundError:\n"
                "    conv = None\ntry:\n    from mylib import faster\nexcept ImportError:\n    faster = None\n"
            ),
            "mylib/__init__.py": (
                "try:\n    from .cuda import kernel\nexcept ImportError:\n    kernel = None\nfrom .linear import head\n"
            ),
            "mylib/cuda.py": "import no_such_library\n",
            "mylib/linear.py": HEAD,
        },
        "net.py:Net",
    ),
    "what only a type checker imports": (
        {
            "net.py": "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from mylib import Options\nelse:\n    from blocks import head\n" + NET.format(imports=""),
            "blocks.py": HEAD,
            "mylib.py": "raise SystemExit\n",
        },
        "net.py:Net",
    ),
    "dataclasses with postponed annotations, enums, and copies of them": (
        {
            "net.py": NET.format(
                imports="import copy, dataclasses, pickle\nimport mylib.sizes\nfrom mylib.sizes import Kind, Sizes\n"
                "assert len(dataclasses.fields(Sizes)) == 1 and Sizes().kind is mylib.sizes.Kind.LINEAR\n"
                "def head(*sizes):\n"
                "    assert pickle.loads(pickle.dumps(Sizes())) == copy.deepcopy(Sizes())\n"
                "    assert pickle.loads(pickle.dumps(Kind.LINEAR)) is Kind.LINEAR\n"
                "    return nn.Linear(*sizes)\n"
            ),
            "mylib/__init__.py": "",
            "mylib/sizes.py": "from __future__ import annotations\nimport dataclasses\nimport enum\n"
            "from typing import ClassVar\n\nclass Kind(enum.Enum):\n    LINEAR = 1\n\n@dataclasses.dataclass\n"
            "class Sizes:\n    kind: Kind = Kind.LINEAR\n    most: ClassVar[int] = 2\n",
        },
        "net.py:Net",
    ),
    "a module that torch.jit.script compiles": (
        {
            "net.py": NET.format(imports="import torch\nfrom blocks import head, Same").replace(
                "self.head = ", "self.same = torch.jit.script(Same())\n        self.head = "
            ),
            "blocks.py": "from torch import Tensor\n"
            + HEAD
            + "\ndef same(x: Tensor) -> Tensor:\n    return x\n\nclass Same(nn.Module):\n"
            + "    def forward(self, x: Tensor) -> Tensor:\n        return same(x)\n",
        },
        "net.py:Net",
    ),
    "a local fork of an installed package": (
        {
            "net.py": NET.format(imports="import timm\nfrom timm.models.heads import head\nassert timm.IS_LOCAL"),
            "timm/__init__.py": "IS_LOCAL = True\n",
            "timm/models/__init__.py": "",
            "timm/models/heads.py": HEAD,
        },
        "net.py:Net",
    ),
    "a file whose name is no identifier": (
        {"my-net.v2.py": NET.format(imports="from blocks import head"), "blocks.py": HEAD},
        "my-net.v2.py:Net",
    ),
    "the __init__.py of a package": (
        {"mylib/__init__.py": NET.format(imports="from .blocks import head"), "mylib/blocks.py": HEAD},
        "mylib/__init__.py:Net",
    ),
    "a folder of the same name as an installed package": (
        {"net.py": "import torch\n" + HEAD + NET.format(imports=""), "torch/readme.py": ""},
        "net.py:Net",
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working directory. Modules that the test imports are forgotten at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local_modules, "_experiment_folders", [])  # those of other tests
    with forgotten_modules():
        yield tmp_path


@contextmanager
def forgotten_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("net", "blocks", "mylib"):
            del sys.modules[name]


def write(folder: Path, files: dict[str, str], bias: bool = True) -> None:
    """Write files whose texts name the folder, so that no other test has loaded them."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {folder}\n" + text.replace("{bias}", str(bias)))


def load(folder: Path, where: str) -> Network:
    """Return the network of an experiment in `folder` that names the class by its path or by its import."""
    if ":" in where:
        model = override(experiment(), "student.model", where).student.model
    else:
        (folder / "mine.py").write_text(EXPERIMENT.format(imports=where))
        (loaded,) = load_experiments(folder / "mine.py")
        model = loaded.student.model
    assert isinstance(model, Network)
    return model


def test_a_worker_without_the_files_loads_each_class_with_what_it_imports(tmp_path: Path) -> None:
    pickles = []
    for number, (files, where) in enumerate(PROJECTS.values()):
        folder = tmp_path / f"project{number}"
        write(folder, files)
        with pytest.MonkeyPatch.context() as patch, forgotten_modules():
            patch.chdir(folder)
            pickles.append(pickle.dumps(load(folder, where)))
        shutil.rmtree(folder)
    command, content = [sys.executable, "-c", IN_A_WORKER], pickle.dumps(pickles)
    done = subprocess.run(command, input=content, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    lines = dict(zip(PROJECTS, done.stdout.decode().splitlines(), strict=False))
    assert lines == dict.fromkeys(PROJECTS, "['head.weight', 'head.bias'] [1, 7]"), done.stderr.decode()


def test_exported_files_hold_what_the_networks_import_and_one_process_loads_them_all(tmp_path: Path) -> None:
    for number, (files, where) in enumerate(PROJECTS.values()):
        folder, exported = tmp_path / f"project{number}", tmp_path / f"export{number}"
        write(folder, files)
        with pytest.MonkeyPatch.context() as patch, forgotten_modules():
            patch.chdir(folder)
            exported.mkdir()
            (exported / "network.py").write_text(with_local_modules(load(folder, where).source))
        shutil.rmtree(folder)
    program = (
        "import sys, torch\n"
        "networks = []\n"
        f"for number in range({len(PROJECTS)}):\n"
        "    sys.path.insert(0, f'export{number}')\n"
        "    sys.modules.pop('network', None)\n"
        "    from network import Net\n"
        "    networks.append(Net)\n"
        "for Net in networks:\n"
        "    print([*Net(num_classes=7)(torch.zeros(1, 3, 8, 8)).shape])\n"
        "assert not {'blocks', 'mylib', 'timm', 'raykd'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert done.stdout.decode().splitlines() == ["[1, 7]"] * len(PROJECTS), done.stderr.decode()


def test_an_edited_import_makes_other_runs_and_a_file_without_imports_keeps_its_hash(folder: Path) -> None:
    files = PROJECTS["a package beside the file"][0]
    write(folder, files | {"plain.py": HEAD + NET.format(imports="")})
    plain, before = load(folder, "plain.py:Net"), load(folder, "net.py:Net")
    assert plain.source.sha256 == hashlib.sha256((folder / "plain.py").read_bytes()).hexdigest()
    assert "imports" not in to_dict(plain)["source"]
    write(folder, files, bias=False)
    after = load(folder, "net.py:Net")
    assert [*after.network_class(num_classes=2).state_dict()] == ["head.weight"]
    run = run_of("baseline")
    names = [
        replace(run, recipe=replace(run.recipe, model=model)).fingerprint
        for model in (before, after, load(folder, "net.py:Net"))
    ]
    assert names[0] != names[1] == names[2]
    with pytest.raises(
        ConfigError, match=r"linear\.py' has changed since Net was loaded from net\.py, which imports it"
    ):
        require_unchanged(before)
    require_unchanged(after)


def test_files_that_import_different_modules_of_one_name_get_their_own(folder: Path) -> None:
    for name, bias in (("a", True), ("b", False)):
        write(folder / name, PROJECTS["a module beside the file"][0], bias)
    first, second = (load(folder, f"{name}/net.py:Net").network_class(num_classes=2) for name in "ab")
    assert [len(network.state_dict()) for network in (first, second)] == [2, 1]


def test_modules_that_the_process_imported_itself_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, PROJECTS["a module beside the file"][0])
    monkeypatch.syspath_prepend(str(folder))
    import blocks  # pyright: ignore[reportMissingImports]

    load(folder, "net.py:Net")
    assert sys.modules["blocks"] is blocks


def test_a_later_import_of_the_user_reads_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, PROJECTS["a package without __init__.py"][0])
    write(folder / "other", {"mylib/__init__.py": "PLACE = 'other'\n", "blocks.py": ""})
    load(folder, "net.py:Net")
    monkeypatch.syspath_prepend(str(folder / "other"))
    write(folder, PROJECTS["a module beside the file"][0])
    loaded = load(folder, "net.py:Net")
    import blocks  # pyright: ignore[reportMissingImports]

    assert blocks.__file__ == str(folder / "other" / "blocks.py")
    monkeypatch.syspath_prepend(str(folder))
    del sys.modules["blocks"]
    custom_file._classes.pop((loaded.source.sha256, "Net"))
    load(folder, "net.py:Net")
    (folder / "blocks.py").write_text("EDITED = True\n")
    import blocks  # pyright: ignore[reportMissingImports]

    assert importlib.reload(blocks).EDITED


def test_a_class_of_a_package_on_python_path_is_imported_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "site", PROJECTS["a class of a package, by import"][0])
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    monkeypatch.syspath_prepend(str(folder / "site"))
    source = load(folder, "from mylib.net import Net").source
    assert (source.module, source.local) == ("mylib.net", ())


def test_the_copies_in_a_run_restore_the_class_and_a_changed_copy_is_refused(folder: Path) -> None:
    write(folder, PROJECTS["a relative import inside a package, by path"][0])
    model = load(folder, "mylib/net.py:Net")
    run = replace(run_of("baseline"), recipe=replace(run_of("baseline").recipe, model=model))
    run_folder = RunFolder(folder / "run")
    run_sources.save_sources(run, run_folder)
    shutil.rmtree(folder / "mylib")
    entry = to_dict(model)["source"]
    assert entry["imports"] == ["mylib/__init__.py", "mylib/blocks.py"]
    source = run_sources._stored_source(run_folder, entry, "network")
    assert source.sha256 == model.source.sha256
    custom_file._classes.pop((source.sha256, "Net"))
    assert [*custom_file.restore_class(source)(num_classes=2).state_dict()] == ["head.weight", "head.bias"]
    (copy,) = run_folder.code.rglob("blocks.py")
    copy.write_text(copy.read_text() + "\n")
    with pytest.raises(ConfigError, match="it is not the code that the run was trained with"):
        run_sources._stored_source(run_folder, entry, "network")
    copy.unlink()
    with pytest.raises(ConfigError, match=r"blocks\.py.*the copy of the network's code is missing"):
        run_sources._stored_source(run_folder, entry, "network")


# message -> the text of blocks.py or blocks.so, and the import of it
BAD: dict[str, tuple[str, bytes, str]] = {
    r"mine\.py' has a relative import \(line 2\), and its folder is no package; write": (
        "blocks.py",
        b"",
        "from .blocks import head",
    ),
    r"imports 'blocks', a compiled module \('.*blocks\.so'\).*install it as a package": (
        "blocks.so",
        b"",
        "import blocks",
    ),
    r"imports 'blocks', and '.*blocks\.py' cannot be read \(": ("blocks.py", b"x = '\xff'", "import blocks"),
    r"network file '.*mine\.py' fails at line 2 with ZeroDivisionError": ("blocks.py", b"x = 1 / 0", "import blocks"),
    r"network file '.*mine\.py' fails at line 2 with SyntaxError": ("blocks.py", b"def f(:", "import blocks"),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_sent_to_workers_is_refused_in_one_line(message: str, folder: Path) -> None:
    name, content, line = BAD[message]
    (folder / name).write_bytes(content)
    (folder / "mine.py").write_text(f"# {folder}\n{line}\n{NET}")
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder, "mine.py:Net")
    assert "\n" not in str(caught.value)
