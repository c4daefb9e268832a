"""Inference costs of a model: parameters, FLOPs, latency and throughput. The values of the weights do not matter.

torch.utils.flop_counter counts the FLOPs of one image's forward pass: matrix products, convolutions and attention,
2 per multiply-add. Norms, activations and resizing are not included. Papers that count multiply-adds report half.
"""

from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from raykd.config import fingerprint
from raykd.config.codec import read_if_valid
from raykd.disk.lookup import find
from raykd.models import ImageModel, ImageSpec, Model
from raykd.provenance import hardware, versions
from raykd.store.records import Costs
from raykd.training.compute import Compute, gpu_name
from raykd.training.latency import latency, throughput
from raykd.training.model_file import architecture


def model_costs(
    family: Path, model: Model, network: ImageModel, images: ImageSpec, compute: Compute, shares_gpu: bool = False
) -> Costs:
    """Measure the costs of `model`, or read them from another run in the folder `family`.

    A run's costs are reused if its architecture, image size, classes, memory format, hardware, precision and torch are
    the same. Costs that were measured while other runs used the GPU are reused by runs that share one too.

    network: the network of `model`, on any device, in the memory format of its training. It is moved to the device of
    `compute` and left in evaluation mode.
    """
    conditions: dict[str, Any] = {
        "device": device_name(compute.device),
        "precision": compute.precision,
        "threads": compute.threads if compute.device.type == "cpu" else None,
        "image_size": images.size,
        "torch": versions()["torch"],
    }
    network_shape = {"num_classes": images.num_classes, "channels_last": _is_channels_last(network)}
    sharing = {"shares_gpu": True} if shares_gpu else {}
    shape = fingerprint({"model": architecture(model)} | network_shape | conditions | sharing)
    for path in find(family, "*/costs.json"):
        if (recorded := read_if_valid(Costs, path)) and recorded.shape == shape:
            return recorded
    return Costs(
        shape=shape,
        **conditions,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=flops(network, images.size, compute.device),
        latency_ms=latency(network, images.size, compute),
        images_per_s=throughput(network, images.size, compute),
    )


def _is_channels_last(network: ImageModel) -> bool:
    """Return whether convolution weights [out, in, H, W] are in channels-last format, which affects speed."""
    return any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in network.parameters()
        if weight.dim() == 4
    )


@torch.enable_grad()  # without it, the counter fails for views of parameters, as in SigLIP's attention pooling
def flops(network: ImageModel, image_size: int, device: torch.device) -> int:
    """Return the FLOPs of the forward pass of one image of `image_size` x `image_size` pixels."""
    from torch.utils.flop_counter import FlopCounterMode  # lazy: it imports Triton, and most workers count no FLOPs

    network = network.to(device).eval()
    image = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=device)
    # Attention as matrix products: not every torch version counts every fused kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops()


def device_name(device: torch.device) -> str:
    """Return the model name of the GPU or the CPU."""
    return gpu_name(device) or str(hardware(None)["cpu"])
