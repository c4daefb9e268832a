"""Which GPUs a build of torch has code for, and which torch to install for the others."""

import pytest

from raykd.spec.gpu_support import torch_for, unsupported_gpu


@pytest.mark.parametrize(
    ("capability", "built_for", "unsupported"),
    [
        ((8, 6), ["sm_75", "sm_80", "sm_90"], None),
        ((7, 0), ["sm_75", "sm_80", "sm_90"], "sm_70"),
        ((12, 0), ["sm_90", "sm_100"], "sm_120"),
        ((12, 0), ["sm_90", "compute_90"], None),
        ((9, 0), ["sm_90a"], None),
        ((8, 0), ["sm_86"], "sm_80"),
        ((9, 4), ["gfx942"], None),
    ],
)
def test_a_gpu_that_torch_does_not_support_is_detected(
    capability: tuple[int, int], built_for: list[str], unsupported: str | None
) -> None:
    assert unsupported_gpu(capability, built_for) == unsupported


@pytest.mark.parametrize(
    ("architecture", "torch"),
    [("sm_60", "torch<2.8"), ("sm_70", "torch<2.11"), ("sm_100", "torch"), ("sm_120", "torch")],
)
def test_an_older_gpu_requires_an_older_torch_and_a_newer_one_the_newest(architecture: str, torch: str) -> None:
    assert torch_for(architecture) == torch
