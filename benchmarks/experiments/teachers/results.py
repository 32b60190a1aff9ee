# SPDX-License-Identifier: Apache-2.0
"""What the experiments of benchmarks/teachers.py found: per clip in files of NumPy arrays, summed up as one JSON."""

from __future__ import annotations

import io
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.teachers.page import page_of
from edgepress.benchmarks.experiments.teachers.plan import ALPHAS, WEIGHTS, Plan, jobs_of
from edgepress.benchmarks.measure.environment import environment
from edgepress.models.atomic import write_bytes, write_json, write_text
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import read_json

SCHEMA = 1
SPLIT = "test"
#: The results file of teachers/devices.py; where it lies beside that of the trainings, its section is on the page.
DEVICE_MODELS = "device_models.json"
#: Name, arm, arm it is compared with.
COMPARISONS = (
    ("contrastive term, plain", "contrastive", "none"),
    ("contrastive term, balanced", "contrastive-balanced", "none"),
    ("DIR and Freq-MixStyle", "augmented", "none"),
    ("contrastive term on top of DIR and Freq-MixStyle", "augmented-contrastive", "augmented"),
    ("ensemble against the mean of its members", "ensemble", "members"),
    ("ensemble against the mean of logits", "ensemble", "logit mean"),
    ("ensemble against the mean of probabilities", "ensemble", "probability mean"),
    ("student of 20 M MACs, distilled against alone", "20M-distilled", "20M-alone"),
    ("student of 5 M MACs, distilled against alone", "5M-distilled", "5M-alone"),
)
_GROUPS = ("all", "seen", "unseen")


@dataclass(frozen=True)
class Found:
    """What one job measured on the test clips.

    Attributes:
        about: the job: name, arm, seed, kind, settings, path, seconds, and figures of the network.
        right: bool [N], or a share of the members that are right.
        losses: [N] -ln p(label), not above 34.5.
        probe: bool [N], whether the recording device was recognised from the latent; None without a latent.
    """

    about: dict[str, Any]
    right: np.ndarray
    losses: np.ndarray
    probe: np.ndarray | None


def measure(path: Path, task: Any) -> dict[str, Any]:
    """Outputs of a checkpoint or an ensemble on the test split: arrays by name, and "figures" to print."""
    from edgepress.compress.teach.probe import recognised
    from edgepress.compress.teach.teachers import ENSEMBLE, cached_outputs, open_teacher, read_ensemble
    from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_metrics

    found = task.split(SPLIT)
    if (path / ENSEMBLE).is_file():
        teacher = open_teacher(path)
        metrics = read_ensemble(path)["metrics"]
        figures = {
            name: metrics[name] for name in ("names", "shares", "effective_models", "log_loss_before", "log_loss_after")
        }
        return {
            **by_clip(teacher.logits(task, None, SPLIT), found.labels),
            "figures": figures,
            **_controls(teacher, task, found.labels),
        }
    model, spec = load_checkpoint(path)
    outputs = cached_outputs(model, spec, task, SPLIT)
    metrics = read_metrics(path)
    last = metrics["history"][-1] if metrics.get("history") else {}
    figures = {
        "macs": metrics["cost"]["macs"],
        "params": metrics["cost"]["params"],
        "rule": metrics["cost"]["rule"],
        "training_s": metrics["seconds"],
        "best_epoch": metrics["best_epoch"],
        "epochs": metrics["epochs"],
        **{name: last[name] for name in ("push", "pull", "distance_same", "distance_different") if name in last},
    }
    arrays = by_clip(outputs.logits, found.labels)
    if outputs.latents.shape[1] and found.devices and found.identifiers:
        arrays["probe"] = recognised(outputs.latents, found.devices, found.identifiers)
    return {**arrays, "figures": figures}


