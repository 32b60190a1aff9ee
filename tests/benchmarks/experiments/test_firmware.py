"""Linked firmware as figures of the gate, and what the firmware table says of its own figures."""

from __future__ import annotations

from copy import deepcopy

import pytest

from edgepress.benchmarks.experiments import firmware
from edgepress.benchmarks.gate import gate
from edgepress.benchmarks.gate.gate import evaluate_gate, exit_code
from edgepress.benchmarks.measure.linked_firmware import KIND, linked_firmware
from edgepress.deploy.artifact import write_manifest
from edgepress.deploy.firmware.boards import BOARDS, missing_tools
from edgepress.deploy.firmware.emulated import STACK_BYTES, EmulatedCore, memory_limits
from edgepress.deploy.firmware.sources import firmware as lowered
from edgepress.models.devices.classes import device_class
from edgepress.models.errors import UsageError, VerdictError
from edgepress.models.tasks.front_ends.log_mel import MEL22
from edgepress.models.tasks.front_ends.mfcc import Mfcc
from tests.benchmarks.measure.profiles import small_profile
from tests.deploy.integer_networks import random_network

needs_tools = pytest.mark.skipif(missing_tools("cortex-m4") is not None, reason=str(missing_tools("cortex-m4")))


def _record(**changes):
    return {
        "kind": KIND,
        "runtime": "cortex-m4",
        "sha256": small_profile()["sha256"],
        "fits": True,
        "flash_bytes": 40_000,
        "ram_bytes": 20_000,
        "stack_bytes": 300,
        "instructions": 5,
        "verdict": "",
        **changes,
    }


def test_linked_firmware_gives_flash_and_arena(monkeypatch):
    monkeypatch.setattr(gate, "_linked", lambda *_: _record())
    verdict = evaluate_gate(small_profile(), {"flash": "40 kB", "arena": "19 kB"}, runtime="cortex-m4", try_fixes=False)
    checks = {check["metric"]: check for check in verdict["checks"]}
    assert (checks["flash"]["value"], checks["flash"]["status"]) == (40_000, "passed")
    assert (checks["arena"]["over"], checks["arena"]["status"]) == (1_000, "failed")
    assert "300 B of stack" in checks["arena"]["note"]
    assert exit_code(verdict) == 1


def test_latency_estimates_hold_the_front_end(monkeypatch):
    found = {}
    for instructions in (None, 4_000_000):
        monkeypatch.setattr(gate, "_linked", lambda *_, n=instructions: _record(front_end_instructions=n))
        verdict = evaluate_gate(small_profile(), device="cortex-m4", runtime="cortex-m4", try_fixes=False)
        found[instructions] = next(check for check in verdict["checks"] if check["metric"] == "latency")
    # 4 M instructions of 1.5 cycles at 120 MHz are 50 ms.
    assert found[4_000_000]["value"] - found[None]["value"] == pytest.approx(50)
    assert "50.0 ms of it are the front end: 4,000,000 instructions" in found[4_000_000]["note"]
    assert "front end" not in found[None]["note"]


@pytest.mark.parametrize(
    ("front_end", "said"),
    [(MEL22.to_json(), "--runtime"), (Mfcc().to_json(), "not in it"), ({"kind": "images"}, ""), (None, "")],
)
def test_a_latency_estimate_without_the_front_end_says_so(front_end, said, tmp_path):
    (tmp_path / "m.tflite").write_bytes(random_network(3))
    write_manifest(
        tmp_path / "m.tflite", {"format": "tflite", "scheme": "w8a8", "spec": {"front_end": front_end}, "ranges": {}}
    )
    profile = small_profile() | {"file": str(tmp_path / "m.tflite")}
    verdict = evaluate_gate(profile, device="cortex-m4", try_fixes=False)
    note = next(check for check in verdict["checks"] if check["metric"] == "latency")["note"]
    assert ("front end" in note) == bool(said)
    assert said in note


def test_what_does_not_fit_is_a_verdict_even_where_no_limit_speaks_of_it(monkeypatch):
    monkeypatch.setattr(gate, "_linked", lambda *_: _record(fits=False, verdict="it exceeds RAM by 5 bytes"))
    with pytest.raises(VerdictError, match="RAM by 5 bytes"):
        evaluate_gate(small_profile(), {"macs": "2000"}, runtime="cortex-m4", try_fixes=False)


