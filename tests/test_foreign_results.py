"""A results folder, or a pack, that another user wrote: no command executes, copies or deletes what it names."""

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pack_of_images import write_pack
from rich.console import Console
from small_images import encoded
from small_runs import experiment, run_of
from written_results import finish, finished

from raykd.cli.run_list import rows_of
from raykd.cli.runs_text import list_text, removal_text
from raykd.config import custom_file
from raykd.config.codec import read_record, write_record
from raykd.data.packs.reader import Pack
from raykd.data.packs.record import RECORD, read_pack_record
from raykd.data.packs.writer import discard_pack
from raykd.disk.damage import DamagedFile
from raykd.disk.lookup import is_own
from raykd.errors import ConfigError
from raykd.models.custom_network import Network
from raykd.orchestration.reporting import write_report
from raykd.store.cleaning import find_removable, remove_unneeded
from raykd.store.records import Metrics
from raykd.store.run_catalog import read_catalog
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.run_record import recorded_run
from raykd.training.run_sources import ForeignCode, save_sources

GiveAway = Callable[[Path], None]
CODE = """
from pathlib import Path
from torch import nn

Path({trace!r}).touch()

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, images):
        return self.head(images.mean((2, 3)))
"""


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> GiveAway:
    """Return a function that makes a path another user's. Only root can do so; for others, all files become foreign."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, 12_345, -1, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 12_345)

    return give


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A network whose file leaves a trace when it is executed."""
    path = tmp_path / "net.py"
    path.write_text(CODE.format(trace=str(tmp_path / "executed")))
    return path


def run_with_code(results: Path, file: Path) -> RunFolder:
    """Return the folder of a finished run with the network in `file`, which this process has not loaded."""
    run = run_of("baseline", student=replace(experiment().student, model=f"{file}:Net"))
    folder = finish(RunStore(results), run)
    save_sources(run, folder)
    forget(file)
    return folder


def forget(file: Path) -> None:
    """Make this process load the network in `file` again when it is needed."""
    for executed, (source, _) in [*custom_file._executed.items()]:
        if source.text == file.read_text():
            custom_file._forget(executed)
    (file.parent / "executed").unlink()


def test_the_code_of_another_users_run_is_executed_only_from_a_copy(
    tmp_path: Path, file: Path, give_away: GiveAway
) -> None:
    folder = run_with_code(tmp_path / "results", file)
    assert isinstance(recorded_run(folder).recipe.model, Network) and (tmp_path / "executed").exists()
    forget(file)
    give_away(folder.record_path)
    with pytest.raises(
        ForeignCode, match=r"run\.json: belongs to .* would execute the network in .*code; .* \(cp -r\)"
    ):
        recorded_run(folder)
    assert not (tmp_path / "executed").exists()


def test_the_code_of_a_run_that_anyone_can_write_is_not_executed(tmp_path: Path, file: Path) -> None:
    folder = run_with_code(tmp_path / "results", file)
    folder.record_path.chmod(0o666)
    with pytest.raises(
        ForeignCode, match=r"can be written by anyone, .* if you trust it, type: chmod o-w (.*)"
    ) as error:
        recorded_run(folder)
    assert not (tmp_path / "executed").exists()
    subprocess.run(shlex.split(str(error.value).rpartition("type: ")[2]), check=True)
    assert isinstance(recorded_run(folder).recipe.model, Network)


def test_the_code_of_this_users_run_is_executed_whatever_the_umask(tmp_path: Path, file: Path) -> None:
    before = os.umask(0)
    try:
        folder = run_with_code(tmp_path / "results", file)
    finally:
        os.umask(before)
    assert isinstance(recorded_run(folder).recipe.model, Network)


