# SPDX-License-Identifier: Apache-2.0
"""Fake quantization beside the activations that a runtime computed, and fed with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from edgepress.compress.quantize.model import Quantized
from edgepress.deploy.verify.match import layouts


def compared(
    quantized: Quantized,
    samples: Sequence[np.ndarray],
    layers: Sequence[dict[str, Any]],
    values: Sequence[np.ndarray],
    *,
    fed: bool,
) -> dict[int, dict[str, Any]]:
    """Compare the values which fake quantization rounds with those of a runtime.

    Args:
        quantized: the network whose fake quantization is compared.
        samples: inputs, float in torch's layout.
        layers: `edgepress.deploy.verify.layers.expose_activations`, with names: the keys of quantization points.
        values: the runtime's integers, one array for each of the layers.
        fed: go on with the runtime's values behind each layer, so that the next one is judged by itself.

    Returns:
        Position in `layers` -> {"max_lsb", "mean_lsb", "equal"}.
    """
    walk = _Walk(quantized, layers, values, fed)
    with torch.inference_mode():
        walk.run(*(torch.from_numpy(np.array(x, np.float32)) for x in samples))
    return walk.found


class _Walk(fx.Interpreter):
    def __init__(self, quantized: Quantized, layers: Sequence[dict[str, Any]], values: Sequence[np.ndarray], fed: bool):
        super().__init__(quantized.model)
        self.points = {name: point for point in quantized.points.points for name in point.nodes}
        self.named: dict[str, list[int]] = {}
        for position, layer in enumerate(layers):
            self.named.setdefault(layer["name"], []).append(position)
        self.quantized, self.values, self.fed = quantized, values, fed
        self.found: dict[int, dict[str, Any]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        rounded = n.args[0] if n.op == "call_module" and n.args else None
        point = self.points.get(rounded.name) if isinstance(rounded, fx.Node) else None
        if point is None or f"activation_quantizers.{point.nodes[0]}" != n.target:
            return value
        integers = self.quantized.quantizer(point).integers()
        ours = np.rint(value.numpy().astype(np.float64) / float(integers.scale)) + integers.zero_point
        best: tuple[float, int, np.ndarray] | None = None
        for position in self.named.get(point.key, ()):  # several values share a point: the nearest is the same one
            theirs = self.values[position]
            if position in self.found or theirs.dtype != integers.dtype or theirs.size != ours.size:
                continue
            for form in layouts(theirs, ours.shape):
                error = float(np.abs(form - ours).mean())
                if best is None or error < best[0]:
                    best = error, position, form
        if best is None:
            return value
        error, position, form = best
        difference = np.abs(form - ours)
        self.found[position] = {
            "max_lsb": float(difference.max(initial=0)),
            "mean_lsb": error,
            "equal": float((difference == 0).mean()),
        }
        return torch.from_numpy(integers.dequantize(np.ascontiguousarray(form))) if self.fed else value
