# SPDX-License-Identifier: Apache-2.0
"""Classification, one class a sample: accuracy, log loss, by class and recording device, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.kinds.intervals import cluster_bootstrap, strings, wilson
from edgepress.models.tasks.kinds.kind import Kind, Metric, Samples, whole_labels

#: A probability is never taken below this, so that one sure mistake costs at most 34.5 nats (as in scikit-learn's
#: log_loss of old and the DCASE evaluation).
SMALLEST_PROBABILITY = 1e-15


def evaluate(
    logits: np.ndarray,
    labels: np.ndarray,
    devices: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    identifiers: Sequence[str] | None = None,
    unseen: Sequence[str] = (),
    *,
    probabilities: bool = False,
) -> dict[str, Any]:
    """Measure predictions on labelled clips.

    The predicted class is the largest entry, the first one in a tie. Log loss is the mean of -ln p(label), with
    p = softmax(logits) not below 1e-15.

    Args:
        logits: [N, K]; logits, or probabilities (rows that sum to 1) if `probabilities` says so.
        labels: [N] integers below K.
        devices: the recording device of every clip, or None.
        classes: K names; empty takes "0", "1", ...
        identifiers: recording locations of the clips; the accuracy then also gets a cluster bootstrap interval.
        unseen: recording devices that training did not have.
        probabilities: whether the rows are probabilities already.

    Returns:
        A JSON-able dictionary: correct, total, accuracy, log_loss (nats), interval (Wilson, 95 %), macro_accuracy (mean
        over the classes that have a clip), by_class (class -> correct, total, accuracy, log_loss, or null without a
        clip), confusion ([label][prediction] counts); with devices by_recording_device (likewise), seen_devices and
        unseen_devices (pooled; null where there are none); with identifiers cluster_interval (95 %).

    Raises:
        UsageError: shapes that do not fit, labels out of range, or values that are not finite.
    """
    log_probability, labels = _log_probabilities(logits, labels, probabilities)
    total, count = log_probability.shape
    names = tuple(classes) or tuple(map(str, range(count)))
    if len(names) != count:
        raise UsageError(f"there are {count} outputs but {len(names)} classes")
    predictions = np.argmax(np.asarray(logits), axis=1)
    right = predictions == labels
    loss = -log_probability[np.arange(total), labels]

    def figures(chosen: np.ndarray) -> dict[str, Any] | None:
        number = int(chosen.sum())
        if not number:
            return None
        return {
            "correct": int(right[chosen].sum()),
            "total": number,
            "accuracy": float(right[chosen].mean()),
            "log_loss": float(loss[chosen].mean()),
        }

    by_class = {name: figures(labels == index) for index, name in enumerate(names)}
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    result: dict[str, Any] = {
        "correct": int(right.sum()),
        "total": total,
        "accuracy": float(right.mean()),
        "log_loss": float(loss.mean()),
        "interval": list(wilson(int(right.sum()), total)),
        "macro_accuracy": float(np.mean([entry["accuracy"] for entry in by_class.values() if entry])),
        "by_class": by_class,
        "confusion": confusion.tolist(),
        "classes": list(names),
    }
    if devices is not None:
        where = strings(devices, total, "devices")
        is_unseen = np.isin(where, list(unseen))
        result["by_recording_device"] = {str(name): figures(where == name) for name in np.unique(where)}
        result["seen_devices"], result["unseen_devices"] = figures(~is_unseen), figures(is_unseen)
    if identifiers is not None:
        result["cluster_interval"] = list(cluster_bootstrap(right, identifiers))
    return result


def _log_probabilities(logits: np.ndarray, labels: np.ndarray, probabilities: bool) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if values.ndim != 2 or not values.size or labels.shape != values.shape[:1]:
        raise UsageError(
            f"predictions must be [clips, classes] with one label per clip, not {values.shape} "
            f"with labels {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= values.shape[1]:
        raise UsageError(f"labels must be integers from 0 to {values.shape[1] - 1}")
    if not np.isfinite(values).all():
        raise UsageError("predictions hold values that are not finite")
    if probabilities:
        if values.min() < -1e-6 or np.abs(values.sum(1) - 1).max() > 1e-2:
            raise UsageError("predictions are said to be probabilities, but a row is negative or does not sum to 1")
        log_probability = np.log(np.clip(values, SMALLEST_PROBABILITY, 1.0))
    else:
        shifted = values - values.max(1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        log_probability = np.maximum(log_probability, np.log(SMALLEST_PROBABILITY))
    return log_probability, labels.astype(np.int64)


def _check(labels: np.ndarray, classes: tuple[str, ...], where: str) -> np.ndarray:
    return whole_labels(labels, classes, where)


def _output_shape(classes: tuple[str, ...], labels: tuple[int, ...], inputs: tuple[int, ...]) -> tuple[int, ...]:
    return (len(classes),)


def _rows(outputs: np.ndarray, labels: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    flat = outputs.reshape(len(outputs), -1)
    return np.concatenate([flat.astype(np.float64), labels[:, None]], 1)


def looks_like_probabilities(rows: np.ndarray) -> bool:
    """Whether [N, K] outputs come from a softmax, within the steps of an int8 output."""
    if rows.size == 0 or rows.min() < 0 or rows.max() > 1.0 + 1e-3:
        return False
    # Every one of K outputs may be off by half a step of 1/256, and int8 cannot say 1.0.
    return bool(np.abs(rows.sum(axis=1) - 1).max() <= 0.01 + rows.shape[1] / 512)


def _figures(rows: np.ndarray) -> dict[str, float]:
    logits, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    return {"accuracy": float((logits.argmax(1) == labels).mean()), "log_loss": float(_losses(rows).mean())}


def _losses(rows: np.ndarray) -> np.ndarray:
    """[N] -ln p(class)."""
    values, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    probabilities = looks_like_probabilities(values)
    if probabilities:
        values = values / values.sum(axis=1, keepdims=True)
    log_probability, _ = _log_probabilities(values, labels, probabilities)
    return -log_probability[np.arange(len(labels)), labels]


def _details(rows: np.ndarray, samples: Samples, normal: np.ndarray | None) -> dict[str, Any]:
    logits, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    probabilities = looks_like_probabilities(logits)
    if probabilities:
        # The steps of an int8 softmax leave sums such as 0.996; the order of the classes stays as it is.
        logits = logits / logits.sum(axis=1, keepdims=True)
    found = evaluate(
        logits,
        labels,
        samples.devices,
        samples.classes,
        samples.identifiers,
        samples.unseen,
        probabilities=probabilities,
    )
    return {**found, "outputs": "probabilities" if probabilities else "logits"}


def _intervals(rows: np.ndarray, samples: Samples, details: dict[str, Any]) -> dict[str, list[float] | None]:
    """Of the accuracy by clusters where recordings are known, else Wilson's; of the log loss by the bootstrap."""
    losses = _losses(rows)
    clusters = samples.identifiers or tuple(map(str, range(len(losses))))
    return {
        "accuracy": details.get("cluster_interval") or details["interval"],
        "log_loss": list(cluster_bootstrap(losses, clusters)),
    }


def _loss(outputs: Any, labels: Any, inputs: Any, smoothing: float) -> Any:
    import torch.nn.functional as F

    return F.cross_entropy(outputs, labels, reduction="none", label_smoothing=smoothing)


def softened_divergence(student: Any, teacher: Any, temperature: float) -> Any:
    """KL(teacher || student) of softened distributions over dimension 1, averaged over all values, in nats."""
    import torch.nn.functional as F

    # Not kl_div(reduction="mean"), whose meaning PyTorch announces to change to `batchmean`.
    return F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="none",
        log_target=True,
    ).mean()


KIND = Kind(
    "classification",
    "one class of several for each sample; labels are integers [N]",
    (
        Metric("accuracy", "share of samples whose largest output is their class", "fraction"),
        Metric("log_loss", "mean of -ln p(class), in nats", higher=False),
    ),
    _check,
    _output_shape,
    _rows,
    _figures,
    _loss,
    softened_divergence,
    details=_details,
    intervals=_intervals,
)