def test_a_file_that_run_json_names_in_place_of_a_model_is_not_executed(tmp_path: Path, file: Path) -> None:
    folder = finish(RunStore(tmp_path / "results"), run_of("baseline"))
    config = folder.require_record().config
    folder.update(config={**config, "recipe": {**config["recipe"], "model": f"{file}:Net"}})
    with pytest.raises(DamagedFile, match=r"model = '.*net\.py:Net' in Recipe: must be an object, not a name"):
        recorded_run(folder)
    assert not (tmp_path / "executed").exists()


def test_weights_without_a_recorded_hash_are_not_copied_to_models_saved(tmp_path: Path) -> None:
    """The weights may be a link to any file that the user of `raykd report` can read."""
    results, private = tmp_path / "results", tmp_path / "id_ed25519"
    private.write_text("a private key")
    plan = finished(results)
    for run in plan.runs:
        folder = RunStore(results).folder(run)
        folder.best.unlink()
        folder.best.symlink_to(private)
        folder.update(weights_sha256=None)
        write_record(folder.test, replace(read_metrics(folder), weights_sha256=None))
        assert folder.status() == "damaged"
    write_report(results, Console(quiet=True))
    saved = [path for path in results.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not any(b"a private key" in path.read_bytes() for path in saved)


def read_metrics(folder: RunFolder) -> Metrics:
    metrics = read_record(Metrics, folder.test)
    assert metrics is not None
    return metrics


@pytest.mark.parametrize("name", [".ray", ".logit_caches", ".data", ".before_migration"])
def test_clean_follows_no_link_of_another_user(tmp_path: Path, give_away: GiveAway, name: str) -> None:
    results, home = tmp_path / "results", tmp_path / "home"
    finished(results)
    (home / "photos").mkdir(parents=True)
    (home / "photos-0123456789abcdef.json").touch()
    (results / name).symlink_to(home)
    assert find_removable(results).size_of("checkpoints")
    paths = [item.path for item in find_removable(results).removable if item.kind != "checkpoints"]
    assert paths, "a link of one's own is followed, as to a larger disk"
    give_away(results / name)
    found = find_removable(results)
    assert {item.kind for item in found.removable} == {"checkpoints"}
    remove_unneeded(results, found)
    assert (home / "photos").is_dir() and (home / "photos-0123456789abcdef.json").exists()


@pytest.mark.parametrize("name", ["../precious", "/etc/hostname", "train-00000.arrow/../../precious", "pack.json"])
def test_a_pack_that_names_other_files_as_shards_is_refused_and_deletes_none(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    folder = write_pack(tmp_path / "pack", [encoded(0), encoded(1)], [encoded(2)])
    record = read_pack_record(folder)
    (shard, *_) = record.train
    write_record(folder / RECORD, replace(record, train=(replace(shard, file=name),)))
    with pytest.raises(ConfigError, match="is not the name of a shard"):
        discard_pack(folder, record.source_key)
    with pytest.raises(ConfigError, match="is not the name of a shard"):
        Pack(folder)
    assert precious.exists() and (folder / RECORD).exists()


def test_names_in_run_json_send_no_escape_sequences_to_a_terminal(tmp_path: Path) -> None:
    run = finished(tmp_path).runs[0]
    RunStore(tmp_path).folder(run).update(model="hidden\x1b[8m\x1b]0;title\x07", method="\x1b[2J")
    catalog = read_catalog(tmp_path)
    shown = [list_text(rows_of(catalog.all_runs, {}, 0.0), [], catalog), removal_text(catalog.all_runs)]
    assert r"hidden\x1b[8m\x1b]0;title\x07" in shown[0]
    assert all(line.isprintable() for text in shown for line in text.splitlines())


def test_safe_files_are_those_of_this_user_or_root_that_others_cannot_write(
    tmp_path: Path, give_away: GiveAway
) -> None:
    mine, open_to_all, others = (tmp_path / name for name in ("mine", "open", "others"))
    for path in (mine, open_to_all, others):
        path.touch(0o600)
    open_to_all.chmod(0o602)
    assert (is_own(mine), is_own(open_to_all), is_own(Path("/etc"))) == (True, False, True)
    give_away(others)
    assert not is_own(others)
