"""The experiment on networks from outside: a dozen small ones in full, its counts, its goals and its page."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from edgepress.benchmarks.experiments.networks import parts, run
from edgepress.benchmarks.experiments.networks.catalogue import GROUPS, catalogue
from edgepress.benchmarks.experiments.networks.page import PAGE, RESULTS, page
from edgepress.benchmarks.experiments.networks.parts import decibels, measured
from edgepress.benchmarks.experiments.networks.run import Bounds, rows_of, run_all
from edgepress.benchmarks.experiments.networks.subject import Subject
from edgepress.benchmarks.experiments.networks.summary import goals
from edgepress.models.files.reading import read_json

#: Written here or in the zoo, so that they need no library; small, of each group but the transformers, of which one
#: takes longer than five others.
SMALL = (
    "cifar-tutorial",
    "resnet8",
    "unet-small",
    "centernet-small",
    "m5",
    "tcn",
    "bc-resnet-1",
    "autoencoder",
    "matchboxnet-3x1x64",
    "tc-resnet8",
    "ds_cnn",
    "kws-gru",
)


def test_the_list_has_sixty_networks_of_every_group():
    known = catalogue()
    assert len(known) >= 60
    counts = {group: sum(network.group == group for network in known.values()) for group in GROUPS}
    assert min(counts.values()) >= 3, counts
    assert set(SMALL) <= set(known)
    assert {known[name].group for name in SMALL} == set(GROUPS) - {"transformers"}
    first = [network.group for network in itertools.islice(known.values(), len(GROUPS))]
    assert sorted(first) == sorted(GROUPS)  # a run that stops early has seen them all


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_goes_through_ours(name: str, tmp_path: Path):
    """What the page's goals say, on networks that hold them."""
    subject = Subject(catalogue()[name], tmp_path)
    rows = {part: measured(subject, part) for part in ("prune", "quantize", "tflite")}
    assert not {part: row["error"] for part, row in rows.items() if "error" in row}
    for target in rows["prune"]["targets"]:
        assert 0.9 * target["share"] <= target["ratio"] <= target["share"]
        assert target["proof"] <= 1e-5
    assert 0 <= rows["prune"]["frozen_share"] < 0.05
    file = rows["tflite"]
    assert file["float_operators"] == {}
    assert file["snr_db"] > 10
    assert not file["runtimes"]["litert"]["skipped"]
    assert file["runtimes"]["litert"]["amplified"] or file["runtimes"]["litert"]["max_lsb"] <= 3


@pytest.mark.slow
def test_a_network_beside_other_tools(tmp_path: Path):
    known = {name: network for name, network in catalogue().items() if name == "cifar-tutorial"}
    said: list[str] = []
    rows = run_all(tmp_path, known, say=said.append)
    assert [part for _, part in rows] == list(parts.PARTS)
    found = {part: row for (_, part), row in rows.items()}
    assert not [row for row in rows.values() if "error" in row]
    for form in ("tflite", "onnx"):
        ours, plain = found[form], found[f"plain-{form}"]
        assert ours["file_bytes"] < plain["file_bytes"]
        assert ours["float_operators"] == plain["float_operators"] == {}
        assert ours["snr_db"] > 25
        assert plain["snr_db"] > 15
    assert all(target["same_outputs"] for target in found["torch-pruning"]["targets"])
    assert said[0].startswith("[1/1, 0 min left] cifar-tutorial, ")
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert run_all(tmp_path, known, say=said.append) == rows  # nothing is measured twice
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert not list((tmp_path / "files").iterdir())


def _dies(subject: Subject) -> dict:
    if subject.network.name == "m5":
        os.kill(os.getpid(), signal.SIGABRT)
    return {"alive": True}


def _loops(subject: Subject) -> dict:
    while True:
        pass


def _eats(subject: Subject) -> dict:
    return {"bytes": len(bytearray(64 << 30))}


@pytest.mark.slow
def test_what_dies_loops_or_eats_memory_is_a_row_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    known = {name: network for name, network in catalogue().items() if name in ("m5", "tcn")}
    monkeypatch.setattr(run, "CONTEXT", "fork")  # the children see these parts
    monkeypatch.setattr(run, "PRELOAD", ())
    mine = {"dies": _dies, "loops": _loops, "eats": _eats}
    for name, what in mine.items():
        monkeypatch.setitem(parts.PARTS, name, what)
    assert parts.PARTS is run.PARTS
    rows = run_all(tmp_path, known, tuple(mine), Bounds(cpu_s=1))
    assert list(rows) == [(name, part) for name in known for part in mine]
    assert rows["m5", "dies"] == {
        "network": "m5",
        "part": "dies",
        "error": "the process died of SIGABRT",
        "kind": "crash",
    }
    assert rows["tcn", "dies"]["alive"] is True
    for name in known:
        assert rows[name, "loops"]["error"] == "stopped after 1 CPU s"
        assert rows[name, "eats"]["error"].startswith("MemoryError")
    assert rows_of(tmp_path) == rows
    again = run_all(tmp_path, known, ("dies",), again=lambda row: "error" in row)
    assert again["m5", "dies"]["kind"] == "crash"
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(rows) + 1


