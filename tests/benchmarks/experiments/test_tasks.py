"""What docs/tasks.md says: its set of sounds, what was measured on it, and why runtimes differ on streams."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgepress.benchmarks.experiments.tasks import machines
from edgepress.benchmarks.experiments.tasks.lstm import simulated
from edgepress.benchmarks.experiments.tasks.page import page
from edgepress.benchmarks.experiments.tasks.pictures import measured_pictures
from edgepress.benchmarks.experiments.tasks.streams import apart, spectra
from edgepress.benchmarks.measure.result_log import append
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from edgepress.models.tasks import load_task

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_made_of_the_results():
    result = json.loads((ROOT / "benchmarks/results/tasks.json").read_text())
    assert (ROOT / "docs/tasks.md").read_text() == page(result)
    assert result["anomaly"]["largest_difference"] <= 0.005
    assert all(one["passed"] == (one["accuracy"] >= 0.9) for one in result["keywords"]["runtimes"].values())


@pytest.fixture(scope="module")
def esc10(tmp_path_factory):
    """Two recordings of 5 s for each class: hum of the machines, a tone of half a second of the others."""
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (edgepress[audio])")
    folder, rng = tmp_path_factory.mktemp("esc10"), np.random.default_rng(0)
    for number, name in enumerate((*machines.MACHINES, *machines.FOREIGN)):
        place = folder / f"{number:03d} - {name.replace('_', ' ').capitalize()}"
        place.mkdir()
        for take in range(2):
            signal = 0.02 * (take + 1) * rng.normal(size=5 * 22050)
            if name in machines.FOREIGN:
                signal = np.zeros(5 * 22050)
                signal[44100 : 44100 + 11025] = 0.5 * np.sin(np.arange(11025) * 0.3)
            soundfile.write(place / f"{take + 1}-{number}{take}-A.ogg", signal, 22050)
    return folder


def test_a_set_of_sounds_that_go_wrong(esc10, tmp_path, monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    counts = machines.write(esc10, tmp_path / "set", 0.0)
    types = len(machines.MACHINES)
    assert counts == {"train normal": types * 6, "test normal": types * 4, "test anomalous": types * 4}
    for wrong in (tmp_path / "set").rglob("anomaly_*.wav"):
        _, clip, second, *foreign = wrong.stem.split("_")
        normal, _ = soundfile.read(wrong.with_name(f"normal_{clip}_{second}.wav"))
        mixture, rate = soundfile.read(wrong)
        assert (rate, len(mixture)) == (16000, 16000)
        assert "_".join(foreign) in machines.FOREIGN
        # The foreign sound is as loud as what it is mixed into, and every recording has one level.
        added = mixture - normal
        assert machines.level(added) == pytest.approx(machines.level(normal), rel=0.02)
        assert machines.level(normal) == pytest.approx(machines.LEVEL, rel=0.1)
    task = load_task(f"sounds:{tmp_path / 'set'}", cache=tmp_path / "cache")
    assert set(task.split("test").groups) == set(machines.MACHINES)
    assert not task.split("train").labels.any()
    with pytest.raises(UsageError, match="exists already"):
        machines.write(esc10, tmp_path / "set", 0.0)
    with pytest.raises(UsageError, match="no recordings of rain"):
        machines.write(tmp_path, tmp_path / "none", 0.0)


def test_the_loudest_second_is_found_and_faded():
    signal = np.zeros(5 * 16000, np.float32)
    signal[32000:40000] = 1
    part = machines.loudest_second(signal)
    assert part.sum() == pytest.approx(8000, abs=161)
    assert part[0] == part[-1] == 0


def test_magnitudes_of_a_tone():
    """512 samples hold 16 whole periods: all of it in bin 16, half the amplitude times the samples."""
    tone = np.cos(2 * np.pi * 16 / 512 * np.arange(16000)).astype(np.float32)
    found = spectra(tone, 60)
    assert found.shape == (60, 257)
    assert np.allclose(found[:, 16], 256, rtol=1e-4)
    assert np.delete(found, 16, 1).max() < 0.01


def test_the_step_in_which_the_runtimes_lstms_differ(shared):
    """With the saturation of the one, NumPy follows it, and not the other."""
    pytest.importorskip("tflite_micro", reason="TFLite Micro is not installed (edgepress[tflm])")
    path = shared / "data" / "outside_files" / "tflm_dtln.tflite"
    q = np.random.default_rng(0).integers(-128, 128, (24, 257)).astype(np.int8)
    made = {}
    for runtime in ("tflm", "litert-reference"):
        with open_session(path, runtime) as session:
            made[runtime] = session.run_integer(q[:, None, :], stream=True)
    both, sum_alone = simulated(path, q, True), simulated(path, q, False)
    assert apart(made["tflm"], both)["max_lsb"] <= 5
    assert apart(made["litert-reference"], sum_alone)["max_lsb"] <= 5
    assert apart(made["tflm"], sum_alone)["max_lsb"] >= 12
    assert apart(made["litert-reference"], both)["max_lsb"] >= 12


def test_other_operators_are_not_simulated(shared):
    with pytest.raises(UsageError, match="is not simulated"):
        simulated(shared / "data/reference_models/kws_ref_model.tflite", np.zeros((1, 490), np.int8), True)


def test_pictures_are_read_from_a_run(tmp_path):
    run, sha256 = RunDirectory(tmp_path / "run"), "ab" * 32
    with pytest.raises(UsageError, match="no file was measured there"):
        measured_pictures(run.path)
    for name, accuracy, facts in (("dense", 0.9, {}), ("dense-int8", 0.8, {"parent": "checkpoints/dense"})):
        place = run.place("checkpoint", name)
        place.mkdir(parents=True)
        run.add("checkpoint", name, place, macs=2_000_000, params=5, test_value=accuracy, task="synthetic", **facts)
    file = run.place("artifact", "net.tflite")
    file.parent.mkdir()
    file.write_bytes(b"...")
    run.add("artifact", file.name, file, sha256=sha256, format="tflite", checkpoint="dense-int8", file_bytes=1000)
    figures = {"kind": "accuracy", "sha256": sha256, "total": 10, "interval": [0.5, 0.9]}
    append(run, [{**figures, "runtime": r, "correct": n, "accuracy": n / 10} for r, n in (("tflm", 8), ("litert", 7))])
    found = measured_pictures(run.path)
    dense = found["networks"]["dense"]
    assert (dense["float"], dense["w8a8"], dense["runtimes"]["litert"]["correct"]) == (0.9, 0.8, 7)
    assert found["clips"]["test"] == len(load_task("synthetic").splits["test"])
    assert "| dense | 2.00 M | 1.0 kB | 90.00% | 80.00% | 70.00% | 50.00% to 90.00% |" in page({"pictures": found})
