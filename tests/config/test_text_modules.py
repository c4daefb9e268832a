"""Local modules are executed from the texts that were sent, and what cannot be sent is refused before a run starts."""

import hashlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_runs import run_of

from raykd.config import custom_file, local_modules, to_dict
from raykd.config.local_modules import USER_PYTHON_PATH
from raykd.errors import ConfigError
from raykd.methods import Method
from raykd.models.custom_network import Network
from raykd.store.run_folder import RunFolder
from raykd.training import run_sources

NET = """
{imports}
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        {line}
        self.head = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working directory, in which Python also finds modules. The modules of a test are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(local_modules, "_experiment_folders", [])  # those of other tests
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("net", "blocks", "mylib", "profile"):
            del sys.modules[name]


def write(folder: Path, imports: str = "", line: str = "pass", name: str = "net", **modules: str) -> None:
    """Write a network's file `name`, and other files, whose names have '_' for '/'. All texts name the folder."""
    for module, text in {name: NET.format(imports=imports, line=line), **modules}.items():
        parts = ["__init__" if part == "init" else part for part in module.split("_")]
        path = folder.joinpath(*parts).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {folder}\n{text}")


def built(where: str) -> torch.nn.Module:
    return Network(where).network_class(num_classes=2)


def refusal(where: str) -> str:
    """Return the message with which a class is refused, at the second attempt too."""
    messages = []
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            built(where)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    return messages[0]


def test_an_import_inside_a_function_loads_the_text_of_its_own_file(folder: Path) -> None:
    (folder / "blocks.py").write_text("PLACE = 'the working directory'\n")
    for name in "ab":
        write(folder / name, line="from blocks import PLACE; self.place = PLACE", blocks=f"PLACE = '{name}'\n")
    classes = [Network(f"{name}/net.py:Net").network_class for name in "ab"]
    (folder / "a" / "blocks.py").write_text("PLACE = 'edited'\n")
    assert [cls(num_classes=2).place for cls in [*classes, classes[0]]] == ["a", "b", "a"]
    assert "blocks" not in sys.modules


def test_the_source_of_a_function_is_the_text_that_was_executed(folder: Path) -> None:
    act = "from torch import Tensor\n\ndef act(x: Tensor) -> Tensor:\n    return x * {}\n"
    write(folder, "import torch\nfrom blocks import act", "self.act = torch.jit.script(act)", blocks=act.format(2))
    cls = Network("net.py:Net").network_class
    (folder / "blocks.py").write_text("\n" + act.format(5))
    assert cls(num_classes=2).act(torch.ones(1)).item() == 2
    assert "x * 2" in inspect.getsource(sys.modules[cls.__module__].act)


def test_a_compiled_network_imports_the_texts_of_local_modules(folder: Path) -> None:
    write(folder, "import blocks", "self.act = blocks.act", blocks="K = 2\n\ndef act(x):\n    return x * K\n")
    text = (folder / "net.py").read_text().replace("(x.mean((2, 3)))", "(self.act(x).mean((2, 3))) * blocks.K")
    line = "def forward(self, x):\n"
    (folder / "net.py").write_text(text.replace(line, f"{line}        import blocks\n"))
    network = built("net.py:Net")
    (folder / "blocks.py").write_text("K = 5\n")
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(torch.compile(network, backend="eager")(images), network(images))
    assert "blocks" not in sys.modules


def test_equal_files_of_two_packages_are_different_networks_if_they_import_relatively(folder: Path) -> None:
    for name in "ab":
        package = {
            f"mylib_{name}_init": "from .net import Net\n",
            f"mylib_{name}_blocks": f"WIDTH = '{name}'\n",
        }
        write(folder, "from .blocks import WIDTH", "self.width = WIDTH", f"mylib_{name}_net", **package)
    (folder / "mylib" / "__init__.py").write_text("from . import a, b\n")
    models = [Network(f"mylib/{name}/net.py:Net") for name in "ab"]
    assert [model.network_class(num_classes=2).width for model in models] == ["a", "b"]
    run = run_of("baseline")
    runs = [replace(run, recipe=replace(run.recipe, model=model)).fingerprint for model in models]
    assert runs[0] != runs[1]


