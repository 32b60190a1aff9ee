# SPDX-License-Identifier: Apache-2.0
"""The firmware table: flash, RAM, stack, exact instructions and crude cycles of generated C on every core, by kernels.

`python -m edgepress.benchmarks.experiments.firmware FILES --output benchmarks/results/firmware.json` measures;
`--docs docs/firmware.md`
writes the page from the JSON. With random weights, sizes and instructions are shown; they hardly depend on training:
the smallest and largest count over several inputs are given beside each other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.firmware_marks import violations
from edgepress.benchmarks.experiments.firmware_page import page, tables
from edgepress.models.atomic import write_json, write_text
from edgepress.models.errors import EdgepressError, RuntimeFailure, UsageError

SCHEMA = 1
CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "riscv32")
#: Random inputs that are compared with TFLite Micro; in how many of them instructions are counted, which is slower.
_INPUTS, _COUNTED = 100, 3


def measure(
    path: Path, *, cores: Sequence[str] = CORES, inputs: int = _INPUTS, kept: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Figures of one .tflite file.

    Args:
        path: the file.
        cores: runtimes of emulated cores.
        inputs: random inputs that are compared with TFLite Micro on the host and, with `dsp` kernels, on the Cortex-M4;
            the other cores and kernels get those in which instructions are counted.
        kept: an earlier result; what it holds of the same C and as many inputs is not measured again.

    Returns:
        {"name", "code_sha256", "macs", "weight_bytes", "arena_bytes", "tflm_arena_bytes", "host": [...], "cores": ...,
        "crude_cycles"}.

    Raises:
        UsageError: the file has no C. RuntimeFailure: a tool or TFLite Micro is missing.
    """
    from edgepress.benchmarks.measure.crude_cycles import crude_cycles
    from edgepress.deploy.firmware.host import HostProgram
    from edgepress.deploy.firmware.lowering.steps import PORTABLE_KERNELS
    from edgepress.deploy.firmware.sources import firmware, sources
    from edgepress.deploy.runtimes.sessions import open_session

    made = firmware(path)
    network = made.network
    code = sha256("".join(text for _, text in sorted(sources(made, "").items())).encode()).hexdigest()
    if kept is None or (kept.get("code_sha256"), kept["host"][0]["inputs"]) != (code, inputs):
        kept = {"host": [], "cores": []}
    rows = {(row["core"], row["kernels"]): row for row in kept["cores"]}
    # Plain kernels check the others; what they cost is shown on one core.
    wanted = [(core, kind) for core in cores for kind in _kernels_on(core)]
    if kept["host"] and "crude_cycles" in kept and all(key in rows for key in wanted):
        return kept
    generator = np.random.default_rng(0)
    with open_session(path, "tflm") as session:
        given = [generator.integers(-128, 128, (inputs, *d.shape[1:]), dtype=np.int8) for d in session.inputs]
        expected = session.run_integer(*given)
        expected = expected if isinstance(expected, tuple) else (expected,)
        arena = session.arena_bytes()
    shaped = [x.reshape(inputs, *network.values[t].shape) for x, t in zip(given, network.inputs, strict=True)]
    host = list(kept["host"])
    for kernels in () if host else PORTABLE_KERNELS:
        with HostProgram(made, kernels=kernels) as program:
            equal = _equal(program.run(shaped), expected, inputs)
        host.append({"kernels": kernels, "inputs": inputs, "equal": equal})
    for core, kind in wanted:
        if (core, kind) in rows:
            continue
        count = inputs if (core, kind) == ("cortex-m4", "dsp") else min(inputs, _COUNTED)
        _say(f"{path.stem}: {core}, {kind} kernels")
        few, outputs = [x[:count] for x in shaped], [y[:count] for y in expected]
        rows[core, kind] = _on_core(made, core, kind, few, outputs)
    _say(f"{path.stem}: crude cycles")
    crude = crude_cycles(made, [x[:1] for x in shaped])
    return {
        "name": path.stem,
        "code_sha256": code,
        "operators": network.operators,
        "macs": network.macs,
        "weight_bytes": network.weight_bytes,
        "constant_bytes": network.constant_bytes,
        "arena_bytes": {kernels: layout.arena_bytes for kernels, layout in made.layouts.items()},
        "tflm_arena_bytes": arena,
        "host": host,
        "crude_cycles": {"cycles": crude.cycles, "instructions": crude.instructions, "per_mac": crude.per_mac},
        "cores": [rows[key] for key in sorted(rows, key=lambda key: (CORES.index(key[0]), key[1] != "plain"))],
    }


