# SPDX-License-Identifier: Apache-2.0
"""Which layer costs how much: each one quantized alone, the rest in float."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.model import Quantized
from edgepress.models.bars import bars_svg
from edgepress.models.cost.graph import as_inputs


@dataclass(frozen=True)
class LayerSensitivity:
    """What rounding one value, or one layer's weights, does to the outputs.

    Attributes:
        key: of the layer or the point; names `exceptions` of `quantize_model`.
        kind: "activations" or "weights".
        error: root mean square change of the outputs, in units of the output.
        share: error over the root mean square of the float outputs.
        score: what `score` gave for the outputs, less what it gives in float; None without `score`.
        value: key of the point at which the layer's result is rounded, by which exported files name it; the key itself
            for activations, "" where the result stays in float.
    """

    key: str
    kind: str
    error: float
    share: float
    score: float | None = None
    value: str = ""


def layer_sensitivity(
    quantized: Quantized,
    batches: Iterable[tuple[torch.Tensor, ...] | torch.Tensor],
    score: Callable[[torch.Tensor, int], float] | None = None,
) -> list[LayerSensitivity]:
    """Measure every layer and value by itself.

    Args:
        quantized: untouched.
        batches: inputs, each a tensor or a tuple of tensors.
        score: (outputs, index of the batch) -> a number such as accuracy; averaged over the batches.

    Returns:
        The costliest first.
    """
    inputs = [as_inputs(batch) for batch in batches]
    model = quantized.model.eval()
    rounding = [
        node
        for node in model.graph.nodes
        if node.op == "call_module" and str(node.target).startswith(("activation_quantizers.", "weight_quantizers."))
    ]
    targets = list(dict.fromkeys(str(node.target) for node in rounding))
    float_outputs, float_score = _outputs(model, set(), inputs, score)
    largest = float(torch.cat([y.reshape(-1) for y in float_outputs]).square().mean().sqrt()) or 1.0
    keys = {point.nodes[0]: point.key for point in quantized.points.points}
    results = []
    for target in targets:
        kind, _, node = target.partition(".")
        outputs, value = _outputs(model, {target}, inputs, score)
        error = float(
            torch.cat([(a - b).reshape(-1) for a, b in zip(outputs, float_outputs, strict=True)]).square().mean().sqrt()
        )
        weights = kind == "weight_quantizers"
        key = quantized.points.layers.get(node, node) if weights else keys.get(node, node)
        results.append(
            LayerSensitivity(
                key,
                "weights" if weights else "activations",
                error,
                error / largest,
                None if value is None or float_score is None else value - float_score,
                _rounded_at(model.graph, node, keys) if weights else key,
            )
        )
    return sorted(results, key=lambda entry: -entry.error)


def _rounded_at(graph: fx.Graph, name: str, keys: dict[str, str]) -> str:
    """The key of the first point behind a node."""
    ahead = [node for node in graph.nodes if node.name == name]
    seen: set[fx.Node] = set()
    while ahead:
        node = ahead.pop(0)
        if node.op == "call_module" and str(node.target).startswith("activation_quantizers."):
            return keys.get(str(node.target).partition(".")[2], "")
        ahead += [user for user in node.users if user not in seen]
        seen.update(node.users)
    return ""


def table(results: list[LayerSensitivity]) -> str:
    """The results as aligned text; accuracy in points, where it was measured."""
    width = max((len(entry.key) for entry in results), default=5)
    scored = any(entry.score is not None for entry in results)
    lines = [
        f"{'layer':<{width}}  {'kind':<11}  {'error':>10}  {'of output':>9}" + (f"  {'accuracy':>11}" if scored else "")
    ]
    lines += [
        f"{e.key:<{width}}  {e.kind:<11}  {e.error:>10.3g}  {100 * e.share:>7.2f} %"
        + (f"  {100 * e.score:>+7.2f} pts" if e.score is not None else "")
        for e in results
    ]
    return "\n".join(lines)


def figure(results: list[LayerSensitivity], title: str) -> str:
    """The results as an SVG, the costliest at the top, weights and activations apart; raises as `bars_svg`."""
    return bars_svg(
        [(e.key, e.kind, 100 * e.share) for e in results],
        f"What rounding each layer of {title} alone does to the outputs",
        "error, % of the outputs (rms)",
    )


def _outputs(
    model: fx.GraphModule,
    active: set[str],
    inputs: list[tuple[torch.Tensor, ...]],
    score: Callable[[torch.Tensor, int], float] | None,
) -> tuple[list[torch.Tensor], float | None]:
    class Selective(fx.Interpreter):
        def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if str(target) in active:
                return super().call_module(target, args, kwargs)
            return args if str(target).startswith("weight_quantizers.") else args[0]

    outputs, scores = [], []
    with torch.no_grad():
        for index, batch in enumerate(inputs):
            result = Selective(model).run(*batch)
            first = result[0] if isinstance(result, (tuple, list)) else result
            outputs.append(first)
            if score is not None:
                scores.append(score(first, index))
    return outputs, sum(scores) / len(scores) if scores else None
