# SPDX-License-Identifier: Apache-2.0
"""Networks as TFLite files: float by LiteRT-Torch, integers by rewriting that file with our own parameters.

ai-edge-quantizer could write the integers as well, with its calibration result replaced by ours. The file is written
here instead because it decides three things by itself that must come from the network: weight scales are max |w| / 127
without a floor under all but dead channels, its bias checks refuse such channels, and per-layer 16-bit or float parts
can't share ranges with their neighbours as fake quantization has them. One set of tables (`tflite.integer_kernels`) and
one rule ("an operator works in the integers of its output") give the whole file, equal to fake quantization to the bit.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.quantize.graph.outputs import flat
from edgepress.deploy.converted import ConversionError, ConvertedFile
from edgepress.deploy.export.marks import given_tflite, marked, marked_tflite, slopes_in
from edgepress.deploy.export.stand_ins import described, with_stand_ins
from edgepress.deploy.verify.match import match_file, probe_around, record_values
from edgepress.models.errors import EdgepressError, RuntimeFailure, UsageError
from edgepress.models.terminal.chatter import without_chatter
from edgepress.models.terminal.installation import how_to_install

if TYPE_CHECKING:
    from torch import nn

    from edgepress.compress.quantize.model import Quantized


def convert_float(module: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[bytes, dict[str, list[str | None]]]:
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

    from edgepress.compress.quantize.graph.decompose import decomposing_in_place

    outputs = module(*example_inputs)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    inputs_last = [i for i, x in enumerate(example_inputs) if x.ndim == 4]
    outputs_last = [i for i, y in enumerate(outputs) if isinstance(y, torch.Tensor) and y.ndim == 4]
    examples = tuple(x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x for x in example_inputs)
    with tempfile.TemporaryDirectory() as folder, silenced() as said, decomposing_in_place():
        try:
            import litert_torch

            _put_in_rows(module)
            wrapped = (
                litert_torch.to_channel_last_io(module, args=inputs_last, outputs=outputs_last)
                if inputs_last or outputs_last
                else module
            )
            path = Path(folder) / "float.tflite"
            litert_torch.convert(wrapped.eval(), examples).export(str(path))
            data = path.read_bytes()
        except ImportError as error:
            raise UsageError(f"TFLite export needs LiteRT-Torch ({error}): {how_to_install('litert_torch')}") from error
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


#: Of StableHLO's operators, which LiteRT-Torch leaves in a file where TFLite has none, those that LiteRT runs.
_RUN_AS_THEY_ARE = {"STABLEHLO_COMPOSITE", "STABLEHLO_GATHER", "STABLEHLO_PAD", "STABLEHLO_REDUCE_WINDOW"} | {
    f"STABLEHLO_{name}" for name in ("ADD", "MULTIPLY", "MINIMUM", "MAXIMUM", "SCATTER", "RNG_BIT_GENERATOR")
}


def _without_kernels(model: Any) -> list[str]:
    """Operators of a converted ModelT that no LiteRT has, though its format knows them."""
    from edgepress.deploy.tflite.objects import operator_name

    used = {operator_name(model, operator) for operator in model.subgraphs[0].operators}
    return sorted(name for name in used if name.startswith("STABLEHLO_") and name not in _RUN_AS_THEY_ARE)


def _put_in_rows(module: nn.Module) -> None:
    """Let the values of every tensor lie one behind the other, in place; none of them changes.

    LiteRT-Torch (0.10) knows constants by their address. Of a tensor that lies otherwise (channels last, permuted) it
    makes a copy, and copies of one size may have one address after the other: it takes the first one for all of them.
    """
    import torch

    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.contiguous()
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor):  # a constant that is registered nowhere
                setattr(part, name, value.contiguous())


def _tidied(data: bytes) -> bytes:
    from edgepress.deploy.tflite.micro_limits import lower_ranks
    from edgepress.deploy.tflite.objects import read_objects
    from edgepress.deploy.tflite.strip import strip_unused
    from edgepress.deploy.tflite.tidy import tidy
    from edgepress.deploy.tflite.writer import pack

    model = read_objects(data)
    if missing := _without_kernels(model):
        raise ConversionError(f"LiteRT has no kernel for what LiteRT-Torch makes of it, {', '.join(missing)}")
    model.metadata = [entry for entry in model.metadata or [] if entry.name == b"min_runtime_version"]
    tidy(model)
    lower_ranks(model)
    strip_unused(model)
    return pack(model)


def float_tflite(module: nn.Module, example_inputs: tuple[Any, ...]) -> ConvertedFile:
    """A float network as an fp32 TFLite file."""
    from edgepress.deploy.tflite.micro_limits import split_concatenations

    data, layouts = convert_float(flat(module)[0], example_inputs)
    return ConvertedFile(split_concatenations(data), {}, [], layouts)


def integer_tflite(quantized: Quantized, example_inputs: tuple[Any, ...], float_io: bool = False) -> ConvertedFile:
    """A quantized network as a TFLite file with exactly its integer parameters.

    Args:
        quantized: edgepress.compress.quantize Quantized.
        example_inputs: tensors of batch 1.
        float_io: float32 inputs and outputs, with QUANTIZE and DEQUANTIZE inside the file.

    Raises:
        UsageError: LiteRT-Torch cannot convert it.
    """
    from edgepress.deploy.tflite.integers import rewrite
    from edgepress.deploy.tflite.micro_limits import split_concatenations

    module, _ = flat(quantized.float_module().cpu())
    stand_in, carried = with_stand_ins(module, quantized)
    data, layouts = convert_float(stand_in, example_inputs)
    probe = probe_around(example_inputs)
    ours = record_values(marked(stand_in, carried), probe)
    told_apart = marked_tflite(data, carried)

    def run(given: dict[int, np.ndarray]) -> list[tuple[int, np.ndarray]]:
        return run_all(given_tflite(told_apart, given), [x.numpy() for x in probe])

    names, theirs = match_file(ours, run)
    operators = described(carried, module, ours, slopes_in(data, theirs))
    rewritten = rewrite(data, names, quantized, float_io, operators)
    return ConvertedFile(split_concatenations(rewritten.data), rewritten.ranges, rewritten.islands, layouts)


def run_all(data: bytes, inputs: list[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """Run a float file in a process of its own and return every float tensor as (index, value), in its order.

    Args:
        data: the file, inputs of four dimensions being NHWC.
        inputs: in torch's layout.

    Raises:
        RuntimeFailure: LiteRT cannot run it, or crashes on it.
    """
    from edgepress.deploy.tflite.objects import read_objects
    from edgepress.deploy.verify.layers import expose_activations

    exposed, layers = expose_activations(data)
    last = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x for x in inputs]
    given = [int(index) for index in read_objects(data).subgraphs[0].inputs]
    made = run_outside("litert", exposed, last)
    values = [*zip(given, last, strict=True), *zip((layer["tensor"] for layer in layers), made, strict=True)]
    return [(index, value) for index, value in values if value.dtype == np.float32]


def run_outside(runtime: str, data: bytes, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a converted float file for one sample, computed in a child process, every operator by itself.

    Raises:
        RuntimeFailure: the runtime cannot run the file, or crashes on it.
    """
    from edgepress.deploy.runtimes.engine import EngineOptions
    from edgepress.deploy.runtimes.isolated import IsolatedEngine

    try:
        engine = IsolatedEngine(runtime, data, EngineOptions(plain=True))
        try:
            # Tokens have 64 bits in torch and 32 in a file of LiteRT-Torch.
            return engine.run([x.astype(d.dtype, copy=False) for x, d in zip(inputs, engine.inputs, strict=True)])
        finally:
            engine.close()
    except EdgepressError as error:
        raise RuntimeFailure(
            f"the converted float network does not run, so that its values are not known: {error}"
        ) from error


@contextmanager
def silenced() -> Iterator[Any]:
    """Keep what converters print, from Python and from C++, off the terminal.

    Yields a function that gives the last line of it.
    """
    from edgepress.compress.quantize.graph.trace import quiet

    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with without_chatter() as said, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), quiet():
            yield said
    finally:
        logging.disable(level)
