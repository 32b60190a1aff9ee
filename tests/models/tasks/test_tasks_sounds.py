"""Spoken words and machine sounds in folders: who is on which side, what is what, and the numbers of the front ends."""

import numpy as np
import pytest

from edgepress.models.errors import UsageError
from edgepress.models.tasks import load_task
from edgepress.models.tasks.front_ends.frames import Frames
from edgepress.models.tasks.front_ends.front_end import KINDS, read_front_end
from edgepress.models.tasks.front_ends.log_mel import log_mel
from edgepress.models.tasks.front_ends.mfcc import Mfcc, Waveform
from edgepress.models.tasks.sources.machines import _label, _machine, _split

soundfile = pytest.importorskip("soundfile")
RATE = 8000
SMALL = Mfcc(sample_rate_hz=RATE, window=240, hop=160, n_fft=256, fmax_hz=4000)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path, seconds=0.25, rate=RATE, value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, str(path.name))))
    wave = 0.1 * rng.normal(size=int(seconds * rate)) if value is None else np.full(int(seconds * rate), value)
    soundfile.write(path, wave, rate)


def words(folder, lists=True, names=("yes", "no", "cat")):
    for word in names:
        for speaker in range(10):
            for take in range(2):
                write(folder / word / f"{speaker:08x}_nohash_{take}.wav", 0.25 if take else 0.2)
    write(folder / "_background_noise_" / "rain.wav", 2.0)
    if lists:
        # Speaker 1 is named with one take only: the other one follows.
        (folder / "validation_list.txt").write_text("yes/00000000_nohash_0.wav\n")
        (folder / "testing_list.txt").write_text("yes/00000001_nohash_0.wav\nno/00000002_nohash_0.wav\n")
    return folder


