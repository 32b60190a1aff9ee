# SPDX-License-Identifier: Apache-2.0
"""Networks as ONNX files: float by torch's exporter, integers as QuantizeLinear/DequantizeLinear pairs of our own.

The pairs sit on every value that the TFLite file holds as integers, so that ONNX Runtime melts them into its integer
kernels; weights are int8 and biases int32 initializers behind a DequantizeLinear. Inputs and outputs are float, in
torch's layout, with a free batch where the network allows one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.quantize.graph.outputs import flat
from edgepress.deploy.converted import ConversionError, ConvertedFile
from edgepress.deploy.export.marks import given_onnx, marked, marked_onnx
from edgepress.deploy.export.stand_ins import described, with_tables
from edgepress.deploy.export.to_tflite import run_outside, silenced
from edgepress.deploy.onnx_files.integers import write_integers
from edgepress.deploy.onnx_files.limits import drop_what_saturates, keep_in_float, write_limits
from edgepress.deploy.onnx_files.tidy import give_constants, pool_globally, tidy
from edgepress.deploy.verify.match import match_file, probe_around, record_values
from edgepress.models.errors import UsageError
from edgepress.models.terminal.installation import how_to_install

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from edgepress.compress.quantize.model import Quantized

#: int16 QuantizeLinear needs 21 (ONNX Runtime 1.18 and later); one opset for all files.
OPSET = 21


def float_onnx(module: nn.Module, example_inputs: tuple[Any, ...], dynamic_batch: bool = True) -> ConvertedFile:
    """A float network as an fp32 ONNX file.

    Raises:
        UsageError: torch cannot export it, or the ONNX checker refuses the result; the message carries the reason.
    """
    model = convert_float(flat(module)[0], example_inputs, dynamic_batch)
    return ConvertedFile(_checked(model), {}, [], _layouts(model))


def integer_onnx(quantized: Quantized, example_inputs: tuple[Any, ...], types: str = "u8u8") -> ConvertedFile:
    """A quantized network as an ONNX file with exactly its integer parameters.

    Args:
        quantized: edgepress.compress.quantize Quantized.
        example_inputs: tensors with a batch dimension.
        types: of 8-bit activations and weights, one of `edgepress.deploy.onnx_files.integer_types.TYPES`.

    Raises:
        UsageError: see `float_onnx`.
    """
    module, _ = flat(quantized.float_module().cpu())
    stand_in, carried = with_tables(module, quantized)
    model = convert_float(stand_in, example_inputs, quantized.dynamic_batch)
    probe = probe_around(example_inputs)
    ours = record_values(marked(stand_in, carried), probe)
    told_apart = marked_onnx(model, carried)

    def run(given: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
        return _run_all(given_onnx(told_apart, given), [x.numpy() for x in probe])

    names, _ = match_file(ours, run)
    written = write_integers(model, names, quantized, described(carried, module), types)
    write_limits(model)
    drop_what_saturates(model)
    keep_in_float(model)
    return ConvertedFile(_checked(model), written.ranges, written.islands, _layouts(model))


def convert_float(module: nn.Module, example_inputs: tuple[Any, ...], dynamic_batch: bool) -> onnx.ModelProto:
    """A float graph as an ONNX ModelProto of `OPSET`."""
    import torch

    from edgepress.compress.quantize.graph.decompose import decomposing_in_place

    batch = torch.export.Dim.DYNAMIC
    if dynamic_batch and all(x.ndim for x in example_inputs):
        example_inputs = tuple(torch.cat([x, x])[:2] for x in example_inputs)  # a batch of 1 would become a constant
        shapes = tuple({0: batch} for _ in example_inputs)
    else:
        shapes = None
    with silenced() as said, decomposing_in_place(kept={torch.ops.aten.reshape.default: "view"}):
        try:
            with _slices_as_they_are():
                program = torch.onnx.export(
                    module,
                    example_inputs,
                    dynamo=True,
                    opset_version=OPSET,
                    verbose=False,
                    dynamic_shapes=shapes,
                    external_data=False,
                )
            if program is None:
                raise RuntimeError("the exporter gave nothing")
            model = program.model_proto
        except ImportError as error:
            raise UsageError(
                f"ONNX export needs onnx and onnxscript ({error}): {how_to_install('onnxscript')}"
            ) from error
        except Exception as error:
            reason = str(_first_cause(error)).strip().splitlines() or said() or ["no reason given"]
            raise ConversionError(
                f"torch cannot export {type(module).__name__} to ONNX: {type(error).__name__}: {reason[0][:300]}"
            ) from error
    tidy(model)
    give_constants(model)
    pool_globally(model)
    return model


@contextmanager
def _slices_as_they_are() -> Iterator[None]:
    """Without the rule of onnxscript that makes one Split of two slices: it holds all slices of a value against each
    other, at which the steps of a GRU take longer than all else.
    """
    from onnxscript import rewriter

    rules = rewriter._DEFAULT_REWRITE_RULES
    rewriter._DEFAULT_REWRITE_RULES = tuple(rule for rule in rules if rule.name != "SlicesSplit")
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules


def _first_cause(error: BaseException) -> BaseException:
    """What the exporter met first: what it says around that are its steps and how to report them."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _run_all(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    import onnx

    shown = onnx.shape_inference.infer_shapes(model)
    floats = [value for value in shown.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    shown.graph.output.extend(floats)
    names = [value.name for value in shown.graph.output]
    made = run_outside("onnxruntime", shown.SerializeToString(), inputs)
    feeds = {value.name: x for value, x in zip(shown.graph.input, inputs, strict=True)}
    results = dict(zip(names, made, strict=True))
    order = [name for node in shown.graph.node for name in node.output if name in results]
    values = [*feeds.items(), *((name, results[name]) for name in order)]
    return [(name, value) for name, value in values if value.dtype == np.float32]


def _layouts(model: onnx.ModelProto) -> dict[str, list[str | None]]:
    def layout(value: Any) -> str | None:
        return "NCHW" if len(value.type.tensor_type.shape.dim) == 4 else None

    return {
        "inputs": [layout(value) for value in model.graph.input],
        "outputs": [layout(value) for value in model.graph.output],
    }


def _checked(model: onnx.ModelProto) -> bytes:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise UsageError(f"the ONNX checker refuses the exported file: {str(error).strip().splitlines()[0]}") from error
    return model.SerializeToString()