def test_a_class_of_a_local_module_has_the_same_hash_as_by_its_own_file(folder: Path) -> None:
    write(folder, "from mylib.sizes import WIDTH", name="mylib_nets", mylib_sizes="WIDTH = 2\n")
    (folder / "net.py").write_text(f"# {folder}\nimport mylib.sizes\nfrom mylib.nets import Net\n")
    by_import, by_path = Network("net.py:Net").source, Network("mylib/nets.py:Net").source
    assert (by_import.sha256, by_import.text) == (by_path.sha256, by_path.text)


def test_a_file_of_a_package_imports_an_installed_package_although_a_file_beside_it_has_its_name(folder: Path) -> None:
    write(
        folder, "import timm\nfrom blocks import WIDTH", name="mylib_net", mylib_init="", mylib_timm="", mylib_blocks=""
    )
    (folder / "mylib" / "blocks.py").write_text("WIDTH = 2\n")  # found, as by `python mylib/net.py`
    assert [module.name for module in Network("mylib/net.py:Net").source.local] == ["blocks"]


@pytest.mark.parametrize("python_path", [True, False])
def test_relative_imports_of_a_file_named_by_path_are_sent_from_a_folder_on_python_path_too(
    python_path: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if python_path:
        monkeypatch.setenv("PYTHONPATH", str(folder))
    write(folder, "from .blocks import WIDTH", name="mylib_net", mylib_init="", mylib_blocks="WIDTH = 2\n")
    assert [module.name for module in Network("mylib/net.py:Net").source.local] == ["mylib", "mylib.blocks"]
    write(folder, "from blocks import WIDTH", blocks="WIDTH = 2\n")
    assert [module.name for module in Network("net.py:Net").source.local] == ["blocks"]


@pytest.mark.parametrize("in_a_job", [False, True])
def test_a_class_of_a_package_that_workers_or_other_commands_do_not_find_is_sent(
    in_a_job: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder) if in_a_job else ".")  # workers have another working directory
    if in_a_job:  # which adds the folder of the submission; a plan on the login node does not
        monkeypatch.setenv(USER_PYTHON_PATH, "")
    write(folder, "from .blocks import WIDTH", name="mylib_net", mylib_init="", mylib_blocks="WIDTH = 2\n")
    from mylib.net import Net  # pyright: ignore[reportMissingImports]

    source = Network(Net).source
    assert (source.module, len(source.local)) == ("", 2)


def test_a_run_with_a_class_of_an_installed_package_is_read_where_the_package_is_local(folder: Path) -> None:
    write(folder, "from .blocks import WIDTH", name="mylib_net", mylib_init="", mylib_blocks="WIDTH = 2\n")
    sha256 = hashlib.sha256((folder / "mylib" / "net.py").read_bytes()).hexdigest()
    cls = custom_file.installed_class("mylib.net", "Net", sha256, "network")
    assert custom_file.find_class({"class": "Net", "sha256": sha256}) is cls
    with pytest.raises(ConfigError, match=r"'mylib\.net' that is installed here differs from the one that was used"):
        custom_file.installed_class("mylib.net", "Net", Network(cls).source.sha256, "network")


def test_a_package_that_setuptools_installed_as_editable_is_imported_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = ModuleType("__editable___mylib_0_1_0_finder")
    vars(finder)["MAPPING"] = {"mylib": str(folder / "mylib")}
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    write(folder, "from .blocks import WIDTH", name="mylib_net", mylib_init="", mylib_blocks="WIDTH = 2\n")
    from mylib.net import Net  # pyright: ignore[reportMissingImports]

    source = Network(Net).source
    assert (source.module, source.local) == ("mylib.net", ())
    write(folder / "nets", "import mylib.blocks")
    assert Network("nets/net.py:Net").source.local == ()


