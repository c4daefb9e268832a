"""The layout of the design holds: imports go down only, modules and functions stay small, experiments are data."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import raykd

PACKAGE = Path(raykd.__file__).parent
EXPERIMENTS = PACKAGE.parent / "experiments"

# Packages by level: each imports those of lower levels only. The modules beside the packages are level 0.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"config", "disk", "environment", "errors", "outputs", "provenance", "units"}),
    frozenset({"data", "models", "methods"}),
    frozenset({"spec"}),
    frozenset({"store"}),
    frozenset({"training"}),
    frozenset({"cluster", "report", "export", "bench", "trackers"}),
    frozenset({"orchestration"}),
    frozenset({"cli"}),
)
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}

# The packages and modules of raykd.report by level.
REPORT_LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"read"}),
    frozenset({"stats"}),
    frozenset({"content"}),
    frozenset({"wording", "search_wording"}),
    frozenset({"figures"}),
    frozenset({"render"}),
    frozenset({"report"}),
    frozenset({"build"}),
)
REPORT_LEVEL = {name: level for level, names in enumerate(REPORT_LEVELS) for name in names}
ENTRIES = {"raykd", "raykd.__main__"}  # the public names, imported lazily, and the entry point

# Modules that load neither torch nor Ray: the report and the batch script run where these are missing or slow to load.
LEAN = (
    "raykd.config",
    "raykd.disk",
    "raykd.environment",
    "raykd.errors",
    "raykd.outputs",
    "raykd.provenance",
    "raykd.units",
    "raykd.report",
    "raykd.trackers",
    "raykd.cluster",
    "raykd.spec.stages",
    "raykd.spec.search",
    "raykd.store",
)
HEAVY = ("torch", "torchvision", "timm", "ray")
SHORT = {  # modules under MIN_MODULE_LINES, and why they are modules
    "raykd.__main__": "Python looks for this name",
    "raykd.cluster.unblocked": "run by name, as a process of its own",
    "raykd.methods.alpha": "the one place of alpha, the base class of three methods",
    "raykd.methods.cross_entropy": "one file for each method",
    "raykd.spec.stages": "read by the report, which loads no torch",
}

MIN_MODULE_LINES = 30
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 40
MAX_EXPERIMENT_LINES = 40
MAX_TOP_LEVEL_MODULES = 7  # including __init__ and __main__
PROGRAMS = ("FunctionDef", "ClassDef", "For", "While", "Try", "Lambda")


@dataclass(frozen=True)
class Import:
    """One import: the imported module ('raykd.data.loader'), whether it is inside a function, and its file and line."""

    name: str
    inside: bool
    at: str


@cache
def modules() -> dict[str, Path]:
    """Return every module of raykd by its dotted name."""
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def package(module: str) -> str:
    """Return 'data' for raykd.data.loader, 'config' for raykd.config, and '' for raykd itself and raykd.__main__."""
    name = module.split(".")[1] if "." in module else ""
    return "" if name == "__main__" else name


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Return all imports of a file except those for type checkers. A submodule is named in full."""
    return tuple(_imports(tree(path), path, inside=False))


def _imports(node: ast.AST, path: Path, inside: bool) -> Iterator[Import]:
    at = f"{path.relative_to(PACKAGE.parent)}:{getattr(node, 'lineno', 1)}"
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, inside, at) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{at}: relative import; name the module in full"
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield Import(full if full in modules() else node.module or "", inside, at)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, path, inside)


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, text: list[str]) -> int:
    """Return the number of a function's lines without empty lines, comments and docstring."""
    first = node.body[0]
    docstring = range(0)
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        docstring = range(first.lineno, (first.end_lineno or 0) + 1)
    lines = range(node.lineno, (node.end_lineno or 0) + 1)
    return sum(
        number not in docstring and not text[number - 1].strip().startswith("#") and bool(text[number - 1].strip())
        for number in lines
    )


def loaded_with(name: str) -> list[str]:
    """Return the module and the packages that are loaded with it."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def edges(module: str) -> list[Import]:
    """Return the imports of raykd's own modules, including those inside functions."""
    return [item for item in imports(modules()[module]) if item.name.split(".")[0] == "raykd"]


def is_allowed(importer: str, imported: str) -> bool:
    """Return whether a module of package `importer` may import one of `imported`."""
    if importer == imported or LEVEL[importer] == LEVEL.get(imported) == 0:
        return True
    return imported in LEVEL and LEVEL[imported] < LEVEL[importer]


def test_every_package_has_its_level() -> None:
    assert {package(name) for name in modules()} - {""} == set(LEVEL)


def test_packages_import_lower_levels_only() -> None:
    upward = [
        f"{item.at}: {package(module)} imports {item.name}"
        for module in modules().keys() - ENTRIES
        for item in edges(module)
        if not is_allowed(package(module), package(item.name))
    ]
    assert not upward, "\n".join(upward)


