"""Read an .onnx file without trust: sizes first, no file beside it, every complaint of the package as a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.deploy.tflite.reader import open_bytes
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import onnx

#: Larger files are refused: parsing takes a multiple of the file in memory.
LARGEST_FILE_BYTES = 256 << 20
_LARGEST_NODES = 100_000


@dataclass(frozen=True)
class OnnxFile:
    """A checked ONNX file.

    Attributes:
        model: as parsed, with shapes inferred.
        size_bytes: of the file.
        shapes: tensor name -> sizes; a dynamic size is counted as one.
        element_bytes: tensor name -> bytes of one element; absent where the type has no fixed size.
        dynamic: inputs with dynamic sizes, as "name[axis]".
    """

    model: onnx.ModelProto = field(repr=False)
    size_bytes: int
    shapes: Mapping[str, tuple[int, ...]]
    element_bytes: Mapping[str, float]
    dynamic: tuple[str, ...]


def read_onnx(path: str | Path | bytes) -> OnnxFile:
    """Parse, check and infer shapes.

    Raises:
        UsageError: missing, empty, too large, damaged, refused by the ONNX checker, or with data in other files.
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
    if len(model.graph.node) > _LARGEST_NODES:
        raise UsageError(f"{name} has {len(model.graph.node):,} operators; more than {_LARGEST_NODES:,} are not read")
    _refuse_external_data(name, model)
    try:
        onnx.checker.check_model(model)
        dynamic = _fix_dynamic_sizes(model)
        if dynamic or not _has_all_shapes(model):
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except UsageError:
        raise
    except Exception as error:  # the package raises ValidationError, InferenceError, ValueError, TypeError, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{name} is damaged, the ONNX checker says: {reason[:300]}") from error
    shapes, element_bytes = _shapes(name, model)
    return OnnxFile(model, len(data), shapes, element_bytes, dynamic)


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


def _refuse_external_data(name: str, model: Any) -> None:
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


def _fix_dynamic_sizes(model: Any) -> tuple[str, ...]:
    """Set dynamic sizes of the inputs to one and forget the shapes that followed from them."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    dynamic = []
    for value in model.graph.input:
        if value.name in initializers or not value.type.HasField("tensor_type"):
            continue
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.WhichOneof("value") != "dim_value":
                dynamic.append(f"{value.name}[{axis}]")
                size.dim_value = 1
    if dynamic:
        del model.graph.value_info[:]
        for value in model.graph.output:
            for size in value.type.tensor_type.shape.dim:
                if size.WhichOneof("value") != "dim_value":
                    size.ClearField("dim_param")
    return tuple(dynamic)


def _has_all_shapes(model: Any) -> bool:
    known = {
        value.name
        for value in (*model.graph.value_info, *model.graph.output, *model.graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    known.update(tensor.name for tensor in model.graph.initializer)
    return all(
        not name or name in known for node in model.graph.node if node.op_type != "Constant" for name in node.output
    )


def _shapes(name: str, model: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
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
