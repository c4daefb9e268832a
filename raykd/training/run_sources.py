"""The user's files that a run executes, copied into its folder: custom networks and methods.

    <run>/code/<first 12 digits of the SHA-256>/<file name>
    <run>/code/<first 12 digits of the SHA-256>/imports/<package>/<module>.py       local modules that the file imports

They show what was trained even if the original file is edited later, and an export or a report builds the run's
networks from them. That executes code of the results folder, so it requires that run.json, which has the SHA-256 of
each file, belongs to the user who executes it.
"""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raykd.config import custom_file
from raykd.config.custom_file import ClassSource, source_of
from raykd.config.local_modules import LocalModule, name_of
from raykd.disk.atomic import replacing
from raykd.disk.damage import damaged
from raykd.disk.lookup import is_file, is_own, is_there, owner_of
from raykd.errors import ConfigError, shown
from raykd.methods import Method
from raykd.models.custom_network import Network
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder

_IMPORTS = "imports"  # the folder of the local modules' copies


class ForeignCode(ConfigError):
    """A run's code would have to be executed, and another user may have written it."""


def save_sources(run: Run, folder: RunFolder) -> None:
    """Copy the user's files that `run` and its teachers execute. Classes of installed packages have no copy."""
    for source in sources_of(run):
        copies = folder.code / source.sha256[:12]
        texts = {copies / _IMPORTS / module.file: module.text for module in source.local}
        for path, text in (texts | {copies / Path(source.path).name: source.text}).items():
            if source.is_text and not is_there(path):
                with replacing(path) as temporary:
                    temporary.write_text(text, encoding="utf-8", newline="")


def sources_of(run: Run) -> list[ClassSource]:
    """Return the user's files of the run's network and method, and of its teachers' networks."""
    models = (run.model, *(teacher.model for teacher in run.teachers))
    found = [model.source for model in models if isinstance(model, Network)]
    method = source_of(type(run.method))
    return [*dict.fromkeys([*found, *([method] if method else [])])]


def load_network_classes(folder: RunFolder) -> None:
    """Load the classes of the custom networks of the run in `folder` and of its teachers.

    They are loaded from the copies of their files, or from installed packages.

    Raises ForeignCode if another user may have written the run, DamagedFile if a copy is missing or was changed, and
    ConfigError if a package is missing or has changed.
    """
    for entry in _network_entries(folder.require_record().config):
        _load_class(folder, entry, Network.kind)


def load_method_class(folder: RunFolder) -> type[Method] | None:
    """Load the class of the run's custom method as `load_network_classes` does; None for a method of raykd."""
    entry = folder.require_record().config["method"].get("source")
    return _load_class(folder, entry, "method") if entry else None


def _load_class(folder: RunFolder, entry: dict[str, Any], noun: str) -> Any:
    """Return the class of an entry of `ClassSource.to_entry`. noun: 'network' or 'method'."""
    if (found := custom_file.find_class(entry)) is not None:
        return found
    if not is_own(folder.record_path):
        raise _foreign_code(folder, noun)
    if "module" in entry:
        return custom_file.installed_class(entry["module"], entry["class"], entry["sha256"], noun)
    return custom_file.restore_class(_stored_source(folder, entry, noun))


def _foreign_code(folder: RunFolder, noun: str) -> ForeignCode:
    path = folder.record_path
    why, remedy = f"belongs to {owner_of(path)}", "use a copy of the run's folder (cp -r) if you trust it"
    if path.lstat().st_uid == os.geteuid():  # a copy would have the same permissions
        why, remedy = "can be written by anyone", f"if you trust it, type: chmod o-w {shlex.quote(str(path))}"
    return ForeignCode(
        f"{path}: {why}, and this command would execute the {noun} in {folder.code}; read that code, and {remedy}"
    )


def _network_entries(config: Any) -> Iterator[dict[str, str]]:
    """Yield the entry of `ClassSource.to_entry` of each custom network in a run's configuration."""
    if isinstance(config, dict):
        if config.get("kind") == Network.kind and isinstance(config.get("source"), dict):
            yield config["source"]
        for value in config.values():
            yield from _network_entries(value)


def _stored_source(folder: RunFolder, entry: dict[str, Any], noun: str) -> ClassSource:
    """Return the copied source of a custom class. Raises DamagedFile if it is missing or was changed."""
    copies = folder.code / entry["sha256"][:12]
    path = copies / Path(entry["file"]).name
    local = tuple(_stored_modules(folder, entry, copies / _IMPORTS, noun))
    text = _text_of_copy(path, noun)
    source = ClassSource(str(path), text, entry["class"], noun, local=local, package=entry.get("package", ""))
    if source.sha256 != entry["sha256"]:
        raise damaged(path, "it is not the code that the run was trained with")
    return source


def _stored_modules(folder: RunFolder, entry: dict[str, Any], copies: Path, noun: str) -> Iterator[LocalModule]:
    """Yield the copied local modules of a custom class. Raises DamagedFile for a path that leads out of `copies`."""
    files: Any = entry.get("imports", [])
    for file in files if isinstance(files, list) else [files]:
        path = copies / str(file)
        if path.suffix != ".py" or ".." in path.parts or not path.is_relative_to(copies):
            reason = f"it names a file outside of the copies of the {noun}'s code: {shown(file)}"
            raise damaged(folder.record_path, reason)
        yield LocalModule(name_of(file), str(path), _text_of_copy(path, noun))


def _text_of_copy(path: Path, noun: str) -> str:
    if not is_file(path):
        raise damaged(path, f"the copy of the {noun}'s code is missing")
    return path.read_bytes().decode("utf-8", errors="replace")
