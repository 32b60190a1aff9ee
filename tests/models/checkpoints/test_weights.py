"""Weights as training scripts save them, and networks of other libraries by name."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from edgepress.models.checkpoints.registry import make_network
from edgepress.models.checkpoints.weights import load_weights
from edgepress.models.errors import RuntimeFailure, UsageError


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


WRAPPED: dict[str, Any] = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"optimizer_state": {0: torch.zeros(3)}, "state_dict": state},
    "lightning": lambda state: {
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
        "state_dict": prefixed(state, "model.") | {"criterion.weight": torch.ones(2)},
    },
    "lightning net": lambda state: {"state_dict": prefixed(state, "net.")},
    "data parallel": lambda state: {"model_state_dict": prefixed(state, "module.")},
    "compiled": lambda state: prefixed(state, "_orig_mod.module."),
    "ema beside": lambda state: {"ema": {name: value + 1 for name, value in state.items()}, "net": state},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_tensors_are_found(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    state, model = network().state_dict(), network()
    torch.save(WRAPPED[name](state), tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_files_without_the_network_list_what_they_hold(tmp_path: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "history": [1.0]}, path)
    with pytest.raises(UsageError, match=r"holds no state dict.*its keys are epoch, history"):
        load_weights(network(), path)
    torch.save({"model": {"a.weight": torch.zeros(2)}}, path)
    with pytest.raises(UsageError, match=r"does not fit the network \(looked at 'model'\).*0.weight"):
        load_weights(network(), path)
    torch.save({"model": network()}, path)
    with pytest.raises(UsageError, match="tensors only, no pickled objects"):
        load_weights(network(), path)


def library(**parts: Any) -> ModuleType:
    module = ModuleType("library")
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def test_networks_of_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, pretrained: bool = True, num_classes: int = 1000) -> nn.Module:
        assert not pretrained
        return nn.Linear(3, num_classes)

    known = ["resnet18", "lcnet_050"]
    monkeypatch.setitem(
        sys.modules, "timm", library(is_model=known.__contains__, list_models=lambda: known, create_model=create)
    )
    assert make_network("timm:lcnet_050", {"num_classes": 7}).out_features == 7
    with pytest.raises(UsageError, match=r"timm has no network 'lcnet_05' \(did you mean 'lcnet_050'\?\)"):
        make_network("timm:lcnet_05", {})

    def segmenter(weights: Any = "COCO", weights_backbone: Any = "IMAGENET") -> nn.Module:
        assert weights is None
        assert weights_backbone is None
        return nn.Linear(3, 5)

    models = SimpleNamespace(
        list_models=lambda: ["segmenter"],
        get_model_builder=lambda name: segmenter,
        get_model=lambda name, **arguments: segmenter(**arguments),
    )
    monkeypatch.setitem(sys.modules, "torchvision", library(models=models))
    assert make_network("torchvision:segmenter", {}).out_features == 5
    with pytest.raises(UsageError, match=r"torchvision has no network 'resnet0'.*known are segmenter"):
        make_network("torchvision:resnet0", {})


def test_a_missing_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RuntimeFailure, match="timm:resnet18 needs timm, which is not installed: pip install timm"):
        make_network("timm:resnet18", {})
