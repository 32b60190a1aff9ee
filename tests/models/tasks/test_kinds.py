"""Kinds of task: figures against torchmetrics and scikit-learn, by hand, and what labels may be."""

import numpy as np
import pytest

from edgepress.models.errors import UsageError
from edgepress.models.tasks import Split, Task, load_task
from edgepress.models.tasks.kinds.anomaly import area_under_curve, partial_area
from edgepress.models.tasks.kinds.evaluation import Evaluation, own_metrics
from edgepress.models.tasks.kinds.intervals import bootstrap_figures
from edgepress.models.tasks.kinds.kind import Samples
from edgepress.models.tasks.kinds.multi_label import average_precision
from edgepress.models.tasks.kinds.segmentation import IGNORED
from edgepress.models.tasks.kinds.table import KINDS, find_metric, kind_of, metric_text

torch = pytest.importorskip("torch")
torchmetrics = pytest.importorskip("torchmetrics")
RNG = np.random.default_rng(5)


def figures(kind, outputs, labels, inputs=None):
    found = kind_of(kind)
    inputs = np.zeros((len(outputs), 1)) if inputs is None else inputs
    return found.figures(found.rows(np.asarray(outputs, np.float32), np.asarray(labels), inputs))


@pytest.mark.parametrize("coarse", [False, True])
def test_multi_label_equals_torchmetrics(coarse):
    from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

    truth = (RNG.random((200, 5)) < 0.3).astype(int)
    logits = RNG.normal(size=(200, 5)) + truth
    if coarse:  # int8 outputs have many ties
        logits = np.round(logits)
    made = figures("multi-label", logits, truth)
    scores, wanted = torch.from_numpy(logits), torch.from_numpy(truth)
    probabilities = scores.sigmoid()
    assert made["map"] == pytest.approx(float(multilabel_average_precision(probabilities, wanted, 5)), abs=1e-6)
    assert made["f1"] == pytest.approx(float(multilabel_f1_score(probabilities, wanted, 5)), abs=1e-6)
    micro = multilabel_f1_score(probabilities, wanted, 5, average="micro")
    assert made["f1_micro"] == pytest.approx(float(micro), abs=1e-6)
    # Probabilities say the same as their logits.
    again = figures("multi-label", probabilities.numpy(), truth)
    assert again == pytest.approx(made, abs=1e-9)


