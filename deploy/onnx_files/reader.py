# SPDX-License-Identifier: Apache-2.0
"""Read an .onnx file without trust: sizes first, no file beside it, every complaint of the package as a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import UsageError
from edgepress.models.files.reading import open_bytes

if TYPE_CHECKING:
    import onnx

#: Larger files are refused: parsing takes a multiple of the file in memory.
LARGEST_FILE_BYTES = 256 << 20
_LARGEST_NODES = 100_000
_DEEPEST = 40
#: ONNX's numbers of float32, float16 and float64.
_FLOATS = (1, 10, 11)


@dataclass(frozen=True)
class OnnxFile:
    """A checked ONNX file.

    Attributes:
        model: as parsed, with shapes inferred.
        size_bytes: of the file.
        shapes: tensor name -> sizes; a dynamic size is counted as one.
        element_bytes: tensor name -> bytes of one element; absent where the type has no fixed size.
        dynamic: inputs with dynamic sizes, as "name[axis]".
        open_inputs: inputs of which more than the batch is dynamic -> their sizes, "?" where one has no name.
        open_tensors: tensors whose sizes follow from those, or from the data, so that the ones above say nothing.
    """

    model: onnx.ModelProto = field(repr=False)
    size_bytes: int
    shapes: Mapping[str, tuple[int, ...]]
    element_bytes: Mapping[str, float]
    dynamic: tuple[str, ...]
    open_inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    open_tensors: frozenset[str] = frozenset()


def read_onnx(path: str | Path | bytes, shapes: Mapping[str, Sequence[int]] | None = None) -> OnnxFile:
    """Parse, check and infer shapes.

    Args:
        path: the file, or its bytes.
        shapes: input -> sizes, in place of those that the file leaves open; "" names the only input.

    Raises:
        UsageError: missing, empty, too large, damaged, refused by the ONNX checker, or with data in other files;
            `shapes` names no input or contradicts the file.
    """
    if isinstance(path, (bytes, bytearray, memoryview)):
        name, data = "the model", bytes(path)
    else:
        name, data = str(path), bytes(open_bytes(path, LARGEST_FILE_BYTES))
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UsageError(f"reading {name} needs the package onnx ({error}): pip install onnx") from error
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise UsageError(f"{name} is damaged or no .onnx file: it cannot be parsed") from None
    if not model.graph.node or not model.ir_version:
        raise UsageError(f"{name} is no .onnx file, or one without operators")
    nodes = _inlined_nodes(name, model)
    if nodes > _LARGEST_NODES:
        raise UsageError(
            f"{name} has {nodes:,} operators, with those of its functions put in; more than {_LARGEST_NODES:,} are not "
            "read"
        )
    _refuse_external_data(name, model)
    _refuse_impossible_scales(name, model)
    # Before IR 4 every weight had to be among the inputs; runtimes don't mind where one is not, and files rely on it.
    model.ir_version = max(model.ir_version, 4)
    try:
        onnx.checker.check_model(model)
        given = set_input_shapes(model, shapes or {})
        dynamic = tuple(
            f"{value.name}[{axis}]"
            for value in _true_inputs(model)
            for axis, size in enumerate(value.type.tensor_type.shape.dim)
            if size.WhichOneof("value") != "dim_value"
        )
        open_inputs = _fix_batches(model)
        followers: frozenset[str] = frozenset()
        if open_inputs:
            followers = _unsettled(onnx.shape_inference.infer_shapes(model, data_prop=True))
        _fix_dynamic_sizes(model)
        if dynamic or given or open_inputs or not _has_all_shapes(model):
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except UsageError:
        raise
    except Exception as error:  # the package raises ValidationError, InferenceError, ValueError, TypeError, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{name} is damaged, the ONNX checker says: {reason[:300]}") from error
    sizes, element_bytes = _shapes(name, model)
    return OnnxFile(
        model, len(data), sizes, element_bytes, dynamic, open_inputs, followers | _unsettled(model, only_known=True)
    )


def attributes(node: Any) -> dict[str, Any]:
    """An operator's attributes as Python values; those of other types than numbers, texts and tensors are left out."""
    import onnx

    values: dict[str, Any] = {}
    for attribute in node.attribute:
        try:
            value = onnx.helper.get_attribute_value(attribute)
        except (ValueError, TypeError):
            continue
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        elif not isinstance(value, (int, float, str)) and attribute.type in (6, 7, 8):  # floats, integers, texts
            value = tuple(value)
        values[attribute.name] = value
    return values


