# SPDX-License-Identifier: Apache-2.0
"""The gate: figures against limits and a baseline. A pure comparison; every violation comes with its overshoot.

Deterministic figures (bytes, MACs, arena, accuracy on fixed data) fail, wall-clock figures only warn. A limit whose
figure was not measured fails too, unless its level is "warn" or the caller allows it by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.gate.baseline import Baseline, Measure, load_baseline
from edgepress.benchmarks.gate.figures import Figure, figure
from edgepress.deploy.verify.operators import NPU_OPERATOR
from edgepress.models.devices.classes import pick, read_budgets, rule_from_text
from edgepress.models.devices.device import METRICS, WALL_CLOCK, DeviceClass, Rule, is_known, is_of_task
from edgepress.models.errors import UsageError, VerdictError
from edgepress.models.limits import MINIMUM_METRICS, Limits

SCHEMA = 1
#: The name that limits without a device class go by.
NO_DEVICE = "limits"
#: What `allow_unmeasured` takes beside the metrics: figures of a baseline that is not there.
BASELINE = "baseline"
#: The check that a class's runtime has the operators of the file.
OPERATORS = "operators"
_ORDER = {"failed": 0, "warned": 1, "not measured": 2, "passed": 3}


def evaluate_gate(
    model: str | Path | Mapping[str, Any],
    limits: Limits | Mapping[str, Any] | None = None,
    device: str | DeviceClass | Sequence[str | DeviceClass] = (),
    *,
    budgets: str | Path | None = None,
    baseline: Any = None,
    results: Any = None,
    rule: str | None = None,
    runtime: str | None = None,
    try_fixes: bool = True,
    allow_unmeasured: Collection[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    measure: Measure | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Hold a model against device classes and limits.

    Args:
        model: a .tflite or .onnx file, a checkpoint directory, or what `benchmarks.profile` returned for one.
        limits: `Limits`, or metric -> quantity as on the command line ({"macs": "20M", "file": "128kB"}).
        device: one or several device classes; with none of limits, device and budgets there is nothing to check.
        budgets: a budgets.toml; its own classes are checked where `device` names none.
        baseline: a file, "git:REV", a verdict's JSON, or a profile; changes are counted from it.
        results: measured results: records, or a file of them (`edgepress.benchmarks.measure.result_log`).
        rule: the counting rule of a MACs limit given as text; "dcase" where not given.
        runtime: an emulated core such as "cortex-m4" that stands for every class: the firmware linked for the class's
            memories gives flash and arena, and accuracy counts on it. None takes the runtime of each class.
        try_fixes: measure what lossless shrinking would give where a size fails (seconds); False names the fixes only.
        allow_unmeasured: metrics whose limits do not fail where the figure could not be had; "baseline" for limits on
            growth and drop where nothing comparable is given.
        shapes: input -> sizes, in place of those that the file leaves open.
        measure: gives results of a model file; where a limit speaks of a drop, the baseline is measured by it, on the
            same data.
        strict: what would only warn, or stay open, fails.

    Returns:
        The verdict, JSON-able: schema, passed, file, sha256, devices, checks, violations, warnings, contributors,
        fixes, cause (where there is a baseline), figures, environment, notes. In `checks`: device, metric, unit, rule,
        kind ("max", "min", "max_drop", "max_growth"), value, limit, baseline, change, headroom, over, level, status
        ("passed", "failed", "warned", "not measured"), passed, how, source, note. Failures come first. A figure
        that was not measured, its value None, has failed where it counts against the model, and is "not measured"
        where its limit only warns or was allowed to stay open. Where the runtime of a class that is a machine does not
        run the file, the class has the check "operators": how much of the file it refuses, and why.

    Raises:
        UsageError: a missing or damaged file, an unknown device class, a limit without its unit, nothing to check.
        RuntimeFailure: a runtime that had to measure something failed.
        VerdictError: the firmware does not fit memories that no limit speaks of.
    """
    from edgepress.benchmarks.gate.explain import cause_of, contributors, fixes
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.benchmarks.measure.profiling import profile_of
    from edgepress.benchmarks.measure.result_log import read

    _check_allowed(allow_unmeasured)
    targets = _targets(limits, device, budgets, rule)
    profile = dict(model) if isinstance(model, Mapping) else profile_of(model, _needs_arena(targets), shapes)
    records = read(results) if isinstance(results, str | Path) else list(results or ())
    before = (
        None
        if baseline is None
        else load_baseline(
            baseline,
            current=profile,
            arena=_needs_arena(targets),
            shapes=shapes,
            measure=measure if _needs_past_accuracy(targets) else None,
        )
    )
    past = [] if before is None else [*before.results, *records]

    checks: list[dict[str, Any]] = []
    figures: dict[str, dict[str, Any]] = {}
    for name, (target, rules) in targets.items():
        linked = [] if runtime is None else [_linked(profile, runtime, target)]
        now = _figures(profile, target, rules, [*records, *linked], accuracy_runtime=runtime)
        then = {} if before is None or before.note else _figures(before.profile, target, rules, past, strict=False)
        figures[name] = {metric: _shown(found) for metric, found in now.items() if found.value is not None}
        for metric, limit in rules.items():
            is_new = before is not None and before.note and not before.foreign
            allowed = {BASELINE, *allow_unmeasured} if is_new else set(allow_unmeasured)
            checks += compare(limit, now[metric], then.get(metric), device=name, allowed=allowed, strict=strict)
        checks += runs_on(profile, target)
        if linked and not linked[0]["fits"] and all(check["status"] != "failed" for check in checks):
            raise VerdictError(linked[0]["verdict"])
    checks.sort(key=lambda check: _ORDER[check["status"]])
    violations = [_short(check) for check in checks if check["status"] == "failed"]
    return {
        "schema": SCHEMA,
        "passed": not violations,
        "file": str(profile.get("file", "")).encode("utf-8", "replace").decode(),
        "sha256": profile.get("sha256"),
        "devices": list(targets),
        "checks": checks,
        "violations": violations,
        "warnings": [_short(check) for check in checks if check["status"] == "warned"],
        "contributors": contributors(profile, checks),
        "fixes": fixes(profile, checks, tried=try_fixes),
        "cause": None if before is None or before.note else cause_of(before, profile),
        "baseline": None if before is None else {"source": before.source, "sha256": before.profile.get("sha256")},
        "figures": figures,
        "environment": environment(),
        "notes": _notes(profile, checks) + ([] if before is None else _about(before, profile)),
    }


