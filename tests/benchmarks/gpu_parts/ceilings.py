"""Upper limits of the device: matrix products, copies, and the launch of a trivial kernel."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from gpu_parts.report import Part
from gpu_parts.setting import Setting
from raykd.bench.implementations import now

WARM_UPS, REPEATS = 3, 10
SIDE = 8192
COPY_BYTES, HOST_BYTES = 4 << 30, 1 << 30
LAUNCHES = 1000


def measure(part: Part, setting: Setting) -> None:
    side, scale = (256, 1 << 10) if setting.toy else (SIDE, 1)
    device = setting.device
    part.figure("bf16", lambda: product(device, torch.bfloat16, False, side))
    part.figure("tf32", lambda: product(device, torch.float32, True, side), cuda=True)
    part.figure("fp32", lambda: product(device, torch.float32, False, side))
    part.figure("copy on device", lambda: copy_rate(device, device, COPY_BYTES // scale, False))
    for name, is_pinned in (("pinned", True), ("pageable", False)):
        part.figure(
            f"host to device, {name}", lambda p=is_pinned: copy_rate("cpu", device, HOST_BYTES // scale, p), cuda=True
        )
    part.figure("device to host, pinned", lambda: copy_rate(device, "cpu", HOST_BYTES // scale, True), cuda=True)
    part.figure("launch, eager", lambda: launch_times(device))
    part.figure("launch, CUDA graph", lambda: replay_times(device), cuda=True)


def seconds_of(work: Callable[[], Any], device: torch.device) -> list[float]:
    """Return the seconds of REPEATS calls after WARM_UPS, measured by CUDA events on a GPU."""
    for _ in range(WARM_UPS):
        work()
    seconds = []
    for _ in range(REPEATS):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
        else:
            start_s = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start_s)
    return seconds


def product(device: torch.device, dtype: torch.dtype, tf32: bool, side: int) -> dict[str, float]:
    """Return the TFLOP/s of a product of two square random matrices."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = seconds_of(lambda: torch.mm(first, second), device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    rates = [2 * side**3 / each / 1e12 for each in seconds]
    return {"TFLOP_per_s": statistics.median(rates), "slowest": min(rates), "fastest": max(rates), "side": side}


def copy_rate(source: torch.device | str, target: torch.device | str, size: int, is_pinned: bool) -> dict[str, float]:
    """Return the GB/s of a copy. Within one device, bytes read and bytes written both count."""
    devices = [torch.device(source), torch.device(target)]
    first, second = (
        torch.empty(size, dtype=torch.uint8, device=each, pin_memory=is_pinned and each.type == "cpu")
        for each in devices
    )
    first.fill_(7)
    device = next((each for each in devices if each.type == "cuda"), devices[0])
    seconds = statistics.median(seconds_of(lambda: second.copy_(first, non_blocking=True), device))
    num_bytes = size * (2 if devices[0] == devices[1] else 1)
    return {"GB_per_s": num_bytes / seconds / 1e9, "bytes": size}


def launch_times(device: torch.device) -> dict[str, float]:
    """Return the microseconds of a kernel on one number: of the launch by the host, and of host and device together."""
    number = torch.zeros(1, device=device)
    for _ in range(LAUNCHES):
        number.add_(1)
    host, both = [], []
    for _ in range(5):
        start_s = now(device)
        for _ in range(LAUNCHES):
            number.add_(1)
        host.append(time.perf_counter() - start_s)
        both.append(now(device) - start_s)
    return {
        "host_us": statistics.median(host) / LAUNCHES * 1e6,
        "host_and_device_us": statistics.median(both) / LAUNCHES * 1e6,
    }


def replay_times(device: torch.device) -> dict[str, float]:
    """Return the microseconds per kernel in a CUDA graph of LAUNCHES kernels, and the host's for one replay."""
    number = torch.zeros(1, device=device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        number.add_(1)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            number.add_(1)
    graph.replay()
    host, both = [], []
    for _ in range(5):
        start_s = now(device)
        graph.replay()
        host.append(time.perf_counter() - start_s)
        both.append(now(device) - start_s)
    return {
        "kernel_us": statistics.median(both) / LAUNCHES * 1e6,
        "host_us_for_replay": statistics.median(host) * 1e6,
    }