def test_a_runtime_without_firmware_is_refused(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(random_network(3))
    with pytest.raises(UsageError, match="cortex-m0plus, cortex-m3, cortex-m4"):
        linked_firmware(path, "litert")
    with pytest.raises(UsageError, match=r"needs a \.tflite"):
        evaluate_gate(small_profile(), {"macs": "1"}, runtime="cortex-m4")


def test_limits_of_the_linker_are_those_of_the_class():
    m7 = device_class("cortex-m7")
    assert memory_limits("cortex-m4", m7) == (int(m7.rules["flash"].maximum), m7.ram_bytes)
    assert memory_limits("cortex-m4") == memory_limits("cortex-m4", device_class("cortex-m4"))
    assert memory_limits("cortex-m3") == (BOARDS["cortex-m3"].flash_bytes, BOARDS["cortex-m3"].ram_bytes)


@needs_tools
def test_bytes_that_are_needed_are_known_where_the_linker_refuses(tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_bytes(random_network(3))
    with EmulatedCore(lowered(path), "cortex-m4") as core:
        sizes = core.sizes
    for limits, flash, ram in (
        ((sizes.flash - 400, 1 << 18), sizes.flash, None),
        ((1 << 20, sizes.ram + STACK_BYTES - 64), None, sizes.ram),
    ):
        monkeypatch.setattr("edgepress.deploy.firmware.emulated.memory_limits", lambda *_, limits=limits: limits)
        record = linked_firmware(path, "cortex-m4")
        assert not record["fits"]
        for found, needed in ((record["flash_bytes"], flash), (record["ram_bytes"], ram)):
            # The linker aligns within the memory that it is given: a few bytes.
            assert found is needed if needed is None else abs(found - needed) <= 32


@pytest.fixture
def table():
    row = {
        "core": "cortex-m4",
        "kernels": "dsp",
        "flash_limit_bytes": 1 << 20,
        "ram_limit_bytes": 1 << 18,
        "fits": True,
        "flash_bytes": 130_000,
        "ram_bytes": 50_000,
        "stack_bytes": 300,
        "inputs": 100,
        "equal": 100,
        "instructions": 58_000_000,
        "smallest_instructions": 57_900_000,
        "largest_instructions": 58_000_000,
        "per_mac": 1.29,
        "layers": [],
    }
    return {
        "networks": [
            {
                "name": "cp_resnet_20M",
                "macs": 20_000_000,
                "weight_bytes": 119_000,
                "arena_bytes": {"plain": 49_000, "tiled": 49_500, "dsp": 50_000},
                "tflm_arena_bytes": {"head": 49_000, "total": 60_000},
                "host": [{"kernels": "plain", "inputs": 100, "equal": 100}],
                "crude_cycles": {"cycles": 40_000_000, "instructions": 25_800_000, "per_mac": 2.0},
                "cores": [row],
            }
        ]
    }


def test_table(table):
    text = firmware.tables(table)
    assert "| cortex-m4 | dsp | 130,000 | 11,000 | 50,000 | 300 | 58,000,000 | 1.29 | 100/100 |" in text
    assert "RAM and stack take 19%, flash 12%" in text
    assert "| cp_resnet_20M | 2.00 | 3.07 | 1.29 | 2.5 | 130,000 | 134,996 |" in text
    assert firmware.violations(table) == []
    table["networks"][0]["crude_cycles"]["per_mac"] = 3.08
    table["networks"][0]["arena_bytes"]["plain"] = 49_001
    slow, large = firmware.violations(table)
    assert "3.08 crude cycles per MAC, CMSIS-NN's takes 3.07" in slow
    assert "an arena of 49,001 bytes" in large


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"per_mac": 1.31}, "1.310 instructions per MAC, allowed are 1.3"),
        ({"flash_bytes": 135_001}, "135,001 bytes of flash, CMSIS-NN's takes 134,996"),
        ({"equal": 99}, "departs from TFLite Micro"),
    ],
)
def test_every_mark_that_is_missed_is_named(table, change, said):
    changed = deepcopy(table)
    changed["networks"][0]["cores"][0].update(change)
    found = firmware.violations(changed)
    assert len(found) == 1
    assert said in found[0]