def test_signal_to_noise_by_hand():
    wanted = [np.array([[3.0, 4.0]]), np.array([[1.0]])]
    # Noise of 0.25 in 12.5 and of 0 in 1: the mean of 0.02 and 0 is a hundredth.
    assert decibels([np.array([[3.5, 4.5]]), np.array([[1.0]])], wanted) == pytest.approx(20.0)
    assert decibels(wanted, wanted) is None
    with pytest.raises(ValueError, match="no number"):
        decibels([np.array([[np.nan, 4.0]]), np.array([[1.0]])], wanted)


def _network(name: str, **changes: dict) -> dict:
    rows = {
        "prune": {
            "cpu_s": 3.0,
            "macs": 1000,
            "params": 10,
            "frozen_share": 0.25,
            "targets": [
                {"share": 0.5, "ratio": 0.5, "proof": 1e-7, "cpu_s": 1.0},
                {"share": 0.25, "ratio": 0.249, "proof": 2e-7, "cpu_s": 2.0},
            ],
        },
        "quantize": {"cpu_s": 1.0},
        "tflite": {
            "cpu_s": 2.0,
            "file_bytes": 100,
            "float_operators": {},
            "snr_db": 30.0,
            "runtimes": {"litert": {"max_lsb": 1}, "tflm": {"max_lsb": 5, "amplified": True}},
        },
        "onnx": {
            "cpu_s": 3.0,
            "file_bytes": 100,
            "float_operators": {"Conv": 1},
            "snr_db": 30.0,
            "runtimes": {"onnxruntime": {"max_lsb": 0}},
        },
        "firmware": {"cpu_s": 0.1, "operators": 9},
        "plain-tflite": {"cpu_s": 1.0, "file_bytes": 100, "float_operators": {}, "snr_db": 20.0},
        "plain-onnx": {"cpu_s": 1.0, "file_bytes": 200, "float_operators": {"Conv": 1}, "snr_db": 31.0},
        "torch-pruning": {
            "cpu_s": 4.0,
            "targets": [
                {"share": 0.5, "ratio": 0.47, "cpu_s": 2.0, "same_outputs": True},
                {"share": 0.25, "ratio": 0.2, "cpu_s": 4.0, "same_outputs": False},
            ],
        },
    }
    for part, change in changes.items():
        part = part.replace("_", "-")
        rows[part] = change if "error" in change else {**rows[part], **change}
    return {"name": name, "group": "segmentation", "source": "a.py", "shapes": [[1, 3]], "parts": rows}


def test_goals_count_what_holds_and_name_what_does_not():
    refused = {"error": "no | such\noperator", "kind": "refused", "cpu_s": 1.0}
    networks = [
        _network("good"),
        _network(
            "bad",
            prune={"targets": [{"share": 0.5, "ratio": 0.51, "proof": 0.0, "cpu_s": 6.0}]},
            tflite={"file_bytes": 150, "float_operators": {"ADD": 2}, "snr_db": 29.0, "cpu_s": 20.0},
            onnx={"error": "RuntimeError: x", "kind": "fault", "cpu_s": 1.0},
        ),
        _network("refused", tflite=refused, firmware={"error": "there is no file", "kind": "not run"}),
        {"name": "not run", "group": "segmentation", "source": "", "shapes": [], "parts": {}},
    ]
    found = {goal.text: (goal.held, goal.of, goal.missed) for goal in goals(networks)}
    values = list(found.values())
    assert values[0] == (2, 3, ("bad: above the budget: [0.51]",))
    assert values[1] == (2, 3, ("refused: no / such operator",))
    assert values[2] == (2, 3, ("bad: RuntimeError: x",))
    assert values[3] == (2, 2, ())
    assert values[4] == (2, 2, ())
    assert values[5] == (1, 2, ("bad: 2 against 0 (ADD 2)",))
    assert values[6] == (2, 2, ())
    assert values[7] == (1, 2, ("bad: 29.0 dB against 31.0",))
    assert values[8] == (2, 2, ())  # 1.0 dB is allowed
    assert values[9] == (1, 2, ("bad: 1.50",))
    assert values[10] == (2, 2, ())
    assert values[11] == (2, 3, ("bad: 6.0 s",))
    assert values[12] == (1, 1, ())
    assert values[13] == (2, 3, ("bad: onnx: RuntimeError: x",))


def test_the_page_leaves_no_network_out():
    networks = [_network("one"), {"name": "two", "group": "detection", "source": "", "shapes": [], "parts": {}}]
    text = page(
        {
            "command": "python -m x",
            "date": "2026-01-02T00:00:00",
            "environment": {"cpu": "a cpu", "tools": {"torch": "2"}},
            "libraries": {"timm": "1", "torchvision": None},
            "networks": networks,
        }
    )
    assert "1 of 2 networks were run. Not run: two." in text
    assert (
        "| one | 1,000 | 0.5000 / 0.2490 | 2e-07 | 1.0 / 2.0 | 25 % | 0.4700 / 0.2000 (other outputs) | 4.0 |" in text
    )
    assert "| one | tflite | 100 / 100 | 0 / 0 | 30.0 / 20.0 | litert 1, tflm ~5 | yes | 1.0 + 2.0 |" in text
    assert "torch 2; timm 1." in text


def test_page_and_results_belong_together():
    assert PAGE.read_text(encoding="utf-8") == page(read_json(RESULTS))


def test_results_name_every_network_of_the_list_that_they_know():
    found = json.loads(RESULTS.read_text())
    assert len(found["networks"]) >= 60
    assert all(set(network["parts"]) <= set(parts.PARTS) for network in found["networks"])
