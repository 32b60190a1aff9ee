"""The synthetic task: sounds, recording devices, who hears what, and one small set on disk."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgepress.models.tasks import load_task
from edgepress.models.tasks.sources import synthetic
from edgepress.models.tasks.sources.synthesis.microphones import (
    _BANDS_HZ,
    MICROPHONES,
    UNSEEN,
    impulse_response,
    record,
)
from edgepress.models.tasks.sources.synthesis.sounds import (
    LEVEL_DBFS,
    SAMPLES,
    SCENES,
    Place,
    coloured_noise,
    make_clip,
    normalised,
)

PLACE = Place((0.5,) * 8)


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_every_scene_is_finite_audible_and_repeatable(scene):
    for seed in range(5):
        sound = SCENES[scene](np.random.default_rng(seed), PLACE)
        assert sound.shape == (SAMPLES,)
        assert np.isfinite(sound).all()
        assert sound.std() > 1e-3
        assert np.array_equal(sound, SCENES[scene](np.random.default_rng(seed), PLACE))


def test_scenes_can_be_told_apart_by_a_few_numbers():
    """A nearest-centroid rule on coarse spectrum and envelope is right far more often than one time in ten."""
    rng = np.random.default_rng(0)

    def numbers(sound):
        power = np.abs(np.fft.rfft(normalised(sound))) ** 2
        bands = np.log([part.mean() for part in np.array_split(power, 24)])
        envelope = np.sort(np.abs(sound).reshape(160, -1).mean(1))
        return np.concatenate([bands, 3 * np.log(envelope[[8, 40, 80, 120, 152]] / envelope.mean() + 1e-3)])

    table = {
        scene: [numbers(make_clip(scene, Place(tuple(rng.uniform(0, 1, 8))), rng)) for _ in range(24)]
        for scene in SCENES
    }
    centroids = {scene: np.mean(rows[:16], 0) for scene, rows in table.items()}
    right = [
        min(centroids, key=lambda other: np.linalg.norm(row - centroids[other])) == scene
        for scene, rows in table.items()
        for row in rows[16:]
    ]
    assert np.mean(right) > 0.35


def test_clips_have_the_announced_level():
    for seed in range(10):
        clip = make_clip("rain", PLACE, np.random.default_rng(seed))
        assert LEVEL_DBFS[0] - 1e-6 <= 20 * np.log10(clip.std()) <= LEVEL_DBFS[1] + 1e-6


def test_noise_falls_with_its_slope():
    sounds = [coloured_noise(np.random.default_rng(seed), 2.0) for seed in range(40)]
    power = np.mean(np.abs(np.fft.rfft(sounds)) ** 2, 0)
    assert 10 * np.log10(power[400:600].mean() / power[1600:2400].mean()) == pytest.approx(20 * np.log10(4), abs=1)


@pytest.mark.parametrize("device", sorted(MICROPHONES))
def test_responses_are_those_of_the_table(device):
    microphone = MICROPHONES[device]
    response = impulse_response(device)[:255] if microphone.echo == 0 else None
    if response is None:  # with its reflection, the gain may depart by the reflection's level
        response, slack = impulse_response(device), 20 * np.log10(1 + microphone.echo) + 1
    else:
        slack = 1.0
    for hertz, decibels in list(zip(_BANDS_HZ, microphone.response_db, strict=True))[3:]:
        gain = np.abs(np.sum(response * np.exp(-2j * np.pi * hertz / 16000 * np.arange(len(response)))))
        assert 20 * np.log10(gain) == pytest.approx(decibels, abs=slack + 1.5)


def test_recording_keeps_time_adds_noise_and_compresses():
    click = np.zeros(SAMPLES)
    click[8000] = 0.5
    assert abs(int(np.argmax(np.abs(record(click, "a", np.random.default_rng(0))))) - 8000) <= 1
    silence = record(np.zeros(SAMPLES), "c", np.random.default_rng(0))
    assert 20 * np.log10(silence.std()) == pytest.approx(MICROPHONES["c"].noise_floor_dbfs, abs=0.1)
    burst = 0.01 * np.random.default_rng(1).standard_normal(SAMPLES) * np.where(np.arange(SAMPLES) % 4000 < 400, 10, 1)

    def spread(device):
        levels = np.sort((record(burst, device, np.random.default_rng(2)).reshape(100, -1) ** 2).mean(1))
        return 10 * np.log10(levels[-5] / levels[20])

    assert spread("s3") < spread("a") - 6


def test_the_plan_has_the_shares_of_tau():
    seconds = synthetic._plan(0)
    train = Counter(device for second in seconds if not second.test for device in second.devices)
    test = Counter(device for second in seconds if second.test for device in second.devices)
    assert 1900 < sum(train.values()) < 2100
    assert 0.70 < train["a"] / sum(train.values()) < 0.76
    assert not set(train) & set(UNSEEN)
    assert test == dict.fromkeys(MICROPHONES, 120)
    assert not {s.identifier for s in seconds if s.test} & {s.identifier for s in seconds if not s.test}
    names = [second.filename(device) for second in seconds for device in second.devices]
    assert len(names) == len(set(names))
    scenes = Counter(second.scene for second in seconds if second.test)
    assert set(scenes.values()) == {36}
    assert synthetic._plan(1) != seconds


def test_a_small_set_on_disk_is_read_like_a_real_one_and_made_once(tmp_path, monkeypatch):
    plan = [second for second in synthetic._plan(3) if second.place < 3 and second.segment == 0]
    monkeypatch.setattr(synthetic, "_plan", lambda seed: plan)
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / f".v{synthetic.VERSION}-seed3.killed.partial").mkdir()
    task = load_task("synthetic:3", cache=tmp_path)
    assert (task.name, task.classes, task.input_shape) == ("synthetic:3", tuple(sorted(SCENES)), (1, 128, 32))
    assert set(UNSEEN) <= set(task.unseen_devices)
    assert len(task.split("test")) == 90
    features = np.array(task.features("test"))
    assert np.isfinite(features).all()
    folder = tmp_path / "synthetic" / f"v{synthetic.VERSION}-seed3"
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]
    monkeypatch.setattr(synthetic, "write_synthetic", None)
    again = load_task("synthetic:3", cache=tmp_path)
    assert again.fingerprint == task.fingerprint
    assert np.array_equal(again.features("test"), features)
    # The same seed gives the same clips, whatever else was made, in whatever order.
    monkeypatch.undo()
    monkeypatch.setattr(synthetic, "_plan", lambda seed: plan[::-1][:20])
    synthetic.write_synthetic(tmp_path / "again", 3)
    clip = plan[-1].filename(plan[-1].devices[-1])
    assert (tmp_path / "again" / clip).read_bytes() == (folder / clip).read_bytes()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_write_second", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthetic.write_synthetic(tmp_path / "set")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_whole_set(tmp_path):
    task = load_task("synthetic", cache=tmp_path)
    sizes = {name: len(task.split(name)) for name in ("train", "validation", "test", "calibration")}
    assert sizes == {"train": 1742, "validation": 270, "test": 1080, "calibration": 128}
    for name in ("train", "test"):
        features = task.features(name)
        assert features.shape == (sizes[name], 1, 128, 32)
        assert np.isfinite(features).all()
        assert len(np.unique(features.reshape(len(features), -1)[:, :64], axis=0)) == sizes[name]
