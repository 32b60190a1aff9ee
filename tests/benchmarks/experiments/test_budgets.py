"""The page of budgets is what its results say, and a case is measured as the page claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgepress.benchmarks.experiments.budgets.held import DEVICES, NETWORKS, is_replaced, measured, twin_of, written
from edgepress.benchmarks.experiments.budgets.instructions import fitted, predicted
from edgepress.benchmarks.experiments.budgets.page import against_macs, summary

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks/results"

ROW = {
    "network": "a",
    "device": "cortex-m4",
    "budgets": ["macs"],
    "targets": {"macs": 10},
    "reached": {"macs": 10},
    "measured": {},
    "notes": [],
    "cpu_seconds": 2.0,
    "cpu_seconds_macs": 2.0,
}


def test_the_page_is_made_from_the_results():
    result = json.loads((RESULTS / "budgets.json").read_text())
    assert (ROOT / "docs/budgets.md").read_text() == written(RESULTS / "budgets.json")
    assert {row["network"] for row in result["rows"]} == set(NETWORKS)
    assert {row["device"] for row in result["rows"]} == set(DEVICES)


def test_a_row_above_its_target_is_counted():
    row = {**ROW, "targets": {"macs": 10}, "reached": {"macs": 11}}
    assert summary([row])[0].startswith("- 1 calls: 1 above a target, 0 with their tightest budget below 99 %")


def test_a_row_below_99_percent_is_maximal_only_where_the_call_said_so():
    row = {**ROW, "targets": {"macs": 100}, "reached": {"macs": 98}}
    said = {**row, "notes": ["macs is at 98.00 % of its limit and maximal: no group can have its next width; ..."]}
    bound = {**row, "notes": ["latency_ms of m0 binds, 9.99 ms of 10 ms: of what was asked 98.00 % is reached"]}
    assert summary([row, said, bound])[0].endswith(
        "3 with their tightest budget below 99 %, 1 of these maximal, 1 bound by another limit of the class."
    )


def test_the_gain_of_instructions_is_that_of_pairs():
    pair = {"network": "a", "share": 0.5}
    taken = {"instructions": 2_000_000, "macs": 100}
    pairs = [
        {
            **pair,
            "seed": seed,
            "macs": {**taken, "accuracy": one},
            "instructions": {**taken, "macs": 90, "accuracy": two},
        }
        for seed, one, two in ((0, 0.90, 0.91), (1, 0.80, 0.83))
    ]
    lines = against_macs({"pairs": pairs, "device": "cortex-m4", "epochs": 5, "command": "measure"})
    # Differences of 1 and 3 points: mean 2, deviation sqrt(2), of the mean 1; t(0.975; 1) = 12.706.
    assert "| a | 50% | 2 | 2.00 | 85.0 ± 7.1 % | 87.0 ± 5.7 % | +2.0 [-10.7, +14.7] | 0.900 |" in lines
    assert "Over all 2 pairs: -10.0 % more MACs at the same instructions, gain +2.0 [-10.7, +14.7] points." in lines
    assert against_macs({"pairs": []}) == []


def test_the_slowest_call_is_named():
    rows = [{**ROW, "network": name, "cpu_seconds": seconds} for name, seconds in (("a", 1.5), ("b", 3.0), ("c", 2.0))]
    assert "- The slowest of 3 calls takes 1.50 times that for MACs alone: b, cortex-m4, macs." in summary(rows)


def test_a_figure_that_classes_share_is_measured_once():
    macs = {**ROW, "network": "a"}
    assert twin_of([macs], ("a", "cortex-m7", ("macs",))) == {**macs, "device": "cortex-m7", "like": "cortex-m4"}
    arena = {**macs, "budgets": ["firmware_arena_bytes"]}
    assert twin_of([arena], ("a", "cortex-m7", ("firmware_arena_bytes",))) is not None  # both have the kernels dsp
    assert twin_of([arena], ("a", "cortex-m55", ("firmware_arena_bytes",))) is None
    assert twin_of([macs], ("b", "cortex-m7", ("macs",))) is None
    assert twin_of([{**macs, "before": True}], ("a", "cortex-m7", ("macs",))) is None


def test_a_row_of_before_is_replaced_by_its_case():
    before = {**ROW, "before": True}
    assert is_replaced(before, ("a", "cortex-m4", ("macs",)))
    assert not is_replaced(ROW, ("a", "cortex-m4", ("macs",)))
    assert not is_replaced(before, ("a", "cortex-m4", ("latency_ms",)))
    assert not is_replaced(before, ("a", "cortex-m7", ("macs",)))
    together = {**before, "budgets": ["macs", "latency_ms"]}
    assert is_replaced(together, ("a", "cortex-m4", ("macs", "latency_ms", "firmware_flash_bytes")))
    assert not is_replaced(together, ("a", "cortex-m4", ("macs",)))


def test_costs_are_found_again():
    """Layers made of known costs: least squares gives these costs back."""
    from edgepress.models.footprint.kernel_amounts import Window, conv_tiles

    costs = {"rounds": 20.0, "pairs": 80.0, "tiles": 30.0, "positions": 90.0, "layer": 500.0}
    rows = []
    for number, (size, in_c, out_c) in enumerate(
        [(6, 8, 5), (7, 3, 12), (9, 16, 16), (5, 4, 31), (8, 20, 7), (10, 6, 9)]
    ):
        window = Window((3, 3), (1, 1), (1, 1), (1, 1), (size, size), (size, size))
        own = conv_tiles(window, in_c, out_c, 1)
        count = sum(costs.get(name, 0.0) * amount for name, amount in own.items())
        layer = {"kind": "conv", "window": [list(v) for v in vars(window).values()], "sizes": [in_c, out_c, 1]}
        rows.append({"network": f"random-{number}", "layers": [{**layer, "instructions": count, "fast": True}]})
        rows[-1]["total"] = count + 10
    add = {"kind": "add", "window": None, "sizes": [64, 64], "instructions": 640, "fast": False}
    rows.append({"network": "random-9", "layers": [add], "total": 650})
    table = fitted(rows, "cortex-m4")
    for row in rows:
        assert predicted(row, table) == pytest.approx(row["total"], rel=1e-3)


@pytest.mark.slow
def test_a_case_holds_and_the_tools_agree():
    row = measured("DS-CNN", "cortex-m4", ("arena_bytes",))
    assert row["reached"]["arena_bytes"] <= row["targets"]["arena_bytes"]
    if "arena_bytes" in row["measured"]:
        assert row["measured"]["arena_bytes"] == pytest.approx(row["reached"]["arena_bytes"], abs=64)
