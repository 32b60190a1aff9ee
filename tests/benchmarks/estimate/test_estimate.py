"""Latency from published systems: the validation that is claimed, and no number without data."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgepress.benchmarks.estimate import fit_latency
from edgepress.benchmarks.estimate.estimate import estimate_latency, layer_kind, work_of
from edgepress.models.devices.classes import device_class
from edgepress.models.devices.device import DeviceClass
from edgepress.models.footprint.latency import systems_table
from tests.benchmarks.measure.profiles import small_profile

#: As far as they are there.
MODELS = {"kws": "kws_ref_model", "vww": "vww_96_int8", "ic": "pretrainedResnet_quant", "ad": "ad01_int8"}


@pytest.fixture(scope="module")
def systems(shared):
    return fit_latency.read_systems(shared / "data" / "mlperf_tiny_results.csv")


def reference_profile(task: str, **changes):
    """A profile with the work of a reference model."""
    conv, depthwise, dense, outputs = fit_latency.REFERENCE[task]
    layers = [
        {"name": "c", "kind": "conv", "macs": {"core": conv}, "output_shape": [1, outputs]},
        {"name": "d", "kind": "depthwise", "macs": {"core": depthwise}, "output_shape": [1, 5]},
        {"name": "f", "kind": "dense", "macs": {"core": dense}, "output_shape": [1, 5]},
    ]
    return small_profile(layers=layers, params=1000, weight_bytes=1200, **changes)


def test_three_coefficients_are_recovered_from_times_that_follow_them():
    truth = np.array([2.0, 9.0, 3.0])
    figures = {task: float(fit_latency.design([task], 20)[0] @ truth) for task in fit_latency.TASKS}
    np.testing.assert_allclose(fit_latency.fit(figures, 20), truth, rtol=1e-6)
    assert max(map(abs, fit_latency.held_out(figures, 20).values())) < 1e-6
    assert fit_latency.best_output_cost([figures]) == 20


def test_the_selection_is_the_one_that_was_written_down(systems):
    clean = [s for s in systems if s.clean and s.complete]
    assert len(clean) == 22
    assert {s.name.split("/")[0] for s in clean} == {"0.5", "0.7", "1.0"}
    assert not [s.name for s in clean if "raspberry" in s.name or "gap9" in s.name or "hls4ml" in s.name]
    assert sum(s.complete for s in systems) == 63


def test_held_out_errors_reach_the_goal_and_the_interval_covers_what_it_claims(systems):
    found = fit_latency.validate(systems)
    assert found["clean"]["mean_abs"] <= 0.09
    assert found["all"]["median_abs"] <= 0.10
    assert found["clean"]["coverage"] >= fit_latency.CLAIM
    assert found["all"]["coverage"] >= fit_latency.CLAIM
    assert found["clean"]["mean_abs"] < 0.6 * found["constant"], "better than MACs times a constant"


def test_the_committed_coefficients_are_what_the_command_makes(systems):
    """Sums of processors with other vector units differ in the last bits."""
    committed, made = (leaves(table) for table in (systems_table(), json.loads(json.dumps(fit_latency.table(systems)))))
    assert committed.keys() == made.keys()
    for name, value in committed.items():
        assert made[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


def leaves(value, name="") -> dict:
    """Whatever is no dictionary and no list in nested ones, by its path."""
    if not isinstance(value, dict | list):
        return {name: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {path: leaf for key, inner in pairs for path, leaf in leaves(inner, f"{name}/{key}").items()}


def test_the_work_of_the_reference_models_is_what_their_files_say(shared):
    from edgepress.benchmarks.measure.profiling import profile_of

    for task, name in MODELS.items():
        path = shared / "data" / "reference_models" / f"{name}.tflite"
        if not path.exists():
            continue
        macs, outputs, other = work_of(profile_of(path, arena=False))
        assert (macs["conv"], macs["depthwise"], macs["dense"], outputs) == fit_latency.REFERENCE[task], task
        assert other == 0


def test_the_estimate_of_a_reference_model_is_near_what_was_published():
    # Bosch's NUCLEO-L4R5ZI, v1.2: 60.2 ms for KWS; the coefficients were fitted to it and three others.
    board = DeviceClass("b", "", {}, "tflm", latency_systems=("1.2/bosch/NUCLEO_L4R5ZI_int8",))
    estimate = estimate_latency(reference_profile("kws"), board)
    assert estimate.latency_ms == pytest.approx(60.157, rel=0.1)
    assert estimate.low_ms < estimate.latency_ms < estimate.high_ms
    assert "80% interval" in estimate.note
    assert "1.2/bosch" in estimate.source


def test_other_engines_of_the_class_are_named():
    estimate = estimate_latency(reference_profile("vww"), device_class("cortex-m4"))
    assert "other engines: 0.5/reference/Nucleo-L4R5ZI" in estimate.note
    assert dict(estimate.others)["0.5/reference/Nucleo-L4R5ZI"] == pytest.approx(600, rel=0.25)
    assert estimate.energy_uj is not None


@pytest.mark.parametrize(
    ("device", "changes", "why"),
    [
        ("esp32-s3", {}, "no published measurements"),
        ("phone", {}, "no published measurements"),
        ("raspberry-pi-4", {}, "does not follow MACs"),
        ("cortex-m4", {"weight_bytes": 4000}, "this one is float"),
    ],
)
def test_no_data_no_number(device, changes, why):
    profile = {**reference_profile("kws"), **changes}
    estimate = estimate_latency(profile, device_class(device))
    assert estimate.latency_ms is None
    assert why in estimate.note


def test_kinds_that_were_never_measured_give_no_number():
    profile = reference_profile("kws")
    profile["layers"].append({"name": "a", "kind": "attention", "macs": {"core": 10**6}, "output_shape": [1]})
    assert "neither convolution nor dense" in estimate_latency(profile, device_class("cortex-m4")).note


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("CONV_2D", "conv"),
        ("DEPTHWISE_CONV_2D", "depthwise"),
        ("FULLY_CONNECTED", "dense"),
        ("Conv", "conv"),
        ("Gemm", "dense"),
        ("TRANSPOSE_CONV", "other"),
        ("ConvTranspose", "other"),
        ("SOFTMAX", "other"),
    ],
)
def test_kinds_by_operator(operator, kind):
    assert layer_kind({"operator": operator}) == kind


def test_vela_names_its_version_and_configuration(shared):
    pytest.importorskip("ethosu.vela")
    path = shared / "data" / "reference_models" / "kws_ref_model.tflite"
    estimate = estimate_latency({**small_profile(), "file": str(path)}, device_class("cortex-m55-ethos-u55"))
    assert estimate.latency_ms == pytest.approx(89_900 / 500e6 * 1e3, rel=0.01)
    assert "Vela 5." in estimate.source
    assert "ethos-u55-128, Ethos_U55_High_End_Embedded, Shared_Sram" in estimate.source
