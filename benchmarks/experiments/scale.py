# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow: with clips, with the size of a network or a sweep; and a set larger than the memory.

`python -m edgepress.benchmarks.experiments.scale --output benchmarks/results/scale.json` measures what that file does
not hold yet, each size
in a process of its own; `--docs docs/scale.md` writes the page from the JSON. CPU time is measured, since other work
on the machine stretches the clock; the share of waiting for data is a ratio of clocks.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.scale_page import LARGEST_RSS_BYTES, LARGEST_WAIT_SHARE, page
from edgepress.models.atomic import write_json, write_text
from edgepress.models.children import bound
from edgepress.models.errors import EdgepressError, RuntimeFailure, UsageError

SCHEMA = 1
#: What is measured: name -> sizes, smallest first.
SIZES: dict[str, tuple[int, ...]] = {
    "features": (100, 1_000, 10_000),
    "input": (2_000, 20_000, 200_000),
    "layers": (5, 50, 500),
    "params": (10**6, 10**7, 10**8),
    "sweep": (12, 120, 1_200),
    "full": (200_000,),
    "wait": (200_000,),
}
#: A clip of the published CP-ResNet: 1 x 256 x 44 float32.
CLIP = (1, 256, 44)


def measure(part: str, size: int, folder: Path) -> dict[str, Any]:
    """One size of one part, in this process: what it took, CPU seconds and the peak of memory."""
    import resource

    began, used = time.monotonic(), time.process_time()
    found = _PARTS[part](size, folder)
    return {
        "size": size,
        "cpu_seconds": round(found.pop("cpu_seconds", time.process_time() - used), 3),
        "seconds": round(time.monotonic() - began, 3),
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        **found,
    }


def _features(clips: int, folder: Path) -> dict[str, Any]:
    """Waveforms of 1 s at 32 kHz into the cache, and their log-mel features, as for a folder of recordings."""
    from edgepress.models.tasks.cache import cached_array
    from edgepress.models.tasks.front_ends.log_mel import MEL22, log_mel

    second = np.random.default_rng(0).normal(0, 3000, 32_000).astype(np.int16)

    def write(array: np.ndarray) -> None:
        for row in range(clips):
            array[row] = np.roll(second, row)

    def compute(array: np.ndarray) -> None:
        for start in range(0, clips, 32):
            array[start : start + 32] = log_mel(waveforms[start : start + 32], MEL22)

    begin = time.process_time()
    waveforms = cached_array(folder, "waveforms", "0", (clips, 32_000), np.int16, write)
    between = time.process_time()
    features = cached_array(folder, "features", "0", (clips, *MEL22.shape(32_000)), "float32", compute)
    return {
        "cpu_seconds": time.process_time() - between,
        "cache_cpu_seconds": round(between - begin, 3),
        "waveform_bytes": waveforms.nbytes,
        "feature_bytes": features.nbytes,
    }


def _input(clips: int, folder: Path) -> dict[str, Any]:
    """One epoch of gathering batches of 64 in random order from the features on disk."""
    from edgepress.compress.training.batches import batches

    features, labels = _large_set(folder, clips)
    begin = time.process_time()
    loader = batches((features, labels), 64, shuffle=True)
    total = sum(len(rows) for rows, _, _ in loader)
    return {"cpu_seconds": time.process_time() - begin, "clips": total, "feature_bytes": features.nbytes}


