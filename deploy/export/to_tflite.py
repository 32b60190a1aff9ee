# SPDX-License-Identifier: Apache-2.0
"""Networks as TFLite files: float by LiteRT-Torch, integers by rewriting that file with our own parameters.

ai-edge-quantizer could write the integers as well, with its calibration result replaced by ours. The file is written
here instead because it decides three things by itself that must come from the network: weight scales are max |w| / 127
without a floor under all but dead channels, its bias checks refuse such channels, and per-layer 16-bit or float parts
can't share ranges with their neighbours as fake quantization has them. One set of tables (`tflite.integer_kernels`) and
one rule ("an operator works in the integers of its output") give the whole file, equal to fake quantization to the bit.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.compress.quantize.graph.outputs import flat
from edgepress.deploy.export.converted import ConversionError, ConvertedFile
from edgepress.deploy.export.stand_ins import described, marked, with_stand_ins
from edgepress.deploy.verify.match import match_values, probe_around, record_values
from edgepress.models.errors import UsageError


def convert_float(module: Any, example_inputs: tuple[Any, ...]) -> tuple[bytes, dict[str, list[str | None]]]:
    """A float graph as a float TFLite file of batch 1, images with channels last.

    Args:
        module: nn.Module in evaluation mode.
        example_inputs: tensors of batch 1.

    Returns:
        The file, and which of its inputs and outputs are "NHWC".

    Raises:
        UsageError: LiteRT-Torch cannot convert it; the message carries its reason.
    """
    import torch

    outputs = module(*example_inputs)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    inputs_last = [i for i, x in enumerate(example_inputs) if x.ndim == 4]
    outputs_last = [i for i, y in enumerate(outputs) if isinstance(y, torch.Tensor) and y.ndim == 4]
    examples = tuple(x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x for x in example_inputs)
    with tempfile.TemporaryDirectory() as folder, silenced() as said:
        try:
            import litert_torch

            wrapped = (
                litert_torch.to_channel_last_io(module, args=inputs_last, outputs=outputs_last)
                if inputs_last or outputs_last
                else module
            )
            path = Path(folder) / "float.tflite"
            litert_torch.convert(wrapped.eval(), examples).export(str(path))
            data = path.read_bytes()
        except ImportError as error:
            raise UsageError(f"TFLite export needs LiteRT-Torch ({error}): pip install 'edgepress[export]'") from error
        except Exception as error:
            reason = str(error).strip().splitlines() or said() or ["no reason given"]
            raise ConversionError(
                f"LiteRT-Torch cannot convert {type(module).__name__}: {type(error).__name__}: {reason[0][:300]}"
            ) from error
    layouts: dict[str, list[str | None]] = {
        "inputs": ["NHWC" if i in inputs_last else None for i in range(len(example_inputs))],
        "outputs": ["NHWC" if i in outputs_last else None for i in range(len(outputs))],
    }
    return _tidied(data), layouts


def _tidied(data: bytes) -> bytes:
    from edgepress.deploy.tflite.objects import read_objects
    from edgepress.deploy.tflite.strip import strip_unused
    from edgepress.deploy.tflite.tidy import tidy
    from edgepress.deploy.tflite.writer import pack

    model = read_objects(data)
    model.metadata = [entry for entry in model.metadata or [] if entry.name == b"min_runtime_version"]
    tidy(model)
    strip_unused(model)
    return pack(model)


def float_tflite(module: Any, example_inputs: tuple[Any, ...]) -> ConvertedFile:
    """A float network as an fp32 TFLite file."""
    data, layouts = convert_float(flat(module)[0], example_inputs)
    return ConvertedFile(data, {}, [], layouts)


def integer_tflite(quantized: Any, example_inputs: tuple[Any, ...], float_io: bool = False) -> ConvertedFile:
    """A quantized network as a TFLite file with exactly its integer parameters.

    Args:
        quantized: edgepress.compress.quantize Quantized.
        example_inputs: tensors of batch 1.
        float_io: float32 inputs and outputs, with QUANTIZE and DEQUANTIZE inside the file.

    Raises:
        UsageError: LiteRT-Torch cannot convert it.
    """
    from edgepress.deploy.tflite.integers import rewrite

    module, _ = flat(quantized.float_module().cpu())
    stand_in, carried = with_stand_ins(module, quantized)
    data, layouts = convert_float(stand_in, example_inputs)
    probe = probe_around(example_inputs)
    ours = record_values(marked(stand_in, carried), probe)
    theirs = run_all(_marked_file(data, carried), [x.numpy() for x in probe])
    operators = described(carried, module, ours, slopes_in(data, dict(theirs)))
    rewritten = rewrite(data, match_values(ours, theirs), quantized, float_io, operators)
    return ConvertedFile(rewritten.data, rewritten.ranges, rewritten.islands, layouts)


def _marked_file(data: bytes, carried: Mapping[float, Any]) -> bytes:
    """The file with the value of every stand-in multiplied by its slope, see `stand_ins.marked`; for matching alone."""
    from edgepress.deploy.tflite.objects import operator_name, read_objects
    from edgepress.deploy.tflite.writer import pack, schema

    model = read_objects(data)
    graph, kinds = model.subgraphs[0], schema()
    code = kinds.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kinds.BuiltinOperator.MUL
    code.version = 1
    model.operatorCodes.append(code)
    operators = []
    for operator in graph.operators:
        operators.append(operator)
        slope = float(operator.builtinOptions.alpha) if operator_name(model, operator) == "LEAKY_RELU" else None
        if slope not in carried:
            continue
        result = int(operator.outputs[0])
        buffer, factor, scaled = kinds.BufferT(), kinds.TensorT(), copy.copy(graph.tensors[result])
        buffer.data = np.frombuffer(np.float32(slope).tobytes(), np.uint8)
        model.buffers.append(buffer)
        factor.shape, factor.type, factor.hasRank = np.zeros(0, np.int32), kinds.TensorType.FLOAT32, True
        factor.buffer, factor.name, scaled.name = len(model.buffers) - 1, b"slope", b"scaled"
        graph.tensors += [factor, scaled]
        product = kinds.OperatorT()
        product.opcodeIndex = len(model.operatorCodes) - 1
        product.builtinOptions, product.builtinOptionsType = kinds.MulOptionsT(), kinds.BuiltinOptions.MulOptions
        product.inputs = np.array([result, len(graph.tensors) - 2], np.int32)
        product.outputs = np.array([len(graph.tensors) - 1], np.int32)
        for reader in graph.operators:
            reader.inputs = np.where(np.asarray(reader.inputs) == result, product.outputs[0], reader.inputs).astype(
                np.int32
            )
        operators.append(product)
    graph.operators = operators
    return pack(model)


def slopes_in(data: bytes, values: dict[int, np.ndarray]) -> dict[float, np.ndarray]:
    """Slope of each LEAKY_RELU of a file -> the value that it gives."""
    from edgepress.deploy.tflite.objects import operator_name, read_objects

    model = read_objects(data)
    return {
        float(operator.builtinOptions.alpha): values[int(operator.outputs[0])]
        for operator in model.subgraphs[0].operators
        if operator_name(model, operator) == "LEAKY_RELU"
    }


def run_all(data: bytes, inputs: list[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """Run a float file and return every float tensor as (index, value), in the order of its operators.

    Args:
        data: the file, inputs of four dimensions being NHWC.
        inputs: in torch's layout.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from edgepress.deploy.tflite.objects import read_objects

    interpreter = Interpreter(
        model_content=data,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    graph = read_objects(data).subgraphs[0]
    for index, value in zip(graph.inputs, inputs, strict=True):
        last = np.ascontiguousarray(value.transpose(0, 2, 3, 1)) if value.ndim == 4 else value
        interpreter.set_tensor(int(index), last)
    interpreter.invoke()
    details = {int(d["index"]): d["dtype"] for d in interpreter.get_tensor_details()}
    order = [*map(int, graph.inputs), *(int(i) for operator in graph.operators for i in operator.outputs)]
    return [(i, interpreter.get_tensor(i).copy()) for i in order if details.get(i) is np.float32]


@contextmanager
def silenced() -> Iterator[Any]:
    """Keep what converters print, from Python and from C++, off the terminal.

    Yields a function that gives the last line of it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        saved = {}
        for descriptor in (1, 2):
            with suppress(OSError):
                saved[descriptor] = os.dup(descriptor)
                os.dup2(sink.fileno(), descriptor)

        def said() -> list[str]:
            sink.seek(0)
            return sink.read().decode(errors="replace").strip().splitlines()[-1:]

        from edgepress.compress.quantize.graph.trace import quiet

        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), quiet():
                yield said
        finally:
            logging.disable(level)
            for descriptor, copy in saved.items():
                os.dup2(copy, descriptor)
                os.close(copy)
