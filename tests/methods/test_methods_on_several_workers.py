"""Two workers of one run take the same steps as one worker, also if a method relates the images of a batch."""

from pathlib import Path

import method_stories
import pytest
import torch
from method_stories import METHODS, state_after_steps
from safetensors.torch import load_file
from several_processes import end, start

pytestmark = pytest.mark.nightly

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[State, State]]:
    """Return the final states of both workers by method."""
    folder = tmp_path_factory.mktemp("two")
    end(start(Path(method_stories.__file__), folder))
    first, second = ({name: load_file(folder / f"{name}-{rank}.safetensors") for name in METHODS} for rank in (0, 1))
    return {name: (first[name], second[name]) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_workers_have_the_same_adapter_and_student_after_some_steps(name: str, both: dict) -> None:
    one, other = both[name]
    has_adapter = any(key.startswith("adapter.") for key in one)
    assert has_adapter == (name in ("vid", "fitnets", "reviewkd", "srrl", "cc", "crd")) and one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert not different, "their gradients were not averaged, or some embeddings were not stored"


@pytest.mark.parametrize("name", [name for name in METHODS if name != "crd"])
def test_two_workers_take_the_steps_of_one(name: str, both: dict) -> None:
    """CRD is left out: each worker draws its own negatives, so its steps differ, as with dropout."""
    alone = state_after_steps(name)
    assert both[name][0].keys() == alone.keys()
    for key, tensor in both[name][0].items():
        torch.testing.assert_close(tensor, alone[key], rtol=1e-3, atol=1e-5, msg=key)


def test_banks_of_two_workers_hold_the_images_of_both(both: dict) -> None:
    """The images of a step do not depend on the number of workers; the negatives that are drawn do."""
    banks, alone = both["crd"][0]["adapter.banks"], state_after_steps("crd")["adapter.banks"]
    lengths, ones = banks.norm(dim=2), torch.ones(2, len(alone[0]))
    seen = torch.isclose(lengths, ones, atol=1e-5)
    assert torch.equal(seen, torch.isclose(alone.norm(dim=2), ones, atol=1e-5))
    assert seen.sum(1).tolist() == [150, 150], "three batches of 50"
