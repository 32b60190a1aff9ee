# SPDX-License-Identifier: Apache-2.0
"""What a device class is: its facts, its limits as rules, and the names of their metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgepress.models.limits import METRIC_UNITS, MINIMUM_METRICS, Limits
from edgepress.models.tasks.kinds.table import find_metric

#: Name in files and on the command line -> field of `Limits`.
METRICS = {
    "macs": "macs",
    "params": "params",
    "weights": "weight_bytes",
    "file": "file_bytes",
    "flash": "flash_bytes",
    "arena": "arena_bytes",
    "peak": "peak_activation_bytes",
    "accuracy": "accuracy",
    "log_loss": "log_loss",
    "latency": "latency_ms",
}
LEVELS = ("error", "warn", "off")
#: Figures that differ from run to run: exceeding one is a warning, whatever the level asks for.
WALL_CLOCK = frozenset({"latency"})


#: Figures of a task have limits by their own names: metric.auc = { min = 0.85, max_drop = 0.01 }.
TASK_METRIC = "metric."


def is_known(metric: str) -> bool:
    """Whether there can be a limit on it: a key of METRICS, or metric.NAME."""
    return metric in METRICS or (metric.startswith(TASK_METRIC) and metric.removeprefix(TASK_METRIC).isidentifier())


def is_of_task(metric: str) -> bool:
    """Whether it is measured on data, so that figures on different data are never compared."""
    return metric in ("accuracy", "log_loss") or metric.startswith(TASK_METRIC)


def unit_of(metric: str) -> str:
    """What `edgepress.models.units` calls the unit of a metric."""
    if metric in METRICS:
        return METRIC_UNITS[METRICS[metric]]
    found = find_metric(metric.removeprefix(TASK_METRIC))
    return found.unit if found is not None else "number"


def is_better_higher(metric: str) -> bool | None:
    """Whether a bare limit on it is a minimum; None where that is not known, for a metric of a user's own."""
    if metric in METRICS:
        return METRICS[metric] in MINIMUM_METRICS
    found = find_metric(metric.removeprefix(TASK_METRIC))
    return None if found is None else found.higher


@dataclass(frozen=True)
class Rule:
    """One limit on one metric.

    Attributes:
        metric: a key of METRICS, or metric.NAME of the task.
        maximum, minimum: in the unit of `edgepress.models.limits.METRIC_UNITS`; None where there is none.
        max_drop: largest allowed fall against the baseline (accuracy: 0.01 is one percentage point).
        max_growth: largest allowed relative growth against the baseline (0.05 is five percent).
        level: "error" fails, "warn" only warns, "off" is not checked.
        runtime: on which runtime accuracy counts; None means the one of the device class.
        source: where the number comes from.
    """

    metric: str
    maximum: float | None = None
    minimum: float | None = None
    max_drop: float | None = None
    max_growth: float | None = None
    level: str = "error"
    runtime: str | None = None
    source: str = ""

    @property
    def unit(self) -> str:
        """What `edgepress.models.units` calls the unit of this metric."""
        return unit_of(self.metric)


@dataclass(frozen=True)
class DeviceClass:
    """Where a model runs.

    Attributes:
        name, summary: what people call it.
        rules: its limits by metric.
        runtime: the runtime that stands for the class: tflm, litert, onnxruntime, ...
        source: where each number comes from, by the name of the entry.
        macs_rule: the counting rule of its MACs.
        scheme: what weight bytes mean.
        clock_hz, ram_bytes, ram_reserved_bytes, flash_runtime_bytes: facts; None where not known.
        latency_systems: published systems that stand for its speed, best first (models/footprint/latency_systems.json).
        vela: accelerator, system_config and memory_mode for Arm's NPU compiler, where the class has that NPU.
        challenge: the rules of a challenge and no machine, so that a file need not run on `runtime`.
        memory_rule: "nessi-tflite" where params and weights of a .tflite are the bytes of every constant that an
            operator reads, sizes and axes included, as the challenge's own counter says; None: weights and biases.
    """

    name: str
    summary: str
    rules: dict[str, Rule]
    runtime: str
    source: dict[str, str] = field(default_factory=dict)
    macs_rule: str = "dcase"
    scheme: str = "w8a8"
    clock_hz: int | None = None
    ram_bytes: int | None = None
    ram_reserved_bytes: int | None = None
    flash_runtime_bytes: int = 0
    latency_systems: tuple[str, ...] = ()
    vela: dict[str, str] | None = None
    challenge: bool = False
    memory_rule: str | None = None

    @property
    def limits(self) -> Limits:
        """The limits of the class, those of level "off" left out.

        Where weights or peak activation have no limit of their own they follow from flash and arena, as necessary
        conditions: weights cannot be larger than the flash beside the runtime, activations not than the arena. Where
        parameters are counted in bytes (`memory_rule`), a limit on them is one on weights.
        """
        rules = {metric: rule for metric, rule in self.rules.items() if rule.level != "off"}
        values: dict[str, Any] = {}
        for metric, rule in rules.items():
            bound = rule.minimum if metric == "accuracy" else rule.maximum
            if bound is not None and metric in METRICS:
                values[METRICS[metric]] = bound
        if "flash_bytes" in values and "weights" not in self.rules:
            values["weight_bytes"] = max(0, values["flash_bytes"] - self.flash_runtime_bytes)
        if "arena_bytes" in values and "peak" not in self.rules:
            values["peak_activation_bytes"] = values["arena_bytes"]
        if self.memory_rule is not None and "params" in values:
            values["weight_bytes"] = min(values["params"], values.get("weight_bytes", values["params"]))
        return Limits(**values, rule=self.macs_rule, scheme=self.scheme)
