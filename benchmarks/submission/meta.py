# SPDX-License-Identifier: Apache-2.0
"""The meta file of a system: what is known about it, in the fields of the year's form, as YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from edgepress.benchmarks.submission.forms import LONGEST_ABBREVIATION, Form
from edgepress.benchmarks.submission.predictions import GENERAL
from edgepress.benchmarks.submission.systems import System

#: What YAML 1.1 reads as something else than text.
_SPECIAL = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
_FAMILIES = {"cp_resnet": "CP-ResNet", "cp_mobile": "CP-Mobile", "passt": "PaSST"}


def meta_of(
    system: System,
    label: str,
    authors: Sequence[Mapping[str, Any]],
    results: Mapping[str, Mapping[str, Any]],
    form: Form,
    energy: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The meta file.

    Args:
        system: what is submitted.
        label: LASTNAME_INST_task1_N.
        authors: of `read_authors`.
        results: subset ("" where the year has none) -> what `kinds.classification.evaluate` gives on the test clips.
        form: of the year.
        energy: training_kwh, inference_kwh and baseline_inference_kwh where measured.

    Returns:
        JSON-able; accuracies in percent, log losses in nats, energies in kWh, null for what is not known.
    """
    complexity = system.general.complexity
    counts: dict[str, Any] = {
        "total_model_size": complexity["memory_bytes"],
        "total_parameters": complexity["params"],
        "total_parameters_non_zero": complexity["non_zero"],
        "memory_use": complexity["activation_bytes"],
        "macs": complexity["macs"],
    }
    described: dict[str, Any] = {
        "description": {name: value for name, value in _description(system).items() if name in form.description},
        "complexity": {name: counts[name] for name in form.complexity},
    }
    if form.by_device:
        described["complexity"]["device_models"] = {
            device: {
                "total_model_size": model.complexity["memory_bytes"],
                "total_parameters": model.complexity["params"],
                "macs": model.complexity["macs"],
            }
            for device, model in sorted(next(iter(system.parts.values())).items())
            if device != GENERAL
        }
    if form.energy:
        described["energy_consumption"] = {name: (energy or {}).get(f"{name}_kwh") for name in form.energy}
    found = {subset: _results(part) for subset, part in results.items()}
    return {
        "submission": {
            "label": label,
            "name": f"edgepress {system.name}",
            "abbreviation": re.sub(r"[^A-Za-z0-9-]", "", system.name)[:LONGEST_ABBREVIATION] or "edgepress",
            "authors": [dict(author) for author in authors],
        },
        "system": {**described, "external_datasets": _external(system), "source_code": None},
        "results": {
            "development_dataset": {f"split_{subset}": part for subset, part in found.items()}
            if form.subsets
            else found[""]
        },
    }


def _results(found: Mapping[str, Any]) -> dict[str, Any]:
    def measures(entry: Mapping[str, Any] | None, accuracy: str = "accuracy") -> dict[str, float | None]:
        if entry is None:
            return {"accuracy": None, "logloss": None}
        return {"accuracy": round(100 * entry[accuracy], 3), "logloss": round(entry["log_loss"], 4)}

    return {
        # The challenge's accuracy is the mean over the classes.
        "overall": measures(found, "macro_accuracy"),
        "class_wise": {name: measures(entry) for name, entry in found["by_class"].items()},
        "device_wise": {name: measures(entry) for name, entry in (found.get("by_recording_device") or {}).items()},
    }