def test_words_unknown_ones_and_silence(tmp_path):
    task = load_task(f"keywords:{words(tmp_path)}@yes,no", front_end=SMALL)
    assert task.classes == ("yes", "no", "_unknown_", "_silence_")
    assert task.input_shape == (1, 1 + (2000 - 240) // 160, 10)
    speakers = {name: set(task.split(name).identifiers) for name in ("train", "validation", "test")}
    spoken = {name: {one for one in found if len(one) == 8} for name, found in speakers.items()}
    assert spoken["validation"] == {"00000000"}
    assert spoken["test"] == {"00000001", "00000002"}
    assert spoken["train"] == {f"{number:08x}" for number in range(3, 10)}
    counts = {name: np.bincount(task.split(name).labels, minlength=4).tolist() for name in speakers}
    assert counts == {"train": [14, 14, 14, 14], "validation": [2, 2, 2, 2], "test": [4, 4, 4, 4]}
    features = task.features("test")
    assert features.shape == (16, *task.input_shape)
    assert np.isfinite(features).all()
    # A short clip is filled up with silence; what is written is what is read.
    name = task.split("test").names[0]
    wave, _ = soundfile.read(tmp_path / name, dtype="float32")
    padded = np.pad(wave, (0, 2000 - len(wave)))[None]
    assert np.allclose(features[0], SMALL.compute(padded)[0], atol=1e-5)
    again = load_task(f"keywords:{tmp_path}@yes,no", front_end=SMALL)
    assert again.fingerprint == task.fingerprint
    assert np.array_equal(again.features("test"), features)


def test_without_lists_speakers_are_cut(tmp_path):
    task = load_task(f"keywords:{words(tmp_path, lists=False)}", front_end=SMALL)
    assert task.classes == ("cat", "no", "yes", "_silence_")
    sides = [{one for one in task.split(name).identifiers if len(one) == 8} for name in ("train", "validation", "test")]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == 10


def test_bad_words_are_named(tmp_path):
    words(tmp_path)
    with pytest.raises(UsageError, match="there is no folder 'yse'"):
        load_task(f"keywords:{tmp_path}@yes,yse", front_end=SMALL)
    (tmp_path / "testing_list.txt").write_text("yes/gone.wav\n")
    with pytest.raises(UsageError, match=r"names yes/gone\.wav, which is not there"):
        load_task(f"keywords:{tmp_path}", front_end=SMALL)
    write(tmp_path / "yes" / "x_nohash_0.wav", rate=16000)
    (tmp_path / "testing_list.txt").unlink()
    with pytest.raises(UsageError, match=r"x_nohash_0\.wav has a rate of 16000 Hz, the others 8000 Hz: resample it"):
        load_task(f"keywords:{tmp_path}", front_end=SMALL)


def test_the_first_channel_is_heard_and_said(tmp_path):
    """As of MIMII, whose recordings have eight."""
    mono, many = words(tmp_path / "mono"), tmp_path / "many"
    for file in sorted(mono.rglob("*.wav")):
        wave, _ = soundfile.read(file)
        (many / file.relative_to(mono)).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(many / file.relative_to(mono), np.stack([wave, -0.5 * wave], 1), RATE)
    for name in ("validation_list.txt", "testing_list.txt"):
        (many / name).write_text((mono / name).read_text())
    one, two = load_task(f"keywords:{mono}", front_end=SMALL), load_task(f"keywords:{many}", front_end=SMALL)
    assert one.notes == ()
    assert two.notes == ("60 of 60 recordings have several channels: the first is heard",)
    np.testing.assert_array_equal(one.features("test"), two.features("test"))


def test_recordings_that_are_missing_empty_or_of_other_kinds_are_said(tmp_path):
    place = words(tmp_path)
    (place / "yes" / "x.mp3").write_bytes(b"")
    assert load_task(f"keywords:{place}", front_end=SMALL).notes == (
        "1 file ending in .mp3 is not read: convert to WAV or FLAC what belongs there",
    )
    (place / "maybe").mkdir()
    with pytest.raises(UsageError, match=r"the word 'maybe' has no \.wav or \.flac file"):
        load_task(f"keywords:{place}", front_end=SMALL)
    write(place / "maybe" / "a.wav", 0)
    with pytest.raises(UsageError, match=r"maybe/a\.wav holds no samples: take it out"):
        load_task(f"keywords:{place}", front_end=SMALL)


@pytest.mark.parametrize(
    ("name", "label", "split", "machine"),
    [
        ("fan/train/normal_id_00_00000001.wav", 0, "train", "fan/id_00"),
        ("fan/test/anomaly_id_02_00000001.wav", 1, "test", "fan/id_02"),
        ("ToyCar/test/section_00_target_test_anomaly_0003_noAttribute.wav", 1, "test", "ToyCar/section_00"),
        ("section_01_source_train_normal_0004.wav", 0, "train", "section_01"),
        ("6_dB_fan/fan/id_04/abnormal/00000001.wav", 1, None, "6_dB_fan/fan/id_04"),
        ("ToyCar/case1/AnomalousSound_IND/1.wav", 1, None, "ToyCar/case1"),
        ("ToyCar/case1/NormalSound_IND/1.wav", 0, None, "ToyCar/case1"),
        ("normal/1.wav", 0, None, "machine"),
        ("pump/train/1.wav", None, "train", "pump"),
    ],
)
def test_layouts(name, label, split, machine):
    assert (_label(name), _split(name), _machine(name)) == (label, split, machine)


FRAMES = Frames(sample_rate_hz=RATE, n_fft=256, hop=128, n_mels=16, frames=3, step=2)


def test_a_folder_of_machines(tmp_path):
    for machine in ("fan", "pump"):
        for number in range(8):
            write(tmp_path / machine / "train" / f"normal_id_00_{number}.wav")
        for number in range(3):
            write(tmp_path / machine / "test" / f"normal_id_00_{number}.wav")
            write(tmp_path / machine / "test" / f"anomaly_id_00_{number}.wav")
    task = load_task(f"sounds:{tmp_path}", front_end=FRAMES)
    frames = 1 + (2000 - 1) // 128
    windows = 1 + (frames - 3) // 2
    assert (task.kind, task.input_shape) == ("anomaly", (48,))
    assert len(task.split("test")) == 12 * windows
    assert set(task.split("test").groups) == {"fan/id_00", "pump/id_00"}
    assert not task.split("train").labels.any()
    assert not task.split("validation").labels.any()
    # A vector is three frames, oldest first.
    name = task.split("test").identifiers[0]
    wave, _ = soundfile.read(tmp_path / name, dtype="float32")
    spectrum = log_mel(wave[None], FRAMES.log_mel)[0, 0]
    vectors = task.features("test")[:windows]
    for number in range(windows):
        assert np.allclose(vectors[number], spectrum[:, 2 * number : 2 * number + 3].T.reshape(-1), atol=1e-5)
    # The score of a recording is the mean over its parts.
    found = task.evaluation(task.split("test"))
    found.add(np.zeros_like(task.features("test")), task.split("test").labels, task.features("test"))
    assert found.rows.shape == (12, 2)
    mean_square = float((vectors.astype(float) ** 2).mean())
    row = sorted(set(task.split("test").identifiers)).index(name)
    assert found.rows[row, 0] == pytest.approx(mean_square, rel=1e-5)


def test_two_folders_are_cut_and_mistakes_are_named(tmp_path):
    for number in range(20):
        write(tmp_path / "normal" / f"{number}.wav")
    for number in range(4):
        write(tmp_path / "anomalous" / f"{number}.wav")
    task = load_task(f"sounds:{tmp_path}", front_end=FRAMES)
    recordings = {name: set(task.split(name).identifiers) for name in ("train", "validation", "test")}
    assert {name: len(found) for name, found in recordings.items()} == {"train": 14, "validation": 2, "test": 8}
    write(tmp_path / "train" / "anomaly_1.wav")
    write(tmp_path / "what" / "1.wav")
    with pytest.raises(UsageError) as caught:
        load_task(f"sounds:{tmp_path}", front_end=FRAMES)
    assert "train/anomaly_1.wav: an anomalous recording lies in train" in str(caught.value)
    assert "what/1.wav: no word of its path says normal or anomalous" in str(caught.value)


def test_mfcc_by_other_tools():
    scipy_fft = pytest.importorskip("scipy.fft")
    signal = pytest.importorskip("scipy.signal")
    wave = np.random.default_rng(0).normal(size=16000).astype(np.float32) / 10
    config = Mfcc()
    made = config.compute(wave[None])
    assert made.shape == (1, 1, 49, 10)
    frame = wave[3 * 320 : 3 * 320 + 480] * signal.get_window("hann", 480)
    magnitude = np.abs(np.fft.rfft(frame, 512))
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 4000 / 700), 42)
    bins = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
    bands = np.array([np.interp(bins, edges[k : k + 3], [0, 1, 0], 0, 0) @ magnitude for k in range(40)])
    wanted = scipy_fft.dct(np.log(bands + 1e-6), norm="ortho")[:10]
    wanted[0] *= np.sqrt(2)  # as tf.signal has it
    assert np.allclose(made[0, 0, 3], wanted, atol=1e-3)
    whole = (wave * 32768).astype(np.int16)
    assert np.allclose(config.compute(whole[None]), config.compute((whole / 32768)[None].astype(np.float32)))


@pytest.mark.parametrize("front_end", [Mfcc(coefficients=12), Waveform(8000), FRAMES])
def test_front_ends_come_back_from_json(front_end):
    assert read_front_end(front_end.to_json()) == front_end
    assert front_end.kind in KINDS
    with pytest.raises(UsageError, match="is unknown"):
        read_front_end({**front_end.to_json(), "bands": 4})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "mfcc", "coefficients": 41}, r"coefficients = 41 must be an integer from 1 to 40"),
        ({"kind": "mfcc", "fmax_hz": 9000}, r"half of sample_rate_hz"),
        ({"kind": "frames", "frames": 0}, r"frames = 0 must be an integer"),
        ({"kind": "waveform", "sample_rate_hz": 1.5}, r"sample_rate_hz = 1\.5"),
        ({"kind": "mffc"}, r"did you mean 'mfcc'"),
    ],
)
def test_bad_front_ends_are_named(fields, words):
    with pytest.raises(UsageError, match=words):
        read_front_end(fields)