def _inlined_nodes(name: str, model: onnx.ModelProto) -> int:
    """Operators once every call of a function is replaced by its body, as the checker and runtimes do it.

    Thirty functions that call each other twice are a billion operators: they are counted here, not put in.

    Raises:
        UsageError: a function calls itself, or graphs and functions are nested too deeply.
    """
    functions = {(function.domain, function.name): function for function in model.functions}
    counted: dict[tuple[str, str], int] = {}
    open_: set[tuple[str, str]] = set()

    def of_nodes(nodes: Iterable[Any], depth: int) -> int:
        if depth > _DEEPEST:
            raise UsageError(f"{name} nests its graphs and functions more than {_DEEPEST} deep")
        total = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            total += of_function(called, depth + 1) if called in functions else 1
            for attribute in node.attribute:
                for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                    total += of_nodes(inner.node, depth + 1)
        return total

    def of_function(called: tuple[str, str], depth: int) -> int:
        if called in open_:
            raise UsageError(f"{name} is damaged: its function {called[1]!r:.80} calls itself")
        if called not in counted:
            open_.add(called)
            counted[called] = of_nodes(functions[called].node, depth)
            open_.discard(called)
        return counted[called]

    # Functions that nobody calls are checked as well.
    return of_nodes(model.graph.node, 0) + sum(of_function(called, 0) for called in functions)


def _refuse_impossible_scales(name: str, model: onnx.ModelProto) -> None:
    """A scale of quantization is a positive number: with 0 or NaN every runtime gives the same rubbish."""
    import numpy as np
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 2:
            continue
        tensor = constants.get(node.input[1])
        if tensor is None or tensor.data_type not in _FLOATS:
            continue
        try:
            values = np.asarray(onnx.numpy_helper.to_array(tensor), np.float64)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{name} is damaged: tensor {tensor.name!r:.80} has other bytes than it says") from error
        if not (np.isfinite(values) & (values > 0)).all():
            raise UsageError(f"{name} is damaged: the scale {tensor.name!r:.80} holds values that are not positive")


def _refuse_external_data(name: str, model: onnx.ModelProto) -> None:
    for tensor in _all_tensors(model.graph, 0):
        if tensor.data_location == 1 or tensor.external_data:
            raise UsageError(
                f"{name} keeps tensor {tensor.name!r} in another file, which is not followed; "
                "save the model with its data inside"
            )


def _all_tensors(graph: Any, depth: int) -> Iterable[Any]:
    if depth > 20:
        raise UsageError("the ONNX file nests its graphs more than 20 deep")
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _all_tensors(inner, depth + 1)


def set_input_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Write sizes into the inputs of a model; whether there were any.

    Raises:
        UsageError: no such input, another number of axes, or a size that the file fixes otherwise.
    """
    inputs = {value.name: value for value in _true_inputs(model)}
    for name, sizes in shapes.items():
        found = inputs.get(name) or (next(iter(inputs.values())) if not name and len(inputs) == 1 else None)
        if found is None:
            raise UsageError(f"--shape names the input {name!r}; the file has {', '.join(inputs)}")
        axes = found.type.tensor_type.shape.dim
        fixed = [axis.dim_value if axis.WhichOneof("value") == "dim_value" else None for axis in axes]
        if len(fixed) != len(sizes) or any(old not in (None, new) for old, new in zip(fixed, sizes, strict=True)):
            stored = ",".join("?" if size is None else str(size) for size in fixed)
            raise UsageError(f"--shape {found.name}={','.join(map(str, sizes))} does not fit the file's {stored}")
        for axis, size in zip(axes, sizes, strict=True):
            axis.dim_value = int(size)
    if shapes:
        _forget_shapes(model)
    return bool(shapes)


#: Names that exporters give to the number of samples, wherever it stands, and words in those of a sequence's length.
_BATCH_NAMES = frozenset({"n", "b", "bs", "batch", "batch_size", "batchsize", "batch_dim", "none", "unk__0"})
_LENGTH_WORDS = ("seq", "len", "time", "frame", "token", "height", "width", "sample")


def _fix_batches(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Set the number of samples to one; what stays open of the inputs, with the names that the file gives."""
    inputs = _true_inputs(model)
    names = set(_BATCH_NAMES)
    for value in inputs:
        axes = value.type.tensor_type.shape.dim
        first = axes[0].dim_param.lower() if len(axes) > 1 else ""
        if first and not any(word in first for word in _LENGTH_WORDS):
            names.add(first)
    found: dict[str, tuple[str, ...]] = {}
    for value in inputs:
        axes = value.type.tensor_type.shape.dim
        for place, axis in enumerate(axes):
            unnamed = axis.WhichOneof("value") is None and place == 0 and len(axes) > 1
            if unnamed or (axis.WhichOneof("value") == "dim_param" and axis.dim_param.lower() in names):
                axis.dim_value = 1
                _forget_shapes(model)
        if any(axis.WhichOneof("value") != "dim_value" for axis in axes):
            found[value.name] = tuple(
                str(axis.dim_value) if axis.WhichOneof("value") == "dim_value" else axis.dim_param or "?"
                for axis in axes
            )
    return found


