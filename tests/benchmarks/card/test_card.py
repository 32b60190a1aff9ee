"""The result card: what it shows of one file, in a page that loads nothing and in Markdown that nothing can break."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from edgepress.benchmarks.card.card import as_html, card_paths, result_card
from edgepress.benchmarks.card.markdown import as_markdown
from edgepress.benchmarks.measure.profiling import profile_of
from edgepress.models.devices.classes import device_classes
from edgepress.models.errors import UsageError
from edgepress.models.tasks.kinds.intervals import wilson
from tests.benchmarks.test_cli import call

CLASSES = {name: device_classes()[name] for name in ("dcase2023", "cortex-m4")}


@pytest.fixture(scope="module")
def keywords(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    return shutil.copy(shared / "data" / "reference_models" / "kws_ref_model.tflite", folder / "a|b <i>.tflite")


@pytest.fixture(scope="module")
def records(keywords):
    sha256 = profile_of(keywords, arena=False)["sha256"]
    accuracy = {
        "schema": 1,
        "sha256": sha256,
        "runtime": "litert",
        "correct": 90,
        "total": 100,
        "accuracy": 0.9,
        "interval": [0.83, 0.94],
        "log_loss": 0.4,
        "by_class": {
            "yes": {"correct": 9, "total": 10, "accuracy": 0.9},
            "no|": {"correct": 81, "total": 90, "accuracy": 0.9},
        },
        "data": {"name": "words", "fingerprint": "f00d", "split": "test"},
        "environment": {"tools": {"numpy": "2.0"}},
    }
    timed = {"schema": 1, "kind": "latency", "sha256": sha256, "runtime": "litert", "p50_ms": 1.5, "p99_ms": 2.0}
    foreign = {**accuracy, "sha256": "0" * 64, "runtime": "tflm", "accuracy": 0.1}
    return [accuracy, {**timed, "cpu": "a core", "runs": 50}, foreign]


@pytest.fixture(scope="module")
def card(keywords, records):
    return result_card(keywords, results=records, classes=CLASSES, verify=False)


def test_the_text_has_every_rule_and_what_was_measured_of_this_file_alone(card):
    text = as_markdown(card)
    assert text.startswith("# a\\|b &lt;i&gt;.tflite\n")
    for row in (
        "| MACs, rule core | 2,656,768 |  |",
        "| MACs, rule nessi-tflite | 2,664,768 |  |",
        "| weights and biases | 24,368 B |  |",
        "| litert | 90 / 100 | 90.00 % | 83.0 to 94.0 % | 0.4000 | 1.5 ms | 2 ms | words |",
        "| latency on litert | a core, 50 runs |",
    ):
        assert row in text, row
    low, high = wilson(9, 10)
    assert f"| yes | 90.00 % of 10 | {100 * low:.1f} to {100 * high:.1f} % |" in text
    assert "| no\\| |" in text
    assert "fingerprint f00d" in text
    assert "tflm | 10" not in text, "a result of another file"
    assert "Not measured: nothing was compared." in text
    assert "who made it, and from what, is not known here" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_the_page_loads_nothing_and_has_a_dark_mode(card):
    page = as_html(card)
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.S)
    assert not re.search(r"src=|href=(?!\"#)|url\(|@import", markup)  # places of the page itself alone
    assert "<i>" not in markup
    assert "prefers-color-scheme: dark" in markup
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.S)[1])
    assert {"memory-chart", "limits-chart"} <= set(figures)
    memory = figures["memory-chart"][0]["data"]["values"]
    assert max(moment["live_bytes"] for moment in memory) == 16_000


def test_a_card_without_results_says_what_to_run(keywords):
    text = as_markdown(result_card(keywords, classes=CLASSES, verify=False))
    assert "Not measured: \\`benchmarks run" in text
    assert "accuracy on" not in text.split("## What it is")[0]


def test_other_kinds_of_tasks_show_their_metrics(keywords):
    record = {
        "schema": 1,
        "sha256": profile_of(keywords, arena=False)["sha256"],
        "runtime": "tflm",
        "task_kind": "anomaly",
        "metric": "auc",
        "value": 0.8125,
        "total": 64,
        "metrics": {"auc": 0.8125, "pauc": None},
        "intervals": {"auc": [0.75, 0.875], "pauc": None},
        "data": {"name": "machines", "split": "test", "fingerprint": "f00d"},
    }
    text = as_markdown(result_card(keywords, results=[record], classes=CLASSES, verify=False))
    row = next(line for line in text.splitlines() if line.startswith("| tflm | auc |"))
    assert [re.sub(r"\s", "", cell) for cell in row.split("|")[3:6]] == ["0.812", "0.750to0.875", "64"]
    assert "| metrics on tflm | machines, test, fingerprint f00d" in text
    assert "## Accuracy by runtime" not in text


def test_what_the_export_said_is_shown_only_with_the_file_it_speaks_of(keywords, tmp_path):
    path = shutil.copy(keywords, tmp_path / "m.tflite")
    pair = {
        "a": "torch",
        "b": "tflm",
        "samples": 20,
        "max_lsb": 2,
        "mean_lsb": 0.25,
        "equal": 0.75,
        "max_abs": 0.1,
        "label_agreement": 1.0,
        "label_interval": [0.9, 1.0],
        "relative": None,
    }
    manifest = {
        "sha256": profile_of(path, arena=False)["sha256"],
        "scheme": "w8a8",
        "spec": {"factory": "ds_cnn", "arguments": {"n_classes": 12}, "plan": {}},
        "tools": {"torch": "2.13.0"},
        "parity": {"pairs": [pair]},
    }
    beside = path.with_name("m.tflite.manifest.json")
    beside.write_text(json.dumps(manifest))
    text = as_markdown(result_card(path, classes=CLASSES))
    assert "| torch / tflm | 20 data | 2 LSB | 0.250 LSB | 75.0 % | 100.00 % | 90.0 to 100.0 % |" in text
    assert "| network | ds\\_cnn(n\\_classes=12) |" in text
    assert "| exported with | torch 2.13.0 |" in text
    by_library = {"samples": 16, "runtimes": {"tflm": {**pair, "samples": 16}}}
    beside.write_text(json.dumps({**manifest, "parity": by_library}))
    text = as_markdown(result_card(path, classes=CLASSES))
    assert "| torch / tflm | 16 of the export | 2 LSB |" in text
    beside.write_text(json.dumps({**manifest, "sha256": "0" * 64}))
    assert "ds\\_cnn" not in as_markdown(result_card(path, classes=CLASSES, verify=False))


def test_runtimes_are_compared_where_the_export_has_not(keywords):
    text = as_markdown(result_card(keywords, classes=CLASSES))
    parity = text.split("## Parity")[1].split("## ")[0]
    assert "| litert-reference / litert | 16 random |" in parity


def test_an_onnx_file_has_a_card_too(tmp_path):
    from tests.deploy.small_models import qdq_onnx

    path = tmp_path / "m.onnx"
    path.write_bytes(qdq_onnx())
    text = as_markdown(result_card(path, classes=CLASSES, verify=False))
    assert "| format | onnx," in text
    assert "TFLite Micro runs .tflite files" in text


def test_the_command_writes_both_and_replaces_nothing_unasked(capsys, keywords, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(keywords, "m.tflite")
    code, out, _ = call(capsys, "card", "m.tflite", "--no-verify")
    assert (code, out.split()) == (0, ["m.tflite.card.html", "m.tflite.card.md"])
    assert (tmp_path / "m.tflite.card.md").read_text().startswith("# m.tflite\n")
    assert call(capsys, "card", "m.tflite", "--no-verify")[0] == 2
    assert call(capsys, "card", "m.tflite", "--no-verify", "--overwrite", "-o", "v1/card.html")[0] == 0
    assert (tmp_path / "v1" / "card.md").is_file()
    assert call(capsys, "card", "none.tflite")[0] == 2


def test_where_a_card_goes(tmp_path):
    assert [path.name for path in card_paths(tmp_path / "m.tflite", None)] == ["m.tflite.card.html", "m.tflite.card.md"]
    assert [path.name for path in card_paths(tmp_path / "m.tflite", tmp_path / "c.md")] == ["c.html", "c.md"]
    assert [path.name for path in card_paths(tmp_path / "m.tflite", tmp_path / "v1.2")] == ["v1.2.html", "v1.2.md"]
    with pytest.raises(UsageError, match="no model"):
        result_card(tmp_path / "m.tflite")
