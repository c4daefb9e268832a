"""Measure raykd on one GPU machine in a limited time, with torch alone: no Ray, no Slurm, no internet access.

    python tests/benchmarks/gpu_report.py --out DIR [--data-dir DIR] [--minutes 9] [--parts a,b,c]
                                          [--device cuda|cpu] [--toy]

DIR/report.json and DIR/report.txt are rewritten after every figure. The parts share --minutes, and the experiment has
the rest. The command ends within --minutes. This process only monitors a child that runs the parts. A child that hangs,
exceeds the time of its part or loses the GPU is replaced by another, which continues with the next figure; the figure
in progress counts as failed.

It requires torch, torchvision, timm, numpy, pyarrow, safetensors and filelock. The part 'experiment' also requires
Pillow, and the energy is left out without nvidia-ml-py.
"""

import argparse
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from gpu_parts.report import WHOLE, GpuLost, Part, Report

from raykd.cluster import mps

# Seconds of each part if all share 540.
BUDGETS = {
    "environment": 10,
    "cuda_tests": 45,
    "ceilings": 8,
    "steps": 200,
    "fill": 20,
    "loop": 30,
    "memory": 12,
    "packing": 60,
    "energy": 25,
    "experiment": 130,
}
LOST_GPU = 7  # exit status of a child whose CUDA context is unusable
GRACE_S = 8.0  # of --minutes, in which no figure starts and the one in progress may end; at most a tenth
FEWEST_S = 10.0  # the least time for another child
POLL_S = 0.3
DUMP_S = 1.5  # for the stacks of a child that hangs
MOST_PROCESSES = 20


def main() -> int:
    arguments = parse()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.until is not None:
        return run_parts(arguments)
    deadline = time.time() + 60 * arguments.minutes
    until = deadline - min(GRACE_S, 6 * arguments.minutes)
    for name in ("report.json", "report.txt"):
        (out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-u", *sys.argv, "--until", repr(until), "--scratch", scratch]
        for _ in range(MOST_PROCESSES):
            before = Report(out).progress
            status = watch(command, out, deadline, Path(scratch))
            if status == 0 or time.time() > until - FEWEST_S or Report(out).progress == before:
                break
    report = Report(out)
    print(f"[gpu_report] {report.progress} figures in {out / 'report.txt'}; failed:", flush=True)
    for name, part in report.parts.items():
        print(*(f"  {name}: {figure}" for figure in part["failed"]), sep="\n", end="\n" if part["failed"] else "")
    return 0 if report.parts and status == 0 else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parts", default=",".join(BUDGETS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.parts = [name for name in arguments.parts.split(",") if name]
    if unknown := [name for name in arguments.parts if name not in BUDGETS]:
        parser.error(f"--parts: unknown {', '.join(unknown)}; known are {', '.join(BUDGETS)}")
    return arguments


def watch(command: list[str], out: Path, deadline: float, scratch: Path) -> int:
    """Run the child until it ends, hangs, or time.time() reaches `deadline`, and return its exit status.

    The child and its processes form a process group, and none of them outlives this call. Neither does an MPS below
    `scratch`, whose server may be in another group.
    """
    child = subprocess.Popen(command, start_new_session=True)
    reason = ""
    try:
        while child.poll() is None:
            time.sleep(POLL_S)
            figure = in_progress(out)
            if time.time() > deadline - DUMP_S - 2 * POLL_S:
                reason = "the time of the whole report was over"
            elif figure and time.time() > figure["began"] + figure["limit_s"]:
                reason = f"took longer than {figure['limit_s']:.0f} s"
            if reason:
                child.send_signal(signal.SIGUSR1)  # the child prints its stacks
                time.sleep(DUMP_S)
                break
    finally:
        folders = mps.folders_below(scratch)
        if Path(folders[mps.PIPES], "control").exists():
            mps.end(folders, os.environ)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    status = child.returncode
    if status != 0:
        report = Report(out)
        report.values["processes"] += 1
        report.fail_in_progress(reason or f"the process ended with status {status}")
        print(f"[gpu_report] the child ended: {reason or f'status {status}'}", flush=True)
    return status


def in_progress(out: Path) -> dict | None:
    """Return the figure that the child is measuring, or None."""
    try:
        return json.loads((out / "report.json").read_text())["in_progress"]
    except (OSError, ValueError):
        return None


def run_parts(arguments: argparse.Namespace) -> int:
    """Run the parts that are not complete, in the child."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    _end_with_parent()
    report = Report(arguments.out)
    import torch
    from gpu_parts.setting import Setting

    setting = Setting(arguments.device, arguments.toy, arguments.data_dir, arguments.scratch)
    if setting.has_cuda:
        torch.cuda.init()
    scale = 60 * arguments.minutes / sum(BUDGETS[name] for name in arguments.parts)
    for name in (name for name in BUDGETS if name in arguments.parts):
        if report.is_over(name):
            continue
        is_last = name == [part for part in BUDGETS if part in arguments.parts][-1]
        budget_s = float("inf") if is_last or setting.toy else BUDGETS[name] * scale
        part = Part(report, name, budget_s, arguments.until, setting.has_cuda, is_usable)
        print(f"== {name}: {part.left():.0f} s", flush=True)
        try:
            importlib.import_module(f"gpu_parts.{name}").measure(part, setting)
        except GpuLost:
            print(f"== {name}: the GPU cannot be used by this process any longer", flush=True)
            os._exit(LOST_GPU)  # immediately, because freeing GPU memory would raise again
        except Exception as error:  # noqa: BLE001  # the other parts are still measured
            part.fail(WHOLE, error)
        part.end()
    return 0


def is_usable() -> bool:
    """Return whether this process can still use the GPU. An illegal access or a broken capture ends that."""
    import torch

    try:
        torch.cuda.synchronize()
        torch.ones(8, device="cuda").sum().item()
        torch.cuda.empty_cache()  # raises after a capture that failed
    except Exception:  # noqa: BLE001  # of any type
        return False
    return True


def _end_with_parent() -> None:
    """End this process and its process group, which `watch` made, when its parent has ended."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
