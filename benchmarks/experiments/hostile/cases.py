# SPDX-License-Identifier: Apache-2.0
"""A damaged file of each kind, and the command that reads it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.hostile import seeds
from edgepress.benchmarks.experiments.hostile.damage import damage_bytes, damage_safetensors, damage_text

#: Kind -> its share of all cases, in 3000.
SHARES = {"tflite": 1500, "onnx": 400, "checkpoint": 400, "arrays": 200, "text": 300, "audio": 200}
_FRONT_END = {"sample_rate_hz": 8000, "n_fft": 256, "window": 256, "hop": 100, "n_mels": 8, "fmax_hz": 4000}


@dataclass(frozen=True)
class Reading:
    """What reads a damaged file: an application as `run_command` takes it, with its arguments."""

    app: Callable[..., Any]
    arguments: Sequence[str] = ()


def write_seeds(folder: Path) -> None:
    """All valid files, once."""
    if (folder / "complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seeds.write_tflite(folder)
    (folder / "m.tflite.manifest.json").unlink(missing_ok=True)
    seeds.write_onnx(folder)
    seeds.write_checkpoint(folder)
    seeds.write_texts(folder)
    seeds.write_arrays(folder)
    seeds.write_audio(folder)
    (folder / "complete").touch()


def prepare(kind: str, number: int, valid: Path, folder: Path, damage: bool = True) -> Reading:
    """Write case `number` of a kind into `folder`, beside what else it needs; the same number, the same damage."""
    rng = np.random.default_rng([list(SHARES).index(kind), number]) if damage else None
    return _PREPARE[kind](number, valid, folder, rng)


def _model(suffix: str) -> Callable[..., Reading]:
    def prepare_one(number: int, valid: Path, folder: Path, rng: np.random.Generator | None) -> Reading:
        from edgepress.benchmarks.cli import app as benchmarks
        from edgepress.deploy.cli import app as deploy

        path = folder / f"m.{suffix}"
        path.write_bytes(damage_bytes((valid / path.name).read_bytes(), rng))
        if number % 60 == 2:  # runs native code, in a process of its own
            return Reading(deploy, ["operators", str(path)])
        if number % 2:
            form = ("text", "json")[number % 4 // 2]
            return Reading(benchmarks, ["profile", str(path), "--no-arena", "--format", form])
        return Reading(benchmarks, ["gate", str(path), "--limit", "macs=3M", "--limit", "peak=20kB", "--no-fixes"])

    return prepare_one


def _checkpoint(number: int, valid: Path, folder: Path, rng: np.random.Generator | None) -> Reading:
    import hashlib
    import json

    if number % 5 == 4:
        return _weights(valid, folder, rng)
    path = folder / "checkpoint"
    shutil.copytree(valid / "checkpoint", path)
    name = ("model.json", "quantization.json", "metrics.json", "weights.safetensors")[number % 4]
    data = (path / name).read_bytes()
    changed = damage_safetensors(data, rng) if name.endswith("safetensors") else damage_text(data, rng)
    (path / name).write_bytes(changed)
    if name.endswith("safetensors"):  # as a stranger would, who wants it to be opened
        about = json.loads((path / "model.json").read_text())
        about["weights"]["sha256"] = hashlib.sha256(changed).hexdigest()
        (path / "model.json").write_text(json.dumps(about))

    def read(args: Any = None) -> None:
        from edgepress.compress.quantize.restore import restore_quantized
        from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_metrics, read_quantization

        read_metrics(path)
        model, spec = load_checkpoint(path)
        quantization = read_quantization(path)
        if quantization is not None:
            restored = restore_quantized(model, spec.example_inputs(), quantization)
            restored.model(*spec.example_inputs())

    if number % 8 < 6:
        return Reading(read)
    from edgepress.benchmarks.cli import app as benchmarks

    return Reading(benchmarks, ["profile", str(path), "--format", "json"])


def _weights(valid: Path, folder: Path, rng: np.random.Generator | None) -> Reading:
    path = folder / "weights.pt"
    path.write_bytes(damage_bytes((valid / "weights.pt").read_bytes(), rng))

    def read(args: Any = None) -> None:
        from edgepress import build
        from edgepress.models.checkpoints.checkpoint import read_spec
        from edgepress.models.checkpoints.weights import load_weights

        spec = read_spec(valid / "float")
        load_weights(build(spec.factory, **spec.arguments), path)

    return Reading(read)


def _arrays(number: int, valid: Path, folder: Path, rng: np.random.Generator | None) -> Reading:
    path = folder / "task.npz"
    if number % 2 or rng is None:
        path.write_bytes(damage_bytes((valid / "task.npz").read_bytes(), rng))
    else:
        _change_an_array(valid / "task.npz", path, rng)

    def read(args: Any = None) -> None:
        from edgepress.deploy.verify.inputs import read_arrays
        from edgepress.models.tasks import load_task

        read_arrays(path)
        task = load_task(path)
        for split in ("train", "validation", "test"):
            if task.has(split):
                task.features(split)

    return Reading(read)


def _change_an_array(valid: Path, path: Path, rng: np.random.Generator) -> None:
    """Whole arrays of wrong types, shapes and values."""
    with np.load(valid, allow_pickle=False) as stored:
        arrays = dict(stored)
    name = list(arrays)[int(rng.integers(0, len(arrays)))]
    new: list[Any] = [0, -1, np.nan, np.inf, "x", b"\xff", [], [[]], np.zeros((0, 3)), np.zeros(1, "V3"), 2**63]
    new += [np.zeros(seeds.CLIPS), np.full(seeds.CLIPS, -1), np.array(1, "M8[s]"), np.zeros((2, 2), bool), 1j, "NHWC"]
    new += [arrays[name][..., None], arrays[name].reshape(-1)[:5], arrays[name].astype(str)]
    arrays[name] = np.asarray(new[int(rng.integers(0, len(new)))])
    np.savez(path, **arrays)


def _text(number: int, valid: Path, folder: Path, rng: np.random.Generator | None) -> Reading:
    from edgepress.benchmarks.cli import app as benchmarks
    from edgepress.compress.cli import app as compress

    for name in ("m.tflite", "m.tflite.manifest.json", "baseline.json", "budgets.toml", "recipe.toml", "grid.toml"):
        shutil.copy(valid / name, folder / name)
    for name in ("run", "checkpoint", "float"):
        shutil.copytree(valid / name, folder / name)
    model, run = str(folder / "m.tflite"), str(folder / "run")

    def read_the_run(args: Any = None) -> None:
        from edgepress.benchmarks.report.gather import gather
        from edgepress.models.run_directory import RunDirectory

        gather(RunDirectory(run), arena=False)

    def read_the_manifest(args: Any = None) -> None:
        from edgepress.deploy.artifact import load_artifact

        load_artifact(model)

    def read_the_grid(args: Any = None) -> None:
        from edgepress.compress.sweep.sweep import read_grid

        read_grid(folder / "grid.toml")

    counted = ["gate", model, "--limit", "macs=3M", "--no-fixes"]
    on_device = ["gate", model, "--device", "own", "--no-fixes"]
    limit = ["gate", model, "--limit", "accuracy=10%", "--no-fixes", "--run", run]
    name, reading = [
        ("run/index.jsonl", Reading(benchmarks, ["report", "--run", run, "--output", str(folder / "r.html")])),
        ("run/index.jsonl", Reading(read_the_run)),
        ("run/results/results.jsonl", Reading(benchmarks, limit)),
        ("run/results/results.jsonl", Reading(read_the_run)),
        ("float/metrics.json", Reading(read_the_run)),
        ("m.tflite.manifest.json", Reading(read_the_manifest)),
        ("m.tflite.manifest.json", Reading(benchmarks, [*counted, "--baseline", model])),
        ("baseline.json", Reading(benchmarks, [*counted, "--baseline", str(folder / "baseline.json")])),
        ("budgets.toml", Reading(benchmarks, [*on_device, "--budgets", str(folder / "budgets.toml")])),
        ("recipe.toml", Reading(compress, ["check", str(folder / "recipe.toml")])),
        ("grid.toml", Reading(read_the_grid)),
    ][number % 11]
    path = folder / name
    path.write_bytes(damage_text(path.read_bytes(), rng))
    return reading


def _audio(number: int, valid: Path, folder: Path, rng: np.random.Generator | None) -> Reading:
    import os

    root = folder / "tau"
    shutil.copytree(valid / "tau", root)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = files[int(rng.integers(0, len(files))) if rng is not None else 0]
    data = path.read_bytes()
    if number % 10 == 0 and rng is not None:  # what is opened is no file
        path.unlink()
        os.mkfifo(path) if number % 20 else path.symlink_to("/dev/zero")
    else:
        path.write_bytes(damage_bytes(data, rng) if path.suffix == ".wav" else damage_text(data, rng))

    def read(args: Any = None) -> None:
        from edgepress.models.tasks import LogMel, load_task

        task = load_task(root, front_end=LogMel(**_FRONT_END), cache=folder / "cache")
        task.features("train")

    return Reading(read)


_PREPARE: dict[str, Callable[..., Reading]] = {
    "tflite": _model("tflite"),
    "onnx": _model("onnx"),
    "checkpoint": _checkpoint,
    "arrays": _arrays,
    "text": _text,
    "audio": _audio,
}
