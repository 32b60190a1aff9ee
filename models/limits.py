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
    "arena_bytes": "bytes",
    "accuracy": "fraction",
    "log_loss": "number",
    "latency_ms": "ms",
}
#: Metrics in which more is better; a limit on one of these is a minimum.
MINIMUM_METRICS = frozenset({"accuracy"})
#: What pruning can hold: these follow from the network alone.
BUDGET_METRICS = ("macs", "params", "weight_bytes", "peak_activation_bytes")


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
        arena_bytes: TFLite Micro's tensor arena.
        accuracy: smallest allowed accuracy, 0 to 1.
        log_loss: largest allowed mean log loss, in nats.
        latency_ms: longest allowed inference.
        rule: the counting rule of `macs`.
        scheme: what `weight_bytes` means; "w8a8" is int8 weights and int32 biases.
    """

    macs: int | None = None
    params: int | None = None
    weight_bytes: int | None = None
    peak_activation_bytes: int | None = None
    file_bytes: int | None = None
    flash_bytes: int | None = None
    arena_bytes: int | None = None
    accuracy: float | None = None
    log_loss: float | None = None
    latency_ms: float | None = None
    rule: str = "dcase"
    scheme: str = "w8a8"

    def given(self) -> dict[str, float]:
        """The limits that are set, by metric."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name in METRIC_UNITS and getattr(self, f.name) is not None
        }

    def budgets(self) -> dict[str, float]:
        """Only the limits which pruning can hold."""
        return {name: value for name, value in self.given().items() if name in BUDGET_METRICS}

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
        merged: dict[str, float | str] = {}
        for name in METRIC_UNITS:
            values = [value for value in (getattr(self, name), getattr(other, name)) if value is not None]
            if values:
                merged[name] = max(values) if name in MINIMUM_METRICS else min(values)
        rule = self.rule if self.macs is not None or other.macs is None else other.rule
        return Limits(**merged, rule=rule, scheme=self.scheme)  # type: ignore[arg-type]
