# SPDX-License-Identifier: Apache-2.0
"""Fake quantization: float tensors that hold only values which integers can stand for, with gradients for training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from edgepress.compress.quantize.scheme import (
    BIAS_LIMIT,
    NARROWEST_RANGE,
    WEIGHT_LIMIT,
    Integers,
    integers_of_range,
)

#: How a range moves in training mode; in evaluation mode it never moves.
FROZEN, LEARNED, AVERAGED = "frozen", "learned", "averaged"
#: Pooled averages are exact multiples of 1/count: what float32 puts just below a half is a half.
_HALF_SLACK = 2e-4


class _RoundToRange(torch.autograd.Function):
    """Rounding to a grid given by its range, with straight-through gradients.

    The gradient of the range is that of learned step size quantization (Esser et al. 2020, arXiv 1902.08153, eq. 3)
    written for the two ends of an asymmetric range (LSQ+, Bhalgat et al. 2020, arXiv 2004.09576): a value inside moves
    with its rounding error over the number of steps, a value outside moves with its end.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor,
        lowest: int,
        highest: int,
        away: bool,
    ) -> torch.Tensor:
        steps = x / scale
        if away:
            integers = steps + zero_point
            integers = torch.sign(integers) * torch.floor(integers.abs() + (0.5 + _HALF_SLACK))
        else:
            integers = torch.round(steps) + zero_point
        clipped = integers.clamp(lowest, highest)
        result = (clipped - zero_point) * scale
        if any(ctx.needs_input_grad[:3]):
            ctx.save_for_backward(x, result, scale, integers < lowest, integers > highest)
            ctx.steps = highest - lowest
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        (gradient,) = gradients
        x, result, scale, below, above = ctx.saved_tensors
        outside = below | above
        to_x = gradient.masked_fill(outside, 0) if ctx.needs_input_grad[0] else None
        to_low = to_high = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            # The gradient of a range sums over all elements; LSQ divides it by the root of their number.
            balance = 1 / max(1.0, float(x.numel())) ** 0.5
            inside = ((result - x).masked_fill(outside, 0) * gradient).sum() / (scale * ctx.steps)
            to_low = ((gradient * below).sum() - inside) * balance
            to_high = ((gradient * above).sum() + inside) * balance
        return to_x, to_low, to_high, None, None, None, None, None


class ActivationQuantizer(nn.Module):
    """Rounds activations to int8 or int16 values of one range.

    Attributes:
        low, high: ends of the range, float32 scalars; parameters that are trained in mode "learned".
        mode: "frozen", "learned" or "averaged" (moving average of each batch's extremes, training mode only).
    """

    def __init__(self, bits: int = 8, fixed: tuple[float, float] | None = None, momentum: float = 0.01):
        super().__init__()
        low, high = fixed if fixed is not None else (0.0, 1.0)
        self.low: nn.Parameter = nn.Parameter(torch.tensor(low, dtype=torch.float32), requires_grad=False)
        self.high: nn.Parameter = nn.Parameter(torch.tensor(high, dtype=torch.float32), requires_grad=False)
        self.bits: int = bits
        self.fixed: bool = fixed is not None
        self.momentum: float = momentum
        self.mode: str = FROZEN

    def set_range(self, minimum: float, maximum: float) -> None:
        """Take a range; a prescribed one stays."""
        integers_of_range(minimum, maximum, self.bits)  # refuses what is no range
        if not self.fixed:
            with torch.no_grad():
                self.low.fill_(minimum)
                self.high.fill_(maximum)

    def set_mode(self, mode: str) -> None:
        """Choose how the range moves in training mode; a prescribed one never does."""
        self.mode = FROZEN if self.fixed else mode
        learned = self.mode == LEARNED
        self.low.requires_grad_(learned)
        self.high.requires_grad_(learned)
        if not learned:  # an optimiser with momentum would go on moving what still has a gradient
            self.low.grad = self.high.grad = None

    def integers(self, bits: int | None = None) -> Integers:
        """The integer parameters of the current range (with other bits: those of its conversion)."""
        return integers_of_range(float(self.low.detach()), float(self.high.detach()), bits or self.bits)

    def parameters_of_range(self, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale, zero point) as float32 scalars; the same float32 arithmetic as `integers_of_range`."""
        with torch.no_grad():
            low, high = self.low.clamp(max=0), self.high.clamp(min=0)
            if bits == 16:
                scale = torch.maximum(-low, high).clamp(min=float(NARROWEST_RANGE)) / 32767
                return scale, torch.zeros_like(scale)
            scale = (high - low).clamp(min=float(NARROWEST_RANGE)) / 255
            return scale, torch.round(-128 - low / scale).clamp(-128, 127)

    def forward(self, x: torch.Tensor, away: bool = False, bits: int | None = None) -> torch.Tensor:
        if self.training and self.mode == AVERAGED:
            with torch.no_grad():
                low, high = torch.aminmax(x.detach())
                self.low.lerp_(low.to(self.low), self.momentum)
                self.high.lerp_(high.to(self.high), self.momentum)
        bits = bits or self.bits
        scale, zero_point = self.parameters_of_range(bits)
        half = 2 ** (bits - 1)
        return _RoundToRange.apply(x, self.low, self.high, scale, zero_point, -half, half - 1, away)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, range=[{self.low.item():.4g}, {self.high.item():.4g}], mode={self.mode}"


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class _InverseRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.rsqrt(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (y,) = ctx.saved_tensors
        return torch.where(torch.isfinite(y), -0.5 * y**3 * gradients[0], 0)


def inverse_root(x: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(x) whose gradient at 0 is 0: rounded values are often exactly 0, where integers saturate."""
    return _InverseRoot.apply(x)


