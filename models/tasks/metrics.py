# SPDX-License-Identifier: Apache-2.0
"""What predictions are worth: accuracy, log loss, by class and recording device, with intervals. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError

#: A probability is never taken below this, so that one sure mistake costs at most 34.5 nats (as in scikit-learn's
#: log_loss of old and the DCASE evaluation).
SMALLEST_PROBABILITY = 1e-15
_Z95 = 1.959963984540054


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
        where = _strings(devices, total, "devices")
        is_unseen = np.isin(where, list(unseen))
        result["by_recording_device"] = {str(name): figures(where == name) for name in np.unique(where)}
        result["seen_devices"], result["unseen_devices"] = figures(~is_unseen), figures(is_unseen)
    if identifiers is not None:
        result["cluster_interval"] = list(cluster_bootstrap(right, identifiers))
    return result


def wilson(correct: int, total: int, z: float = _Z95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927, JASA 22:209-212); 95 % by default.

    It takes clips as independent, which clips of one location are not: see `cluster_bootstrap`.

    Raises:
        UsageError: `correct` is not between 0 and `total`, or `total` is 0.
    """
    if not 0 <= correct <= total or total == 0:
        raise UsageError(f"correct = {correct} must lie between 0 and total = {total}, and total be positive")
    share, scale = correct / total, 1 + z * z / total
    middle = share + z * z / (2 * total)
    width = z * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At 0 and 1 the bound is exact; the subtraction of rounded numbers would leave 1e-17.
    low = 0.0 if correct == 0 else float((middle - width) / scale)
    high = 1.0 if correct == total else float((middle + width) / scale)
    return low, high


def cluster_bootstrap(
    values: np.ndarray,
    identifiers: Sequence[str] | np.ndarray,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean when whole recording locations are drawn with replacement.

    Clips of one location resemble each other, so that intervals over clips are too narrow (Field and Welsh 2007,
    "Bootstrapping clustered data", JRSS B 69:369-390).

    Args:
        values: [N] numbers, such as 1 for a right prediction and 0 for a wrong one.
        identifiers: the cluster of every value.
        level: of the interval.
        draws: bootstrap samples.
        seed: of the draws.

    Raises:
        UsageError: lengths differ, or there is nothing.
    """
    means = _cluster_draws(np.asarray(values, np.float64), identifiers, draws, seed)
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def paired_cluster_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    identifiers: Sequence[str] | np.ndarray | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The difference of two predictions on the same clips, with the interval of a paired cluster bootstrap.

    Args:
        a, b: [N] numbers per clip (right or wrong, or losses) of the two, in the same order.
        identifiers: the cluster of every clip; None takes every clip for itself.
        level: of the interval.
        draws: bootstrap samples.
        seed: of the draws.

    Returns:
        difference (mean of a - b), interval, clusters (how many), differs (whether the interval leaves out 0).

    Raises:
        UsageError: lengths differ, or there is nothing.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise UsageError(f"paired values must be two vectors of one length, not {first.shape} and {second.shape}")
    groups = tuple(map(str, range(len(first)))) if identifiers is None else identifiers
    interval = cluster_bootstrap(first - second, groups, level=level, draws=draws, seed=seed)
    return {
        "difference": float(np.mean(first - second)),
        "interval": list(interval),
        "clusters": len(set(map(str, groups))),
        "differs": not interval[0] <= 0.0 <= interval[1],
    }


def _cluster_draws(values: np.ndarray, identifiers: Sequence[str] | np.ndarray, draws: int, seed: int) -> np.ndarray:
    """[draws] means over resampled clusters."""
    if values.ndim != 1 or not len(values):
        raise UsageError(f"values must be a vector with at least one entry, not of shape {values.shape}")
    _, cluster = np.unique(_strings(identifiers, len(values), "identifiers"), return_inverse=True)
    sizes = np.bincount(cluster).astype(np.float64)
    sums = np.bincount(cluster, weights=values)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, 2_000_000 // len(sizes))  # bounds the table of draws to 16 MB
    for start in range(0, draws, step):
        picked = rng.integers(0, len(sizes), (min(step, draws - start), len(sizes)))
        means[start : start + len(picked)] = sums[picked].sum(1) / sizes[picked].sum(1)
    return means


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


def _strings(values: Sequence[str] | np.ndarray, total: int, name: str) -> np.ndarray:
    result = np.asarray([str(value) for value in values])
    if len(result) != total:
        raise UsageError(f"there are {total} clips but {len(result)} {name}")
    return result
