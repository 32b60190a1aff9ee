# SPDX-License-Identifier: Apache-2.0
"""Scales that every runtime takes: values that hardly move in calibration get the floor that their operator demands.

A gate that pruning closed, a last gamma of 0 or a dead ReLU is 0 in every batch. Any scale stands for 0, but not any is
taken: LiteRT cannot load a file with a layer whose input_scale * weight_scale / output_scale is 256 or more (XNNPACK,
xnn_define_convolution_2d and its kin), and additions end the process of any TensorFlow Lite from input_scale /
output_scale = 2^19 (QuantizeMultiplierSmallerThanOneExp). Other operators of XNNPACK are left to slower kernels from
2^7 or 2^8. An output whose scale is below that floor holds nothing but the rounding of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from edgepress.compress.quantize.fake import ActivationQuantizer, WeightQuantizer
from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.layers import LAYERS, weight_and_bias
from edgepress.compress.quantize.points import RELUS, Point, Points
from edgepress.compress.quantize.scheme import FLOAT

#: Scales of an operator's inputs, multiplied with those of its weights, over that of its output: at most this.
HIGHEST_RATIO = 2.0**7
#: TensorFlow Lite Micro's softmax ends the process below 2^-26.
LOWEST_SCALE = 2.0**-24


def settle_scales(module: nn.Module, graph: fx.Graph, points: Points) -> list[str]:
    """Raise the scales that a runtime would not take, in place.

    Args:
        module: fake-quantized; its quantizers are changed.
        graph: of the same network without rounding.
        points: where integers sit in it.

    Returns:
        Keys of the points whose ranges were widened.
    """
    raised: dict[str, None] = {}
    for _ in range(len(points.points) + 1):  # a range that is shared passes what was raised on, against the graph
        before = dict(raised)
        raised = {}
        for point, floor in _floors(module, graph, points):
            if float(_quantizer(module, point).integers().scale) < floor:
                _raise(_quantizer(module, point), graph, point, floor)
                raised[point.key] = None
        if not raised:
            return list(before)
        raised |= before
    return list(raised)


def _floors(module: nn.Module, graph: fx.Graph, points: Points) -> Iterator[tuple[Point, float]]:
    """(point, least scale) for each operator which writes it, in the order of the graph."""
    of_node = points.of_node()
    for point in points.points:
        if point.scheme != FLOAT and point.fixed is None:
            yield point, LOWEST_SCALE
    quantizers = dict(module.named_modules())
    for node in graph.nodes:
        own = of_node.get(node.name) or next((of_node[u.name] for u in node.users if u.name in of_node), None)
        if node.op != "call_function" or own is None or own.scheme == FLOAT or own.fixed is not None:
            continue
        given = [of_node[source.name] for source in node.all_input_nodes if source.name in of_node]
        scales = [float(_quantizer(module, p).integers().scale) for p in given if p is not own and p.scheme != FLOAT]
        if node.name in points.islands or not scales:
            continue
        if node.target in LAYERS:
            weights = quantizers.get(f"weight_quantizers.{node.name}")
            if isinstance(weights, WeightQuantizer):
                weight, bias = weight_and_bias(node)
                tensors = (fetch(module, str(weight.target)), None if bias is None else fetch(module, str(bias.target)))
                yield own, scales[0] * float(weights.scales(*tensors).max()) / HIGHEST_RATIO
        elif "mul" in str(node.target) and len(scales) > 1:
            yield own, scales[0] * scales[1] / HIGHEST_RATIO
        else:
            yield own, max(scales) / HIGHEST_RATIO


def _quantizer(module: nn.Module, point: Point) -> ActivationQuantizer:
    return module.get_submodule(f"activation_quantizers.{point.nodes[0]}")  # type: ignore[return-value]


def _raise(quantizer: ActivationQuantizer, graph: fx.Graph, point: Point, scale: float) -> None:
    """Widen a range, about 0, until one step is `scale` or a little more."""
    low, high = min(0.0, float(quantizer.low.detach())), max(0.0, float(quantizer.high.detach()))
    width = 1.001 * scale * (255 if quantizer.bits == 8 else 65534)
    if high > low:
        factor = width / (high - low) if quantizer.bits == 8 else width / (2 * max(-low, high))
        quantizer.set_range(low * factor, high * factor)
        return
    # Nothing moved here: what may still come is as likely on either side, unless an activation cut one off.
    one_sided = all(node.target in RELUS for node in graph.nodes if node.name in point.nodes)
    quantizer.set_range(0.0 if one_sided else -width * 128 / 255, width if one_sided else width * 127 / 255)
