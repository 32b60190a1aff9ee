# SPDX-License-Identifier: Apache-2.0
"""The shapes of what a run directory keeps as JSON: what whoever reads it may rely on. Further keys are let be."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class IndexLine(TypedDict):
    """A line of index.jsonl: a checkpoint, an artifact, a file of results, a teacher or an ensemble, with facts."""

    kind: Literal["checkpoint", "artifact", "result", "teacher", "ensemble"]
    name: str
    path: str
    time: NotRequired[float]
    key: NotRequired[str | None]
    stage: NotRequired[str | None]
    network: NotRequired[str | None]
    task: NotRequired[str | None]
    parent: NotRequired[str | None]
    pruned: NotRequired[bool | None]
    quantized: NotRequired[bool | None]
    scheme: NotRequired[str | None]
    rule: NotRequired[str | None]
    format: NotRequired[str | None]
    checkpoint: NotRequired[str | None]
    sha256: NotRequired[str | None]
    macs: NotRequired[int | None]
    params: NotRequired[int | None]
    weight_bytes: NotRequired[int | None]
    peak_activation_bytes: NotRequired[int | None]
    constant_bytes: NotRequired[int | None]
    file_bytes: NotRequired[int | None]
    train_accuracy: NotRequired[float | None]
    validation_accuracy: NotRequired[float | None]
    test_accuracy: NotRequired[float | None]


class Figures(TypedDict, total=False):
    """Of some clips."""

    correct: int
    total: int
    accuracy: float | None
    log_loss: float | None


class Evaluation(Figures, total=False):
    """What `edgepress.models.tasks.kinds.classification.evaluate` gives."""

    interval: list[float] | None
    cluster_interval: list[float] | None
    macro_accuracy: float | None
    by_class: dict[str, Figures | None] | None
    by_recording_device: dict[str, Figures | None] | None
    seen_devices: Figures | None
    unseen_devices: Figures | None
    confusion: list[list[int]] | None
    classes: list[str] | None


class CostFacts(TypedDict):
    """The totals of a `Cost`."""

    rule: str
    macs: int
    params: int
    weight_bytes: int
    peak_activation_bytes: NotRequired[int]
    constant_bytes: NotRequired[int]


class DataFacts(TypedDict, total=False):
    """Which clips."""

    task: str
    source: str | None
    fingerprint: str
    clips: dict[str, int]
    classes: list[str]
    recording_devices: list[str]
    unseen_devices: list[str]


class Metrics(TypedDict, total=False):
    """The metrics of a checkpoint that a stage of `compress` made."""

    stage: str
    cost: CostFacts
    data: DataFacts | None
    seed: int | None
    epochs: int
    seconds: float
    train: Evaluation | None
    validation: Evaluation | None
    test: Evaluation | None
    versions: dict[str, Any]
    history: list[dict[str, Any]]


class Result(Evaluation, total=False):
    """A line of results.jsonl: accuracy or latency of one file on one runtime."""

    schema: int
    time: float
    kind: str
    runtime: str | None
    sha256: str | None
    file: str | None
    split: str | None
    device_class: str | None
    data: dict[str, Any] | None
    environment: dict[str, Any] | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float | None
