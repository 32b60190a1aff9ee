# SPDX-License-Identifier: Apache-2.0
"""What a training runs on: devices, strategy, precision, memory layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

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


def channels_last(model: nn.Module) -> None:
    """The layout in which CPU and GPU kernels of 2-d convolutions are fastest; values do not change."""
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


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
