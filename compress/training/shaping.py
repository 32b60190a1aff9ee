# SPDX-License-Identifier: Apache-2.0
"""What may be done to weights while they train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


class Shaping(Protocol):
    """What is done to weights while they train: ADMM's penalty, gradual masks.

    The loop calls it; who trains on their own calls the same four in their loop: `start` once, `loss + penalty()`,
    `after_step()` behind every optimizer step.
    """

    def start(self, model: nn.Module, steps: int) -> None:
        """Take hold of the model's parameters, on the device where they are; `steps` optimizer steps will follow."""

    def penalty(self) -> Tensor | None:
        """A scalar to add to the loss of every batch."""

    def after_step(self) -> None:
        """Called behind every optimizer step."""

    def figures(self) -> dict[str, float]:
        """Numbers to log at the end of an epoch."""
        ...

    def finished(self) -> bool:
        """Whether the stopping rule holds; asked at the end of an epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; called after `start`."""