def compare(
    limit: Rule,
    now: Figure,
    before: Figure | None = None,
    *,
    device: str = NO_DEVICE,
    allowed: Collection[str] = (),
    strict: bool = False,
) -> list[dict[str, Any]]:
    """Hold one figure against one rule: a check for each of its bounds.

    Args:
        limit: the rule.
        now, before: the figure of the model and of the baseline, None where there is no baseline.
        device: the name for the report.
        allowed: metrics, and "baseline", that do not fail where they were not measured.
        strict: nothing only warns, and nothing is allowed.
    """
    if limit.level == "off":
        return []
    comparable = before is not None and before.value is not None and before.rule == now.rule
    if comparable and before is not None and is_of_task(limit.metric) and before.note and now.note:
        comparable = before.note == now.note  # the fingerprints of the data
    base = before.value if comparable and before is not None else None
    change = None if base is None or now.value is None else now.value - base
    bounds: list[tuple[str, float | None]] = []
    if limit.maximum is not None:
        bounds.append(("max", limit.maximum))
    if limit.minimum is not None:
        bounds.append(("min", limit.minimum))
    # What a baseline allows is written as a bound on the figure itself, so that every check reads alike.
    if limit.max_drop is not None:
        bounds.append(("max_drop", None if base is None else base - limit.max_drop))
    if limit.max_growth is not None:
        bounds.append(("max_growth", None if base is None else base * (1 + limit.max_growth)))
    only_warns = not strict and (limit.level == "warn" or limit.metric in WALL_CLOCK)
    checks = []
    for kind, bound in bounds:
        # Binary dust must not decide: 0.9 - 0.01 is 0.89 for a person.
        dust = 1e-12 if kind in ("max_drop", "max_growth") else 0.0
        over = None
        if now.value is not None and bound is not None:
            over = bound - now.value if kind in ("min", "max_drop") else now.value - bound
        notes = [now.note]
        if over is None:
            open_names = {limit.metric, BASELINE} if now.value is not None else {limit.metric}
            waived = only_warns or (not strict and not open_names.isdisjoint(allowed))
            status, passed = ("not measured", None) if waived else ("failed", False)
            if now.value is not None:
                notes.append(_why_no_baseline(limit.metric, before))
            if not waived:
                notes.append(f"not measured is not passed; --allow-unmeasured {sorted(open_names)[0]} leaves it open")
        else:
            status = "passed" if over <= dust else "warned" if only_warns else "failed"
            passed = status != "failed"
        checks.append(
            {
                "device": device,
                "metric": limit.metric,
                "unit": limit.unit,
                "rule": now.rule,
                "kind": kind,
                "value": now.value,
                "limit": bound,
                "baseline": base,
                "change": change,
                "headroom": None if over is None else -over,
                "over": max(0, over) if over is not None else None,
                "level": "warn" if limit.metric in WALL_CLOCK else limit.level,
                "status": status,
                "passed": passed,
                "how": now.how,
                "interval": None if now.low is None else [now.low, now.high],
                "source": now.source,
                "limit_source": limit.source,
                "note": "; ".join(filter(None, notes)),
            }
        )
    return checks