class WeightQuantizer(nn.Module):
    """Rounds a layer's weight to int8 values and its bias to int32 values; gradients pass straight through.

    Attributes:
        axis: the output channels of the weight; None means one scale for the whole tensor.
    """

    def __init__(self, axis: int | None, source: ActivationQuantizer | None, bits: int = 8):
        super().__init__()
        self.axis: int | None = axis
        self.bits: int = bits
        # In a tuple, so that it isn't registered as a part: it belongs to the activations.
        self._source = (source,)

    def input_scale(self) -> torch.Tensor | None:
        """Scale of the activations that meet the weight; None behind a float operator."""
        source = self._source[0]
        return source.parameters_of_range(self.bits)[0] if source is not None else None

    def scales(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`scheme.weight_scales`, in torch, to the same bits."""
        magnitude = weight.detach().abs()
        if self.axis is None:
            largest = magnitude.max().reshape(1)
        else:
            largest = magnitude.amax(dim=[i for i in range(weight.ndim) if i != self.axis])
        scales = largest / WEIGHT_LIMIT
        tiny = 2.0**-100
        fallback = scales.max()
        fallback = torch.where(fallback > tiny, fallback, torch.tensor(np.float32(1 / WEIGHT_LIMIT)).to(fallback))
        scales = torch.where(scales > tiny, scales, fallback)
        input_scale = self.input_scale()
        if bias is not None and input_scale is not None:
            floor = bias.detach().abs() / (input_scale * float(BIAS_LIMIT))
            scales = torch.maximum(scales, floor if self.axis is not None else floor.max())
        return scales

    def forward(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.no_grad():
            scales = self.scales(weight, bias)
            shape = [1] * weight.ndim
            if self.axis is not None:
                shape[self.axis] = -1
            steps = scales.reshape(shape)
            rounded = torch.round(weight / steps).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT) * steps
            rounded_bias, input_scale = bias, self.input_scale()
            if bias is not None and input_scale is not None:
                bias_steps = input_scale * scales
                rounded_bias = torch.round(bias / bias_steps) * bias_steps
        weight = _StraightThrough.apply(weight, rounded)
        return weight, None if bias is None else _StraightThrough.apply(bias, rounded_bias)

    def extra_repr(self) -> str:
        return "per tensor" if self.axis is None else f"per channel of axis {self.axis}"


class ConstantQuantizer(nn.Module):
    """Rounds a constant operand to the integers of its own range; gradients pass straight through."""

    def __init__(self, bits: int = 8):
        super().__init__()
        self.bits = bits

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        low, high = float(value.detach().min()), float(value.detach().max())
        integers = integers_of_range(low, high, self.bits)
        with torch.no_grad():
            steps = torch.round(value / float(integers.scale)) + integers.zero_point
            rounded = (steps.clamp(integers.lowest, integers.highest) - integers.zero_point) * float(integers.scale)
        return _StraightThrough.apply(value, rounded)