def _forget_shapes(model: onnx.ModelProto) -> None:
    """What the file says of intermediate sizes was true for other ones."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        for size in value.type.tensor_type.shape.dim:
            if size.WhichOneof("value") != "dim_value":
                size.ClearField("dim_param")


def _unsettled(model: onnx.ModelProto, only_known: bool = False) -> frozenset[str]:
    """Tensors with a size that inference did not reach; unless `only_known`, those without any shape as well."""
    complete, partial = set(), set()
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            settled = all(size.WhichOneof("value") == "dim_value" for size in kind.shape.dim)
            (complete if settled else partial).add(value.name)
    if not only_known:
        complete |= {tensor.name for tensor in model.graph.initializer}
        partial |= {name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name}
    return frozenset(partial - complete)


def _fix_dynamic_sizes(model: onnx.ModelProto) -> None:
    """Set what is still open of the inputs to one."""
    for value in _true_inputs(model):
        for size in value.type.tensor_type.shape.dim:
            if size.WhichOneof("value") != "dim_value":
                size.dim_value = 1
                _forget_shapes(model)


def _true_inputs(model: onnx.ModelProto) -> list[Any]:
    """Inputs with values from outside; old files list their weights among the inputs too."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in initializers and v.type.HasField("tensor_type")]


def _has_all_shapes(model: onnx.ModelProto) -> bool:
    known = {
        value.name
        for value in (*model.graph.value_info, *model.graph.output, *model.graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    known.update(tensor.name for tensor in model.graph.initializer)
    return all(
        not name or name in known for node in model.graph.node if node.op_type != "Constant" for name in node.output
    )


def _shapes(name: str, model: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    shapes: dict[str, tuple[int, ...]] = {}
    element_bytes: dict[str, float] = {}

    def put(tensor: str, sizes: tuple[int, ...], element_type: int) -> None:
        total = 1
        for size in sizes:
            total *= size
            if size < 0 or total > 1 << 40:
                raise UsageError(f"{name} is damaged: tensor {tensor!r} has the impossible shape {list(sizes)[:16]}")
        shapes[tensor] = sizes
        width = _width(element_type)
        if width:
            element_bytes[tensor] = width

    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            put(
                value.name,
                tuple(size.dim_value if size.WhichOneof("value") == "dim_value" else 1 for size in kind.shape.dim),
                kind.elem_type,
            )
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and node.output:
                put(node.output[0], tuple(attribute.t.dims), attribute.t.data_type)
    for tensor in model.graph.initializer:
        put(tensor.name, tuple(tensor.dims), tensor.data_type)
    return shapes, element_bytes


#: ONNX's element types by their bytes; those of four bits take half of one.
_WIDTHS = {
    1: 4,
    2: 1,
    3: 1,
    4: 2,
    5: 2,
    6: 4,
    7: 8,
    9: 1,
    10: 2,
    11: 8,
    12: 4,
    13: 8,
    14: 8,
    15: 16,
    16: 2,
    17: 1,
    18: 1,
    19: 1,
    20: 1,
    21: 0.5,
    22: 0.5,
    23: 0.5,
}


def _width(element_type: int) -> float:
    return _WIDTHS.get(element_type, 0)