def add_crude_cycles(result: dict[str, Any], files: Sequence[Path]) -> None:
    """Measure crude cycles, and put them beside the other figures of networks with these names and products.

    Raises:
        UsageError: the result knows no such network.
    """
    from edgepress.benchmarks.measure.crude_cycles import crude_cycles
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.deploy.firmware.sources import firmware, sources

    for path in files:
        made = firmware(path)
        one = next((o for o in result["networks"] if (o["name"], o["macs"]) == (path.stem, made.network.macs)), None)
        if one is None:
            raise UsageError(f"{path.stem} with {made.network.macs:,} multiply-accumulates is not in the result")
        found = crude_cycles(made)
        _say(f"{path.stem}: {found.per_mac:.2f} crude cycles per MAC")
        one["crude_cycles"] = {
            "cycles": found.cycles,
            "instructions": found.instructions,
            "per_mac": found.per_mac,
            "code_sha256": sha256("".join(text for _, text in sorted(sources(made, "").items())).encode()).hexdigest(),
        }
    names = " ".join(path.name for path in files)
    result["crude_cycles"] = {
        "command": f"python -m edgepress.benchmarks.experiments.firmware {names} --crude-cycles",
        "environment": environment(),
    }


def _kernels_on(core: str) -> tuple[str, ...]:
    from edgepress.deploy.firmware.boards import BOARDS

    return ("plain", BOARDS[core].kernels) if core == "cortex-m4" else (BOARDS[core].kernels,)


def _on_core(
    made: Any, core: str, kernels: str, shaped: list[np.ndarray], expected: list[np.ndarray]
) -> dict[str, Any]:
    from edgepress.deploy.firmware.emulated import DoesNotFit, EmulatedCore, memory_limits

    flash_limit, ram_limit = memory_limits(core)
    row: dict[str, Any] = {
        "core": core,
        "kernels": kernels,
        "flash_limit_bytes": flash_limit,
        "ram_limit_bytes": ram_limit,
    }
    try:
        with EmulatedCore(made, core, kernels=kernels) as firmware:
            done = firmware.run([x[:_COUNTED] for x in shaped], count=True)
            counts, outputs = done.instructions, done.outputs
            assert counts is not None
            if len(shaped[0]) > _COUNTED:
                outputs = firmware.run(shaped).outputs
            row.update(
                fits=True,
                flash_bytes=firmware.sizes.flash,
                ram_bytes=firmware.sizes.ram,
                stack_bytes=done.stack_bytes,
                inputs=len(shaped[0]),
                equal=_equal(outputs, expected, len(shaped[0])),
                instructions=counts.total,
                smallest_instructions=counts.smallest,
                largest_instructions=counts.largest,
                per_mac=counts.total / made.network.macs if made.network.macs else None,
                layers=[{"name": x.name, "instructions": x.instructions, "macs": x.macs} for x in counts.layers],
            )
    except DoesNotFit as verdict:
        row.update(
            fits=False,
            flash_over_bytes=verdict.flash_over_bytes,
            ram_over_bytes=verdict.ram_over_bytes,
            verdict=str(verdict),
        )
    return row


def _equal(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], count: int) -> int:
    """How many samples agree in every bit."""
    same = np.ones(count, bool)
    for got, want in zip(outputs, expected, strict=True):
        same &= (got.reshape(count, -1) == want.reshape(count, -1)).all(axis=1)
    return int(same.sum())


def verdict_in_time(path: Path) -> dict[str, Any]:
    """Seconds from a .tflite file to figures of the emulated Cortex-M4."""
    from edgepress.deploy.runtimes.sessions import open_session

    start = time.monotonic()
    with open_session(path, "cortex-m4") as session:
        figures = session.firmware_figures()
    return {"file": path.name, "seconds": time.monotonic() - start, "instructions": figures["instructions"]}


