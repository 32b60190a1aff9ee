"""Folders in the layout of TAU Urban Acoustic Scenes 2022 Mobile: reading, cutting, caching, and everything bad."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgepress.models.errors import UsageError
from edgepress.models.tasks import LogMel, load_task, log_mel
from edgepress.models.tasks.sources import scenes as scenes_module

FRONT_END = LogMel(sample_rate_hz=8000, n_fft=256, window=256, hop=100, n_mels=16, fmax_hz=4000)
HEADER = "filename\tscene_label\tidentifier\tsource_label\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two scenes, five locations each; four for training on devices a and b, the fifth for test on a, b and s4."""
    root = tmp_path / "tau"
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    meta, train, test, rng = [], [], [], np.random.default_rng(0)
    for scene in ("park", "tram"):
        for place in range(5):
            for device in ("a", "b") if place < 4 else ("a", "b", "s4"):
                name = f"audio/{scene}-paris-{place}-{scene}-0-{device}.wav"
                soundfile.write(root / name, 0.1 * rng.standard_normal(8000), 8000, subtype="PCM_16")
                meta.append(f"{name}\t{scene}\tparis-{scene}{place}\t{device}\n")
                (train if place < 4 else test).append(f"{name}\t{scene}\n")
    (root / "meta.csv").write_text(HEADER + "".join(meta))
    setup = root / "evaluation_setup"
    (setup / "fold1_train.csv").write_text("filename\tscene_label\n" + "".join(train))
    (setup / "fold1_evaluate.csv").write_text("filename\tscene_label\n" + "".join(test))
    (setup / "fold1_test.csv").write_text("filename\n" + "".join(line.split("\t")[0] + "\n" for line in test))
    return root


def open_it(folder: Path | str, **options):
    cache = Path(str(folder).split("@")[0]).parent / "cache"
    return load_task(folder, **{"front_end": FRONT_END, "cache": cache, **options})


def test_splits_features_and_waveforms_belong_together(folder):
    task = open_it(folder)
    assert (task.classes, task.input_shape) == (("park", "tram"), (1, 16, 80))
    assert (task.recording_devices, task.unseen_devices) == (("a", "b", "s4"), ("s4",))
    train, validation, test = (task.split(name) for name in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test), len(task.split("calibration"))) == (12, 4, 6, 12)
    assert not set(train.identifiers) & set(validation.identifiers)
    for name in ("train", "validation", "test", "calibration"):
        split, waveforms, features = task.split(name), task.waveforms(name), task.features(name)
        assert (waveforms.dtype, features.dtype) == (np.int16, np.float32)
        assert features.shape == (len(split), 1, 16, 80)
        for row, clip in enumerate(split.names):
            assert np.array_equal(waveforms[row], soundfile.read(folder / clip, dtype="int16")[0])
            assert task.classes[split.labels[row]] in clip
        assert np.allclose(features, log_mel(waveforms, FRONT_END))
    assert isinstance(task.features("train"), np.memmap)


def test_the_second_time_nothing_is_decoded(folder, monkeypatch):
    first = open_it(folder)
    before = np.array(first.features("train"))
    monkeypatch.setattr(scenes_module, "decode", None)
    monkeypatch.setattr(scenes_module, "check_clips", None)
    second = open_it(folder)
    assert np.array_equal(second.features("train"), before)
    assert second.fingerprint == first.fingerprint


def test_a_changed_clip_is_noticed(folder):
    first = open_it(folder)
    before, clip = np.array(first.features("test")), first.split("test").names[0]
    samples = soundfile.read(folder / clip)[0]
    soundfile.write(folder / clip, samples[::-1] / 2, 8000, subtype="PCM_16")
    os.utime(folder / clip, ns=(1, 1))
    second = open_it(folder)
    assert not np.array_equal(second.features("test")[0], before[0])
    assert np.array_equal(second.features("test")[1:], before[1:])
    assert second.fingerprint != first.fingerprint


