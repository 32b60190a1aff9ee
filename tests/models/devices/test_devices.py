"""Device classes and budgets.toml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.models.devices.classes import GateDefaults, device_class, device_classes, read_budgets
from edgepress.models.devices.device import METRICS
from edgepress.models.devices.schema import parse_hertz
from edgepress.models.errors import ConfigError, UsageError

NAMED = [
    "dcase2022",
    "dcase2023",
    "dcase2024",
    "dcase2025",
    "cortex-m0plus",
    "cortex-m3",
    "cortex-m4",
    "cortex-m7",
    "cortex-m33",
    "cortex-m55",
    "cortex-m55-ethos-u55",
    "cortex-m85",
    "esp32",
    "esp32-s3",
    "esp32-c3",
    "risc-v",
    "raspberry-pi-3",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "phone",
]
ROOT = Path(__file__).resolve().parents[3]


def budgets(folder: Path, text: str) -> Path:
    path = folder / "budgets.toml"
    path.write_text(text)
    return path


def test_every_class_is_there_and_every_number_has_its_source():
    known = device_classes()
    assert list(known) == NAMED
    for device in known.values():
        assert device.summary
        facts = [key for key in ("clock", "ram", "ram_reserved", "flash_runtime") if key in device.source]
        assert all(device.source[key] for key in [*device.rules, *facts]), device.name


def test_dcase2023_allows_thirty_million_macs_and_128000_bytes():
    limits = device_class("dcase2023").limits
    assert (limits.macs, limits.rule, limits.weight_bytes, limits.scheme) == (30_000_000, "dcase", 128_000, "w8a8")
    assert limits.given() == {"macs": 30_000_000, "weight_bytes": 128_000}


def test_what_pruning_can_hold_follows_from_flash_and_arena():
    device = device_class("cortex-m4")
    assert device.limits.weight_bytes == 2**20 - 115_000
    assert device.limits.peak_activation_bytes == device.limits.arena_bytes == 192 * 1024


def test_microcontrollers_run_tflite_micro_and_say_what_it_takes():
    for device in device_classes().values():
        if "arena" in device.rules:
            assert device.runtime == "tflm"
            assert 84_000 <= device.flash_runtime_bytes <= 115_000
            assert device.rules["arena"].maximum <= device.ram_bytes - device.ram_reserved_bytes


def test_latency_limits_of_the_shipped_classes_only_warn():
    assert {d.rules["latency"].level for d in device_classes().values() if "latency" in d.rules} == {"warn"}


def test_systems_behind_the_latency_estimates_exist():
    from edgepress.models.footprint.latency import systems_table

    published = systems_table()["latency_us"]["systems"]
    for device in device_classes().values():
        assert set(device.latency_systems) <= set(published), device.name


def test_the_page_is_what_the_command_prints():
    done = subprocess.run(
        [sys.executable, "-m", "edgepress.models.devices.page"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.stdout == (ROOT / "docs" / "devices.md").read_text(), (
        "python -m edgepress.models.devices.page > docs/devices.md"
    )


def test_budgets_override_one_entry_and_add_a_class(tmp_path):
    book = read_budgets(
        budgets(
            tmp_path,
            """
        schema = 1
        [gate]
        baseline = "git:main"
        [device.cortex-m4]
        arena = "96 KiB"
        latency = { level = "off" }
        [device.doorbell]
        like = "cortex-m33"
        accuracy = { min = "90%", max_drop = 0.01, runtime = "tflm" }
        [device.server]
        runtime = "onnxruntime"
        macs = { max = "1 G", max_growth = "5%", level = "warn" }
        macs_rule = "core"
        """,
        )
    )
    assert book.own == ("cortex-m4", "doorbell", "server")
    assert book.gate == GateDefaults(baselines=("git:main",))
    m4 = book.devices["cortex-m4"]
    assert m4.rules["arena"].maximum == 96 * 1024
    assert m4.rules["latency"].level == "off"
    assert m4.rules["latency"].maximum == 1000, "an override of the level keeps the limit"
    assert m4.limits.latency_ms is None, "what is off does not limit"
    assert m4.flash_runtime_bytes == 115_000
    bell = book.devices["doorbell"]
    assert bell.runtime == "tflm"
    assert (bell.rules["accuracy"].minimum, bell.rules["accuracy"].max_drop) == (0.9, 0.01)
    assert device_class("cortex-m4").rules["arena"].maximum == 192 * 1024, "the shipped class is untouched"
    assert book.devices["server"].limits.rule == "core"
    assert book.devices["server"].rules["macs"].max_growth == 0.05


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('file = "a.tflite"\nresults = "r.jsonl"', GateDefaults(("a.tflite",), results="r.jsonl")),
        (
            'file = ["a.tflite", "b/*.onnx"]\nbaseline = ["old/a.tflite", "git:main"]',
            GateDefaults(("a.tflite", "b/*.onnx"), ("old/a.tflite", "git:main")),
        ),
        (
            'baseline = { "a.tflite" = "old.json", "b.tflite" = "git:v1" }',
            GateDefaults(baseline_by_file={"a.tflite": "old.json", "b.tflite": "git:v1"}),
        ),
    ],
)
def test_the_gate_table_names_files_and_baselines_one_or_several(tmp_path, text, named):
    assert read_budgets(budgets(tmp_path, f"[gate]\n{text}\n")).gate == named


@pytest.mark.parametrize("value", ["3", "[1]", "[[]]", '""', '{ "a.tflite" = 3 }'])
def test_a_baseline_that_is_no_text_is_a_mistake(tmp_path, value):
    with pytest.raises(
        ConfigError, match=r"gate\.baseline: .* is none of a text, a list of texts, a table FILE = BASELINE"
    ):
        read_budgets(budgets(tmp_path, f"[gate]\nbaseline = {value}\n"))


def test_all_mistakes_are_reported_together(tmp_path):
    path = budgets(
        tmp_path,
        """
        flavour = "salt"
        [device.cortex-m4]
        flash = "512"
        arena = "many kB"
        speed = "1"
        latency = { max = "100 ms", level = "fatal" }
        [device.own]
        macs = "20 M"
        [device.other]
        like = "nothing"
        [device.third]
        like = "cortex-m4"
        arena = "10 MiB"
        accuracy = { max = 0.9 }
        [device.fourth]
        like = "cortex-m4"
        arena = "10 MiB"
        """,
    )
    with pytest.raises(ConfigError) as caught:
        read_budgets(path)
    text = str(caught.value)
    for part in (
        "flavour is an unknown key",
        "device.cortex-m4.flash: max = '512' has no unit",
        "device.cortex-m4.arena: max = 'many kB' is not a quantity",
        "device.cortex-m4.speed is an unknown key",
        "device.cortex-m4.latency.level",
        "device.own is new and needs runtime",
        "device.other.like = 'nothing'",
        "device.third.accuracy: accuracy has min and max_drop",
        "device.fourth.arena is larger than ram",
    ):
        assert part in text, part
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "= 1",
        "[device\n",
        "device = 3",
        "[device]\nx = 1",
        "schema = 2",
        "\0",
        "[device.m]\nruntime = 'tflm'\nmacs = [1]",
        "[device.m]\nruntime = 'abacus'",
        "[device.m]\nruntime = 'tflm'\nmacs = true",
        "[device.m]\nruntime='tflm'\nclock='9'",
        "[device.m]\nruntime = 'tflm'\nlatency = { level = 'warn' }",
    ],
)
def test_a_broken_file_is_one_error_with_its_name(tmp_path, text):
    path = budgets(tmp_path, text)
    with pytest.raises(UsageError, match=r"budgets\.toml"):
        read_budgets(path)


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_budgets(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no UTF-8"):
        read_budgets(tmp_path / "b.toml")


def test_names_of_metrics_and_frequencies():
    assert len(set(METRICS.values())) == len(METRICS)
    assert parse_hertz("1.5 GHz") == 1_500_000_000
    with pytest.raises(ValueError, match="frequency"):
        parse_hertz("120")