def _description(system: System) -> dict[str, Any]:
    spec = system.general.spec
    recipe = (spec.get("notes") or {}).get("recipe") or {}
    front_end = spec.get("front_end") or {}
    rate = front_end.get("sample_rate_hz")
    metrics = system.general.network.metrics
    pruned, distilled = metrics.get("prune"), metrics.get("distill")
    steps = ["pretraining"] if ((recipe.get("teacher") or {}).get("weights")) else []
    steps += ["training", *(["knowledge distillation"] if distilled else []), *(["pruning"] if pruned else [])]
    kind = front_end.get("kind", "log_mel") if front_end else None
    devices = sorted(device for device in next(iter(system.parts.values())) if device != GENERAL)
    ensemble = f"distilled from {distilled['members']} teachers" if distilled and distilled.get("members") else None
    return {
        "input_sampling_rate": f"{rate / 1000:g}kHz" if rate else None,
        "acoustic_features": {"log_mel": "log-mel energies", "mfcc": "MFCC", "waveform": "waveform"}.get(
            str(kind), kind
        ),
        "embeddings": None,
        "data_augmentation": ", ".join(_augmentation(recipe)) or None,
        "machine_learning_method": _FAMILIES.get(str(spec.get("factory")), spec.get("factory")),
        "ensemble_method_subsystem_count": None,
        "decision_making": None,
        "external_data_usage": ", ".join(entry["name"] for entry in _external(system)) or None,
        "complexity_management": ", ".join(
            [
                *(["structured filter pruning"] if pruned else []),
                "weight quantization",
                *([ensemble] if ensemble else []),
            ]
        ),
        "pipeline": ", ".join([*steps, "weight quantization"]),
        "framework": "pytorch, edgepress",
        "split_adaptations": None,
        "system_adaptations": None,
        "device_adaptations": f"fine-tuned for {', '.join(devices)}" if devices else None,
    }


def _augmentation(recipe: Mapping[str, Any]) -> list[str]:
    augment = (recipe.get("train") or {}).get("augment") or {}
    names = {
        "mixup_alpha": "mixup",
        "mixstyle_probability": "freq-mixstyle",
        "roll_samples": "time rolling",
        "impulse_probability": "device impulse response augmentation",
        "frequency_mask": "frequency masking",
        "time_mask": "time masking",
    }
    return [text for key, text in names.items() if augment.get(key)]


def _external(system: System) -> list[dict[str, Any]]:
    """What the recipe says that training took from outside: impulse responses, pretrained teachers."""
    recipe = (system.general.spec.get("notes") or {}).get("recipe") or {}
    teacher = recipe.get("teacher") or {}
    sections = [recipe, *(recipe.get(name) or {} for name in ("teacher", "prune", "quantize"))]
    augments = [(section.get("train") or {}).get("augment") or {} for section in sections]
    found = []
    if any(augment.get("impulse_probability") and augment.get("impulse_folder") for augment in augments):
        found.append({"name": "MicIRP", "url": "http://micirp.blogspot.com", "total_audio_length": None})
    if teacher.get("weights"):
        found.append({"name": "AudioSet", "url": "https://research.google.com/audioset/", "total_audio_length": None})
    return found


def as_yaml(value: Any, remarks: Sequence[str] = ()) -> str:
    """YAML of mappings, lists, text, numbers and null, with comment lines before it; text is always quoted.

    A number is written without an exponent, which YAML 1.1 would read as text.
    """
    lines = [f"# {remark}" for remark in remarks]
    _write(value, 0, lines)
    return "\n".join(lines) + "\n"


def _write(value: Any, depth: int, lines: list[str]) -> None:
    pad = "  " * depth
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if isinstance(entry, (Mapping, list)) and entry:
                lines.append(f"{pad}{_key(key)}:")
                _write(entry, depth + 1, lines)
            else:
                lines.append(f"{pad}{_key(key)}: {_scalar(entry)}")
    elif isinstance(value, list):
        for entry in value:
            block: list[str] = []
            _write(entry, depth + 1, block)
            lines.append(f"{pad}- {block[0].lstrip()}")
            lines.extend(block[1:])
    else:
        lines.append(f"{pad}{_scalar(value)}")


def _key(key: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) and key.lower() not in _SPECIAL
    return key if plain else json.dumps(key, ensure_ascii=False)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (Mapping, list)):
        return "{}" if isinstance(value, Mapping) else "[]"
    return json.dumps(str(value), ensure_ascii=False)