def test_average_precision_by_hand():
    # Ranked 1 0 1: at the first 1/1, at the third 2/3, each worth half of the positives.
    assert average_precision(np.array([3.0, 2, 1]), np.array([1, 0, 1])) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # Equal scores are one threshold: two of three.
    assert average_precision(np.zeros(3), np.array([1, 0, 1])) == pytest.approx(2 / 3)
    assert np.isnan(average_precision(np.zeros(3), np.zeros(3)))


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_equals_torchmetrics(outputs):
    from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score

    truth = RNG.normal(size=(100, outputs)).astype(np.float32)
    made = truth + RNG.normal(size=truth.shape).astype(np.float32) / 3
    found = figures("regression", made, truth)
    a, b = torch.from_numpy(made), torch.from_numpy(truth)
    assert found["mae"] == pytest.approx(float(mean_absolute_error(a, b)), rel=1e-5)
    assert found["rmse"] == pytest.approx(float(mean_squared_error(a, b, squared=False)), rel=1e-5)
    assert found["r2"] == pytest.approx(float(r2_score(a, b)), rel=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_anomaly_equals_torchmetrics(ties):
    from torchmetrics.functional.classification import binary_auroc

    truth = (RNG.random(300) < 0.4).astype(int)
    scores = RNG.normal(size=300) + truth
    if ties:
        scores = np.round(2 * scores) / 2
    scaled = torch.from_numpy((scores - scores.min()) / np.ptp(scores))
    wanted = torch.from_numpy(truth)
    assert area_under_curve(scores, truth) == pytest.approx(float(binary_auroc(scaled, wanted)), abs=1e-6)
    partial = float(binary_auroc(scaled, wanted, max_fpr=0.1))
    assert partial_area(scores, truth) == pytest.approx(partial, abs=1e-5)


def test_a_reconstruction_is_scored_by_its_error_and_parts_of_a_recording_together():
    inputs = np.zeros((6, 2), np.float32)
    # Recordings a (normal) and b (anomalous), three parts each: means 2 and 4, though one part of a is the worst.
    outputs = np.sqrt(np.array([[6, 6], [0, 0], [0, 0], [4, 4], [4, 4], [4, 4]], np.float32))
    samples = Samples(("normal", "anomalous"), tuple("aaabbb"), groups=("fan",) * 6)
    found = Evaluation(kind_of("anomaly"), samples)
    for part in (slice(0, 4), slice(4, 6)):
        found.add(outputs[part], np.array([0, 0, 0, 1, 1, 1])[part], inputs[part])
    assert np.allclose(found.rows, [[2, 0], [4, 1]])
    made = found.result(normal=np.array([[1.0, 0], [3.0, 0]]))
    assert (made["total"], made["value"], made["metric"]) == (2, 1.0, "auc")
    assert made["by_machine"]["fan"] == {"total": 2, "auc": 1.0, "pauc": 1.0}
    threshold = made["threshold"]
    assert threshold["score"] == pytest.approx(2.8)
    assert (threshold["found"], threshold["false_alarms"]) == (1.0, 0.0)


def test_without_an_anomaly_nothing_is_defined_and_nothing_fails():
    found = Evaluation(kind_of("anomaly"), Samples(("normal", "anomalous")))
    found.add(np.ones((4, 1)), np.zeros(4, int), np.zeros((4, 3)))
    made = found.result()
    assert made["value"] is None
    assert made["intervals"]["auc"] is None


def test_segmentation_equals_torchmetrics_and_leaves_pixels_out():
    from torchmetrics.functional.classification import multiclass_jaccard_index

    outputs, masks = RNG.normal(size=(4, 3, 6, 5)), RNG.integers(0, 3, (4, 6, 5)).astype(np.uint8)
    masks[0, :2] = IGNORED
    found = figures("segmentation", outputs, masks)
    chosen, wanted = torch.from_numpy(outputs.argmax(1)), torch.from_numpy(masks.astype(np.int64))
    jaccard = multiclass_jaccard_index(chosen, wanted, 3, average="macro", ignore_index=IGNORED)
    assert found["mean_iou"] == pytest.approx(float(jaccard), abs=1e-6)
    counted = masks != IGNORED
    assert found["pixel_accuracy"] == pytest.approx(float((outputs.argmax(1) == masks)[counted].mean()))


def test_losses_by_hand():
    outputs, inputs = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0]])
    assert float(kind_of("anomaly").loss(outputs, torch.tensor([0]), inputs, 0.0)) == pytest.approx((1 + 4) / 2)
    assert float(kind_of("regression").loss(outputs, torch.tensor([[1.0, 1.0]]), inputs, 0.0)) == pytest.approx(2.0)
    bce = np.log1p(np.exp(-1.0)) / 2 + np.log1p(np.exp(3.0)) / 2
    assert float(kind_of("multi-label").loss(outputs, torch.tensor([[1.0, 0.0]]), inputs, 0.0)) == pytest.approx(bce)
    logits = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]]])  # one row of two pixels, the second to be ignored
    loss = kind_of("segmentation").loss(logits, torch.tensor([[[1, IGNORED]]], dtype=torch.uint8), inputs, 0.0)
    assert float(loss) == pytest.approx(np.log(2))
    with pytest.raises(UsageError, match=r'train\.loss = "package'):
        kind_of("detection").loss(outputs, torch.zeros(1, 5), inputs, 0.0)


def test_intervals_draw_whole_recordings():
    values = np.repeat([0.0, 1.0], 50)[:, None]

    def mean(rows):
        return {"mean": float(rows.mean())}

    apart = bootstrap_figures(values, mean)["mean"]
    together = bootstrap_figures(values, mean, ["a"] * 50 + ["b"] * 50)["mean"]
    assert apart is not None
    assert apart[0] == pytest.approx(0.4, abs=0.05)
    assert together == [0.0, 1.0]


TASKS = {
    "multi-label": (np.eye(3, dtype=int), ("a", "b", "c")),
    "regression": (np.array([0.5, 1.5, 2.5]), ()),
    "anomaly": (np.array([0, 0, 1]), ("normal", "anomalous")),
    "segmentation": (np.zeros((3, 4, 4), np.uint8), ("sky", "tree")),
    "detection": (np.zeros((3, 2, 5)), ()),
    "classification": (np.array([0, 1, 0]), ("a", "b")),
}


