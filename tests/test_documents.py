"""README.md and docs/ name only what exists: files, modules, headings, flags, fields, experiments and variables."""

import argparse
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

import raykd.models as models
from raykd.cli.experiment_parser import make_experiment_parser
from raykd.cli.parser import make_parser
from raykd.config import Config, kinds
from raykd.methods import Method
from raykd.spec.experiment import Experiment
from raykd.spec.recipe import Recipe
from raykd.spec.search import Search

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "ray_results" / "README.md"]
EXAMPLES = {
    "tiny.py",
    "flowers.py",
    "my_method.py",
    "my_callbacks.py",
    "my_net.py",
    "my_tower.py",
    "mine.py",
    "experiments/mine.py",
    "network.py",
}  # files that the reader writes
# Flags of other programs in this repository, and of Slurm, Ray, uv, Prometheus and TensorBoard.
OTHER_FLAGS = {
    *("--dry-run", "--minutes", "--out", "--parts", "--toy"),
    *("--gres", "--mem", "--mem-per-cpu", "--mem-per-gpu", "--cpus-per-task", "--cpus-per-gpu", "--gpus", "--ntasks"),
    *("--gpus-per-node", "--gpus-per-task", "--exclusive", "--chdir", "--partition", "--time", "--signal", "--batch"),
    *(
        "--parsable",
        "--dependency",
        "--container-image",
        "--bind",
        "--nv",
        "--no-cache-dir",
        "--no-deps",
        "--editable",
        "--cd",
    ),
    *(
        "--jobid",
        "--details",
        "--block",
        "--head",
        "--logdir",
        "--config.file",
        "--compile-bytecode",
        "--backend-store-uri",
    ),
}

# Names that torchvision, Slurm, NVIDIA's driver and W&B define.
OTHER_NAMES = {"RandomResizedCrop", "GraceTime", "EXCLUSIVE_PROCESS", "WANDB_API_KEY"}


@cache
def repository_files() -> frozenset[str]:
    """Return the paths of all source files, documents, scripts and tests, relative to the repository."""
    folders = ("raykd", "experiments", "slurm", "tests", "docs")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return frozenset(str(path.relative_to(ROOT)) for path in [*paths, *ROOT.glob("*")])


def spans(document: Path) -> list[str]:
    """Return the inline code of a document, and the words of its code blocks."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.S | re.M)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return re.findall(r"`([^`\n]+)`", prose) + [word for block in blocks for word in block.split()]


def exists(name: str) -> bool:
    """Return whether `name` is a path in the repository, or the end of one."""
    return any(path == name or path.endswith(f"/{name}") for path in repository_files())


parametrized = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")


@parametrized
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    pattern = re.compile(r"[\w./-]+\.(?:py|sh|slurm|md|j2|yml|json)\b")
    names = {name for span in spans(document) for name in pattern.findall(span) if "/" in name or name.endswith(".py")}
    written = re.compile(
        r"(^|/)(report|plan|run|summary|search|confirmed|val|test|costs)\.json$|^ray_results/|^DIR/|^/"
    )
    missing = [
        name for name in names if not written.search(name) and name not in EXAMPLES and not exists(name.lstrip("./"))
    ]
    assert not missing


@parametrized
def test_every_folder_of_the_code_that_a_document_names_exists(document: Path) -> None:
    tops = {path.name for path in (ROOT / "raykd").iterdir() if path.is_dir()} | {"raykd", "tests", "slurm"}
    names = {name for span in spans(document) for name in re.findall(r"^(?:[\w-]+/)+$", span)}
    ours = {name.rstrip("/") for name in names if name.split("/")[0] in tops - {"data"}}
    assert not [name for name in ours if not exists(name)]


@parametrized
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", document.read_text(encoding="utf-8")):
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_heading_that_a_message_names_exists() -> None:
    """Messages name a section as (docs/cluster.md, 'Which torch')."""
    texts = [path.read_text() for path in (ROOT / "raykd").rglob("*.py")]
    named = {match for text in texts for match in re.findall(r"([\w/]+\.md), '([^']+)'", text)}
    assert named
    missing = [(name, title) for name, title in sorted(named) if f"# {title}\n" not in (ROOT / name).read_text()]
    assert not missing


def with_commands(parser: Any) -> list[Any]:
    """Return the parser, those of its commands, and those of the commands of these."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(deeper for action in below for one in action.choices.values() for deeper in with_commands(one))]


