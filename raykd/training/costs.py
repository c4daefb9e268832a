"""Inference costs of a model: parameters, FLOPs, latency and throughput. They depend on its shape, not its weights.

FLOPs are counted for one image's forward pass by torch.utils.flop_counter: matrix products, convolutions and attention,
2 per multiply-add. Norms, activations and resizing are not included. Papers that count multiply-adds report half.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from raykd.config import fingerprint, to_dict
from raykd.models import ImageModel, ImageSpec, Model
from raykd.provenance import hardware, versions
from raykd.store.codec import read_record
from raykd.store.damage import DamagedFile
from raykd.store.records import Costs
from raykd.training.compute import Compute
from raykd.training.latency import latency, throughput


def model_costs(family: Path, model: Model, network: ImageModel, images: ImageSpec, compute: Compute) -> Costs:
    """Return the costs of `model`, from another run in the folder `family` on the same hardware, or newly measured.

    network: the network of `model`, on any device, in the memory format of its training. It is moved to the device of
    `compute` and left in evaluation mode.
    """
    where: dict[str, Any] = {
        "device": device_name(compute.device),
        "precision": compute.precision,
        "threads": compute.threads if compute.device.type == "cpu" else None,
        "image_size": images.size,
        "torch": versions()["torch"],
    }
    network_shape = {"num_classes": images.num_classes, "channels_last": _is_channels_last(network)}
    shape = fingerprint({"model": to_dict(model)} | network_shape | where)
    for path in sorted(family.glob("*/costs.json")):
        with suppress(DamagedFile):  # the report names it; measure again
            if (known := read_record(Costs, path)) and known.shape == shape:
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
    """Return whether convolution weights are in channels-last format, which affects speed."""
    return any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in network.parameters()
        if weight.dim() == 4
    )


@torch.no_grad()
def flops(network: ImageModel, image_size: int, device: torch.device) -> int:
    """Return the FLOPs of a forward pass of one image of `image_size` pixels on a side, 2 per multiply-add."""
    from torch.utils.flop_counter import FlopCounterMode  # lazy: it imports Triton, and most workers count no FLOPs

    network = network.to(device).eval()
    image = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=device)
    # Attention as matrix products: not every torch version counts every fused kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops()


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, such as 'NVIDIA H100 80GB HBM3', or of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(hardware(None)["cpu"])