def make_task(kind, labels, classes, **more):
    split = Split(("x", "y", "z"), labels)
    return Task("own", classes, (1, 4, 4), "f", {"test": split}, lambda _: np.zeros((3, 1, 4, 4)), kind=kind, **more)


def test_every_kind_makes_a_task():
    assert set(TASKS) == set(KINDS)
    shapes = {kind: make_task(kind, *TASKS[kind]).output_shape for kind in TASKS}
    assert shapes == {
        "multi-label": (3,),
        "regression": (1,),
        "anomaly": None,
        "segmentation": (2, 4, 4),
        "detection": None,
        "classification": (2,),
    }


@pytest.mark.parametrize(
    ("kind", "labels", "classes", "words"),
    [
        ("multi-label", np.full((3, 2), 2), ("a", "b"), "are 0 and 1"),
        ("multi-label", np.zeros((3, 3)), ("a", "b"), r"\[N, 2\]"),
        ("regression", np.array([1, np.nan, 2]), (), "not finite"),
        ("anomaly", np.array([0, 1, 2]), ("normal", "anomalous"), "reach from 0 to 2"),
        ("segmentation", np.full((3, 2, 2), 7), ("a", "b"), "masks reach from 7 to 7"),
        ("segmentation", np.zeros(3, int), ("a", "b"), r"masks must be integers \[N, H, W\]"),
        ("classification", np.zeros(3), ("a", "b"), "vector of integers"),
        ("classification", np.zeros(3, int), ("a",), "2 or more different classes"),
        ("clasification", np.zeros(3, int), ("a", "b"), "did you mean 'classification'"),
    ],
)
def test_labels_that_do_not_fit_are_named(kind, labels, classes, words):
    with pytest.raises(UsageError, match=words):
        make_task(kind, labels, classes)


@pytest.mark.parametrize("kind", [name for name in TASKS if name != "detection"])
def test_arrays_say_their_kind_by_their_labels(tmp_path, kind):
    labels, classes = TASKS[kind]
    extra = {"kind": kind} if kind == "anomaly" else {}
    path = tmp_path / "own.npz"
    np.savez(path, x=np.zeros((3, 1, 4, 4), np.float32), y=labels, **({"labels": classes} if classes else {}), **extra)
    task = load_task(path)
    assert (task.kind, task.classes) == (kind, classes)
    assert np.array_equal(np.squeeze(task.split("test").labels), np.squeeze(labels))
    assert task.evaluation(task.split("test")) is not None


def test_labels_that_say_nothing_need_a_kind(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.zeros((3, 4), np.float32), y=np.full((3, 2), 7))
    with pytest.raises(UsageError, match="add an array kind, one of classification"):
        load_task(tmp_path / "own.npz")


def test_own_metrics_and_their_intervals(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef bias(outputs, labels):\n    return (outputs - labels).mean()\n"
    )
    monkeypatch.chdir(tmp_path)
    own = own_metrics(["mine:bias", "torchmetrics.functional.regression:mean_absolute_error"])
    found = Evaluation(kind_of("regression"), Samples(), own)
    found.add(np.array([[1.0], [2.0], [3.0]]), np.array([[0.0], [1.0], [2.5]], np.float32), np.zeros((3, 1)))
    made = found.result()
    assert made["metrics"]["bias"] == pytest.approx(2.5 / 3)
    assert made["metrics"]["mean_absolute_error"] == pytest.approx(made["metrics"]["mae"])
    low, high = made["intervals"]["bias"]
    assert 0.5 <= low < high <= 1.0
    with pytest.raises(UsageError, match="called bias already"):
        own_metrics(["mine:bias", "mine:bias"])


def test_figures_as_text():
    assert metric_text("accuracy", 0.5) == "50.00 %"
    assert metric_text("auc", 0.85312) == "0.853"
    assert metric_text("rmse", 12.3456) == "12.35"
    assert metric_text("auc", None) == "-"
    assert find_metric("auc") is not None
    assert find_metric("own") is None
