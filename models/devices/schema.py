# SPDX-License-Identifier: Apache-2.0
"""The form of devices.toml and budgets.toml, checked by pydantic."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator

from edgepress.models.devices.device import METRICS, TASK_METRIC, is_better_higher, is_known, unit_of
from edgepress.models.errors import UsageError
from edgepress.models.limits import METRIC_UNITS
from edgepress.models.units import parse_quantity

#: What a bound is called in a file -> in `edgepress.models.devices.device.Rule`.
_BOUNDS = {"max": "maximum", "min": "minimum"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Fact(_Strict):
    value: str
    source: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        return {"value": given} if isinstance(given, str | int | float) else given


class _Limit(_Strict):
    max: str | int | float | None = None
    min: str | int | float | None = None
    max_drop: str | int | float | None = None
    max_growth: str | int | float | None = None
    level: Literal["error", "warn", "off"] | None = None
    runtime: Literal["tflm", "litert", "litert-reference", "onnxruntime", "torch"] | None = None
    source: str | None = None


class _Vela(_Strict):
    accelerator: str
    system_config: str
    memory_mode: str


class _Device(_Strict):
    summary: str | None = None
    like: str | None = None
    runtime: Literal["tflm", "litert", "litert-reference", "onnxruntime", "torch"] | None = None
    macs_rule: Literal["core", "dcase", "torchinfo", "nessi-tflite", "nessi-torch", "vela", "st"] | None = None
    scheme: Literal["w8a8", "w8a16", "fp16", "fp32"] | None = None
    clock: _Fact | None = None
    ram: _Fact | None = None
    ram_reserved: _Fact | None = None
    flash_runtime: _Fact | None = None
    latency_systems: list[str] | None = None
    vela: _Vela | None = None
    challenge: bool | None = None
    memory_rule: Literal["nessi-tflite"] | None = None
    macs: _Limit | None = None
    params: _Limit | None = None
    weights: _Limit | None = None
    file: _Limit | None = None
    flash: _Limit | None = None
    arena: _Limit | None = None
    peak: _Limit | None = None
    accuracy: _Limit | None = None
    log_loss: _Limit | None = None
    latency: _Limit | None = None
    #: By the name of a task's metric: metric.auc = { min = 0.85, max_drop = 0.01 }.
    metric: dict[str, _Limit] | None = None

    @field_validator("metric", mode="before")
    @classmethod
    def _read_task_metrics(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: _task_limit(name, limit) for name, limit in given.items()}

    @field_validator(*METRICS, mode="before")
    @classmethod
    def _read_limit(cls, given: Any, info: ValidationInfo) -> Any:
        metric = str(info.field_name)
        unit = METRIC_UNITS[METRICS[metric]]
        if isinstance(given, str | int | float) and not isinstance(given, bool):
            given = {"min" if metric == "accuracy" else "max": given}
        if not isinstance(given, dict):
            return given
        read = dict(given)
        for key, key_unit in (("max", unit), ("min", unit), ("max_drop", unit), ("max_growth", "fraction")):
            if key in read:
                read[key] = _quantity(read[key], key_unit, key)
        if metric != "accuracy" and ("min" in read or "max_drop" in read):
            raise ValueError("min and max_drop are for accuracy; other figures have max and max_growth")
        if metric == "accuracy" and ("max" in read or "max_growth" in read):
            raise ValueError("accuracy has min and max_drop")
        return read

    @field_validator("ram", "ram_reserved", "flash_runtime")
    @classmethod
    def _bytes(cls, fact: _Fact) -> _Fact:
        _quantity(fact.value, "bytes", "value")
        return fact

    @field_validator("clock")
    @classmethod
    def _hertz(cls, fact: _Fact) -> _Fact:
        parse_hertz(fact.value)
        return fact


_SIDES = {
    ("max", "max_growth"): "more is better: write min and max_drop",
    ("min", "max_drop"): "less is better: write max and max_growth",
}


def _task_limit(name: str, given: Any) -> Any:
    metric = f"{TASK_METRIC}{name}"
    if not is_known(metric):
        raise ValueError(f"{name!r} is no name of a metric: write metric.auc")
    if isinstance(given, str | int | float) and not isinstance(given, bool):
        lowest = is_better_higher(metric)
        if lowest is None:
            raise ValueError(
                f"{name}: whether more is better is not known: write {{ min = {given} }} or {{ max = ... }}"
            )
        given = {"min" if lowest else "max": given}
    if not isinstance(given, dict):
        return given
    wrong = {True: ("max", "max_growth"), False: ("min", "max_drop"), None: ()}[is_better_higher(metric)]
    if found := [key for key in wrong if key in given]:
        raise ValueError(f"{name}: {found[0]} bounds the side that is good; {_SIDES[wrong]}")
    units = {"max": unit_of(metric), "min": unit_of(metric), "max_drop": unit_of(metric), "max_growth": "fraction"}
    return {key: _quantity(value, units[key], key) if key in units else value for key, value in given.items()}


class _Gate(_Strict):
    file: list[str] = []
    baseline: list[str] | dict[str, str] = []
    results: str | None = None

    @field_validator("file", "baseline", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any, info: ValidationInfo) -> Any:
        texts = [given] if isinstance(given, str) else given
        values = texts
        if info.field_name == "baseline" and isinstance(given, dict):
            values = list(given.values())
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            forms = ["a text", "a list of texts"] + ["a table FILE = BASELINE"] * (info.field_name == "baseline")
            raise ValueError(f"{given!r} is none of {', '.join(forms)}")
        return texts


class _File(_Strict):
    model_config = ConfigDict(extra="forbid", strict=True)
    schema_: Literal[1] | None = None
    device: dict[str, _Device] = {}
    gate: _Gate | None = None


def _quantity(value: Any, unit: str, name: str) -> float | int:
    try:
        return parse_quantity(value, unit, name=name)
    except UsageError as error:
        raise ValueError(str(error)) from None


def parse_hertz(text: str) -> int:
    """ "120 MHz" -> 120_000_000.

    Raises:
        ValueError: not a frequency with a unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(kHz|MHz|GHz)\s*", str(text))
    if match is None:
        raise ValueError(f'{text!r} is not a frequency: write "120 MHz"')
    return round(float(match[1]) * {"kHz": 1e3, "MHz": 1e6, "GHz": 1e9}[match[2]])


