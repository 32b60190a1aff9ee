# SPDX-License-Identifier: Apache-2.0
"""A submission folder in the form of DCASE Task 1: model files, complexity, predictions, results per recording device.

    RUN/submission/
      NETWORK/NETWORK.tflite           the int8 file, and its manifest beside it
      NETWORK/output.csv               tab separated: filename, scene_label, one probability per class, in alphabetical
                                       order of the classes, a row a test clip
      NETWORK/complexity.json          MACs and parameters by the rule of the challenge, bytes of the parameters
      NETWORK/results.json             accuracy and log loss: all, by class, by recording device, seen and unseen
      submission.json                  the networks, with command and versions

Predictions come from the int8 file itself, not from the network that it was made from.
"""

from __future__ import annotations

import csv
import io
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.benchmarks.measure.environment import environment
from edgepress.models.atomic import new_directory, write_json, write_text
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory

if TYPE_CHECKING:
    from edgepress.benchmarks.report.gather import File, Network

_RUNTIME = "litert"


def write_submission(
    run: str | Path, output: str | Path | None = None, *, split: str = "test", trust: bool = False
) -> Path:
    """Write the folder from the newest int8 TFLite file of every network of a run; an older folder is replaced.

    Args:
        run: the run directory.
        output: the folder; default RUN/submission, which alone is replaced where it exists.
        split: whose clips are predicted; validation where the task has no test split.
        trust: the task may be code that a checkpoint names.

    Raises:
        UsageError: the run holds no int8 TFLite file with its task, or `output` exists.
    """
    from edgepress.benchmarks.report.gather import gather

    directory = RunDirectory(run)
    found = [(network, file) for network in gather(directory, arena=False) if (file := network.tflite)]
    if not found:
        raise UsageError(
            f"{run} holds no int8 TFLite file: run `compress quantize` and `deploy export --format tflite` first"
        )
    folder = Path(output) if output else directory.path / "submission"
    made = []
    with new_directory(folder, overwrite=output is None) as temporary:
        for network, file in found:
            made.append(_write_network(temporary / network.name, network, file, split, trust))
        write_json(
            temporary / "submission.json",
            {
                "schema": 1,
                "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "environment": environment(),
                "networks": made,
            },
        )
    return folder


def _write_network(folder: Path, network: Network, file: File, split: str, trust: bool) -> dict[str, Any]:
    from edgepress.benchmarks.measure.manifests import spec_beside
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.models.tasks import LogMel, load_task
    from edgepress.models.tasks.metrics import evaluate

    spec = spec_beside(file.path)
    if not spec.get("task"):
        raise UsageError(f"{file.path} does not say which data it was made for; a submission needs them")
    front_end = LogMel.from_json(spec["front_end"]) if spec.get("front_end") else None
    task = load_task(spec["task"], front_end=front_end, trust=trust)
    split = split if task.has(split) else "validation"
    features, clips = task.features(split), task.split(split)
    with open_session(file.path, _RUNTIME) as session:
        outputs = (
            np.concatenate(
                [np.asarray(session.run(np.array(features[start : start + 64]))) for start in range(0, len(clips), 64)]
            )
            .reshape(len(clips), -1)
            .astype(np.float64)
        )
    shifted = np.exp(outputs - outputs.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    found = evaluate(outputs, clips.labels, clips.devices, task.classes, clips.identifiers, task.unseen_devices)
    folder.mkdir()
    for source in (file.path, file.path.with_name(f"{file.path.name}.manifest.json")):
        if source.exists():
            shutil.copy2(source, folder / source.name)
    write_text(folder / "output.csv", output_csv(clips.names, probabilities, task.classes))
    profile, cost = file.profile, network.metrics["cost"]
    complexity = {
        "rule": cost["rule"],
        "macs": cost["macs"],
        "params": cost["params"],
        "weight_bytes": cost["weight_bytes"],
        "file_bytes": profile["file_bytes"],
        "sha256": profile["sha256"],
    }
    write_json(folder / "complexity.json", complexity)
    write_json(folder / "results.json", {"split": split, "runtime": _RUNTIME, **found})
    return {
        "name": network.name,
        "file": f"{network.name}/{file.path.name}",
        **complexity,
        "accuracy": found["accuracy"],
        "log_loss": found["log_loss"],
    }


def output_csv(names: tuple[str, ...], probabilities: np.ndarray, classes: tuple[str, ...]) -> str:
    """The challenge's file of predictions.

    Args:
        names: of the clips; a leading "audio/" is left out.
        probabilities: [N, K], in the order of `classes`.
        classes: K names; the columns are in alphabetical order.
    """
    order = np.argsort(classes)
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(["filename", "scene_label", *(classes[index] for index in order)])
    for name, row in zip(names, probabilities, strict=True):
        writer.writerow(
            [name.removeprefix("audio/"), classes[int(row.argmax())], *(f"{row[index]:.6f}" for index in order)]
        )
    return buffer.getvalue()
