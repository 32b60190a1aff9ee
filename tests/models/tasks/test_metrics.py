"""Metrics: worked by hand, against torch, and the coverage of the intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.models.errors import UsageError
from edgepress.models.tasks.kinds.classification import evaluate
from edgepress.models.tasks.kinds.intervals import cluster_bootstrap, paired_cluster_bootstrap, wilson

LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]]))
LABELS = np.array([0, 1, 0, 1])


def test_by_hand():
    found = evaluate(LOGITS, LABELS, ["a", "a", "s4", "s4"], ("x", "y", "z"), unseen=("s4",))
    assert (found["correct"], found["total"], found["accuracy"]) == (2, 4, 0.5)
    assert found["log_loss"] == pytest.approx(-np.log([0.7, 0.5, 0.1, 0.3]).mean())
    assert found["by_class"]["x"]["correct"] == found["by_class"]["y"]["correct"] == 1
    assert found["by_class"]["z"] is None
    assert found["macro_accuracy"] == 0.5
    assert found["by_recording_device"]["a"]["accuracy"] == found["seen_devices"]["accuracy"] == 1.0
    assert found["by_recording_device"]["s4"] == found["unseen_devices"]
    assert found["unseen_devices"]["accuracy"] == 0.0
    assert found["confusion"] == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    json.dumps(found, allow_nan=False)


def test_probabilities_and_logits_agree_and_a_sure_mistake_is_clipped():
    as_probabilities = evaluate(np.exp(LOGITS), LABELS, probabilities=True)
    assert as_probabilities["log_loss"] == pytest.approx(evaluate(LOGITS, LABELS)["log_loss"])
    for row, sure_of in (([0.0, 1.0], True), ([0.0, 1000.0], False)):
        sure = evaluate(np.array([row]), np.array([0]), probabilities=sure_of)
        assert sure["log_loss"] == pytest.approx(-np.log(1e-15))
    with pytest.raises(UsageError, match="does not sum to 1"):
        evaluate(LOGITS, LABELS, probabilities=True)


def test_ties_take_the_first_class():
    assert evaluate(np.zeros((3, 4)), np.array([0, 0, 1]))["correct"] == 2


def test_macro_accuracy_weighs_classes_equally():
    logits = np.eye(2)[[0, 0, 0, 0]]
    assert evaluate(logits, np.array([0, 0, 0, 1]))["macro_accuracy"] == 0.5
    assert evaluate(logits, np.array([0, 0, 0, 1]))["accuracy"] == 0.75


def test_against_torch():
    import torch

    rng = np.random.default_rng(0)
    logits, labels = 30 * rng.normal(size=(300, 5)), rng.integers(0, 5, 300)
    found = evaluate(logits, labels)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none")
    assert found["log_loss"] == pytest.approx(float(loss.clamp(max=-np.log(1e-15)).mean()))
    assert sum(map(sum, found["confusion"])) == 300
    assert np.trace(np.array(found["confusion"])) == found["correct"] == (logits.argmax(1) == labels).sum()


def test_wilson_has_the_published_value():
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), Table I:
    # the score interval without continuity correction of 81/263, 15/148, 0/20 and 1/29.
    for correct, total, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(correct, total) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 3000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_holds_the_share_and_is_symmetric(pair):
    correct, total = pair
    low, high = wilson(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    assert (1 - high, 1 - low) == pytest.approx(wilson(total - correct, total))


def test_clusters_of_equal_clips_widen_the_interval():
    rng = np.random.default_rng(3)
    by_place = rng.integers(0, 2, 60)
    values, places = np.repeat(by_place, 20), [str(place) for place in np.repeat(np.arange(60), 20)]
    clustered = cluster_bootstrap(values, places)
    single = cluster_bootstrap(values, [str(number) for number in range(len(values))])
    assert clustered[0] < values.mean() < clustered[1]
    # 20 equal clips for each place: the width grows by sqrt(20) = 4.47.
    assert (clustered[1] - clustered[0]) / (single[1] - single[0]) == pytest.approx(np.sqrt(20), rel=0.15)
    assert clustered == cluster_bootstrap(values, places)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pqrst"), st.booleans()), min_size=1, max_size=40))
def test_bootstrap_stays_within_the_values(clips):
    values = np.array([right for _, right in clips], float)
    low, high = cluster_bootstrap(values, [place for place, _ in clips], draws=200)
    assert values.min() <= low <= high <= values.max()


def test_pairing_finds_a_small_difference_which_separate_intervals_hide():
    rng = np.random.default_rng(5)
    a = (rng.random(1000) < 0.7).astype(float)
    b = a.copy()
    b[np.flatnonzero(a)[:25]] = 0  # b makes 25 mistakes more, on the same clips
    found = paired_cluster_bootstrap(a, b)
    assert found["difference"] == pytest.approx(0.025)
    assert found["differs"]
    assert 0 < found["interval"][0] < 0.025 < found["interval"][1]
    assert wilson(int(b.sum()), 1000)[1] > wilson(int(a.sum()), 1000)[0]
    assert not paired_cluster_bootstrap(a, a)["differs"]


def test_cluster_interval_is_reported_with_identifiers():
    found = evaluate(LOGITS, LABELS, identifiers=["p", "p", "q", "q"])
    assert found["cluster_interval"] == [0.0, 1.0]
    assert "by_recording_device" not in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LOGITS, LABELS[:3]), "one label per clip"),
        ((LOGITS, LABELS + 2), "from 0 to 2"),
        ((LOGITS, LABELS.astype(float)), "integers"),
        ((LOGITS[:0], LABELS[:0]), "one label per clip"),
        ((LOGITS * np.nan, LABELS), "not finite"),
        ((LOGITS, LABELS, ["a"]), "1 devices"),
        ((LOGITS, LABELS, None, ("x",)), "3 outputs but 1 classes"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        evaluate(*arguments)
    with pytest.raises(UsageError, match="between 0 and total"):
        wilson(0, 0)
