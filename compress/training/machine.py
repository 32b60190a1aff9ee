# SPDX-License-Identifier: Apache-2.0
"""What a training runs on: devices, strategy, precision, memory layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.recipes.recipe import TrainSettings
from edgepress.models.run_directory import launched


@dataclass(frozen=True)
class Machine:
    """What to train on; Lightning's own options, passed through.

    Attributes:
        accelerator: "auto", "cpu", "gpu", ...
        devices: "auto", a count, or a list as Lightning reads it.
        strategy: "auto", "ddp", "ddp_spawn", "fsdp", ...
        nodes: machines that take part.
        progress: show progress on stderr.
        loggers: where losses and figures of every epoch go, beside history.csv; names of `callbacks.LOGGERS`.
    """

    accelerator: str = "auto"
    devices: str | int = "auto"
    strategy: str = "auto"
    nodes: int = 1
    progress: bool = True
    loggers: tuple[str, ...] = ("tensorboard",)


#: What is there, as Lightning finds it.
AUTO = Machine()


def inference_device(machine: Machine) -> str:
    """Where a network runs that does not train: the first GPU unless the CPU is asked for."""
    return "cuda" if machine.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"


def layout_of(model: nn.Module) -> torch.memory_format:
    """Channels last, in which CPU and GPU kernels of 2-d convolutions are fastest; values do not change.

    Channels first where oneDNN's kernel for AVX2 (of torch 2.13) writes beyond its memory, which ends the process or
    changes what lies there: the backward pass of a 1 x 1 convolution with strides and fewer than eight input channels.
    """
    endangered = torch.backends.cpu.get_cpu_capability() == "AVX2" and any(
        tuple(kernel) == (1, 1) and max(stride) > 1 and channels < _LANES
        for channels, kernel, stride in _convolutions(model)
    )
    return torch.contiguous_format if endangered else torch.channels_last


#: Numbers of 32 bits in a register of AVX2.
_LANES = 8


def _convolutions(model: nn.Module) -> Iterator[tuple[int, Sequence[int], Sequence[int]]]:
    """(input channels of a filter, kernel, stride) of every 2-d convolution, as a module or in a graph."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            yield module.in_channels // module.groups, module.kernel_size, module.stride
        if not isinstance(module, fx.GraphModule):
            continue
        for node in module.graph.nodes:
            if node.target not in (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding):
                continue
            weight: Any = node.args[1]
            while weight.op != "get_attr" and weight.all_input_nodes:  # behind its rounding
                weight = weight.all_input_nodes[0]
            shape = fetch(module, str(weight.target)).shape
            stride: Any = node.args[3] if len(node.args) > 3 else (1, 1)
            yield int(shape[1]), shape[2:], (stride,) if isinstance(stride, int) else stride


def channels_last(model: nn.Module) -> None:
    """Give a model with 2-d convolutions the layout of `layout_of`, in place."""
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=layout_of(model))  # type: ignore[call-overload]


def precision_for(settings: TrainSettings, machine: Machine) -> str:
    """ "auto" is bf16-mixed where the hardware multiplies bf16, otherwise fp32."""
    if settings.precision != "auto":
        return settings.precision
    if machine.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    flags = Path("/proc/cpuinfo")
    if machine.accelerator in ("auto", "cpu") and flags.exists() and "avx512_bf16" in flags.read_text():
        return "bf16-mixed"
    return "32-true"


def strategy_for(machine: Machine) -> str:
    """Several devices of one machine: spawned processes, so that the command line is not run once for each."""
    if machine.strategy in ("auto", "ddp") and machine.nodes == 1 and _devices(machine) > 1 and not launched():
        return "ddp_spawn"
    return machine.strategy


def _devices(machine: Machine) -> int:
    """How many devices of one machine Lightning will take, as far as it matters: one, or several."""
    text = str(machine.devices)
    if text in ("auto", "-1"):
        return torch.cuda.device_count() if machine.accelerator in ("auto", "gpu", "cuda") else 1
    return int(text) if text.isdigit() else len([part for part in text.split(",") if part.strip()])
