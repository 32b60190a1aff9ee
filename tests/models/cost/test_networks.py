"""What is handed in as a network: out of its wrappers, or refused with the module and a way out."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from edgepress.models.cost.cost import cost_of
from edgepress.models.cost.networks import plain_network
from edgepress.models.errors import UsageError


def _small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))


class _Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _small()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if x.sum() > 0 else x


class _Holding(nn.Module):
    """A module whose forward raises, inside of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _small(), nn.Sequential(_Raising())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


class _Raising(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("not today")


class _Pick(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0]


class _Picking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.pick = _small(), _Pick()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pick(self.body(x))


class _Wrapped(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return SimpleNamespace(logits=x * 2)


X = torch.randn(1, 3, 12, 12)


@pytest.mark.filterwarnings("ignore")
def test_wrappers_are_taken_off() -> None:
    model = _small()
    assert plain_network(nn.DataParallel(model)) is model
    assert plain_network(torch.compile(nn.DataParallel(model))) is model
    assert cost_of(torch.compile(model), X).macs == cost_of(model, X).macs


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: torch.relu, "model = relu is no network: it must be an nn.Module"),
        (lambda: _small().state_dict(), "OrderedDict is no network"),
        (lambda: torch.jit.trace(_small(), X), "give the nn.Module that it was made from"),
        (lambda: nn.Sequential(nn.ReLU(), nn.LazyConv2d(8, 3)), r"module '1' \(LazyConv2d\) has no sizes yet: run"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3, device="meta")),
            "module '0' .* no values for weight.*load its weights",
        ),
        (_Deciding, "cannot trace _Deciding .*decides by the values of its tensors .* torch.where"),
        (_Holding, r"in module 'second\.0': ValueError: not today; write that part"),
        (
            lambda: nn.Sequential(nn.Conv2d(4, 8, 3)),
            "in module '0': .*channels.*look at the shapes of the example inputs",
        ),
        (_Picking, r"index.* in module 'pick' gives as many values as its data says.*mask of fixed size"),
        (_Wrapped, "let its forward return tensors, or tuples and dictionaries of them"),
        (lambda: _small().half(), r"give example inputs in the type of its parameters \(float16\)"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_refusals_name_module_and_way_out(build: Callable[[], Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cost_of(build(), X)


@pytest.mark.filterwarnings("ignore")
def test_integers_that_torch_made_are_refused() -> None:
    made = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 16), nn.ReLU()))
    with pytest.raises(UsageError, match=r"module '0' \(Linear\) holds integers already: give the float network"):
        cost_of(made, torch.randn(1, 6))