def labelled(path: Path, data: Path) -> dict[str, Any]:
    """Samples of an .npz (x: int8, as the network takes them; y: labels) that C on this machine gets right, and those
    in which it gives the bits of TFLite Micro."""
    from edgepress.deploy.runtimes.sessions import open_session

    with np.load(data, allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"]
    outputs = {}
    for runtime in ("tflm", "host-c"):
        with open_session(path, runtime) as session:
            made = session.run_integer(x.reshape(len(x), *session.input.shape[1:]))
            outputs[runtime] = np.asarray(made).reshape(len(y), -1)
    given, expected = outputs["host-c"], outputs["tflm"]
    return {
        "file": path.name,
        "data": data.name,
        "samples": len(y),
        "correct": int((given.argmax(1) == y).sum()),
        "equal": _equal([given], [expected], len(y)),
    }


def random_networks(folder: Path) -> list[Path]:
    """int8 files of CP-ResNet pruned to 30, 20, 10 and 5 MMACs and of CP-Mobile, with random weights."""
    import torch

    from edgepress.compress.prune.model import prune_model
    from edgepress.compress.quantize.model import quantize_model
    from edgepress.deploy.export.export import export_model
    from edgepress.models.checkpoints.registry import build, zoo

    made = []
    for label, architecture, macs in (
        ("cp_resnet_30M", "cp_resnet", 30e6),
        ("cp_resnet_20M", "cp_resnet", 20e6),
        ("cp_resnet_10M", "cp_resnet", 10e6),
        ("cp_resnet_5M", "cp_resnet", 5e6),
        ("cp_mobile", "cp_mobile", None),
    ):
        _say(f"making {label}")
        torch.manual_seed(0)
        shape = zoo()[architecture].input_shapes[0]
        network, x = build(architecture).eval(), torch.randn(1, *shape)
        if macs is not None:
            network = prune_model(network, (x,), macs=macs).model.eval()
        quantized = quantize_model(network, (x,), calibration=[torch.randn(8, *shape) for _ in range(2)])
        made.append(export_model(quantized, (x,), folder / f"{label}.tflite", verify=False).path)
    return made


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m edgepress.benchmarks.experiments.firmware`; the exit code is the project's."""
    parser = argparse.ArgumentParser(
        prog="python -m edgepress.benchmarks.experiments.firmware", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "files", nargs="*", type=Path, help=".tflite files; CP-ResNet and CP-Mobile are added with --zoo"
    )
    parser.add_argument(
        "--zoo", action="store_true", help="also CP-ResNet at 30, 20, 10, 5 MMACs and CP-Mobile, random weights"
    )
    parser.add_argument("--data", type=Path, help="labelled .npz for the first file, run on the host")
    parser.add_argument("--inputs", type=int, default=_INPUTS, help="random inputs to compare on")
    parser.add_argument("--cores", default=",".join(CORES), help="separated by commas")
    parser.add_argument("--output", type=Path, help="JSON to write (replaced)")
    parser.add_argument("--docs", type=Path, help="page to write from --output (replaced)")
    parser.add_argument("--resume", action="store_true", help="keep what --output holds of the same C and inputs")
    parser.add_argument("--crude-cycles", action="store_true", help="measure these alone, beside what --output holds")
    parser.add_argument("--only-docs", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    try:
        if options.only_docs or options.crude_cycles:
            if options.output is None or not options.output.is_file():
                raise UsageError("--only-docs and --crude-cycles need --output with an existing JSON file")
            result = json.loads(options.output.read_text())
            if options.crude_cycles:
                add_crude_cycles(result, options.files)
                write_json(options.output, result)
        else:
            result = _measure_all(options)
        if options.docs is not None:
            write_text(options.docs, page(result))
        print(tables(result))
    except EdgepressError as error:
        _say(f"error: {error}")
        return error.exit_code
    found = violations(result)
    for line in found:
        _say(f"missed: {line}")
    return 1 if found else 0


def _measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Measure file by file; what is done is kept, and the same command goes on after an interruption with --resume."""
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.deploy.artifact import sha256_of
    from edgepress.deploy.firmware.boards import missing_tools

    if reason := missing_tools("cortex-m4"):
        raise RuntimeFailure(reason)
    cores = [core.strip() for core in options.cores.split(",")]
    command = ["python -m edgepress.benchmarks.experiments.firmware", *(file.name for file in options.files)]
    command += ["--zoo"] if options.zoo else []
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "firmware",
        "command": " ".join(command),
        "networks": [],
        "environment": environment(),
    }
    kept: dict[str, dict[str, Any]] = {}
    if options.resume and options.output is not None and options.output.is_file():
        kept = {one["sha256"]: one for one in json.loads(options.output.read_text())["networks"]}
    with TemporaryDirectory(prefix="edgepress-") as folder:
        files = [*options.files, *(random_networks(Path(folder)) if options.zoo else [])]
        if not files:
            raise UsageError("name .tflite files, or give --zoo")
        result["quick"] = verdict_in_time(files[0])
        if options.data is not None:
            result["labelled"] = labelled(files[0], options.data)
        for file in files:
            digest = sha256_of(file)
            one = measure(file, cores=cores, inputs=options.inputs, kept=kept.get(digest))
            result["networks"].append({**one, "sha256": digest})
            if options.output is not None:
                write_json(options.output, result)
    return result


if __name__ == "__main__":
    sys.exit(main())
