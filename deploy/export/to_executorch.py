# SPDX-License-Identifier: Apache-2.0
"""Networks as ExecuTorch programs (.pte): torch.export's graph, float or with our integers as pairs, for XNNPACK.

XNNPACK takes what it has kernels for, one part of the graph after the other; the rest is left to ExecuTorch's portable
kernels, in float between the pairs. Inputs and outputs are float, in torch's layout, with a batch of 1.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from edgepress.compress.quantize.graph.outputs import flat
from edgepress.deploy.converted import ConversionError, ConvertedFile
from edgepress.deploy.export.to_tflite import silenced
from edgepress.deploy.pte.scales import constant_methods
from edgepress.models.errors import UsageError
from edgepress.models.terminal.installation import how_to_install

if TYPE_CHECKING:
    from torch import nn

    from edgepress.compress.quantize.model import Quantized


def float_executorch(module: nn.Module, example_inputs: tuple[Any, ...]) -> ConvertedFile:
    """A float network as an fp32 program.

    Raises:
        UsageError: ExecuTorch is missing, or cannot take the network; the message carries the reason.
    """
    plain = flat(module)[0]
    data, inputs, outputs = lower(plain, example_inputs, {})
    return ConvertedFile(data, {}, [], _layouts(inputs, outputs))


def integer_executorch(quantized: Quantized, example_inputs: tuple[Any, ...]) -> ConvertedFile:
    """A quantized network as a program with exactly its integer parameters.

    Args:
        quantized: edgepress.compress.quantize Quantized.
        example_inputs: tensors of batch 1.

    Raises:
        UsageError: see `float_executorch`; or the scheme a16w8, for which XNNPACK has no kernels.
    """
    from edgepress.deploy.pte.pairs import with_pairs

    if quantized.scheme != "w8a8":
        raise UsageError(
            f"ExecuTorch's XNNPACK has integer kernels of 8 bits only, and the network's scheme is {quantized.scheme}: "
            "quantize with the scheme w8a8, or export .tflite or .onnx"
        )
    paired = with_pairs(quantized)
    told = constant_methods(paired.inputs, paired.outputs)
    data, inputs, outputs = lower(paired.module, example_inputs, told)
    return ConvertedFile(data, paired.ranges, paired.islands, _layouts(inputs, outputs))


def lower(
    module: nn.Module, example_inputs: tuple[Any, ...], told: dict[str, Any]
) -> tuple[bytes, list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The program of a graph, and the shapes of what it takes and gives.

    Args:
        module: that returns tensors.
        example_inputs: tensors of batch 1.
        told: name of a method of the program -> the number that it gives.
    """
    import torch

    with silenced() as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            with torch.no_grad():
                exported = torch.export.export(module, tuple(x.contiguous() for x in example_inputs))
            lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()], constant_methods=told)
            data = bytes(lowered.to_executorch().buffer)
            made = module(*example_inputs)
        except ImportError as error:
            raise UsageError(f"ExecuTorch export needs executorch ({error}): {how_to_install('executorch')}") from error
        except Exception as error:
            reason = str(error).strip().splitlines() or said() or ["no reason given"]
            raise ConversionError(
                f"ExecuTorch cannot take {type(module).__name__}: {type(error).__name__}: {reason[0][:300]}"
            ) from error
    outputs = made if isinstance(made, (tuple, list)) else (made,)
    return data, [tuple(x.shape) for x in example_inputs], [tuple(y.shape) for y in outputs]


def _layouts(inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]]) -> dict[str, list[str | None]]:
    return {
        side: ["NCHW" if len(shape) == 4 else None for shape in shapes]
        for side, shapes in (("inputs", inputs), ("outputs", outputs))
    }