def test_report_imports_go_down_from_build_to_read() -> None:
    reports = {name: name.split(".")[2] for name in modules() if name.startswith("raykd.report.")}
    assert set(reports.values()) == REPORT_LEVEL.keys()
    upward = [
        f"{item.at}: {part} imports {item.name}"
        for module, part in reports.items()
        for item in edges(module)
        if item.name in reports and reports[item.name] != part
        if REPORT_LEVEL[reports[item.name]] > REPORT_LEVEL[part]
    ]
    assert not upward, "\n".join(upward)


def in_cycles(imported: dict[str, set[str]]) -> set[str]:
    """Return the names that import each other in cycles: those that remain after names without imports are removed."""
    left = dict(imported)
    while leaves := [name for name, names in left.items() if not names & left.keys()]:
        for name in leaves:
            del left[name]
    return set(left)


def test_no_import_cycle_exists_even_through_functions() -> None:
    assert not in_cycles({module: {item.name for item in edges(module)} - {module} for module in modules()})
    packages: dict[str, set[str]] = {name: set() for name in LEVEL}
    for module in modules().keys() - ENTRIES:
        packages[package(module)] |= {package(item.name) for item in edges(module)} - {package(module)}
    assert not in_cycles(packages)


def test_only_orchestration_imports_ray_and_cluster_within_functions() -> None:
    wrong = [
        item.at
        for module, path in modules().items()
        for item in imports(path)
        if item.name.split(".")[0] == "ray"
        and not (package(module) == "orchestration" or (package(module) == "cluster" and item.inside))
    ]
    assert not wrong, wrong


def test_lean_modules_load_neither_torch_nor_ray() -> None:
    """This includes the modules that they import: the report is written on machines without torch and Ray."""
    heavy = []
    for start in (name for name in modules() if name.startswith(LEAN)):
        waiting, seen = [start], {start}
        while waiting:
            current = waiting.pop()
            for item in imports(modules()[current]):
                if item.name.split(".")[0] in HEAVY and not item.inside:
                    heavy.append(f"{start} loads {item.name} through {item.at}")
                new = {name for name in loaded_with(item.name) if name in modules()} - seen
                seen |= new
                waiting += new
    assert not heavy, "\n".join(heavy)


def test_importing_every_lean_module_loads_neither_torch_nor_ray() -> None:
    """In a process of its own, since this one has them."""
    lean = sorted(name for name in modules() if name.startswith(LEAN))
    code = (
        f"import importlib, sys\nfor name in {lean}: importlib.import_module(name)\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == ""


def test_report_imports_neither_torch_nor_ray_in_functions_either() -> None:
    imported = [item for name, path in modules().items() if package(name) == "report" for item in imports(path)]
    assert not [item.at for item in imported if item.name.split(".")[0] in ("torch", "ray")]


OWN_PROCESS = {
    "raykd.bench.memory",  # measures the memory of a process
    "raykd.orchestration.packing_processes",  # packs a data set on all CPUs of a machine
}


def test_only_cluster_starts_processes_or_reads_slurms_variables() -> None:
    wrong = []
    for module, path in modules().items():
        if package(module) == "cluster" or module in OWN_PROCESS:
            continue
        wrong += [item.at for item in imports(path) if item.name.split(".")[0] in ("subprocess", "multiprocessing")]
        prose = {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
        wrong += [
            f"{path.name}:{node.lineno}: {node.value!r}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Constant) and id(node) not in prose and "SLURM_" in str(node.value)
        ]
    assert not wrong, wrong


def test_modules_have_30_to_500_lines_or_a_reason() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert not {name: length for name, length in lengths.items() if length >= MAX_MODULE_LINES}
    lines = {name: length for name, length in lengths.items() if modules()[name].name != "__init__.py"}
    short = {name for name, length in lines.items() if length < MIN_MODULE_LINES}
    assert short == SHORT.keys()


def test_the_top_level_holds_at_most_seven_modules_and_the_packages_of_the_design() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_TOP_LEVEL_MODULES
    beside = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == LEVEL.keys() - beside
    assert beside <= LEVELS[0]


def test_functions_stay_under_40_lines_of_code() -> None:
    long = {}
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8").splitlines()
        for node in functions(tree(path)):
            if (length := code_lines(node, text)) >= MAX_FUNCTION_LINES:
                long[f"{name}.{node.name}"] = length
    assert not long


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.py")), ids=lambda path: path.name)
def test_experiment_files_are_short_data_of_public_names(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_EXPERIMENT_LINES
    neighbours = {other.stem for other in EXPERIMENTS.glob("*.py")}
    for item in imports(path):
        assert item.name == "raykd" or item.name in neighbours | sys.stdlib_module_names, item.at
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module == "raykd":
            assert {alias.name for alias in node.names} <= set(raykd.__all__), f"{path.name}:{node.lineno}"
        assert type(node).__name__ not in PROGRAMS, f"{path.name} is a program: it has a {type(node).__name__}"
        if isinstance(node, ast.If):
            is_guard = ast.unparse(node.test) == "__name__ == '__main__'"
            assert is_guard, f"{path.name} decides something: line {node.lineno}"


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(raykd, name) is not None for name in raykd.__all__)
    with pytest.raises(AttributeError, match="no name 'nothing'"):
        _ = raykd.nothing
