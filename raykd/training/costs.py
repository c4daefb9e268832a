"""What a model costs whoever uses it: parameters, operations, time for an image. Of its shape, not of its weights.

FLOPs are those of one image's forward pass, by torch.utils.flop_counter: matrix products, convolutions and attention,
where a multiply-add counts 2. Norms, activations and resizing are not in it. Papers that count multiply-adds say half.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from raykd.config import fingerprint, to_dict
from raykd.models import ImageModel, ImageSpec, Model
from raykd.provenance import hardware, versions
from raykd.store.codec import read_dataclass
from raykd.store.damage import DamagedFile
from raykd.store.records import Costs
from raykd.training.compute import Compute
from raykd.training.latency import latency, throughput


def model_costs(family: Path, model: Model, network: ImageModel, images: ImageSpec, compute: Compute) -> Costs:
    """Return the costs of `model`: those that a run of the folder `family` has on such a device, or newly measured.

    network: of `model`, on any device, in the memory format in which it was trained; it is moved to `compute`'s device
    and left in evaluation mode.
    """
    where: dict[str, Any] = {
        "device": device_name(compute.device),
        "precision": compute.precision,
        "threads": compute.threads if compute.device.type == "cpu" else None,
        "image_size": images.size,
        "torch": versions()["torch"],
    }
    shape = fingerprint(
        {
            "model": to_dict(model),
            "num_classes": images.num_classes,
            "channels_last": _is_channels_last(network),
            **where,
        }
    )
    for path in sorted(family.glob("*/costs.json")):
        with suppress(DamagedFile):  # the report names it; here the model is measured once more
            if (known := read_dataclass(Costs, path)) and known.shape == shape:
                return known
    return Costs(
        shape=shape,
        **where,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=flops(network, images.size, compute.device),
        latency_ms=latency(network, images.size, compute),
        images_per_s=throughput(network, images.size, compute),
    )


def _is_channels_last(network: ImageModel) -> bool:
    """Return whether the weights of its convolutions lie channels-last, which decides its speed."""
    return any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in network.parameters()
        if weight.dim() == 4
    )


@torch.no_grad()
def flops(network: ImageModel, image_size: int, device: torch.device) -> int:
    """Of one image of `image_size` pixels on a side, a multiply-add counting 2."""
    from torch.utils.flop_counter import FlopCounterMode  # here: Triton comes with it, and most workers count no FLOPs

    network = network.to(device).eval()
    image = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=device)
    # Attention as the matrix products that it is: not every fused kernel is known to every torch's counter.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops()


def device_name(device: torch.device) -> str:
    """'NVIDIA H100 80GB HBM3', or the CPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(hardware(None)["cpu"])
