"""Two workers compile a method that relates the images of both: python test_compiled_group.py RANK SIZE FOLDER."""

import sys
from pathlib import Path

import pytest
import torch
from several_processes import end, start, together
from small_runs import CPU, digits, recipe, run_of, teacher_of

from raykd.methods import RKD
from raykd.store.run_folder import RunFolder
from raykd.training.group import default_group
from raykd.training.loop import fit

EPOCHS = 4  # 16 steps, twice the recompilations that Dynamo allows


def train(rank: int, size: int, folder: Path) -> None:
    """Train in this worker, uncompiled and compiled, without the minute that torch's code generator takes."""
    compile_ = torch.compile
    torch.compile = lambda module: compile_(module, backend="aot_eager")  # type: ignore[assignment]
    with together(rank, size, folder):
        for name in ("eager", "compiled"):
            run = run_of("distilled", method=RKD(), student=recipe(compile=name == "compiled", epochs=EPOCHS))
            fit(run, digits(), RunFolder(folder / name), CPU, teacher_of(run), group=default_group())


@pytest.mark.nightly
def test_a_compiled_run_of_two_workers_has_the_losses_of_an_eager_one(tmp_path: Path) -> None:
    end(start(Path(__file__), tmp_path))
    eager, compiled = ([row["loss"] for row in RunFolder(tmp_path / name).history()] for name in ("eager", "compiled"))
    assert len(compiled) == EPOCHS and compiled == pytest.approx(eager, rel=1e-3)
    assert RunFolder(tmp_path / "compiled").require_record().compute.compiled


if __name__ == "__main__":
    train(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
