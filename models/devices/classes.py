# SPDX-License-Identifier: Apache-2.0
"""Device classes: where a model runs, what it may cost there, and which runtime stands for it.

The data is `models/devices/devices.toml`, with a source for every number. A user's `budgets.toml` has the same form: a
known name overrides single entries, a new name adds a class (`like = "cortex-m4"` starts from another). All mistakes of
a file are reported together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgepress.models.devices.device import METRICS, DeviceClass, Rule, is_better_higher, is_known, unit_of
from edgepress.models.errors import ConfigError, UsageError, did_you_mean
from edgepress.models.files.reading import read_toml


def rule_from_text(metric: str, text: str, *, name: str = "--limit") -> Rule:
    """The rule of `--limit macs=20M`: a maximum, a minimum where more is better.

    A sign before the quantity says which: metric.own>=0.8 is given as (metric.own, ">0.8").

    Raises:
        UsageError: unknown metric, no quantity of its unit, or neither bound is the obvious one.
    """
    from edgepress.models.units import parse_quantity

    if not is_known(metric):
        raise UsageError(
            f"{name} {metric}={text}: the metric {metric!r} is unknown; known are {', '.join(METRICS)}, and "
            "metric.NAME of the task, such as metric.auc"
        )
    text = str(text)
    sign, text = (text[0], text[1:]) if text[:1] in ("<", ">") else ("", text)
    lowest = {">": True, "<": False, "": is_better_higher(metric)}[sign]
    if lowest is None:
        raise UsageError(
            f"{name} {metric}={text}: whether more is better is not known of a metric of your own: write "
            f"'{metric}>={text}' or '{metric}<={text}'"
        )
    value = parse_quantity(text, unit_of(metric), name=f"{name} {metric}")
    return Rule(metric, **{"minimum" if lowest else "maximum": value}, source="given on the command line")  # type: ignore[arg-type]


def device_classes(budgets: str | Path | None = None) -> dict[str, DeviceClass]:
    """All device classes by name, with those and the overrides of a budgets.toml where one is given.

    Raises:
        ConfigError: the file has mistakes; all of them are in the message.
        UsageError: the file is missing or no TOML.
    """
    if budgets is None:
        return dict(_shipped())
    return read_budgets(budgets).devices


def device_class(name: str, budgets: str | Path | None = None) -> DeviceClass:
    """One device class.

    Raises:
        UsageError: the name is unknown; the message lists the known ones.
    """
    return pick(name, device_classes(budgets))


def pick(name: str, known: dict[str, DeviceClass]) -> DeviceClass:
    """`known[name]`, or a UsageError that lists what is known."""
    if name in known:
        return known[name]
    raise UsageError(
        f"the device class {name!r} is unknown{did_you_mean(name, known)}: known are {', '.join(known)}; "
        "add your own in budgets.toml"
    )


@dataclass(frozen=True)
class GateDefaults:
    """What the [gate] table of a budgets.toml names; paths are relative to the folder of the file.

    Attributes:
        files: models, or patterns of them.
        baselines: each serves the file of its name or layers.
        baseline_by_file: model -> its own baseline.
        results: a file of measured results.
    """

    files: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    baseline_by_file: dict[str, str] = field(default_factory=dict)
    results: str | None = None


@dataclass(frozen=True)
class Budgets:
    """A budgets.toml: all device classes with its changes, and what the gate does without being told.

    Attributes:
        devices: every known class, the shipped ones included.
        own: the names that the file itself mentions; the gate checks these where no --device is given.
        gate: what it names for the gate.
        path: the file; paths in it are relative to its folder.
    """

    devices: dict[str, DeviceClass]
    own: tuple[str, ...]
    gate: GateDefaults
    path: Path


def read_budgets(path: str | Path) -> Budgets:
    """Read and check a budgets.toml.

    Raises:
        ConfigError: with every mistake in it.
        UsageError: it is missing, no TOML, or not UTF-8.
    """
    path = Path(path)
    raw = _toml(path)
    devices, gate = _checked(raw, _shipped(), str(path))
    past = gate.get("baseline", [])
    defaults = GateDefaults(
        tuple(gate.get("file", ())),
        () if isinstance(past, dict) else tuple(past),
        past if isinstance(past, dict) else {},
        gate.get("results"),
    )
    return Budgets(devices, tuple(raw.get("device", {})), defaults, path)


@cache
def _shipped() -> dict[str, DeviceClass]:
    path = Path(__file__).with_name("devices.toml")
    return _checked(_toml(path), {}, str(path), sources=True)[0]


def _toml(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path, largest_bytes=1_000_000)
    except UsageError as error:
        raise UsageError(f"{error}; name an existing budgets.toml") from None


def _checked(
    raw: dict[str, Any], known: dict[str, DeviceClass], subject: str, sources: bool = False
) -> tuple[dict[str, DeviceClass], dict[str, Any]]:
    """Check a whole file and merge it over what is known; every mistake is reported at once."""
    from edgepress.models.devices.schema import check_file

    entries, gate, errors = check_file(raw, sources=sources)
    devices = dict(known)
    for name, entry in entries.items():
        start = entry.pop("like", None)
        if start is not None and start not in devices:
            errors.append(f"device.{name}.like = {start!r} is unknown: known are {', '.join(devices)}")
            continue
        before = devices.get(start if start is not None else name)
        if before is None and "runtime" not in entry:
            errors.append(f'device.{name} is new and needs runtime = ... (or like = "a known class")')
            continue
        devices[name] = _merged(name, before, entry)
    errors += [problem for name in entries if name in devices for problem in _contradictions(devices[name])]
    if errors:
        raise ConfigError(errors, subject)
    return devices, gate


def _merged(name: str, before: DeviceClass | None, entry: dict[str, Any]) -> DeviceClass:
    if before is None:
        before = DeviceClass(name, entry.get("summary", ""), {}, entry["runtime"])
    facts = {f.name for f in fields(DeviceClass)}
    changes = {key: value for key, value in entry.items() if key in facts and key not in ("rules", "source")}
    rules = dict(before.rules)
    for metric, given in entry["rules"].items():
        # An override of one key (say the level) keeps the others of the entry.
        rules[metric] = replace(rules[metric], **given) if metric in rules else Rule(metric, **given)
    return replace(before, **{**changes, "name": name, "rules": rules, "source": {**before.source, **entry["source"]}})


def _contradictions(device: DeviceClass) -> list[str]:
    problems = []
    arena = device.rules["arena"].maximum if "arena" in device.rules else None
    if None not in (arena, device.ram_bytes) and arena > device.ram_bytes - (device.ram_reserved_bytes or 0):  # type: ignore[operator]
        problems.append(
            f"device.{device.name}.arena is larger than ram less ram_reserved "
            f"({device.ram_bytes} - {device.ram_reserved_bytes or 0} B)"
        )
    flash = device.rules["flash"].maximum if "flash" in device.rules else None
    if flash is not None and flash <= device.flash_runtime_bytes:
        problems.append(
            f"device.{device.name}.flash leaves nothing beside flash_runtime ({device.flash_runtime_bytes} B)"
        )
    for metric, rule in device.rules.items():
        if rule.level != "off" and all(v is None for v in (rule.maximum, rule.minimum, rule.max_drop, rule.max_growth)):
            problems.append(f"device.{device.name}.{metric} has a level but no max, min, max_drop or max_growth")
    return problems