def by_clip(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    from scipy.special import log_softmax

    from edgepress.models.tasks.kinds.classification import SMALLEST_PROBABILITY

    log_probability = log_softmax(np.asarray(logits, np.float64), axis=1)
    loss = -np.maximum(log_probability[np.arange(len(labels)), labels], np.log(SMALLEST_PROBABILITY))
    return {"right": logits.argmax(1) == labels, "losses": loss}


def _controls(teacher: Any, task: Any, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of the members' figures, and the plain means of their logits and of their probabilities."""
    import torch

    from edgepress.compress.teach.ensemble import logit_mean, probability_mean
    from edgepress.compress.teach.teachers import open_teacher

    logits = np.stack([open_teacher(member).logits(task, None, SPLIT) for member in teacher.members])
    single = [by_clip(one, labels) for one in logits]
    arrays = {f"members {name}": np.mean([one[name] for one in single], axis=0) for name in ("right", "losses")}
    for title, mean in (("logit mean", logit_mean), ("probability mean", probability_mean)):
        for name, value in by_clip(mean(torch.from_numpy(logits)).numpy(), labels).items():
            arrays[f"{title} {name}"] = value
    return arrays


def save(path: Path, measured: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write what a job measured, whole or not at all."""
    buffer = io.BytesIO()
    arrays = {name: value for name, value in measured.items() if name != "figures"}
    note = np.array(json.dumps({**about, "figures": measured["figures"]}))
    np.savez_compressed(buffer, about=note, **arrays)
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> list[Found]:
    """What a job measured; an ensemble's controls come with it, as arms of their own.

    Raises:
        UsageError: damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays.pop("about")))
    except Exception as error:  # zip and NumPy raise many kinds for a damaged file
        raise UsageError(f"{path} is damaged: remove it, and it is measured again") from error
    made = [Found(about, arrays["right"].astype(float), arrays["losses"], arrays.get("probe"))]
    for title in ("members", "logit mean", "probability mean"):
        if f"{title} right" in arrays:
            made.append(
                Found(
                    {**about, "arm": title, "name": f"{title}-seed{about['seed']}"},
                    arrays[f"{title} right"].astype(float),
                    arrays[f"{title} losses"],
                    None,
                )
            )
    return made


def summarise(plan: Plan, run: Path, task: Any) -> dict[str, Any]:
    """Everything that is finished of a plan, as one JSON-able dictionary.

    Differences are of the mean over the seeds that both arms have, clip by clip; their interval is a paired bootstrap
    over recordings, the seeds and devices of a recording kept together.
    """
    jobs = jobs_of(plan)
    found = [one for job in jobs if (place := job.place(run, plan)).exists() for one in read(place)]
    clips = task.split(SPLIT)
    devices, identifiers = np.asarray(clips.devices), clips.identifiers
    groups = groups_of(devices, task.unseen_devices)
    arms: dict[str, list[Found]] = {}
    for one in found:
        arms.setdefault(one.about["arm"], []).append(one)
    comparisons = []
    for title, a, b in COMPARISONS:
        pairs = pairs_of(arms.get(a, []), arms.get(b, []))
        if pairs:
            comparisons.append(
                {
                    "title": title,
                    "arm": a,
                    "against": b,
                    "seeds": [seed for seed, _, _ in pairs],
                    **differences(pairs, groups, identifiers),
                }
            )
    return {
        "schema": SCHEMA,
        "command": command_of("trainings"),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
        "data": data_facts(task),
        "plan": {
            name: getattr(plan, name)
            for name in ("seeds", "base_channels", "epochs", "student_epochs", "batch_size", "front_end")
        },
        "planned": len(jobs),
        "finished": sum(job.place(run, plan).exists() for job in jobs),
        "arms": {arm: arm_of(members, devices, groups) for arm, members in arms.items() if not arm.startswith("sweep")},
        "comparisons": comparisons,
        "ensembles": [{"seed": one.about["seed"], **one.about["figures"]} for one in arms.get("ensemble", [])],
        "sweeps": {
            "alpha": _sweep(arms, plan, [(alpha, 0.5) for alpha in ALPHAS], groups, 0),
            "lambda": _sweep(arms, plan, [(0.2, weight) for weight in WEIGHTS], groups, 1),
        },
    }


def write(plan: Plan, run: Path, task: Any, output: Path | None, page: Path | None) -> None:
    """Write the results of what is finished, in the run and where they were asked for."""
    results = summarise(plan, run, task)
    for path in (run / "results" / "teachers.json", output):
        if path is not None:
            write_json(path, results)
    if page is not None:
        beside = output.with_name(DEVICE_MODELS) if output is not None else None
        write_text(page, page_of(results, read_json(beside) if beside is not None and beside.is_file() else None))


def groups_of(devices: np.ndarray, unseen_devices: Sequence[str]) -> dict[str, np.ndarray]:
    """Which clips [N] are of all devices, of those that training knows, of those that it does not."""
    unseen = np.isin(devices, unseen_devices)
    return {"all": np.ones(len(devices), bool), "seen": ~unseen, "unseen": unseen}


def data_facts(task: Any) -> dict[str, Any]:
    """What was trained and tested on."""
    clips = task.split(SPLIT)
    return {
        "task": task.name,
        "fingerprint": task.fingerprint,
        "unseen_devices": list(task.unseen_devices),
        "clips": {split: len(task.split(split)) for split in ("train", "validation", "test")},
        "test_recordings": len(set(clips.identifiers or ())),
        "recording_devices": sorted(set(clips.devices or ())),
    }


def command_of(module: str) -> str:
    """The command line without the folders of the machine that it ran on."""
    words = []
    for word in sys.argv[1:]:
        option, equals, value = word.rpartition("=")
        words.append(option + equals + (Path(value).name if Path(value).is_absolute() else value))
    return shlex.join(["python", "-m", f"edgepress.benchmarks.experiments.teachers.{module}", *words])


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "min": float(min(values)), "max": float(max(values)), "seeds": len(values)}


