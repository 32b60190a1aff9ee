# SPDX-License-Identifier: Apache-2.0
"""How far a quantized network carries roundings that may go either way, which no runtime of float32 can rule out.

Fake quantization runs again and again with every value moved, before it is rounded, by no more than float32 leaves
open. What lies nearly on a half is then rounded to the other side, and the layers behind it see one step more or less.
A network that damps this comes out where it was; one that amplifies it comes out several steps away, and so far may
two right runtimes be apart on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgepress.compress.quantize.model import Quantized

#: Steps of 8 bits: a sum and its product with a scale are each rounded to 24 bits, and lie up to 2^8 steps from zero,
#: 2 * 2^8 * 2^-24.
OPEN_OF_8_BITS = 2.0**-15
#: Steps of 16 bits: runtimes that compute these in float do not round them, which is half a step either way.
OPEN_OF_16_BITS = 0.5
DRAWS = 16


def rounding_spread(
    quantized: Quantized, batches: Sequence[np.ndarray], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Differences between fake quantization and itself with roundings that went otherwise.

    Args:
        quantized: with one input and one output of integers; untouched. The input is rounded as ever: everybody rounds
            the same numbers there.
        batches: inputs, float in torch's layout.
        draws: how often.
        seed: of the first draw; each has its own.

    Returns:
        {"draws", "open_of_8_bits", "open_of_16_bits" in steps, "max_lsb": the largest of all draws, "max_lsb_by_draw",
        "mean_lsb": over all values and draws}, in steps of the output.

    Raises:
        ValueError: the output is no integer.
    """
    import torch

    from edgepress.compress.quantize.fake import ActivationQuantizer

    (integers,) = quantized.output_integers()
    if integers is None:
        raise ValueError("the output is no integer, so that there are no steps to count")
    step, generator = float(integers.scale), torch.Generator()

    def move(quantizer: ActivationQuantizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        bits = named.get("bits") or quantizer.bits
        scale = float(quantizer.parameters_of_range(bits)[0])
        noise = torch.rand(arguments[0].shape, generator=generator) * 2 - 1
        far = scale * (OPEN_OF_8_BITS if bits == 8 else OPEN_OF_16_BITS)
        return (arguments[0] + noise * far, *arguments[1:]), named

    def outputs() -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([quantized.model(torch.from_numpy(batch)).numpy() for batch in batches])

    inputs = {node.name for node in quantized.model.graph.nodes if node.op == "placeholder"}
    at_input = {f"activation_quantizers.{p.nodes[0]}" for p in quantized.points.points if inputs.intersection(p.nodes)}
    expected, largest, means = outputs(), [], []
    hooks = [
        part.register_forward_pre_hook(move, with_kwargs=True)
        for name, part in quantized.model.named_modules()
        if isinstance(part, ActivationQuantizer) and name not in at_input
    ]
    try:
        for draw in range(draws):
            generator.manual_seed(seed + draw)
            steps = np.abs(outputs() - expected) / step
            largest.append(float(np.rint(steps.max(initial=0))))
            means.append(float(steps.mean()))
    finally:
        for hook in hooks:
            hook.remove()
    return {
        "draws": draws,
        "open_of_8_bits": OPEN_OF_8_BITS,
        "open_of_16_bits": OPEN_OF_16_BITS,
        "max_lsb": max(largest),
        "max_lsb_by_draw": largest,
        "mean_lsb": float(np.mean(means)),
    }