def _large_set(folder: Path, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of two separable classes, written block by block; a mapped file and labels."""
    path = folder / f"features-{clips}.npy"
    labels = np.arange(clips) % 10
    if not path.exists():
        need = clips * int(np.prod(CLIP)) * 4
        if need + 2**30 > shutil.disk_usage(folder).free:
            raise UsageError(f"{folder} needs {need / 1e9:.1f} GB for {clips:,} clips; --work names a larger disk")
        block = np.random.default_rng(0).normal(size=(1000, *CLIP)).astype(np.float32)
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            np.lib.format.write_array_header_2_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (clips, *CLIP)}
            )
            for start in range(0, clips, len(block)):
                block += np.float32(1e-3)
                block[0] += np.float32(0.1) * (start // len(block))
                file.write(block[: clips - start].data)
            file.flush()
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.replace(partial, path)
    return np.load(path, mmap_mode="r"), labels


def _large_task(folder: Path, clips: int) -> Any:
    from edgepress.models.tasks import Split, Task

    features, labels = _large_set(folder, clips)
    held = max(1000, clips // 100)
    parts = {"train": slice(0, clips - held), "validation": slice(clips - held, clips)}
    splits = {name: Split(tuple(map(str, range(len(labels[part])))), labels[part]) for name, part in parts.items()}
    return Task("large", tuple(map(str, range(10))), CLIP, f"scale-{clips}", splits, lambda name: features[parts[name]])


def _full(clips: int, folder: Path) -> dict[str, Any]:
    """A whole training epoch over the set, with a network so small that reading is most of the work."""
    import torch
    from torch import nn

    from edgepress.compress.recipes.recipe import TrainSettings
    from edgepress.compress.training.machine import Machine
    from edgepress.compress.training.train import train

    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(11), nn.Flatten(), nn.Linear(23 * 4, 10))
    task = _large_task(folder, clips)
    result = train(
        network,
        task,
        TrainSettings(epochs=1, batch_size=64, precision="32-true"),
        machine=Machine("cpu", 1, progress=False),
    )
    return {
        "feature_bytes": task.features("train").nbytes + task.features("validation").nbytes,
        "epochs": len(result.history),
        "train_loss": result.history[-1]["train_loss"],
    }


def _wait(clips: int, folder: Path, steps: int = 40) -> dict[str, Any]:
    """Training steps of real networks on batches from the whole set: what share of the time is spent on the batch."""
    import torch
    import torch.nn.functional as F

    from edgepress.compress.training.batches import batches
    from edgepress.compress.training.machine import channels_last
    from edgepress.models.checkpoints.registry import build
    from edgepress.models.cost.cost import cost_of

    features, labels = _large_set(folder, clips)
    threads = min(2, len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    shares = []
    for arguments in ({"base_channels": 32}, {"base_channels": 10}):
        model = build("cp_resnet", rho=8, n_blocks=(2, 1, 1), **arguments)
        macs = cost_of(model.eval(), (torch.zeros(1, *CLIP),)).macs
        channels_last(model.train())
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        waited = worked = 0.0
        rows = iter(batches((features, labels), 64, seed=len(shares), shuffle=True))
        for step in range(steps):
            begin = time.perf_counter()
            inputs, targets, _ = next(rows)
            got = time.perf_counter()
            F.cross_entropy(model(inputs.contiguous(memory_format=torch.channels_last)), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step >= 3:  # the first steps allocate
                waited, worked = waited + got - begin, worked + time.perf_counter() - got
        shares.append(
            {
                "network": f"cp_resnet {arguments}",
                "macs": macs,
                "wait_share": waited / (waited + worked),
                "step_ms": 1000 * (waited + worked) / (steps - 3),
            }
        )
    return {"threads": threads, "batch_size": 64, "steps": steps - 3, "shares": shares}


def _network(layers: int, width: int, size: int) -> Any:
    from torch import nn

    blocks: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(layers - 1):
        blocks += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)), (1, 1, size, size)


def _pruned(layers: int, width: int) -> dict[str, Any]:
    import torch

    from edgepress.compress.prune.model import prune_model

    network, shape = _network(layers, width, 8)
    params = sum(p.numel() for p in network.parameters())
    begin = time.process_time()
    pruned = prune_model(network.eval(), (torch.zeros(shape),), macs="50%")
    return {
        "cpu_seconds": time.process_time() - begin,
        "layers": layers,
        "params": params,
        "width": width,
        "macs_after": pruned.after.macs,
        "macs_before": pruned.before.macs,
        "proof_max_abs_diff": float(pruned.proof.max_abs_diff),
    }


def _layers(layers: int, folder: Path) -> dict[str, Any]:
    """`prune_model` to half the MACs on a chain of convolutions of 16 channels."""
    return _pruned(layers, 16)


def _params(params: int, folder: Path) -> dict[str, Any]:
    """`prune_model` to half the MACs on 12 convolutions that share so many parameters."""
    return _pruned(12, round((params / (11 * 9)) ** 0.5))


def _sweep(tasks: int, folder: Path) -> dict[str, Any]:
    """Planning and keeping the books of a sweep, without the tasks."""
    from edgepress.compress.commands.sweep import write_results
    from edgepress.compress.sweep.sweep import make_grid, plan

    grid = make_grid(
        {
            "recipes": ["default"],
            "budgets": ["30M", "20M", "10M"],
            "seeds": list(range(tasks // 3)),
            "data": "synthetic",
        },
        "scale",
    )
    planned, _ = plan(grid)
    results: dict[str, dict[str, Any]] = {}
    for task in planned:
        results[task.name] = {**task.to_json(), "state": "done", "networks": [{"name": "dense", "macs": 1}] * 4}
    begin = time.process_time()
    write_results(folder, planned, results)
    return {"tasks": len(planned), "one_note_cpu_seconds": round(time.process_time() - begin, 4)}


_PARTS: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    "features": _features,
    "input": _input,
    "layers": _layers,
    "params": _params,
    "sweep": _sweep,
    "full": _full,
    "wait": _wait,
}


def violations(result: dict[str, Any]) -> list[str]:
    """What the figures should hold and do not."""
    missed = []
    for record in result["parts"].get("full", []):
        if record["peak_rss_bytes"] > LARGEST_RSS_BYTES:
            missed.append(f"training on {record['size']:,} clips took {record['peak_rss_bytes'] / 1e9:.1f} GB")
    for record in result["parts"].get("wait", []):
        missed += [
            f"{share['network']} waits {share['wait_share']:.1%} of its time for data"
            for share in record["shares"]
            if share["wait_share"] > LARGEST_WAIT_SHARE
        ]
    return missed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, judge: 0 all holds, 1 a figure is missed, 2 and 3 as everywhere."""
    parser = argparse.ArgumentParser(
        prog="python -m edgepress.benchmarks.experiments.scale", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--output", type=Path, help="JSON of results; what it holds already is kept")
    parser.add_argument(
        "--docs", type=Path, help="write the page from --output and the sweep.json beside it, without measuring"
    )
    parser.add_argument("--parts", default=",".join(SIZES), help=f"some of {', '.join(SIZES)}")
    parser.add_argument("--work", type=Path, help="a folder on a disk with 20 GB; kept. Otherwise a temporary one")
    parser.add_argument("--one", nargs=2, metavar=("PART", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.one:
            print(json.dumps(measure(options.one[0], int(options.one[1]), options.work)))
            return 0
        if options.docs is not None:
            if options.output is None:
                raise UsageError("--docs needs --output, the JSON that it is written from")
            overhead = options.output.with_name("sweep.json")
            write_text(
                options.docs,
                page(
                    json.loads(options.output.read_text()),
                    json.loads(overhead.read_text()) if overhead.is_file() else None,
                ),
            )
            return 0
        result = _measure_all(options)
    except EdgepressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    missed = violations(result)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


def _measure_all(options: argparse.Namespace) -> dict[str, Any]:
    from edgepress.benchmarks.measure.environment import environment

    unknown = [part for part in options.parts.split(",") if part not in SIZES]
    if unknown:
        raise UsageError(f"--parts {unknown[0]!r} is unknown: known are {', '.join(SIZES)}")
    result: dict[str, Any] = {"schema": SCHEMA, "kind": "scale", "parts": {}}
    if options.output is not None and options.output.is_file():
        result["parts"] = json.loads(options.output.read_text())["parts"]
    result |= {
        "command": shlex.join(
            ["python", "-m", "edgepress.benchmarks.experiments.scale", "--output", "benchmarks/results/scale.json"]
        ),
        "environment": environment(),
    }
    with TemporaryDirectory(prefix="edgepress-scale-") as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for part in options.parts.split(","):
            done = {record["size"]: record for record in result["parts"].get(part, [])}
            for size in SIZES[part]:
                if size not in done:
                    done[size] = _in_child(part, size, folder)
                    print(f"{part} {size:,}: {done[size]}", file=sys.stderr, flush=True)
                result["parts"][part] = [done[key] for key in sorted(done)]
                if options.output is not None:
                    write_json(options.output, result)
    return result


def _in_child(part: str, size: int, folder: Path) -> dict[str, Any]:
    """Measure in a process of its own, so that its peak of memory is that of this size alone."""
    own = TemporaryDirectory(prefix="size-", dir=folder) if part == "features" else None
    try:
        command = [
            sys.executable,
            "-m",
            "edgepress.benchmarks.experiments.scale",
            "--one",
            part,
            str(size),
            "--work",
            own.name if own else str(folder),
        ]
        child = subprocess.run(bound(command), stdout=subprocess.PIPE, text=True, check=False)
    finally:
        if own is not None:
            own.cleanup()
    if child.returncode:
        raise RuntimeFailure(f"measuring {part} at {size:,} ended with exit code {child.returncode}; see above")
    return {**json.loads(child.stdout.strip().splitlines()[-1]), "load_average": round(os.getloadavg()[0], 1)}


if __name__ == "__main__":
    sys.exit(main())
