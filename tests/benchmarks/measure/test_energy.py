"""Energy of trainings and of inference: what CodeCarbon says is kept, scaled and handed in; nothing is made up."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from edgepress.benchmarks.measure.inference_energy import inference_energy
from edgepress.benchmarks.submission.write import _energy
from edgepress.models.cost.energy import add_inference, kept_energy, measured_energy, read_energy
from edgepress.models.errors import RuntimeFailure
from tests.deploy.integer_networks import one_operator


class Tracker:
    """Stands for CodeCarbon's: every block takes what `kwh` says."""

    kwh = 0.002

    def __init__(self, **settings):
        assert settings["save_to_file"] is False

    def start(self):
        self.begun = True

    def stop(self):
        assert self.begun
        self.final_emissions_data = SimpleNamespace(
            energy_consumed=Tracker.kwh, tracking_mode="machine", codecarbon_version="3.3.2"
        )


@pytest.fixture
def codecarbon(monkeypatch):
    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = Tracker
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr(Tracker, "kwh", 0.002)


def test_a_run_that_goes_on_adds_up(tmp_path, codecarbon):
    with kept_energy(tmp_path):
        pass
    with pytest.raises(KeyboardInterrupt), kept_energy(tmp_path):
        raise KeyboardInterrupt
    found = read_energy(tmp_path)["training"]
    assert [record["kwh"] for record in found] == [0.002, 0.002]
    assert found[0]["tool"] == "codecarbon 3.3.2"
    model = SimpleNamespace(complexity={"sha256": "f00"})
    assert _energy(tmp_path, SimpleNamespace(general=model)) == {"training_kwh": pytest.approx(0.004)}
    add_inference(tmp_path, "f00", {"kwh": 0.1, "baseline": {"kwh": 0.3}})
    add_inference(tmp_path, "other", {"kwh": 9})
    assert _energy(tmp_path, SimpleNamespace(general=model)) == {
        "training_kwh": pytest.approx(0.004),
        "inference_kwh": 0.1,
        "baseline_inference_kwh": 0.3,
    }


def test_without_codecarbon_or_a_meter_there_is_no_number(tmp_path, codecarbon, monkeypatch):
    monkeypatch.setattr(Tracker, "kwh", 0.0)
    with pytest.raises(RuntimeFailure, match="finds no power meter"), kept_energy(tmp_path):
        pass
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(RuntimeFailure, match="pip install codecarbon"), measured_energy():
        pass
    assert read_energy(tmp_path)["training"] == []
    assert _energy(tmp_path, SimpleNamespace(general=SimpleNamespace(complexity={"sha256": "f00"}))) == {}


def test_inference_is_scaled_to_the_clips(tmp_path, codecarbon):
    (tmp_path / "net.tflite").write_bytes(one_operator("CONV_2D", 0))
    found = inference_energy(tmp_path / "net.tflite", 1000, seconds=0.2)
    assert found["measured_kwh"] == 0.002
    assert found["measured_clips"] % 64 == 0
    assert found["measured_clips"] > 0
    assert found["kwh"] == pytest.approx(0.002 * 1000 / found["measured_clips"])
    assert json.loads(json.dumps(found))["clips"] == 1000


def test_with_codecarbon_itself():
    pytest.importorskip("codecarbon", reason="CodeCarbon is not installed")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with measured_energy() as energy:
            sum(range(3_000_000))
    assert energy.kwh > 0
    assert energy.tool.startswith("codecarbon")
