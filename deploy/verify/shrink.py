"""Make a .tflite file and its arena smaller without changing a single output.

Every step is proven by running the file before and after it on the same random inputs, on TFLite Micro and on LiteRT
(reference kernels and XNNPACK); a step whose outputs differ, or that saves nothing, is not applied. The report says
what each one saved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgepress.deploy.tflite.memory_plan import ALIGNMENT_BYTES, Block, aligned, encode, search
from edgepress.deploy.tflite.writer import KEPT_METADATA, PLAN_NAME, pack, schema, unpack
from edgepress.models.errors import EdgepressError, RuntimeFailure, UsageError

_PROVERS = ("tflm", "litert-reference", "litert")


@dataclass(frozen=True)
class Shrunk:
    """The smaller file.

    Attributes:
        model: its bytes.
        report: {"before": {"file_bytes", "arena_bytes"}, "after": the same, "steps": [{"step", "applied",
            "file_bytes_saved", "arena_bytes_saved", "note"}], "proof": {"runtimes", "samples", "not_run"},
            "tensor_names" by index in the new file}; an arena is null where TFLite Micro does not run the file.
    """

    model: bytes
    report: dict[str, Any]


def shrink_model(model: bytes, *, samples: int = 8, seed: int = 0, plan: bool = True) -> Shrunk:
    """Shrink the bytes of a .tflite file.

    Args:
        model: the file.
        samples: random inputs of every proof (whole range of the input's type).
        seed: of the inputs and of the plan's search.
        plan: also search an arena plan for TFLite Micro.

    Raises:
        UsageError: the file is damaged. RuntimeFailure: no runtime here runs it, so that nothing can be proven.
    """
    unpacked = unpack(model)
    for tensor in unpacked.subgraphs[0].tensors:
        tensor.label = _text(tensor.name)  # not a field of the schema: it travels with the object and isn't written
    before = _measure(model, samples, seed, foreign=True)
    if not before.outputs:
        raise RuntimeFailure(
            "nothing can be proven about this file, since no runtime runs it: "
            + "; ".join(f"{name}: {why}" for name, why in before.failures.items())
        )
    current, measured, steps = model, before, []
    todo: list[tuple[str, Callable[[Any], str]]] = [
        ("share equal vectors", _no_change),
        ("tensor names", _strip_names),
        ("metadata and description", _strip_metadata),
        ("minimum and maximum of ranges", _strip_ranges),
        ("unused buffers, tensors and operator codes", strip_unused),
    ]
    if plan and before.arena_bytes is not None:
        todo.append(("arena plan", lambda m: _plan_arena(m, seed)))
    for name, change in todo:
        candidate = copy.deepcopy(unpacked)
        try:
            note = change(candidate)
        except UsageError as error:
            steps.append(_step(name, False, 0, 0, f"not applied: {error}"))
            continue
        packed = pack(candidate)
        after = _measure(packed, samples, seed) if packed != current else measured
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
            "proof": {"runtimes": list(before.outputs), "samples": samples, "not_run": before.failures},
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
    from edgepress.models.atomic import write_bytes

    path, target = Path(path), Path(target)
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already; choose another name or allow overwriting with --overwrite")
    try:
        model = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
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
    failures: dict[str, str]
    arena_bytes: int | None


def _measure(model: bytes, samples: int, seed: int, foreign: bool = False) -> _Measured:
    """Outputs and arena; a file that nobody ran before runs in child processes, what we wrote from it need not."""
    from edgepress.deploy.runtimes.sessions import open_session

    outputs: dict[str, list[np.ndarray]] = {}
    failures: dict[str, str] = {}
    arena = None
    with TemporaryDirectory(prefix="edgepress-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(model)
        for runtime in _PROVERS:
            with ExitStack() as stack:
                try:
                    session = stack.enter_context(open_session(path, runtime, isolate=foreign))
                    made = session.run_integer(*random_inputs(session.inputs, samples, seed))
                    if runtime == "tflm":
                        arena = session.arena_bytes().get("total")
                except EdgepressError as error:
                    failures[runtime] = str(error)
                    continue
                outputs[runtime] = list(made) if isinstance(made, tuple) else [made]
    return _Measured(outputs, failures, arena)


def random_inputs(inputs: Sequence[Any], samples: int, seed: int) -> list[np.ndarray]:
    """Raw inputs over the whole range of each type ([-1, 1] for float), the first sample all zeros."""
    generator = np.random.default_rng(seed)
    arrays = []
    for details in inputs:
        shape = (samples, *(1 if size < 0 else size for size in details.shape[1:]))
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


def _strip_names(model: Any) -> str:
    count = 0
    for graph in model.subgraphs:
        graph.name = None
        for tensor in graph.tensors or ():
            count += bool(tensor.name)
            tensor.name = None
    return f"{count} names; signatures keep theirs" if model.signatureDefs else f"{count} names"


def _strip_metadata(model: Any) -> str:
    names = [_text(entry.name) for entry in model.metadata or ()]
    kept = [entry for entry in model.metadata or () if _text(entry.name) in KEPT_METADATA]
    model.metadata, model.metadataBuffer, model.description = kept or None, None, None
    for graph in model.subgraphs:
        graph.debugMetadataIndex = -1
        for operator in graph.operators or ():
            operator.debugMetadataIndex = -1
    _compact_buffers(model)
    return ", ".join(name for name in names if name not in KEPT_METADATA) or "no metadata, only the description"


def _strip_ranges(model: Any) -> str:
    count = 0
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            quantization = tensor.quantization
            if quantization is None:
                continue
            count += quantization.min is not None
            quantization.min = quantization.max = None
            if quantization.scale is None and quantization.details is None:
                tensor.quantization = None  # an empty table says nothing
    return f"{count} ranges: the scales say the same"


def strip_unused(model: Any) -> str:
    """Take buffers, tensors and operator codes that nothing uses out of a ModelT, in place; says how many."""
    fixed = [entry for entry in model.metadata or () if _text(entry.name) in KEPT_METADATA]
    removed = 0 if fixed else sum(_compact_tensors(model, index) for index in range(len(model.subgraphs)))
    used = sorted({op.opcodeIndex for graph in model.subgraphs for op in graph.operators or ()})
    codes = len(model.operatorCodes) - len(used)
    new = {old: i for i, old in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[old] for old in used]
    for graph in model.subgraphs:
        for operator in graph.operators or ():
            operator.opcodeIndex = new[operator.opcodeIndex]
    buffers = _compact_buffers(model)
    return f"{buffers} buffers, {removed} tensors, {codes} operator codes"


def _compact_tensors(model: Any, index: int) -> int:
    graph = model.subgraphs[index]
    used = {int(t) for values in (graph.inputs, graph.outputs) if values is not None for t in values}
    for operator in graph.operators or ():
        used.update(
            int(t)
            for values in (operator.inputs, operator.outputs, operator.intermediates)
            if values is not None
            for t in values
            if t >= 0
        )
    signatures = [
        entry
        for s in model.signatureDefs or ()
        if s.subgraphIndex == index
        for entry in (*(s.inputs or ()), *(s.outputs or ()))
    ]
    used.update(entry.tensorIndex for entry in signatures)
    order = sorted(used)
    new = {old: i for i, old in enumerate(order)}
    removed = len(graph.tensors) - len(order)
    if not removed:
        return 0

    def renumber(values: Any) -> Any:
        return None if values is None else np.array([new.get(int(t), -1) for t in values], np.int32)

    graph.tensors = [graph.tensors[old] for old in order]
    graph.inputs, graph.outputs = renumber(graph.inputs), renumber(graph.outputs)
    for operator in graph.operators or ():
        operator.inputs, operator.outputs = renumber(operator.inputs), renumber(operator.outputs)
        operator.intermediates = renumber(operator.intermediates)
    for entry in signatures:
        entry.tensorIndex = new[entry.tensorIndex]
    return removed


def _compact_buffers(model: Any) -> int:
    """Number the buffers anew: 0 is the empty one, all empty ones become it, unused ones go, equal ones are shared."""
    new: dict[int, int] = {0: 0}
    buffers, by_content = [model.buffers[0]], {}
    owners = [(tensor, tensor.buffer, tensor.isVariable) for graph in model.subgraphs for tensor in graph.tensors or ()]
    owners += [(entry, entry.buffer, True) for entry in model.metadata or ()]
    for _, old, alone in owners:
        if old in new:
            continue
        data = model.buffers[old].data
        if data is None or not len(data):
            new[old] = 0
            continue
        content = bytes(data)
        if alone or content not in by_content:
            new[old] = len(buffers)
            buffers.append(model.buffers[old])
            if not alone:
                by_content[content] = new[old]
        else:
            new[old] = by_content[content]
    for owner, old, _ in owners:
        owner.buffer = new[old]
    removed = len(model.buffers) - len(buffers)
    model.buffers = buffers
    return removed


def _plan_arena(model: Any, seed: int) -> str:
    """Add the plan of the only graph; files with control flow or variables are left to TFLite Micro."""
    if len(model.subgraphs) != 1 or any(tensor.isVariable for tensor in model.subgraphs[0].tensors):
        return "not applied: a file with several graphs or variables is left to TFLite Micro"
    if any(_text(entry.name) == PLAN_NAME for entry in model.metadata or ()):
        return "not applied: the file has a plan"
    graph = model.subgraphs[0]
    blocks = activation_blocks(graph, model.buffers)
    found = search(blocks, seed=seed)
    metadata = schema().MetadataT()
    metadata.name, metadata.buffer = PLAN_NAME, len(model.buffers)
    buffer = schema().BufferT()
    buffer.data = encode(found.offsets, len(graph.tensors))
    model.buffers = [*model.buffers, buffer]
    model.metadata = [*(model.metadata or ()), metadata]
    gap = found.arena_bytes - found.lower_bound_bytes
    reached = "the bytes alive at once, which no plan can beat" if not gap else f"{gap:,} bytes above the lower bound"
    return f"activations in {found.arena_bytes:,} bytes: {reached}"


def activation_blocks(graph: Any, buffers: Sequence[Any]) -> list[Block]:
    """The activations of a SubGraphT with the operators between which TFLite Micro keeps them alive."""
    last_operator = max(0, len(graph.operators or ()) - 1)
    first = {int(t): 0 for t in graph.inputs}
    last = {int(t): 0 for t in graph.inputs} | {int(t): last_operator for t in graph.outputs}
    for step, operator in enumerate(graph.operators or ()):
        for t in operator.outputs if operator.outputs is not None else ():
            first.setdefault(int(t), step)
            last[int(t)] = max(last.get(int(t), 0), step)
        for t in operator.inputs if operator.inputs is not None else ():
            if int(t) in first:
                last[int(t)] = max(last.get(int(t), 0), step)
    blocks = []
    for t in sorted(first):
        tensor = graph.tensors[t]
        data = buffers[tensor.buffer].data
        if data is None or not len(data):
            size = int(np.prod(tensor.shape, dtype=np.int64)) if tensor.shape is not None else 1
            blocks.append(Block(t, aligned(max(size * _item_bytes(tensor.type), ALIGNMENT_BYTES)), first[t], last[t]))
    return blocks


def _item_bytes(kind: int) -> int:
    types = schema().TensorType
    sizes = {
        types.FLOAT32: 4,
        types.INT32: 4,
        types.UINT32: 4,
        types.FLOAT16: 2,
        types.INT16: 2,
        types.UINT16: 2,
        types.INT64: 8,
        types.UINT64: 8,
        types.FLOAT64: 8,
        types.COMPLEX64: 8,
        types.INT8: 1,
        types.UINT8: 1,
        types.BOOL: 1,
    }
    if kind not in sizes:
        raise UsageError(f"a tensor of the schema's type {kind} has no size here, so that no arena is planned")
    return sizes[kind]


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "")