def check_file(raw: dict[str, Any], sources: bool) -> tuple[dict[str, dict[str, Any]], dict[str, Any], list[str]]:
    """Check the whole content of a file.

    Args:
        raw: what TOML gave.
        sources: whether every number must say where it comes from (the shipped file must).

    Returns:
        The entries by device name, ready for `devices.classes`; the [gate] table with file as a list and baseline as a
        list or a table; every mistake as a sentence. Devices with a mistake are missing among the entries.
    """
    raw = {("schema_" if key == "schema" else key): value for key, value in raw.items()}
    errors: list[str] = []
    gate: dict[str, Any] = {}
    entries: dict[str, dict[str, Any]] = {}
    tables = raw.get("device", {})
    try:
        # The frame is checked without the devices, so that a mistake in one does not hide the next.
        checked = _File.model_validate({**raw, "device": {}} if isinstance(tables, dict) else raw)
        gate = checked.gate.model_dump(exclude_unset=True) if checked.gate else {}
    except ValidationError as error:
        errors += _sentences(error, "")
    for name, table in tables.items() if isinstance(tables, dict) else ():
        try:
            device = _Device.model_validate(table)
        except ValidationError as error:
            errors += _sentences(error, f"device.{name}")
            continue
        if sources:
            errors += _without_source(name, device)
        entries[name] = _entry(device)
    return entries, gate, errors


def _entry(device: _Device) -> dict[str, Any]:
    kept = {"summary", "like", "runtime", "macs_rule", "scheme", "vela", "challenge", "memory_rule"}
    entry: dict[str, Any] = device.model_dump(exclude_none=True, include=kept)
    source: dict[str, str] = {}
    for key in ("ram", "ram_reserved", "flash_runtime"):
        fact = getattr(device, key)
        if fact is not None:
            entry[f"{key}_bytes"] = parse_quantity(fact.value, "bytes", name=key)
            source[key] = fact.source
    if device.clock is not None:
        entry["clock_hz"] = parse_hertz(device.clock.value)
        source["clock"] = device.clock.source
    if device.latency_systems is not None:
        entry["latency_systems"] = tuple(device.latency_systems)
    rules: dict[str, dict[str, Any]] = {}
    limits = {metric: getattr(device, metric) for metric in METRICS}
    limits |= {f"{TASK_METRIC}{name}": limit for name, limit in (device.metric or {}).items()}
    for metric, limit in limits.items():
        if limit is not None:
            given = limit.model_dump(exclude_none=True)
            rules[metric] = {_BOUNDS.get(key) or key: value for key, value in given.items()}
            source[metric] = given.get("source", "")
    return {**entry, "rules": rules, "source": source}


def _without_source(name: str, device: _Device) -> list[str]:
    keys = [*METRICS, "clock", "ram", "ram_reserved", "flash_runtime"]
    return [
        f"device.{name}.{key} needs a source"
        for key in keys
        if getattr(device, key) is not None and not getattr(device, key).source
    ]


def _sentences(error: ValidationError, prefix: str) -> list[str]:
    sentences = []
    for problem in error.errors():
        where = ".".join(
            [prefix, *(str(part).rstrip("_") for part in problem["loc"])]
            if prefix
            else [str(part).rstrip("_") for part in problem["loc"]]
        )
        if problem["type"] == "extra_forbidden":
            parent = _MODELS.get(len(problem["loc"]) if prefix else -1, _File)
            known = ", ".join(key.rstrip("_") for key in parent.model_fields)
            sentences.append(f"{where} is an unknown key: known are {known}")
        else:
            text = problem["msg"].removeprefix("Value error, ")
            sentences.append(f"{where}: {text}")
    return sentences


_MODELS: dict[int, type[BaseModel]] = {1: _Device, 2: _Limit}
