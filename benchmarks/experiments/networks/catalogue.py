# SPDX-License-Identifier: Apache-2.0
"""The networks of the experiment by name: what builds each, what it takes, who published it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

GROUPS = (
    "classification",
    "segmentation",
    "detection",
    "audio and other signals",
    "keyword spotting",
    "transformers",
)
OWN = "benchmarks/experiments/networks"


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: unique; with a colon where a library has it.
        group: of `GROUPS`.
        build: random weights by torch's generator.
        shapes: of its inputs, with a batch of 1.
        source: library, or the file here.
        tokens: its inputs are whole numbers below this; 0 for real values.
        heads: modules whose outputs Torch-Pruning must leave; it is told of the last layer anyway.
    """

    name: str
    group: str
    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    source: str
    tokens: int = 0
    heads: tuple[str, ...] = ()


def catalogue() -> dict[str, Network]:
    """All networks by name: in turn one of each group, small ones first, so that a part of them shows all groups."""
    groups = (_images(), _segmentation(), _detection(), _signals(), _speech(), _transformers())
    turns = (network for turn in zip_longest(*groups) for network in turn if network is not None)
    return {network.name: network for network in turns}


def _library(group: str, reference: str, size: int = 64, **arguments: Any) -> Network:
    """Of timm or torchvision, ten classes, as `--model` finds it."""

    def build() -> nn.Module:
        from edgepress.models.checkpoints.registry import make_network

        return make_network(reference, {"num_classes": 10, **arguments})

    return Network(reference, group, build, ((1, 3, size, size),), reference.partition(":")[0])


def _own(
    name: str, group: str, module: str, shape: tuple[int, ...], factory: str, heads: tuple[str, ...] = (), **more: Any
) -> Network:
    def build() -> nn.Module:
        from importlib import import_module

        return getattr(import_module(f"edgepress.benchmarks.experiments.networks.{module}"), factory)(**more)

    return Network(name, group, build, (shape,), f"{OWN}/{module}.py", heads=heads)


def _zoo(name: str, group: str, shape: tuple[int, ...], **arguments: Any) -> Network:
    def build() -> nn.Module:
        from edgepress.models.checkpoints.registry import make_network

        return make_network(name, arguments)

    return Network(name, group, build, (shape,), "models/zoo")


def _images() -> list[Network]:
    group = "classification"
    names = {
        "timm": (
            "test_resnet",
            "test_efficientnet",
            "test_byobnet",
            "lcnet_050",
            "mobilenetv4_conv_small_050",
            "tf_mobilenetv3_small_minimal_100",
            "tinynet_e",
            "resnet10t",
            "mobilenetv3_small_050",
            "efficientnet_lite0",
            "ghostnet_050",
            "repvgg_a0",
            "mobileone_s0",
            "legacy_seresnet18",
            "convnext_atto",
            "efficientvit_b0",
        ),
        "torchvision": (
            "mobilenet_v2",
            "mobilenet_v3_large",
            "shufflenet_v2_x0_5",
            "squeezenet1_1",
            "mnasnet0_5",
            "resnet18",
            "regnet_y_400mf",
            "googlenet",
            "densenet121",
        ),
    }
    return [
        _own("cifar-tutorial", group, "images", (1, 3, 32, 32), "Tutorial"),
        _own("vgg11-cifar", group, "images", (1, 3, 32, 32), "vgg11"),
        _zoo("resnet8", group, (1, 3, 32, 32)),
        _zoo("mobilenet", group, (1, 3, 64, 64), input_size=[64, 64]),
        *(_library(group, f"{library}:{name}") for library, known in names.items() for name in known),
    ]