def test_what_a_package_adds_to_sys_path_below_site_packages_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_packages = Path(torch.__file__).parent.parent
    monkeypatch.syspath_prepend(str(site_packages / "ray" / "thirdparty_files"))
    write(folder, "import psutil")
    assert Network("net.py:Net").source.local == ()


def test_what_importlib_loads_is_refused(folder: Path) -> None:
    load = "import importlib\nfor name in ('blocks',):\n    importlib.import_module({})\n"
    write(folder, load.format("name"), blocks="")
    assert f"has loaded 'blocks' from '{folder.resolve()}'" in refusal("net.py:Net")
    write(folder, load.format("'mylib.' + name"), mylib_init="", mylib_blocks="")
    assert "has loaded 'mylib.blocks' from" in refusal("net.py:Net")
    write(folder, "import mylib", mylib_init=load.format("__name__ + '.' + name"), mylib_blocks="")
    assert "'mylib.blocks' is not imported by an import statement; add `import mylib.blocks`" in refusal("net.py:Net")
    write(folder, "from mylib import *", mylib_init="__all__ = ['blocks']\n", mylib_blocks="")
    assert "'mylib.blocks' is not imported by an import statement" in refusal("net.py:Net")


def test_a_folder_that_only_the_file_appends_to_sys_path_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, f"import sys\nsys.path.append({str(folder / 'lib')!r})\nimport blocks\n", lib_blocks="")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ConfigError, match=f"has loaded 'blocks' from '{folder.resolve()}/lib'.*append that folder to"):
        built("net.py:Net")


def test_a_file_with_the_name_of_a_module_of_the_standard_library_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "profile", raising=False)
    write(folder, "import profile", profile="", copy="")
    assert "imports 'profile', which is" in (message := refusal("net.py:Net"))
    assert message.endswith("a module of Python's standard library on the workers; rename the file")
    write(folder, "import copy", "self.copied = copy.copy(1)")  # Python has loaded its own
    assert Network("net.py:Net").source.local == ()


def test_a_class_of_a_file_that_fails_is_not_kept(folder: Path) -> None:
    method = "from raykd import Method\n\nclass Mine(Method):\n    kind = 'mine'\n\nraise ValueError\n"
    write(folder, mine=method)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"mine\.py' fails at line 7 with ValueError"):
            Method.from_text("mine.py:Mine")


def test_edits_of_imports_in_other_encodings_are_noticed(folder: Path) -> None:
    write(folder, "from blocks import NAME", "self.name = NAME")
    (folder / "blocks.py").write_bytes(b"# -*- coding: latin-1 -*-\r\nNAME = '\xe9'\r\n")
    model = Network("net.py:Net")
    assert model.network_class(num_classes=2).name == "é"
    custom_file.require_unchanged(model)
    (folder / "blocks.py").write_bytes(b"# -*- coding: latin-1 -*-\nNAME = '\xe8'\n")
    with pytest.raises(ConfigError, match=r"blocks\.py' has changed"):
        custom_file.require_unchanged(model)


@pytest.mark.parametrize("file", ["../../outside.py", "{folder}/outside.py", "mylib/../../../outside.py", "outside", 7])
def test_a_run_that_names_files_outside_of_its_copies_is_damaged(file: str | int, folder: Path) -> None:
    (folder / "outside.py").write_text("raise SystemExit\n")
    write(folder, "import blocks", blocks="")
    model = Network("net.py:Net")
    run = replace(run_of("baseline"), recipe=replace(run_of("baseline").recipe, model=model))
    run_folder = RunFolder(folder / "run")
    run_sources.save_sources(run, run_folder)
    entry = to_dict(model)["source"]
    assert run_sources._stored_source(run_folder, entry, "network").local
    entry["imports"] = [file.format(folder=folder) if isinstance(file, str) else file]
    with pytest.raises(ConfigError, match=r"run\.json.*names a file outside of the copies of the network's code"):
        run_sources._stored_source(run_folder, entry, "network")
