# SPDX-License-Identifier: Apache-2.0
"""The page of the growth measurements, written from their JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: What is asked of large data: bytes of memory at most, and the largest share of a training step spent on waiting.
LARGEST_RSS_BYTES, LARGEST_WAIT_SHARE = 4 * 10**9, 0.10
UNITS = {
    "features": "clips",
    "input": "clips",
    "layers": "convolutions",
    "params": "parameters",
    "sweep": "tasks",
    "full": "clips",
    "wait": "clips",
}
#: Clips of 1 s in the development set of TAU Urban Acoustic Scenes 2022 Mobile.
TAU_CLIPS = 230_350
#: AudioSet's unbalanced and balanced training clips with audio, 10 s each (Gemmeke et al., ICASSP 2017: 2.08 M).
AUDIOSET_CLIPS, AUDIOSET_SECONDS = 2_084_320, 10
_TITLES = {
    "features": "Log-mel features (1 s at 32 kHz, 256 bands) from waveforms in the cache",
    "input": "One epoch of batches of 64 in random order, 45 kB a clip",
    "layers": "`prune_model` to 50 % of the MACs, convolutions of 16 channels",
    "params": "`prune_model` to 50 % of the MACs, 12 wide convolutions",
    "sweep": "Planning a sweep and writing its results file",
}


_SEVERAL = [
    "## Several machines",
    "",
    "`compress sweep grid.toml` runs recipes x budgets x seeds x device classes on Ray: on this machine, or with "
    "`--address` on a cluster, where edgepress is installed on every machine and `--run` is a folder that all share. "
    "`--dry-run` prints the plan and an estimate. Each task is a `compress run` in RUN/tasks/NAME (or the dense "
    "training that tasks of one recipe and seed share, in RUN/dense/NAME) with `log.txt`; RUN/results.json is whole at "
    "any time. A killed task starts again where it was, up to `--retries` times; the same command goes on after "
    "a kill.",
    "",
    "Whoever reaches a port of Ray may run code as its user. On this machine edgepress therefore starts Ray on the "
    "loopback interface, with a token of its own. A cluster that you start yourself: keep it in a network of its "
    "own, or behind a firewall that lets its machines alone through; make a token once "
    "(`ray get-auth-token --generate`), copy "
    "`~/.ray/auth_token` to every machine with the rights 0600, and set `RAY_AUTH_MODE=token` for `ray start` and for "
    "`compress sweep --address`; leave the dashboard out (`--include-dashboard=false`), or reach it through ssh.",
    "",
    "One training on several devices of a machine: `--devices 4`. On several machines, torchrun starts the command "
    "once for each device, and `--run` is shared: "
    "`torchrun --nnodes 2 --nproc-per-node 4 ... -m compress train --nodes 2 "
    "--devices 4 --strategy ddp`. Rank 0 writes. A batch is the batch of all devices together, with its statistics and "
    "draws, so that the result does not depend on their number; with augmentation every device therefore reads and "
    "augments the whole batch and trains on its rows. At the end of each epoch it is checked that weights and the "
    "state of pruning are the same on all.",
    "",
]


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """b of value = a * size^b by least squares on logarithms; None where a value is not above 0."""
    if len(sizes) < 2 or min(values) <= 0:
        return None
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def page(result: dict[str, Any], overhead: dict[str, Any] | None = None) -> str:
    """Markdown of what `python -m edgepress.benchmarks.experiments.scale` measured, and what follows for large sets.

    Args:
        result: of benchmarks/scale.py.
        overhead: of benchmarks/sweep_overhead.py.
    """
    parts, where = result["parts"], result["environment"]
    tools = ", ".join(f"{name} {where['tools'][name]}" for name in ("torch", "numpy") if name in where["tools"])
    lines = [
        "# Scale",
        "",
        "Written by `python -m edgepress.benchmarks.experiments.scale --docs docs/scale.md` from "
        "`benchmarks/results/scale.json`, which "
        f"`{result['command']}` measured on {where['cpu']}, {where['cores']} cores, Python {where['python']}, {tools}. "
        "Times are CPU seconds of one process; memory is the peak resident size of a process of its own, its imports "
        "included. The exponent b of time is that of seconds = a * size^b over the rows.",
        "",
        "## Growth",
        "",
    ]
    for part, title in _TITLES.items():
        records = parts.get(part)
        if records:
            lines += [f"### {title}", "", *_growth(part, records), ""]
    return "\n".join([*lines, *_full(parts), *_memory(), *_plan(parts), *_SEVERAL, *_overhead(overhead)]) + "\n"


def _growth(part: str, records: Sequence[dict[str, Any]]) -> list[str]:
    sizes = [record["size"] for record in records]
    keys = {
        "cpu_seconds": "CPU s",
        "cache_cpu_seconds": "CPU s of writing the waveforms",
        "one_note_cpu_seconds": "CPU s of one write of results.json",
        "peak_rss_bytes": "peak memory",
    }
    used = [key for key in keys if all(key in record for record in records)]
    rows = [[f"{record['size']:,}", *(_value(key, record[key]) for key in used)] for record in records]
    found = {key: exponent(sizes, [record[key] for record in records]) for key in used}
    rows.append(["exponent", *("-" if found[key] is None else f"{found[key]:.2f}" for key in used)])
    return _table([UNITS[part], *(keys[key] for key in used)], rows)


def _full(parts: dict[str, Any]) -> list[str]:
    lines = []
    for record in parts.get("full", []):
        lines += [
            "## A set larger than the memory it may take",
            "",
            f"{record['size']:,} clips, {record['feature_bytes'] / 1e9:.1f} GB of features: a whole epoch through "
            f"`edgepress.compress.training.train` with a network of one layer, where reading is most of the work: "
            f"{record['cpu_seconds']:,.0f} CPU s, peak memory {record['peak_rss_bytes'] / 1e9:.2f} GB "
            f"(limit {LARGEST_RSS_BYTES / 1e9:.0f} GB).",
            "",
        ]
    for record in parts.get("wait", []):
        rows = [
            [
                f"`{share['network']}`",
                f"{share['macs'] / 1e6:.1f} M",
                f"{share['step_ms']:,.0f} ms",
                f"{100 * share['wait_share']:.1f} %",
            ]
            for share in record["shares"]
        ]
        lines += [
            f"Waiting for data, {record['threads']} threads, batches of {record['batch_size']} drawn from all "
            f"{record['size']:,} clips, {record['steps']} steps, at a load of {record['load_average']:g} (limit "
            f"{100 * LARGEST_WAIT_SHARE:.0f} %):",
            "",
            *_table(["network", "MACs", "step", "waiting"], rows),
            "",
        ]
    return lines


def _memory() -> list[str]:
    return [
        "## What is held in memory",
        "",
        "- Waveforms and features of a folder of recordings lie in the cache as files; training reads the rows of each "
        "batch from the file (`compress/batches.py`), the next one while this one is trained on, and computing them "
        "holds one batch of clips at a time. Pages of the cache's files that were written count as memory in the "
        "table; the kernel takes them back when it needs them.",
        "- An `.npz` is read whole, and refused above 4 GiB, since its parts can only be unpacked as a whole. Larger "
        "features: a folder of recordings, or `package.module:factory` with a memory-mapped array.",
        "- Names, labels, recording devices and recordings of all clips are lists in memory.",
        '- `logits = "cached"` holds 4 bytes for each clip and class.',
        "",
    ]


def _plan(parts: dict[str, Any]) -> list[str]:
    features, full = parts.get("features"), parts.get("full")
    if not features:
        return []
    largest = features[-1]
    per_clip = largest["cpu_seconds"] / largest["size"]
    waveform, feature = (largest[key] / largest["size"] for key in ("waveform_bytes", "feature_bytes"))
    reading = full[0]["cpu_seconds"] / full[0]["size"] if full else None
    steps = parts.get("wait", [{"shares": []}])[0]["shares"]
    rows = []
    for name, clips, seconds in (
        ("TAU 2022 Mobile, all", TAU_CLIPS, 1),
        ("AudioSet-size", AUDIOSET_CLIPS, AUDIOSET_SECONDS),
    ):
        long = clips * seconds
        rows.append(
            [
                name,
                f"{clips:,} x {seconds} s",
                f"{long * waveform / 1e9:,.0f} GB",
                f"{long * feature / 1e9:,.0f} GB",
                f"{long * per_clip / 3600:,.1f} h",
                "-" if reading is None else f"{long * reading / 60:,.0f} min",
                *(f"{long / 64 * share['step_ms'] / 3.6e6:,.1f} h" for share in steps),
            ]
        )
    heads = [
        "set",
        "clips",
        "waveforms on disk",
        "features on disk",
        "features, one core",
        "reading, an epoch",
        *(f"an epoch, {share['macs'] / 1e6:.0f} M MACs" for share in steps),
    ]
    return [
        "## Plan for large sets",
        "",
        "Computed from the largest sizes above, growth being linear in clips; an epoch is counted from the measured "
        "step and is too long where other work ran beside it.",
        "",
        *_table(heads, rows),
        "",
        "- All of TAU fits one machine: the features are computed once, on all cores, into the cache "
        "(`EDGEPRESS_CACHE` on a disk with the sum of both columns). Train on a GPU, or with `--devices` on several; "
        "prune and quantize from that checkpoint. The subsets of DCASE 2024 (`--data FOLDER@split25`) train in "
        "proportion.",
        "- AudioSet-size: keep waveforms on a shared disk and compute features per machine; one epoch is worth what "
        "many epochs of TAU are, so that budgets in epochs are small. `compress sweep --address` spreads budgets and "
        "seeds over machines; `--nodes` spreads one training.",
        "- Clips of 10 s in 1 s pieces are ten clips of one recording: `identifier` keeps them on one side of a split.",
        "",
    ]


def _overhead(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"`{found['command']}`: {found['tasks']} tasks, {found['slots']} at a time, took "
        f"{found['hand_seconds']:.0f} s as commands started by hand and {found['sweep_seconds']:.0f} s as a sweep "
        f"({100 * found['overhead']:+.1f} %), with the same weights.",
        "",
    ]


def _value(key: str, value: float) -> str:
    if key.endswith("bytes"):
        return f"{value / 1e9:.2f} GB"
    return f"{value:,.3f}" if value < 10 else f"{value:,.0f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