def runs_on(profile: Mapping[str, Any], target: DeviceClass | None) -> list[dict[str, Any]]:
    """The failed check of a file that a machine's own runtime does not run; none where it does.

    Args:
        profile: with `refused`: runtime -> what it refuses -> why; a profile from before that says nothing.
        target: the class; one with an NPU takes the operator of the NPU's compiler. The rules of a challenge, and
            limits without a class, name no machine.
    """
    if target is None or target.name == NO_DEVICE or target.challenge:
        return []
    refused = dict((profile.get("refused") or {}).get(target.runtime) or {})
    if target.vela is not None:
        refused.pop(NPU_OPERATOR, None)
    if not refused:
        return []
    note = "; ".join(f"{what}: {why}" for what, why in refused.items())
    return [
        {
            "device": target.name,
            "metric": OPERATORS,
            "unit": "number",
            "rule": target.runtime,
            "kind": "max",
            "value": len(refused),
            "limit": 0,
            "baseline": None,
            "change": None,
            "headroom": -len(refused),
            "over": len(refused),
            "level": "error",
            "status": "failed",
            "passed": False,
            "how": "counted",
            "interval": None,
            "source": "",
            "limit_source": "the runtime that stands for the class",
            "note": f"{target.runtime} does not run this file: {note}",
        }
    ]


def needs_arena(
    limits: Limits | Mapping[str, Any] | None,
    device: str | DeviceClass | Sequence[str | DeviceClass],
    budgets: str | Path | None,
) -> bool:
    """Whether these limits speak of TFLite Micro's arena, which takes a run of the file.

    Raises:
        UsageError: as `evaluate_gate`.
    """
    return _needs_arena(_targets(limits, device, budgets, None))


def accuracy_runtimes(
    limits: Limits | Mapping[str, Any] | None,
    device: str | DeviceClass | Sequence[str | DeviceClass],
    budgets: str | Path | None,
) -> tuple[list[str], list[DeviceClass]]:
    """Where accuracy is to be measured for these limits: runtimes that a limit names, and classes that bring their own.

    Raises:
        UsageError: as `evaluate_gate`.
    """
    targets = _targets(limits, device, budgets, None)
    rules = [of_class[metric] for _, of_class in targets.values() for metric in of_class if is_of_task(metric)]
    named = [rule.runtime for rule in rules if rule.runtime is not None and rule.level != "off"]
    classes = [found for name, (found, _) in targets.items() if found is not None and name != NO_DEVICE]
    return list(dict.fromkeys(named)), classes


def exit_code(verdict: Mapping[str, Any]) -> int:
    """0 where the verdict is passed (warnings included), else 1."""
    return 0 if verdict["passed"] else 1


def _why_no_baseline(metric: str, before: Figure | None) -> str:
    if before is None:
        return "growth and drop need --baseline FILE or git:REV"
    data = " (on the same data); give --data, on which both files are measured" if is_of_task(metric) else ""
    return f"the baseline has no comparable figure{data}"


def _check_allowed(names: Collection[str]) -> None:
    unknown = [name for name in names if not is_known(name) and name != BASELINE]
    if unknown:
        raise UsageError(
            f"--allow-unmeasured {', '.join(unknown)}: allowed are {', '.join(METRICS)}, metric.NAME and {BASELINE} "
            "(limits on growth and drop)"
        )


