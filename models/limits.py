# SPDX-License-Identifier: Apache-2.0
"""What a device class or a target allows, every number with its unit and counting rule."""

from __future__ import annotations

from dataclasses import dataclass, fields

from edgepress.models.errors import UsageError

#: Metric -> the unit that `edgepress.models.units` reads and writes it in.
METRIC_UNITS = {
    "macs": "macs",
    "params": "params",
    "weight_bytes": "bytes",
    "peak_activation_bytes": "bytes",
    "file_bytes": "bytes",
    "flash_bytes": "bytes",
    "firmware_flash_bytes": "bytes",
    "arena_bytes": "bytes",
    "firmware_arena_bytes": "bytes",
    "accuracy": "fraction",
    "log_loss": "number",
    "latency_ms": "ms",
    "energy_uj": "uJ",
    "instructions": "instructions",
}
#: Metrics in which more is better; a limit on one of these is a minimum.
MINIMUM_METRICS = frozenset({"accuracy"})
#: What pruning can hold: these follow from the network alone.
BUDGET_METRICS = ("macs", "params", "weight_bytes", "peak_activation_bytes")
#: What pruning can hold on a device class: these follow from the network and the class (`edgepress.models.footprint`).
DEVICE_METRICS = (
    "latency_ms",
    "energy_uj",
    "instructions",
    "arena_bytes",
    "firmware_arena_bytes",
    "file_bytes",
    "flash_bytes",
    "firmware_flash_bytes",
)

#: Name of a target on the command line (`--target-NAME`) and in recipes -> metric.
TARGETS = {
    "macs": "macs",
    "params": "params",
    "bytes": "weight_bytes",
    "peak": "peak_activation_bytes",
    "latency": "latency_ms",
    "energy": "energy_uj",
    "instructions": "instructions",
    "arena": "arena_bytes",
    "firmware-arena": "firmware_arena_bytes",
    "file": "file_bytes",
    "flash": "flash_bytes",
    "firmware-flash": "firmware_flash_bytes",
}


@dataclass(frozen=True)
class Limits:
    """Upper limits (for `accuracy` a lower one); None means no limit.

    Attributes:
        macs: multiply-accumulates of one inference under `rule`.
        params: number of weights and biases.
        weight_bytes: bytes of weights and biases under `scheme`.
        peak_activation_bytes: largest sum of activations alive at once, at the activation width of `scheme`.
        file_bytes: size of the model file.
        flash_bytes: model file plus runtime on the device.
        firmware_flash_bytes: our own firmware, linked, with code and constants.
        arena_bytes: TFLite Micro's tensor arena.
        firmware_arena_bytes: the arena of our own firmware.
        accuracy: smallest allowed accuracy, 0 to 1.
        log_loss: largest allowed mean log loss, in nats.
        latency_ms: longest allowed inference.
        energy_uj: largest allowed energy of an inference, in microjoules.
        instructions: most instructions of an inference of our firmware.
        rule: the counting rule of `macs`.
        scheme: what `weight_bytes` means; "w8a8" is int8 weights and int32 biases.
        device: the device class by which pruning holds the metrics that depend on one; None: it does not hold them.
    """

    macs: int | None = None
    params: int | None = None
    weight_bytes: int | None = None
    peak_activation_bytes: int | None = None
    file_bytes: int | None = None
    flash_bytes: int | None = None
    firmware_flash_bytes: int | None = None
    arena_bytes: int | None = None
    firmware_arena_bytes: int | None = None
    accuracy: float | None = None
    log_loss: float | None = None
    latency_ms: float | None = None
    energy_uj: float | None = None
    instructions: int | None = None
    rule: str = "dcase"
    scheme: str = "w8a8"
    device: str | None = None

    def given(self) -> dict[str, float]:
        """The limits that are set, by metric."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name in METRIC_UNITS and getattr(self, f.name) is not None
        }

    def budgets(self) -> dict[str, float]:
        """Only the limits which pruning can hold."""
        known = BUDGET_METRICS if self.device is None else BUDGET_METRICS + DEVICE_METRICS
        return {name: value for name, value in self.given().items() if name in known}

    @property
    def on_device(self) -> tuple[str, tuple[str, ...]] | None:
        """The device class, and what pruning has to hold on it; None where that is nothing."""
        metrics = tuple(name for name in self.budgets() if name in DEVICE_METRICS)
        return (self.device, metrics) if self.device is not None and metrics else None

    def tightest(self, other: Limits) -> Limits:
        """Both limits at once.

        Raises:
            UsageError: the two count MACs or bytes by different rules; such figures are never compared.
        """
        for name, bound_by in (("rule", ("macs",)), ("scheme", ("weight_bytes", "peak_activation_bytes"))):
            both = any(getattr(self, metric) is not None and getattr(other, metric) is not None for metric in bound_by)
            if both and getattr(self, name) != getattr(other, name):
                raise UsageError(
                    f"limits of different {name}s are not comparable: {getattr(self, name)!r} and "
                    f"{getattr(other, name)!r}; give both under one {name}"
                )
        if None not in (self.device, other.device) and self.device != other.device:
            raise UsageError(f"limits of the device classes {self.device!r} and {other.device!r} are not comparable")
        merged: dict[str, float | str] = {}
        for name in METRIC_UNITS:
            values = [value for value in (getattr(self, name), getattr(other, name)) if value is not None]
            if values:
                merged[name] = max(values) if name in MINIMUM_METRICS else min(values)
        rule = self.rule if self.macs is not None or other.macs is None else other.rule
        device = self.device if self.device is not None else other.device
        return Limits(**merged, rule=rule, scheme=self.scheme, device=device)  # type: ignore[arg-type]
