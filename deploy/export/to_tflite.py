"""Networks as TFLite files: float by LiteRT-Torch, integers by rewriting that file with our own parameters.

ai-edge-quantizer could write the integers as well, with its calibration result replaced by ours. The file is written
here instead because it decides three things by itself that must come from the network: weight scales are max |w| / 127
without a floor under all but dead channels, its bias checks refuse such channels, and per-layer 16-bit or float parts
can't share ranges with their neighbours as fake quantization has them. One table (`_LAYERS`, `_SAME`, `_COMPUTED`) and
one rule ("an operator works in the integers of its output") give the whole file, equal to fake quantization to the bit.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.compress.quantize.graph.outputs import flat
from edgepress.deploy.export.converted import ConvertedFile
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
            raise UsageError(
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
        UsageError: a value of the file has no range, or a float tensor would be left outside of declared islands.
    """
    from edgepress.deploy.tflite.integers import rewrite

    module, _ = flat(quantized.float_module())
    data, layouts = convert_float(module, example_inputs)
    names = match_tensors(data, module, example_inputs)
    rewritten = rewrite(data, names, quantized, float_io)
    return ConvertedFile(rewritten.data, rewritten.ranges, rewritten.islands, layouts)


def match_tensors(data: bytes, module: Any, example_inputs: tuple[Any, ...]) -> dict[int, list[str]]:
    """Tensor index of a float TFLite file -> names of the graph's nodes with the same value."""
    probe = probe_around(example_inputs)
    ours = record_values(module.cpu(), probe)
    return match_values(ours, run_all(data, [x.numpy() for x in probe]))


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