def _targets(
    limits: Limits | Mapping[str, Any] | None, device: Any, budgets: str | Path | None, rule: str | None
) -> dict[str, tuple[DeviceClass | None, dict[str, Rule]]]:
    """Name -> (class, rules by metric)."""
    from edgepress.models.devices.classes import device_classes

    names = [device] if isinstance(device, str | DeviceClass) else list(device)
    book = read_budgets(budgets) if budgets is not None else None
    known = book.devices if book else device_classes()
    given = _limit_rules(limits)
    if not names and book is not None and not given:
        names = list(book.own)
    targets: dict[str, tuple[DeviceClass | None, dict[str, Rule]]] = {}
    for name in names:
        found = name if isinstance(name, DeviceClass) else pick(name, known)
        targets[found.name] = (found, dict(found.rules))
    if given:
        only = limits if isinstance(limits, Limits) else None
        macs_rule = only.rule if only else (rule or "dcase")
        frame = DeviceClass(NO_DEVICE, "limits given with the command", given, "", macs_rule=macs_rule)
        targets[NO_DEVICE] = (frame, given)
    if not any(rules for _, rules in targets.values()):
        raise UsageError("nothing to check: give --device NAME, --limit macs=20M, or a budgets.toml with limits")
    return targets


def _limit_rules(limits: Limits | Mapping[str, Any] | None) -> dict[str, Rule]:
    if limits is None:
        return {}
    if isinstance(limits, Limits):
        short = {long: name for name, long in METRICS.items()}
        return {
            short[long]: Rule(short[long], minimum=value)
            if long in MINIMUM_METRICS
            else Rule(short[long], maximum=value)
            for long, value in limits.given().items()
        }
    return {metric: rule_from_text(metric, value) for metric, value in limits.items()}


def _about(before: Baseline, profile: Mapping[str, Any]) -> list[str]:
    from edgepress.benchmarks.gate.files import another_network

    return list(filter(None, [before.note, another_network(before, profile)]))


def _needs_past_accuracy(targets: Mapping[str, tuple[DeviceClass | None, dict[str, Rule]]]) -> bool:
    rules = [rule for _, of_class in targets.values() for rule in of_class.values() if rule.level != "off"]
    return any(is_of_task(rule.metric) and (rule.max_drop is not None or rule.max_growth is not None) for rule in rules)


def _needs_arena(targets: Mapping[str, tuple[DeviceClass | None, dict[str, Rule]]]) -> bool:
    return any("arena" in rules and rules["arena"].level != "off" for _, rules in targets.values())


def _linked(profile: Mapping[str, Any], runtime: str, target: DeviceClass | None) -> dict[str, Any]:
    from edgepress.benchmarks.measure.linked_firmware import linked_firmware

    path = Path(str(profile.get("file", "")))
    if path.suffix.lower() != ".tflite" or not path.is_file():
        raise UsageError(f"runtime = {runtime!r} needs a .tflite file to make firmware from, not {str(path)!r}")
    return linked_firmware(path, runtime, None if target is None or target.name == NO_DEVICE else target)


def _figures(
    profile: Mapping[str, Any],
    target: DeviceClass | None,
    rules: Mapping[str, Rule],
    records: Sequence[dict[str, Any]],
    strict: bool = True,
    accuracy_runtime: str | None = None,
) -> dict[str, Figure]:
    frame = None if target is None or target.name == NO_DEVICE else target
    macs_rule = target.macs_rule if target else None
    found = {}
    for metric, rule in rules.items():
        if rule.level == "off":
            continue
        try:
            found[metric] = figure(
                metric, profile, frame, results=records, macs_rule=macs_rule, runtime=rule.runtime or accuracy_runtime
            )
        except UsageError:
            if strict:
                raise
            found[metric] = Figure(None, "")
    # Metrics that are switched off are not computed, but compare() is asked for every rule.
    return {**{metric: Figure(None, "") for metric in rules}, **found}


def _shown(found: Figure) -> dict[str, Any]:
    return {
        "value": found.value,
        "how": found.how,
        "rule": found.rule,
        "note": found.note,
        "interval": None if found.low is None else [found.low, found.high],
    }


def _short(check: Mapping[str, Any]) -> dict[str, Any]:
    return {key: check[key] for key in ("device", "metric", "kind", "value", "limit", "over")}


def _notes(profile: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> list[str]:
    from edgepress.benchmarks.gate.explain import has_checkpoint

    uncounted = profile.get("uncounted") or []
    notes = [f"not counted: {', '.join(str(item) for item in uncounted)}"] if uncounted else []
    over = any(check["over"] and check["metric"] != OPERATORS for check in checks if check["status"] == "failed")
    if over and not has_checkpoint(str(profile.get("file", ""))):
        notes.append("no checkpoint is known for this file: to prune it or make it int8 takes the network it came from")
    return notes