def _segmentation() -> list[Network]:
    group = "segmentation"

    def model(kind: str, encoder: str, size: int = 64, **arguments: Any) -> Network:
        def build() -> nn.Module:
            from edgepress.benchmarks.experiments.networks.libraries import segmentation_model

            return segmentation_model(kind, encoder, **arguments)

        name = f"segmentation-models-pytorch:{kind}-{encoder}"
        return Network(name, group, build, ((1, 3, size, size),), "segmentation-models-pytorch")

    return [
        _own("unet-small", group, "images", (1, 1, 64, 64), "UNet"),
        model("linknet", "mobilenet_v2"),
        model("unet", "mobilenet_v2"),
        model("fpn", "mobilenet_v2"),
        model("pspnet", "resnet18"),
        model("deeplabv3plus", "mobilenet_v2"),
        _library(group, "torchvision:lraspp_mobilenet_v3_large"),
    ]


def _detection() -> list[Network]:
    group = "detection"

    def heads() -> nn.Module:
        from edgepress.benchmarks.experiments.networks.images import ssdlite

        return ssdlite()

    return [
        _own("yolov5n-style", group, "images", (1, 3, 96, 96), "YOLO", ("heads.0", "heads.1")),
        _own("centernet-small", group, "images", (1, 3, 96, 96), "CenterNet", ("heads.0.2", "heads.1.2", "heads.2.2")),
        Network(
            "torchvision:ssdlite320_mobilenet_v3_large",
            group,
            heads,
            ((1, 3, 96, 96),),
            "torchvision",
            heads=("head",),
        ),
    ]


def _signals() -> list[Network]:
    group = "audio and other signals"
    return [
        _own("m5", group, "signals", (1, 1, 2048), "M5"),
        _own("tcn", group, "signals", (1, 6, 128), "TCN"),
        _own("inception-time", group, "signals", (1, 12, 250), "InceptionTime"),
        _own("xresnet1d18", group, "signals", (1, 12, 250), "XResNet1d"),
        _own("ecg-ribeiro", group, "signals", (1, 12, 512), "RibeiroECG"),
        _own("deep-conv-lstm", group, "signals", (1, 1, 24, 9), "DeepConvLSTM"),
        _own("conv-tasnet-small", group, "signals", (1, 1, 512), "ConvTasNet", ("decoder",)),
        _own("wave-unet-small", group, "signals", (1, 1, 512), "WaveUNet", ("out",)),
        _zoo("autoencoder", group, (1, 640)),
        _zoo("cp_resnet", group, (1, 1, 256, 44)),
        _zoo("cp_mobile", group, (1, 1, 256, 44)),
    ]


def _speech() -> list[Network]:
    group = "keyword spotting"
    return [
        _own("bc-resnet-1", group, "speech", (1, 1, 40, 50), "BCResNet", ("head.5",)),
        _own("matchboxnet-3x1x64", group, "speech", (1, 64, 64), "MatchboxNet", ("layers.6",)),
        _own("kws-gru", group, "speech", (1, 25, 10), "SpottingGRU"),
        _own("kws-crnn", group, "speech", (1, 1, 49, 10), "SpottingCRNN"),
        _own("tc-resnet8", group, "speech", (1, 40, 98), "TCResNet8"),
        _zoo("ds_cnn", group, (1, 1, 49, 10)),
        _own("kwt-small", group, "speech", (1, 49, 40), "KeywordTransformer"),
    ]


def _transformers() -> list[Network]:
    group = "transformers"

    def tokens() -> nn.Module:
        from edgepress.benchmarks.experiments.networks.images import TokenTransformer

        return TokenTransformer()

    return [
        _own("vit-small", group, "images", (1, 3, 32, 32), "small_vit"),
        _own("swin-small", group, "images", (1, 3, 64, 64), "small_swin"),
        _own("mlp-mixer-small", group, "images", (1, 3, 32, 32), "MLPMixer"),
        _own("cct-2-3x2", group, "images", (1, 3, 32, 32), "CCT"),
        Network("bert-tiny", group, tokens, ((1, 24),), f"{OWN}/images.py", tokens=500),
        _library(group, "timm:test_vit", 160),
        _library(group, "timm:mobilevit_xxs"),
        _library(group, "timm:edgenext_xx_small"),
        _library(group, "timm:deit_tiny_patch16_224", img_size=64),
        _library(group, "timm:efficientvit_m0", 224),
    ]
