"""Windows cut out of values are moves alone: equal to torch's to the bit, without an operator that converters lack."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgepress.compress.quantize.fold import fold

X = torch.randn(3, 4, 12, 15, generator=torch.Generator().manual_seed(0))
CASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "side by side": lambda y: y.unfold(2, 2, 2),
    "side by side, with a rest": lambda y: y.unfold(3, 4, 4),
    "overlapping": lambda y: y.unfold(-1, 4, 1),
    "of both axes": lambda y: y.unfold(2, 3, 3).unfold(3, 5, 2),
    "of channels": lambda y: y.unfold(1, 3, 1).flatten(1, 2),
    "of rows": lambda y: y.flatten(2).unfold(2, 7, 5),
    "columns": lambda y: F.unfold(y, 3, padding=1),
    "columns, dilated": lambda y: F.unfold(y, (2, 3), dilation=(2, 1), padding=(1, 0), stride=(2, 3)),
    "columns side by side": lambda y: F.unfold(y, (3, 5), stride=(3, 5)),
    "columns side by side, padded": lambda y: F.unfold(y, 4, stride=4, padding=2),
    "there and back": lambda y: F.fold(2 * F.unfold(y, (3, 5), stride=(3, 5)), (12, 15), (3, 5), stride=(3, 5)),
}


class Only(nn.Module):
    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)


@pytest.mark.parametrize("name", CASES)
def test_windows_are_moves(name: str) -> None:
    folded = fold(Only(CASES[name]).eval(), X[:1])
    assert folded.fixed_batch is None
    assert torch.equal(folded.module(X), CASES[name](X))
    kinds = {getattr(node.target, "__name__", "").split(".")[0] for node in folded.module.graph.nodes}
    assert kinds.isdisjoint({"unfold", "im2col", "col2im"})


def test_windows_that_are_added_where_they_overlap_are_left() -> None:
    """Nothing that only moves values gives their sum."""
    run = lambda y: F.fold(F.unfold(y, 3, padding=1), (12, 15), 3, padding=1)  # noqa: E731
    folded = fold(Only(run).eval(), X[:1])
    assert torch.allclose(folded.module(X), run(X), atol=1e-6)
    assert "col2im.default" in {getattr(node.target, "__name__", "") for node in folded.module.graph.nodes}
