"""A data set is packed by tasks of Ray, with the bytes that one process writes."""

from functools import partial
from pathlib import Path

import pytest
from small_images import write_folder

from raykd.data.load import find_source
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.errors import PackError
from raykd.data.packs.shard import write_shard
from raykd.data.packs.writer import PackPlan, pack, plan_pack
from raykd.errors import DataError
from raykd.orchestration.packing import write_on_ray

pytestmark = pytest.mark.ray


def plan_of(data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> PackPlan:
    """Return the plan of a pack with several shards."""
    monkeypatch.setattr("raykd.data.sources.MAX_UNIT_IMAGES", 5)
    return plan_pack(find_source("folder:insects", data), folder, PackOptions())


def test_tasks_write_the_bytes_that_one_process_writes(
    cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "insects")
    on_ray, alone = tmp_path / "on_ray", tmp_path / "alone"
    plan = plan_of(tmp_path, on_ray, monkeypatch)
    assert len(plan.tasks) == 6
    pack(plan, write_on_ray)
    pack(plan_of(tmp_path, alone, monkeypatch), partial(map, write_shard))
    assert {path.name: path.read_bytes() for path in on_ray.iterdir()} == {
        path.name: path.read_bytes() for path in alone.iterdir()
    }


def test_a_damaged_image_is_named_in_one_line(cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_folder(tmp_path / "insects")
    (place / "train/wasp/003.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    with pytest.raises(
        DataError, match=r"^[^\n]*wasp/003\.png is a PNG or JPEG that cannot be decoded[^\n]*$"
    ) as caught:
        pack(plan_of(tmp_path, tmp_path / "pack", monkeypatch), write_on_ray)
    assert type(caught.value) is PackError
    assert not (tmp_path / "pack" / "pack.json").exists()


def test_no_task_starts_after_a_stop(cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "insects")
    plan = plan_of(tmp_path, tmp_path / "pack", monkeypatch)
    assert list(write_on_ray(plan.tasks, should_stop=lambda: True)) == []
