"""Unlabelled evaluation sets are read strictly, and their predictions are kept row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepress.benchmarks.submission import predictions
from edgepress.benchmarks.submission.evaluation import open_evaluation
from edgepress.benchmarks.submission.predictions import GENERAL, Predictor, on_evaluation
from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.log_mel import LogMel

soundfile = pytest.importorskip("soundfile")
FRONT_END = LogMel(sample_rate_hz=8000, n_fft=256, window=256, hop=250, n_mels=4, fmax_hz=4000.0)


def write_clips(folder: Path, count: int, listed: str | None = None, text: str = "") -> Path:
    (folder / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        soundfile.write(folder / "audio" / f"{number}.wav", 0.1 * rng.standard_normal(8000), 8000, subtype="PCM_16")
    if listed:
        (folder / listed).parent.mkdir(exist_ok=True)
        (folder / listed).write_text(text)
    return folder


def test_clips_without_a_list_are_in_the_order_of_their_numbers(tmp_path):
    found = open_evaluation(write_clips(tmp_path, 12))
    assert found.names == tuple(f"{number}.wav" for number in range(12))
    assert found.devices is None
    assert found.clip_format().samples == 8000


def test_a_list_gives_order_and_recording_devices(tmp_path):
    text = "filename\tdevice_id\naudio/2.wav\ts1\naudio/0.wav\tunknown\n"
    found = open_evaluation(write_clips(tmp_path, 3, "evaluation_setup/fold1_test.csv", text))
    assert (found.names, found.devices) == (("2.wav", "0.wav"), ("s1", "unknown"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("filename\naudio/7.wav\n", "audio/7.wav does not exist"),
        ("filename\n0.wav\naudio/0.wav\n", "0.wav is listed twice"),
        ("filename\n../x.wav\n", "must be a path within the folder"),
        ("name\n0.wav\n", "filename is missing"),
    ],
)
def test_a_bad_list_is_refused_with_its_line(tmp_path, text, says):
    with pytest.raises(UsageError, match=says):
        open_evaluation(write_clips(tmp_path, 2, "meta.csv", text))


def test_a_folder_without_clips_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no clip"):
        open_evaluation(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        open_evaluation(tmp_path / "nowhere")


class Session:
    """Stands for a file: mean and loudest band of the features, times what its name says. Counts its clips."""

    seen = 0
    limit = 10**9

    def __init__(self, path: Path):
        self.factor = float(Path(path).stem)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, x):
        Session.seen += len(x)
        if Session.seen > Session.limit:
            raise KeyboardInterrupt
        return np.stack([x.mean((1, 2, 3)), x.max((1, 2, 3))], 1) * self.factor


@pytest.fixture(autouse=True)
def sessions(monkeypatch):
    from edgepress.deploy.runtimes import sessions

    monkeypatch.setattr(sessions, "open_session", lambda path, runtime: Session(path))
    monkeypatch.setattr(predictions, "_BLOCK", 4)
    Session.seen, Session.limit = 0, 10**9


def predictor(*models: tuple[str, str]) -> Predictor:
    files = {device: Path(f"{name}.tflite") for device, name in models}
    return Predictor(files, {device: f"sha-{path}" for device, path in files.items()}, FRONT_END, 2)


def expected(clips, factors) -> np.ndarray:
    features = clips.inputs(0, len(clips), FRONT_END, clips.clip_format())
    return np.stack([features.mean((1, 2, 3)), features.max((1, 2, 3))], 1) * np.array(factors)[:, None]


def test_a_killed_prediction_goes_on_where_it_was(tmp_path):
    clips = open_evaluation(write_clips(tmp_path / "set", 18))
    systems = [predictor((GENERAL, "1")), predictor((GENERAL, "3"))]
    Session.limit = 21  # in the third block, between the two systems
    with pytest.raises(KeyboardInterrupt):
        on_evaluation(systems, clips, tmp_path / "store")
    kept = sorted(path.stat().st_size // 8 for path in (tmp_path / "store").glob("*.rows"))
    assert kept == [8, 8] or kept == [8, 12]
    with next((tmp_path / "store").glob("*.rows")).open("ab") as file:
        file.write(b"torn")
    Session.limit, Session.seen = 10**9, 0
    found = on_evaluation(systems, clips, tmp_path / "store")
    assert Session.seen == 2 * 18 - sum(kept)
    np.testing.assert_allclose(found[0], expected(clips, [1] * 18), rtol=1e-5)
    np.testing.assert_allclose(found[1], expected(clips, [3] * 18), rtol=1e-5)
    Session.seen = 0
    again = on_evaluation(systems, clips, tmp_path / "store")
    assert Session.seen == 0
    np.testing.assert_array_equal(again, found)


def test_a_clip_goes_to_the_model_of_its_recording_device(tmp_path):
    devices = ["a", "s1", "unknown", "a", "s9", "s1"]
    text = "filename\tdevice_id\n" + "".join(f"{n}.wav\t{device}\n" for n, device in enumerate(devices))
    clips = open_evaluation(write_clips(tmp_path / "set", 6, "meta.csv", text))
    system = predictor((GENERAL, "1"), ("a", "10"), ("s1", "100"))
    (found,) = on_evaluation([system], clips, tmp_path / "store")
    np.testing.assert_allclose(found, expected(clips, [10, 100, 1, 10, 1, 100]), rtol=1e-5)


def test_equal_systems_are_predicted_once(tmp_path):
    clips = open_evaluation(write_clips(tmp_path / "set", 5))
    first, second = on_evaluation([predictor((GENERAL, "2"))] * 2, clips, tmp_path / "store")
    assert Session.seen == 5
    np.testing.assert_array_equal(first, second)


def test_a_changed_clip_is_predicted_anew_and_a_damaged_one_is_named(tmp_path):
    clips = open_evaluation(write_clips(tmp_path / "set", 5))
    on_evaluation([predictor((GENERAL, "2"))], clips, tmp_path / "store")
    (tmp_path / "set" / "audio" / "3.wav").write_bytes(b"RIFF")
    with pytest.raises(UsageError, match=r"3\.wav cannot be decoded"):
        on_evaluation([predictor((GENERAL, "2"))], open_evaluation(tmp_path / "set"), tmp_path / "store")


def test_outputs_that_are_not_finite_are_refused(tmp_path):
    clips = open_evaluation(write_clips(tmp_path / "set", 2))
    with pytest.raises(UsageError, match=r"nan\.tflite gives outputs that are not finite"):
        on_evaluation([predictor((GENERAL, "nan"))], clips, tmp_path / "store")