@cache
def flags() -> frozenset[str]:
    """Return the flags of `raykd`, its commands and experiment files."""
    parsers: list[Any] = [*with_commands(make_parser()), make_experiment_parser(["cnn", "vit"])]
    parsers.append(make_experiment_parser(["a", "b"], ["a:b", "b:c"]))  # a benchmark's
    return frozenset(flag for one in parsers for flag in one._option_string_actions)


@parametrized
def test_every_flag_that_a_document_names_exists(document: Path) -> None:
    named = {flag for span in spans(document) for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", span)}
    if document.name == "log.md":  # it records commands of other versions and programs
        return
    assert not named - flags() - OTHER_FLAGS


def configs(hint: Any) -> Iterator[type[Config]]:
    """Yield the Config classes in a type hint, with raykd's subclasses of them (other tests define some, too)."""
    if isinstance(hint, type) and issubclass(hint, Config):
        waiting = [hint]
        while waiting:
            one = waiting.pop()
            yield one
            waiting += [subclass for subclass in one.__subclasses__() if subclass.__module__.startswith("raykd.")]
    for argument in get_args(hint):
        yield from configs(argument)


def is_field(path: str) -> bool:
    """Return whether a dotted path names a field of an experiment, whatever its method, models and schedules."""
    owners: set[type[Config]] = {Experiment}
    if selected := re.match(r"compare\.(\w+)\.", path):  # one of several methods, by its kind
        owners, path = {kinds(Method)[selected[1]]}, path[selected.end() :]
    names = path.split(".")
    for position, name in enumerate(names):
        hints = [get_type_hints(owner)[name] for owner in owners if name in get_type_hints(owner)]
        if not hints:
            return False
        if any(get_origin(hint) is Mapping and not [*configs(hint)] for hint in hints):
            return len(names) == position + 2  # any name, such as that of an argument of a network
        owners = {config for hint in hints for config in configs(hint)}
    return True


@parametrized
def test_every_field_that_a_document_names_exists(document: Path) -> None:
    assert models.find("vit6") and Method.from_text("crd") and Recipe and Search  # load all subclasses
    heads = "data|teacher|student|method|search|workers|compare"
    families = "(?:cnn|vit|digits)"
    inline = re.compile(rf"^(?:{families}\.)?((?:{heads})\.[a-z_.]*[a-z_])(?:=.*)?$")
    in_command = re.compile(rf"^(?:{families}\.)?([a-z_]+(?:\.[a-z_]+)*)=")
    named = {match[1] for span in spans(document) if (match := inline.match(span.removeprefix("--set ")))}
    text = document.read_text(encoding="utf-8")
    named |= {match[1] for word in re.findall(r"--set ([^\s`]+)", text) if (match := in_command.match(word))}
    files = re.compile(r"\.(py|json|md)$")
    assert not [path for path in named if not files.search(path) and not is_field(path)]


@cache
def source_text() -> str:
    """Return the text of raykd and of the scripts for Slurm."""
    paths = [path for folder in ("raykd", "slurm") for path in (ROOT / folder).rglob("*")]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths if path.suffix in (".py", ".sh", ".slurm"))


@parametrized
def test_every_class_function_and_variable_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    pattern = re.compile(r"`([A-Z]\w*[a-z]\w*|[A-Z][A-Z_]{3,}|[a-z_]+(?=\())[`(]")
    named = set(pattern.findall(prose)) | set(re.findall(r"\bRAYKD_[A-Z_]*[A-Z]\b", text))
    assert not [name for name in named - OTHER_NAMES if not re.search(rf"\b{name}\b", source_text())]


def test_every_experiment_file_is_documented() -> None:
    text = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    for path in (ROOT / "experiments").glob("*.py"):
        assert path.name in text, path.name
