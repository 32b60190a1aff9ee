# SPDX-License-Identifier: Apache-2.0
"""Which networks of the runs are submitted: int8 files within the year's limits, counted by the challenge's rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.measure.manifests import spec_beside
from edgepress.benchmarks.report.gather import File, Network, gather
from edgepress.benchmarks.submission.forms import MOST_SYSTEMS, Form
from edgepress.benchmarks.submission.predictions import GENERAL
from edgepress.models.errors import UsageError, VerdictError
from edgepress.models.run_directory import RunDirectory

_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}


@dataclass(frozen=True)
class Model:
    """One file of a system.

    Attributes:
        network: that it was made from.
        file: the int8 .tflite.
        spec: of the network, as the exporter wrote it.
        complexity: rule, macs, params, non_zero, memory_bytes (of the parameters), activation_bytes, weight_bytes,
            file_bytes, sha256, notes.
        over: sentences about limits that it does not keep.
    """

    network: Network
    file: File
    spec: Mapping[str, Any]
    complexity: Mapping[str, Any]
    over: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """What is submitted under one number.

    Attributes:
        name: of the network.
        parts: subset of the training data ("" where the year has none) -> recording device -> model; GENERAL stands for
            all devices without a model of their own.
    """

    name: str
    parts: Mapping[str, Mapping[str, Model]]

    @property
    def models(self) -> list[Model]:
        return [model for part in self.parts.values() for model in part.values()]

    @property
    def general(self) -> Model:
        """The general model of the first subset."""
        return next(iter(self.parts.values()))[GENERAL]

    @property
    def over(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(sentence for model in self.models for sentence in model.over))

    @property
    def validation_accuracy(self) -> float:
        """Of the general models, averaged; 0 where it was not measured."""
        found = []
        for part in self.parts.values():
            metrics = part[GENERAL].network.integers or part[GENERAL].network.metrics
            found.append((metrics.get("validation") or {}).get("accuracy") or 0.0)
        return float(np.mean(found))


def find_systems(runs: Sequence[str | Path], form: Form, *, trust: bool = False) -> list[System]:
    """Every network of the runs with an int8 TFLite file, the one with most MACs first; limits are not held yet.

    Args:
        runs: run directories; where the year has subsets of the training data, one for each of them.
        form: of the year.
        trust: checkpoints may be of somebody's own code.

    Raises:
        UsageError: no such file in a run, subsets that are missing or there twice, files that do not name their data.
    """
    by_subset: dict[str, dict[str, dict[str, Model]]] = {}
    for run in runs:
        directory = RunDirectory(run)
        found = [
            (network, file)
            for network in gather(directory, arena=False)
            if (file := network.model_file)
            # One device's network is no system by itself.
            and (form.by_device or not network.metrics.get("recording_device"))
        ]
        if not found:
            raise UsageError(
                f"{run} holds no int8 TFLite file: run `compress quantize` and `deploy export --format tflite` first"
            )
        parts: dict[str, dict[str, Model]] = {}
        for network, file in found:
            model = _model(directory, network, file, form, trust)
            device = network.metrics.get("recording_device") if form.by_device else None
            name = network.metrics.get("general") if device else network.name
            parts.setdefault(str(name), {})[str(device) if device else GENERAL] = model
        subset = _subset(next(iter(parts.values())), run) if form.subsets else ""
        if subset in by_subset:
            raise UsageError(f"two runs hold the subset of {subset or '100'} %: give one --run for each subset")
        by_subset[subset] = parts
    if missing := [subset for subset in form.subsets if subset not in by_subset]:
        raise UsageError(
            f"the subsets of {', '.join(missing)} % of the training data are missing: DCASE {form.year} wants one "
            f"--run for each of {', '.join(form.subsets)} % (data DIR@split{missing[0]})"
        )
    order = form.subsets or ("",)
    names = [name for name in by_subset[order[0]] if all(name in by_subset[subset] for subset in order)]
    systems = [System(name, {subset: by_subset[subset][name] for subset in order}) for name in names]
    return [system for system in systems if all(GENERAL in part for part in system.parts.values())]


def choose(systems: Sequence[System], form: Form, wanted: Sequence[str] = ()) -> tuple[list[System], dict[str, str]]:
    """At most four systems, all within the limits.

    Args:
        systems: what the runs hold.
        form: of the year.
        wanted: names; empty takes those within the limits, and of more than four the most accurate on validation data.

    Returns:
        The systems in the order of `systems`, and name -> why it was left out.

    Raises:
        UsageError: a wanted name is not there, or more than four are wanted.
        VerdictError: none is within the limits, or a wanted one is not.
    """
    known = {system.name: system for system in systems}
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(f"--systems {unknown[0]!r} is not in the runs: they hold {', '.join(known) or 'none'}")
    if len(set(wanted)) > MOST_SYSTEMS:
        raise UsageError(f"--systems names {len(set(wanted))} systems: a submission has {MOST_SYSTEMS} at most")
    for name in wanted:
        if known[name].over:
            raise VerdictError(f"{name} is not within the limits of {form.device}: {'; '.join(known[name].over)}")
    left_out = {system.name: "; ".join(system.over) for system in systems if system.over}
    fitting = [system for system in systems if not system.over]
    if not fitting:
        nearest = min(systems, key=lambda system: len(system.over), default=None)
        why = f": {nearest.name}: {'; '.join(nearest.over)}" if nearest else ""
        raise VerdictError(f"no network of the run is within the limits of {form.device}{why}")
    best = sorted(fitting, key=lambda system: -system.validation_accuracy)[:MOST_SYSTEMS]
    chosen = [known[name] for name in dict.fromkeys(wanted)] if wanted else best
    for system in fitting:
        if system not in chosen:
            left_out[system.name] = "not among --systems" if wanted else "others are more accurate on validation data"
    return [system for system in systems if system in chosen], left_out


def _model(run: RunDirectory, network: Network, file: File, form: Form, trust: bool) -> Model:
    spec = spec_beside(file.path)
    if not spec.get("task"):
        raise UsageError(f"{file.path} does not say which data it was made for; a submission needs them")
    profile: dict[str, Any] = dict(file.profile)
    params, notes = profile["params"], []
    from edgepress.models.devices.classes import device_class

    rule = device_class(form.device).macs_rule
    if profile["macs"].get(rule) is None:
        unfolded = _of_checkpoint(run, network, trust)
        if unfolded is not None and unfolded["macs"].get(rule) is not None:
            profile["macs"] = {**profile["macs"], rule: unfolded["macs"][rule]}
            params = unfolded.get("params_unfolded") or unfolded["params"]
            notes.append(f"{rule} counts the network before batch normalisation is folded")
    verdict = evaluate_gate(profile, device=form.device, try_fixes=False)
    checks = {check["metric"]: check for check in verdict["checks"]}
    memory = checks.get("weights") or checks.get("params") or {}
    macs = checks["macs"]
    over = tuple(
        f"{check['metric']} {check['value']:,} of {check['limit']:,} allowed"
        if check["value"] is not None
        else f"{check['metric']} is not known: {check['note']}"
        for check in verdict["checks"]
        if check["status"] == "failed"
    )
    notes += [check["note"] for check in (macs, memory) if check.get("note")]
    complexity = {
        "rule": macs["rule"],
        "macs": macs["value"],
        "params": params,
        "non_zero": max(0, params - _zeros(file.path)),
        "memory_bytes": memory.get("value", profile["weight_bytes"]),
        "activation_bytes": profile["peak_activation_bytes"],
        "weight_bytes": profile["weight_bytes"],
        "file_bytes": profile["file_bytes"],
        "sha256": profile["sha256"],
        "notes": notes,
    }
    return Model(network, file, spec, complexity, over)


def _of_checkpoint(run: RunDirectory, network: Network, trust: bool) -> Any:
    """The counts of the float checkpoint, where it is still there and torch is installed."""
    from edgepress.benchmarks.measure.profiling import profile_of

    path = run.place("checkpoint", network.name)
    return profile_of(path, arena=False, trust=trust) if path.is_dir() else None


def _zeros(path: Path) -> int:
    """Weights and biases of the file that are zero: integers of symmetric weights stand for 0.0 exactly then."""
    from edgepress.deploy.tflite.reader import read_tflite

    model = read_tflite(path)
    tensors = {
        index
        for operator in model.operators
        if operator.code in _WEIGHTED
        for index in operator.inputs[1:3]
        if index >= 0 and model.tensors[index].constant
    }
    zeros = 0
    for index in tensors:
        values = model.tensors[index].array()
        zeros += int(values.size - np.count_nonzero(values))
    return zeros


def _subset(part: Mapping[str, Model], run: str | Path) -> str:
    """The subset of the training data of a run: DIR@split25 is 25, DIR is 100."""
    source = str(next(iter(part.values())).spec["task"])
    found = re.search(r"@split_?(\d+)$", source)
    return found[1] if found else "100"
