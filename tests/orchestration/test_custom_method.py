"""A user's images and a custom method on Ray; the method's file is removed before the workers start."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experiment_runs import run_here
from PIL import Image
from small_runs import experiment, recipe

from raykd.config.codec import read_checked_json
from raykd.data.load import load_dataset
from raykd.spec.experiment import Data
from raykd.spec.overrides import override
from raykd.spec.plan import make_plan
from raykd.store.run_store import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]

METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from raykd import Method

@dataclass(frozen=True)
class Nearer(Method):
    kind: ClassVar[str] = "custom_nearer"
    needs: ClassVar[frozenset] = frozenset({"logits"})
    weight: float = 1.0

    def weights(self, epoch):
        return {"ce": 1.0, "nearer": self.weight}

    def terms(self, student, teacher, targets, adapter):
        return {"nearer": (student.logits.float() - teacher.logits.float()).abs().mean()}
"""


def write_images(place: Path) -> None:
    """Write 40 noisy training images and 10 test images of each of three colors, 12x12 pixels."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 40), ("test", 10)):
        for channel, name in enumerate(("blue", "green", "red")):
            (place / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 90, (12, 12, 3), generator=generator, dtype=torch.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels.numpy()).save(place / part / name / f"{number}.png")


def test_custom_method_trains_on_a_users_images_after_its_file_is_removed(cluster: str, tmp_path: Path) -> None:
    write_images(tmp_path / "colors")
    file = tmp_path / "nearer.py"
    file.write_text(METHOD)
    data = Data(f"folder:{tmp_path / 'colors'}", val_images=12, image_size=8, crop_padding=1)
    made = experiment(data=data, student=recipe(batch_size=20), teacher=recipe(batch_size=20))
    made = override(replace(made, family="custom"), "method", f"{file}:Nearer")
    made = override(made, "method.weight", "2")
    file.unlink()
    ended = run_here([made], tmp_path / "results")
    assert (ended.exit_code, ended.errors) == (0, [])
    plan = make_plan(made, load_dataset(data.name, None, 8), Path("none"))
    distilled = next(run for run in plan.runs if run.stage == "distilled")
    folder = RunStore(tmp_path / "results").folder(distilled)
    record = folder.require_record()
    assert (record.status, record.method) == ("done", "custom_nearer")
    assert record.config["method"]["weight"] == 2.0
    assert record.config["method"]["source"]["file"] == "nearer.py"
    assert all(row["nearer"] > 0 for row in folder.history())
    assert read_checked_json(folder.test)["num_images"] == 30
    assert set(read_checked_json(tmp_path / "results" / "report.json")) == {"custom"}