def test_the_fingerprint_depends_on_neither_place_nor_front_end(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere" / "tau", copy_function=shutil.copy)
    other = LogMel(sample_rate_hz=8000, n_fft=128, window=128, hop=100, n_mels=8, fmax_hz=4000)
    assert open_it(tmp_path / "elsewhere/tau", front_end=other).fingerprint == open_it(folder).fingerprint


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_bytes(b"nonsense"),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_cache_is_made_again(folder, damage):
    before = np.array(open_it(folder).features("train"))
    for path in (folder.parent / "cache").rglob("data.npy"):
        damage(path)
    assert np.array_equal(open_it(folder).features("train"), before)


def test_an_interrupted_computation_leaves_nothing_and_a_killed_one_is_swept(folder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scenes_module, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_it(folder).features("train")
    entries = folder.parent / "cache" / "waveforms"
    assert not [path for path in entries.iterdir() if path.is_dir()]
    open_it(folder).features("train")
    key = next(path.name for path in entries.iterdir() if path.is_dir())
    shutil.rmtree(entries / key)
    shutil.rmtree(folder.parent / "cache" / "features")
    (entries / f".{key}.killed.partial").mkdir()
    open_it(folder).features("train")
    assert [path.name for path in entries.iterdir() if path.is_dir()] == [key]


def test_resampling_and_fine_sources_keep_their_resolution(folder):
    for path in (folder / "audio").iterdir():
        tone = 1e-4 * np.sin(2 * np.pi * 1000 * np.arange(44100) / 44100)
        soundfile.write(path, tone, 44100, subtype="PCM_24")
    task = open_it(folder)
    waveforms = task.waveforms("test")
    assert (waveforms.shape, waveforms.dtype) == ((6, 8000), np.float32)
    expected = 1e-4 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    assert np.abs(waveforms[0] - expected)[100:-100].max() < 1e-6  # int16 would be off by 1.5e-5


def test_a_training_subset_is_chosen_by_name(folder):
    lines = (folder / "evaluation_setup/fold1_train.csv").read_text().splitlines(keepends=True)
    on_a = [line for line in lines if "-a." in line or "filename" in line]
    (folder / "evaluation_setup/split25.csv").write_text("".join(on_a))
    task = open_it(f"{folder}@split25")
    assert set(task.split("train").devices) == {"a"}
    assert len(task.split("train")) + len(task.split("validation")) == 8
    assert task.unseen_devices == ("b", "s4")
    with pytest.raises(UsageError, match=r"no evaluation_setup/split5\.csv"):
        open_it(f"{folder}@split5")


def test_test_labels_come_from_meta_where_there_is_no_evaluate(folder):
    labels = open_it(folder).split("test").labels
    (folder / "evaluation_setup/fold1_evaluate.csv").unlink()
    assert np.array_equal(open_it(folder).split("test").labels, labels)


def test_windows_line_ends_and_a_byte_order_mark_are_read(folder):
    path = folder / "meta.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(open_it(folder).split("test")) == 6


def test_a_location_in_train_and_test_is_noted(folder):
    path = folder / "meta.csv"
    path.write_text(path.read_text().replace("paris-park4", "paris-park0"))
    assert "paris-park0" in open_it(folder).notes[0]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


FIRST = "audio/park-paris-0-park-0-a.wav"


def change_rate(root):
    soundfile.write(root / FIRST, np.zeros(16000), 16000, subtype="PCM_16")


def change_length(root):
    soundfile.write(root / FIRST, np.zeros(4000), 8000, subtype="PCM_16")


def make_stereo(root):
    soundfile.write(root / FIRST, np.zeros((8000, 2)), 8000, subtype="PCM_16")


BAD = {
    "missing meta": (lambda root: (root / "meta.csv").unlink(), r"meta\.csv cannot be read \(No such file"),
    "missing split": (
        lambda root: (root / "evaluation_setup/fold1_train.csv").unlink(),
        r"no evaluation_setup/fold1_train",
    ),
    "missing column": (
        lambda root: edit(root / "meta.csv", "source_label", "device"),
        r"meta\.csv, line 1: the column source_label is missing; found 'filename'",
    ),
    "commas": (lambda root: (root / "meta.csv").write_text(HEADER.replace("\t", ",")), r"line 1: the columns filename"),
    "no rows": (lambda root: (root / "meta.csv").write_text(HEADER), r"meta\.csv lists no clip"),
    "binary": (lambda root: (root / "meta.csv").write_bytes(b"\xff\xfe\x00"), r"meta\.csv is no UTF-8 text"),
    "short row": (lambda root: edit(root / "meta.csv", "\tparis-park0\ta\n", "\n"), r"meta\.csv, line 2 has 2 columns"),
    "empty field": (lambda root: edit(root / "meta.csv", "\tparis-park0\t", "\t\t"), r"line 2: identifier is empty"),
    "twice": (
        lambda root: edit(root / "meta.csv", HEADER, HEADER + f"{FIRST}\tpark\tx\ta\n"),
        r"line 3: .* listed twice",
    ),
    "parent": (
        lambda root: edit(root / "meta.csv", FIRST, "../secret.wav"),
        r"line 2: filename '\.\./secret\.wav' leaves",
    ),
    "inner parent": (lambda root: edit(root / "meta.csv", FIRST, "audio/../../x.wav"), r"line 2: .* leaves the folder"),
    "absolute": (lambda root: edit(root / "meta.csv", FIRST, "/etc/passwd"), r"line 2: .* relative to the folder"),
    "split parent": (
        lambda root: edit(root / "evaluation_setup/fold1_train.csv", FIRST, "../x.wav"),
        r"fold1_train\.csv, line 2: .* leaves the folder",
    ),
    "unknown scene": (
        lambda root: edit(root / "evaluation_setup/fold1_train.csv", "\tpark\n", "\tmoon\n"),
        r"fold1_train\.csv, line 2: the scene 'moon' is unknown; meta\.csv has park, tram",
    ),
    "scene of one row": (
        lambda root: edit(root / "meta.csv", "\tpark\t", "\tmoon\t"),
        r"line 2: .* is 'park' here but 'moon' in meta",
    ),
    "not in meta": (
        lambda root: edit(root / "evaluation_setup/fold1_train.csv", FIRST, "audio/other.wav"),
        r"fold1_train\.csv, line 2: audio/other\.wav is not in meta",
    ),
    "train and test": (
        lambda root: edit(root / "evaluation_setup/fold1_evaluate.csv", "audio/park-paris-4-park-0-a.wav", FIRST),
        r"fold1_evaluate\.csv, line 2: .* is a training clip too \(.*line 2\)",
    ),
    "missing clip": (lambda root: (root / FIRST).unlink(), r"fold1_train\.csv, line 2: .*-a\.wav does not exist"),
    "text file": (lambda root: (root / FIRST).write_text("hello"), r"line 2: .*-a\.wav is no audio file"),
    "empty file": (lambda root: (root / FIRST).write_bytes(b""), r"line 2: .*-a\.wav is no audio file"),
    "wrong rate": (change_rate, r"line 2: .* has a rate of 16000 Hz; the other clips have 8000 Hz"),
    "wrong length": (change_length, r"line 2: .* is 0\.5 s long \(4000 samples\); the other clips are 1 s"),
    "truncated": (lambda root: (root / FIRST).write_bytes((root / FIRST).read_bytes()[:5000]), r"line 2: .* s long"),
    "stereo": (make_stereo, r"line 2: .* has 2 channels; clips must be mono"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_folders_name_file_and_line_and_leave_nothing(folder, case):
    damage, message = BAD[case]
    damage(folder)
    with pytest.raises(UsageError, match=message) as caught:
        open_it(folder)
    assert "\n" not in str(caught.value)
    cache = folder.parent / "cache"
    assert not cache.exists() or not [path for path in cache.rglob("*") if path.is_file()]


def test_many_bad_rows_are_reported_together(folder):
    for path in (folder / "audio").glob("park-*"):
        path.write_text("no audio")
    with pytest.raises(UsageError) as caught:
        open_it(folder)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("has 11 problems:")
    assert lines[-1] == "  ... and 6 more"
    assert len(lines) == 7


def test_samples_that_are_not_finite_are_refused(folder):
    soundfile.write(folder / FIRST, np.full(8000, np.nan), 8000, subtype="FLOAT")
    with pytest.raises(UsageError, match="not finite"):
        open_it(folder).features("train")


@pytest.mark.parametrize("source", ["/no/such/folder", "nosuchtask", "os:path@x"])
def test_unknown_sources_say_what_is_known(source):
    with pytest.raises(UsageError, match="neither an existing file or folder nor a known task"):
        load_task(source)


def test_unknown_and_empty_splits_are_refused(folder):
    task = open_it(folder)
    with pytest.raises(UsageError, match="allowed are train, validation, test, calibration"):
        task.split("dev")
    with pytest.raises(UsageError, match="stores no network inputs"):
        task.stored_inputs("test")


def test_a_factory_needs_trust_and_must_return_a_task(tmp_path, monkeypatch):
    (tmp_path / "own_task.py").write_text(
        "from dataclasses import replace\nimport numpy as np\nfrom edgepress.models.tasks import Split, Task\n"
        "from edgepress.models.tasks.front_ends.log_mel import LogMel\n"
        "def make(front_end=None):\n"
        "    split = Split(('p', 'q'), np.array([0, 1]))\n"
        "    return Task('own', ('x', 'y'), (3,), '00', {'test': split}, lambda name: np.zeros((2, 3), np.float32))\n"
        "def wrong():\n    return 3\n"
        "def plain():\n    return make()\n"
        "def heard():\n    task = make()\n    return replace(task, front_end=LogMel(n_mels=24))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="allow it with trust=True"):
        load_task("own_task:make")
    task = load_task("own_task:make", trust=True)
    assert (task.name, task.features("test").shape, task.recording_devices) == ("own", (2, 3), ())
    with pytest.raises(UsageError, match="holds no audio"):
        task.waveforms("test")
    with pytest.raises(UsageError, match="returned int"):
        load_task("own_task:wrong", trust=True)
    with pytest.raises(UsageError, match="takes no front_end"):
        load_task("own_task:plain", trust=True, front_end=FRONT_END)
    # A checkpoint asks for what it was trained with: the factory's own front end is no other one.
    assert load_task("own_task:heard", trust=True, front_end=LogMel(n_mels=24)).front_end == LogMel(n_mels=24)
    with pytest.raises(UsageError, match="takes no front_end"):
        load_task("own_task:heard", trust=True, front_end=LogMel(n_mels=25))
    with pytest.raises(UsageError, match="has no 'missing'"):
        load_task("own_task:missing", trust=True)


@pytest.mark.slow
def test_real_recordings_in_this_layout(shared, tmp_path):
    """ESC-10 Mobile, two clips a class and split, as the shared script builds it."""
    import subprocess
    import sys

    subprocess.run(
        [sys.executable, shared / "make_esc10_mobile.py", tmp_path / "esc", "--limit", "1"],
        check=True,
        capture_output=True,
    )
    task = load_task(tmp_path / "esc", cache=tmp_path / "cache")
    assert task.input_shape == (1, 256, 44)
    assert task.unseen_devices == ("s4", "s5", "s6")
    assert np.isfinite(task.features("test")).all()
    assert (
        len(task.features("test"))
        == len(task.split("test"))
        == 9 * len({name.rsplit("-", 1)[0] for name in task.split("test").names})
    )
