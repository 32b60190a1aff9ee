# SPDX-License-Identifier: Apache-2.0
"""Make a .tflite file and its arena smaller without changing a single output.

Every step is proven by running the file before and after it on the same random inputs, on TFLite Micro and on LiteRT
(reference kernels and XNNPACK); a step whose outputs differ, or that saves nothing, is not applied. The report says
what each one saved.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgepress.deploy.runtimes.engine import lengths_of
from edgepress.deploy.tflite.memory_plan import plan_arena
from edgepress.deploy.tflite.objects import text
from edgepress.deploy.tflite.strip import strip_metadata, strip_names, strip_ranges, strip_unused
from edgepress.deploy.tflite.writer import pack, unpack
from edgepress.models.errors import EdgepressError, RuntimeFailure, UsageError

_PROVERS = ("tflm", "litert-reference", "litert")
#: Of one proof on one runtime. There are up to seven on each; reference kernels take seconds for half a giga of MACs.
_PROOF_SECONDS = 2.0


@dataclass(frozen=True)
class Shrunk:
    """The smaller file.

    Attributes:
        model: its bytes.
        report: {"before": {"file_bytes", "arena_bytes"}, "after": the same, "steps": [{"step", "applied",
            "file_bytes_saved", "arena_bytes_saved", "note"}], "proof": {"runtimes", "samples" (by runtime), "not_run"},
            "tensor_names" by index in the new file}; an arena is null where TFLite Micro does not run the file.
    """

    model: bytes
    report: dict[str, Any]


def shrink_model(model: bytes, *, samples: int = 8, seed: int = 0, plan: bool = True) -> Shrunk:
    """Shrink the bytes of a .tflite file.

    Args:
        model: the file.
        samples: random inputs of every proof (whole range of the input's type); on a runtime that is slow with this
            file fewer, at least one, so that a large network takes a minute and not ten.
        seed: of the inputs and of the plan's search.
        plan: also search an arena plan for TFLite Micro.

    Raises:
        UsageError: the file is damaged. RuntimeFailure: no runtime here runs it, so that nothing can be proven.
    """
    unpacked = unpack(model)
    for tensor in unpacked.subgraphs[0].tensors:
        tensor.label = text(tensor.name)  # not a field of the schema: it travels with the object and isn't written
    before = _measure(model, dict.fromkeys(_PROVERS, samples), seed, foreign=True)
    counts = before.samples
    if not before.outputs:
        raise RuntimeFailure(
            "nothing can be proven about this file, since no runtime runs it: "
            + "; ".join(f"{name}: {why}" for name, why in before.failures.items())
        )
    current, measured, steps = model, before, []
    todo: list[tuple[str, Callable[[Any], str]]] = [
        ("share equal vectors", _no_change),
        ("tensor names", strip_names),
        ("metadata and description", strip_metadata),
        ("minimum and maximum of ranges", strip_ranges),
        ("unused buffers, tensors and operator codes", strip_unused),
    ]
    if plan and before.arena_bytes is not None:
        todo.append(("arena plan", lambda m: plan_arena(m, seed)))
    for name, change in todo:
        candidate = copy.deepcopy(unpacked)
        try:
            note = change(candidate)
        except UsageError as error:
            steps.append(_step(name, False, 0, 0, f"not applied: {error}"))
            continue
        packed = pack(candidate)
        after = _measure(packed, counts, seed) if packed != current else measured
        file_saved = len(current) - len(packed)
        arena_saved = (measured.arena_bytes or 0) - (after.arena_bytes or 0)
        difference = _difference(before, after)
        # The plan costs some bytes of flash for its RAM; every other step must only not cost anything.
        worth = (
            arena_saved + min(0, file_saved) > 0
            if name == "arena plan"
            else (file_saved >= 0 and arena_saved >= 0 and file_saved + arena_saved > 0)
        )
        if difference is None and worth:
            unpacked, current, measured = candidate, packed, after
        else:
            note = difference or note or "saves nothing"
        applied = difference is None and worth
        steps.append(_step(name, applied, file_saved, arena_saved, note))
    return Shrunk(
        current,
        {
            "before": {"file_bytes": len(model), "arena_bytes": before.arena_bytes},
            "after": {"file_bytes": len(current), "arena_bytes": measured.arena_bytes},
            "steps": steps,
            "proof": {"runtimes": list(before.outputs), "samples": counts, "not_run": before.failures},
            "tensor_names": [tensor.label for tensor in unpacked.subgraphs[0].tensors],
        },
    )


def shrink_file(path: str | Path, target: str | Path, *, overwrite: bool = False, plan: bool = True) -> dict[str, Any]:
    """Shrink a .tflite file into another one, with its manifest where it has one.

    Returns:
        The report of `Shrunk`.

    Raises:
        UsageError: `target` exists, or the file is missing or damaged. RuntimeFailure: no runtime runs the file.
    """
    from edgepress.deploy.artifact import find_manifest, write_manifest
    from edgepress.deploy.tflite.reader import LARGEST_FILE_BYTES
    from edgepress.models.atomic import write_bytes
    from edgepress.models.files.reading import open_bytes

    path, target = Path(path), Path(target)
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already; choose another name or allow overwriting with --overwrite")
    model = bytes(open_bytes(path, LARGEST_FILE_BYTES))
    manifest = find_manifest(path)
    shrunk = shrink_model(model, plan=plan)
    write_bytes(target, shrunk.model)
    if manifest is not None:
        write_manifest(target, {**manifest, "shrink": shrunk.report})
    return shrunk.report


def _step(name: str, applied: bool, file_bytes: int, arena_bytes: int, note: str) -> dict[str, Any]:
    return {
        "step": name,
        "applied": applied,
        "file_bytes_saved": file_bytes if applied else 0,
        "arena_bytes_saved": arena_bytes if applied else 0,
        "note": note,
    }


def shrink_bytes(model: bytes) -> bytes:
    """`shrink_model` without its report."""
    return shrink_model(model).model


@dataclass(frozen=True)
class _Measured:
    outputs: dict[str, list[np.ndarray]]
    samples: dict[str, int]
    failures: dict[str, str]
    arena_bytes: int | None


def _measure(model: bytes, samples: Mapping[str, int], seed: int, foreign: bool = False) -> _Measured:
    """Outputs and arena by runtime, on so many samples.

    A file that nobody ran before runs in child processes, and its first sample tells how many more there is time for;
    what we wrote from it need not.
    """
    from edgepress.deploy.runtimes.sessions import open_session

    outputs: dict[str, list[np.ndarray]] = {}
    counts: dict[str, int] = {}
    failures: dict[str, str] = {}
    arena = None
    with TemporaryDirectory(prefix="edgepress-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(model)
        for runtime in (name for name in _PROVERS if name in samples):
            with ExitStack() as stack:
                try:
                    session = stack.enter_context(open_session(path, runtime, isolate=foreign))
                    counts[runtime] = _affordable(session, samples[runtime], seed) if foreign else samples[runtime]
                    made = session.run_integer(*random_inputs(session.inputs, counts[runtime], seed))
                    if runtime == "tflm":
                        arena = session.arena_bytes().get("total")
                except EdgepressError as error:
                    failures[runtime] = str(error)
                    continue
                outputs[runtime] = list(made) if isinstance(made, tuple) else [made]
    return _Measured(outputs, {name: counts[name] for name in outputs}, failures, arena)


def _affordable(session: Any, samples: int, seed: int) -> int:
    """How many samples run in the seconds of a proof, by the time of one."""
    if samples == 1:
        return 1
    start = time.perf_counter()
    session.run_integer(*random_inputs(session.inputs, 1, seed))
    each = max(time.perf_counter() - start, 1e-6)
    return max(1, min(samples, int(_PROOF_SECONDS / each)))


def random_inputs(inputs: Sequence[Any], samples: int, seed: int) -> list[np.ndarray]:
    """Raw inputs over the whole range of each type ([-1, 1] for float), the first sample all zeros."""
    generator = np.random.default_rng(seed)
    arrays = []
    for length, details in zip(lengths_of(samples, inputs), inputs, strict=True):
        shape = (length, *(1 if size < 0 else size for size in details.shape[1:]))
        dtype = np.dtype(details.dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            array = generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
        elif dtype.kind == "b":
            array = generator.integers(0, 2, shape).astype(bool)
        else:
            array = generator.uniform(-1, 1, shape).astype(dtype)
        array[:1] = 0
        arrays.append(array)
    return arrays


def _difference(before: _Measured, after: _Measured) -> str | None:
    """Why the outputs are not the same to the bit, or None."""
    for runtime, outputs in before.outputs.items():
        if runtime not in after.outputs:
            return f"not applied: {runtime} no longer runs the file ({after.failures.get(runtime, 'no reason given')})"
        for old, new in zip(outputs, after.outputs[runtime], strict=True):
            if old.dtype != new.dtype or old.shape != new.shape or old.tobytes() != new.tobytes():
                return f"not applied: outputs on {runtime} change"
    return None


def _no_change(model: Any) -> str:
    return "written anew: equal vectors once, constants aligned to 16 bytes"
