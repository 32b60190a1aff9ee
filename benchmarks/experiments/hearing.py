# SPDX-License-Identifier: Apache-2.0
"""Front ends in C: instructions, flash and RAM on every core, and accuracy from the waveform.

`python -m edgepress.benchmarks.experiments.hearing [FILE --data DIR] --output benchmarks/results/hearing.json --docs
docs/hearing.md` measures the front ends of the presets alone, behind a network that only gives its input back; with an
exported audio FILE, test recordings go in as samples and labels come out, beside the same file in the Python pipeline.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.models.atomic import write_json, write_text
from edgepress.models.errors import EdgepressError, RuntimeFailure, UsageError
from edgepress.models.tasks.front_ends.log_mel import PRESETS, LogMel, log_mel

SCHEMA = 1
CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "riscv32")
#: The marks: mel22 on a Cortex-M4 with a floating-point unit, a clip of a second.
LARGEST_INSTRUCTIONS, LARGEST_FLASH_BYTES, LARGEST_RAM_BYTES, LARGEST_DIFFERENCE = 5_000_000, 30_000, 20_000, 1e-4
LEAST_AGREEMENT, LARGEST_LOSS = 0.99, 0.003
#: The step and zero of the input of the network that gives it back; features of speech and scenes lie within its range.
_SCALE, _ZERO = 0.016, -20


def pass_through(config: LogMel, frames: int) -> bytes:
    """A .tflite file that gives its int8 input [1, n_mels, frames, 1] back."""
    from edgepress.deploy.tflite.writer import pack, schema

    kinds = schema()
    model, graph, operator, code = kinds.ModelT(), kinds.SubGraphT(), kinds.OperatorT(), kinds.OperatorCodeT()
    graph.name, graph.tensors = "main", []
    for name in ("heard", "given"):
        tensor = kinds.TensorT()
        tensor.name, tensor.buffer, tensor.type = name.encode(), 0, kinds.TensorType.INT8
        tensor.shape = np.array([1, config.n_mels, frames, 1], np.int32)
        tensor.quantization = kinds.QuantizationParametersT()
        tensor.quantization.scale = np.array([_SCALE], np.float32)
        tensor.quantization.zeroPoint = np.array([_ZERO], np.int64)
        graph.tensors.append(tensor)
    code.builtinCode = code.deprecatedBuiltinCode = kinds.BuiltinOperator.MAX_POOL_2D
    code.version = 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, np.array([0], np.int32), np.array([1], np.int32)
    operator.builtinOptionsType, operator.builtinOptions = kinds.BuiltinOptions.Pool2DOptions, kinds.Pool2DOptionsT()
    for field in ("padding", "strideH", "strideW", "filterHeight", "filterWidth"):
        setattr(operator.builtinOptions, field, 1)
    graph.operators, graph.inputs, graph.outputs = [operator], np.array([0], np.int32), np.array([1], np.int32)
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [kinds.BufferT()]
    return pack(model)


def front_end_row(name: str, core: str, clips: np.ndarray) -> dict[str, Any]:
    """A front end alone on a core.

    Args:
        name: of a preset.
        core: an emulated core.
        clips: int16 [N, a second].

    Returns:
        "preset", "core", "form" ("float" or "fixed point"), "instructions" of the first clip, "flash_bytes" and
        "ram_bytes" that it adds, "stack_bytes", "largest_step" and "mean_step": of int8, from training's features.
    """
    from edgepress.deploy.firmware.boards import BOARDS
    from edgepress.deploy.firmware.emulated import EmulatedCore
    from edgepress.deploy.firmware.sources import firmware

    config = PRESETS[name]
    made = firmware(pass_through(config, config.frames(clips.shape[1])), front_end=config)
    flash, ram = 1 << 22, 1 << 21  # a front end alone is no verdict
    with (
        EmulatedCore(made, core, listening=True, flash_bytes=flash, ram_bytes=ram) as hears,
        EmulatedCore(made, core, flash_bytes=flash, ram_bytes=ram) as deaf,
    ):
        first = hears.hear(clips[:1], count=True)
        heard = hears.hear(clips).outputs[0].reshape(len(clips), config.n_mels, -1).astype(int)
        flash, ram = hears.sizes.flash - deaf.sizes.flash, hears.sizes.ram - deaf.sizes.ram
    steps = np.clip(np.round(log_mel(clips, config)[:, 0] / np.float32(_SCALE)) + _ZERO, -128, 127)
    apart = np.abs(heard - steps)
    flags = BOARDS[core].flags
    return {
        "preset": name,
        "core": core,
        "form": "float" if any("hard" in flag for flag in flags) else "fixed point",
        "instructions": first.front_end_instructions,
        "flash_bytes": flash,
        "ram_bytes": ram,
        "stack_bytes": first.stack_bytes,
        "largest_step": int(apart.max()),
        "mean_step": float(apart.mean()),
    }


def feature_row(name: str, clips: np.ndarray) -> dict[str, Any]:
    """Largest and mean difference of the features of the C, in both forms on this machine, from those of training."""
    from edgepress.deploy.firmware.listening import HostEar
    from edgepress.deploy.firmware.sources import firmware

    config = PRESETS[name]
    made = firmware(pass_through(config, config.frames(clips.shape[1])), front_end=config)
    wanted, row = log_mel(clips, config)[:, 0], {"preset": name, "clips": len(clips)}
    for form, fixed in (("float", False), ("fixed", True)):
        with HostEar(made, fixed_point=fixed) as ear:
            features = ear.hear(clips.reshape(-1)).features
        apart = np.abs(features.reshape(len(clips), -1, config.n_mels).transpose(0, 2, 1) - wanted)
        row.update({f"{form}_largest": float(apart.max()), f"{form}_mean": float(apart.mean())})
    return row


def from_the_waveform(file: Path, data: str, clips: dict[str, int]) -> dict[str, Any]:
    """Labels of test recordings, from samples in C and from features in Python.

    Args:
        file: .tflite with a manifest that names its front end.
        data: a task with audio.
        clips: runtime ("host-c", "host-c fixed point" or an emulated core) -> how many clips, evenly drawn.
    """
    from edgepress.deploy.artifact import sha256_of
    from edgepress.deploy.firmware.front_end.emit import definition_of
    from edgepress.deploy.firmware.sources import firmware
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.models.tasks.sources.load import load_task

    definition = definition_of(file)
    if definition is None:
        raise UsageError(f"{file} names no front end in a manifest: export it from a checkpoint")
    task = load_task(data, front_end=definition)
    samples, labels = np.asarray(task.waveforms("test")), task.split("test").labels
    if samples.dtype != np.int16:
        samples = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
    with open_session(file, "tflm") as session:
        python = np.asarray(session.run(np.asarray(task.features("test")))).reshape(len(labels), -1).argmax(1)
    made = firmware(file, front_end=definition)
    if made.deaf:
        raise UsageError(f"the front end of {file} has no C: {made.deaf}")
    rows = []
    for runtime, count in clips.items():
        chosen = np.linspace(0, len(labels) - 1, min(count, len(labels))).astype(int)
        _say(f"{len(chosen)} clips through {runtime}")
        given = _heard(made, runtime, samples[chosen])
        rows.append(
            {
                "runtime": runtime,
                "clips": len(chosen),
                "equal": int((given == python[chosen]).sum()),
                "correct": int((given == labels[chosen]).sum()),
                "python_correct": int((python[chosen] == labels[chosen]).sum()),
            }
        )
    return {
        "file": file.name,
        "sha256": sha256_of(file),
        "task": task.name,
        "task_sha256": task.fingerprint,
        "rows": rows,
    }


def _heard(made: Any, runtime: str, samples: np.ndarray) -> np.ndarray:
    from edgepress.deploy.firmware.emulated import EmulatedCore
    from edgepress.deploy.firmware.listening import HostEar

    if runtime.startswith("host-c"):
        with HostEar(made, fixed_point="fixed" in runtime, kernels="tiled") as ear:
            outputs = ear.hear(samples.reshape(-1)).decisions
    else:
        with EmulatedCore(made, runtime, listening=True, timeout_s=3600) as core:
            outputs = core.hear(samples).outputs[0]
    return outputs.reshape(len(samples), -1).argmax(1)


def tables(result: dict[str, Any]) -> str:
    """The measured part of the page."""
    lines = [
        "| front end | core | form | instructions, a second | flash B | RAM B | stack B | int8 steps from training's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['preset']} | {row['core']} | {row['form']} | {row['instructions']:,} | {row['flash_bytes']:,} | "
        f"{row['ram_bytes']:,} | {row['stack_bytes']} | {row['largest_step']}, {row['mean_step']:.4f} |"
        for row in result["front_ends"]
    ]
    lines += ["", "| features, from training's | clips | float: largest | mean | fixed point: largest | mean |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [
        f"| {row['preset']} | {row['clips']} | {row['float_largest']:.1e} | {row['float_mean']:.1e} | "
        f"{row['fixed_largest']:.4f} | {row['fixed_mean']:.5f} |"
        for row in result["features"]
    ]
    if heard := result.get("from_the_waveform"):
        lines += [
            "",
            f"From the waveform, {heard.get('network') or heard['file']}, on the test recordings of its task:",
            "",
            "| runtime | clips | labels of the Python pipeline | right | right in Python |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['runtime']} | {row['clips']:,} | {row['equal'] / row['clips']:.2%} | "
            f"{row['correct'] / row['clips']:.2%} | {row['python_correct'] / row['clips']:.2%} |"
            for row in heard["rows"]
        ]
    lines += [""] + [f"Missed: {line}." for line in violations(result)]
    return "\n".join(lines).rstrip("\n") + "\n"


def violations(result: dict[str, Any]) -> list[str]:
    """What misses the marks above."""
    found = []
    for row in result["front_ends"]:
        if (row["preset"], row["core"]) != ("mel22", "cortex-m4"):
            continue
        for key, largest in (
            ("instructions", LARGEST_INSTRUCTIONS),
            ("flash_bytes", LARGEST_FLASH_BYTES),
            ("ram_bytes", LARGEST_RAM_BYTES),
        ):
            if row[key] > largest:
                found.append(f"mel22 on cortex-m4: {key} {row[key]:,}, allowed are {largest:,}")
    found += [
        f"mel22: {row['float_largest']:.1e} from training's features"
        for row in result["features"]
        if row["preset"] == "mel22" and row["float_largest"] > LARGEST_DIFFERENCE
    ]
    for row in (result.get("from_the_waveform") or {}).get("rows", ()):
        if row["equal"] < LEAST_AGREEMENT * row["clips"]:
            found.append(f"{row['runtime']}: {row['equal'] / row['clips']:.2%} of the labels of the Python pipeline")
        if abs(row["correct"] - row["python_correct"]) > LARGEST_LOSS * row["clips"]:
            found.append(f"{row['runtime']}: accuracy {(row['correct'] - row['python_correct']) / row['clips']:+.2%}")
    return found


def page(result: dict[str, Any]) -> str:
    """docs/hearing.md: the words of the template, and the tables."""
    from importlib.resources import files

    words = (files("edgepress.benchmarks.experiments") / "templates" / "hearing.md").read_text(encoding="utf-8")
    return words.replace("$command", result["command"]).replace("$tables", tables(result))


def _recordings(file: Path | None, data: str | None, rate: int, count: int) -> np.ndarray:
    """Clips of a second, int16: of the file's task where it has this rate, else noise that swells and falls silent."""
    from edgepress.deploy.firmware.front_end.emit import definition_of

    definition = None if file is None or data is None else definition_of(file)
    if data is not None and definition is not None and definition.sample_rate_hz == rate:
        from edgepress.models.tasks.sources.load import load_task

        samples = load_task(data, front_end=definition).waveforms("test")
        chosen = np.asarray(samples[np.linspace(0, len(samples) - 1, count).astype(int), :rate])
        return chosen if chosen.dtype == np.int16 else np.round(chosen * 32767).astype(np.int16)
    rng = np.random.default_rng(0)
    swell = np.abs(np.sin(np.linspace(0, 7, rate))) * (np.arange(rate) < 0.8 * rate)
    return np.round(rng.normal(size=(count, rate)).clip(-4, 4) * swell * 4000).astype(np.int16)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m edgepress.benchmarks.experiments.hearing`; the exit code is the project's."""
    parser = argparse.ArgumentParser(
        prog="python -m edgepress.benchmarks.experiments.hearing", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("file", nargs="?", type=Path, help=".tflite of an audio network, with its manifest")
    parser.add_argument("--data", help="the task of its recordings, on which features are compared too")
    parser.add_argument("--clips", type=int, default=200, help="that features are compared on")
    parser.add_argument(
        "--heard", type=int, default=400, help="recordings on every emulated core; this machine hears all"
    )
    parser.add_argument("--network", help="what the file is, for the page")
    parser.add_argument("--presets", default=",".join(PRESETS), help="front ends, separated by commas")
    parser.add_argument("--cores", default=",".join(CORES), help="separated by commas")
    parser.add_argument("--output", type=Path, help="JSON to write (replaced)")
    parser.add_argument("--docs", type=Path, help="page to write (replaced)")
    parser.add_argument("--only-docs", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    try:
        if options.only_docs:
            if options.output is None or not options.output.is_file():
                raise UsageError("--only-docs needs --output with an existing JSON file")
            result = json.loads(options.output.read_text())
        else:
            result = _measure(options)
        if options.output is not None:
            write_json(options.output, result)
        if options.docs is not None:
            write_text(options.docs, page(result))
        print(tables(result))
    except EdgepressError as error:
        _say(f"error: {error}")
        return error.exit_code
    missed = violations(result)
    for line in missed:
        _say(f"missed: {line}")
    return 1 if missed else 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.deploy.firmware.boards import missing_tools

    cores = [core.strip() for core in options.cores.split(",")]
    for core in cores:
        if reason := missing_tools(core):
            raise RuntimeFailure(reason)
    if options.file is not None and options.data is None:
        raise UsageError("give the recordings of the file with --data")
    words = [options.file.name, "--data", Path(options.data).name] if options.file else []
    words += ["--clips", str(options.clips), "--heard", str(options.heard), "--presets", options.presets]
    words += ["--cores", options.cores]
    presets = {name.strip(): PRESETS[name.strip()] for name in options.presets.split(",") if name.strip() in PRESETS}
    if not presets:
        raise UsageError(f"--presets {options.presets} names none of {', '.join(PRESETS)}")
    recordings = {
        rate: _recordings(options.file, options.data, rate, options.clips)
        for rate in {config.sample_rate_hz for config in presets.values()}
    }
    rows, features = [], []
    for name, config in presets.items():
        clips = recordings[config.sample_rate_hz]
        features.append(feature_row(name, clips))
        for core in cores:
            _say(f"{name} on {core}")
            rows.append(front_end_row(name, core, clips[:_ON_CORES]))
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "hearing",
        "command": " ".join(["python -m edgepress.benchmarks.experiments.hearing", *words]),
        "front_ends": rows,
        "features": features,
        "environment": environment(),
    }
    if options.file is not None:
        every = 1 << 30
        wanted = {"host-c": every, "host-c fixed point": every}
        wanted |= {core: options.heard for core in cores if core in _HEARING}
        heard = from_the_waveform(options.file, options.data, wanted)
        result["from_the_waveform"] = {**heard, "network": options.network or options.file.stem}
    return result


#: Clips of a front end alone on a core.
_ON_CORES = 4
#: Cores that hear recordings: one of every form.
_HEARING = ("cortex-m4", "cortex-m3", "cortex-m0plus", "riscv32", "cortex-m55")


if __name__ == "__main__":
    sys.exit(main())