def arm_of(members: Sequence[Found], devices: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
    made: dict[str, Any] = {"seeds": [one.about["seed"] for one in members]}
    for name in _GROUPS:
        rows = groups[name]
        if rows.any():
            made[name] = {
                "accuracy": _spread([one.right[rows].mean() for one in members]),
                "log_loss": _spread([one.losses[rows].mean() for one in members]),
            }
    made["by_recording_device"] = {
        str(device): {
            "accuracy": _spread([one.right[devices == device].mean() for one in members]),
            "log_loss": _spread([one.losses[devices == device].mean() for one in members]),
        }
        for device in np.unique(devices)
    }
    probes = [_balanced(one.probe, devices) for one in members if one.probe is not None]
    if probes:
        made["device_probe"] = {**_spread(probes), "chance": 1 / len(np.unique(devices))}
    for name in ("macs", "params", "training_s", "push", "pull", "distance_same", "distance_different"):
        values = [one.about["figures"][name] for one in members if name in one.about["figures"]]
        if values:
            made[name] = _spread(values)
    return made


def _balanced(hits: np.ndarray, devices: np.ndarray) -> float:
    return float(np.mean([hits[devices == device].mean() for device in np.unique(devices)]))


def pairs_of(first: Sequence[Found], second: Sequence[Found]) -> list[tuple[int, Found, Found]]:
    by_seed = {one.about["seed"]: one for one in second}
    return [(one.about["seed"], one, by_seed[one.about["seed"]]) for one in first if one.about["seed"] in by_seed]


def differences(
    pairs: Sequence[tuple[int, Found, Found]], groups: Mapping[str, np.ndarray], identifiers: Sequence[str] | None
) -> dict[str, Any]:
    from edgepress.models.tasks.kinds.intervals import paired_cluster_bootstrap

    made: dict[str, Any] = {}
    ids = None if identifiers is None else np.asarray(identifiers)
    for metric, of in (
        ("accuracy", lambda one: one.right),
        ("log_loss", lambda one: one.losses),
        ("device_probe", lambda one: one.probe),
    ):
        if any(of(one) is None for _, *both in pairs for one in both):
            continue
        a, b = (np.mean([of(pair[side]).astype(float) for pair in pairs], axis=0) for side in (1, 2))
        made[metric] = {
            name: paired_cluster_bootstrap(a[rows], b[rows], None if ids is None else ids[rows])
            for name, rows in groups.items()
            if rows.any() and (metric != "device_probe" or name == "all")
        }
    return made


def _sweep(
    arms: Mapping[str, Sequence[Found]],
    plan: Plan,
    points: Sequence[tuple[float, float]],
    groups: Mapping[str, np.ndarray],
    which: int,
) -> list[dict[str, Any]]:
    rows = []
    for alpha, weight in points:
        chosen = [one for one in arms.get("contrastive", []) if one.about["seed"] == plan.seeds[0]]
        members = chosen if (alpha, weight) == (0.2, 0.5) else arms.get(f"sweep-alpha{alpha:g}-lambda{weight:g}", [])
        for one in members:
            rows.append(
                {
                    "value": (alpha, weight)[which],
                    "accuracy": float(one.right.mean()),
                    "log_loss": float(one.losses.mean()),
                    "unseen_accuracy": float(one.right[groups["unseen"]].mean()) if groups["unseen"].any() else None,
                    "device_probe": None if one.probe is None else float(one.probe.mean()),
                }
            )
    return rows
