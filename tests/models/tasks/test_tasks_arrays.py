"""Tasks in .npz files: layouts, integers, splits, and files that must not be read."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from edgepress.models.errors import UsageError
from edgepress.models.files import arrays as array_files
from edgepress.models.tasks import LogMel, load_task

X = np.arange(40 * 3 * 4, dtype=np.float32).reshape(40, 3, 4, 1).transpose(0, 3, 1, 2)
Y = np.arange(40) % 4


def save(tmp_path, **arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    return path


def test_the_keyword_set_keeps_its_integers(shared):
    task = load_task(shared / "data/kws01.npz")
    raw = np.load(shared / "data/kws01.npz")
    assert task.classes == tuple(raw["labels"])
    assert task.input_shape == (1, 49, 10)
    assert (task.stored.dtype, task.stored.layout, task.stored.quantized) == ("int8", "NHWC", True)
    assert np.array_equal(task.stored_inputs("test"), raw["x"])
    assert task.stored_inputs("test").dtype == np.int8
    assert task.features("test").shape == (1000, 1, 49, 10)
    assert np.array_equal(task.features("test")[:, 0], raw["x"][..., 0].astype(np.float32))
    assert np.array_equal(task.split("test").labels, raw["y"])
    assert task.split("test").names == tuple(raw["names"])
    with pytest.raises(UsageError, match=r"no train clips; it has test \(1000\) .*array `split`"):
        task.features("train")


def test_integers_become_real_by_scale_and_zero_point(tmp_path):
    x = np.array([[[[-128, 0]]], [[[5, 127]]]], np.int8)  # [2, 1, 1, 2], channels last
    task = load_task(save(tmp_path, x=x, y=np.array([0, 1]), scale=0.5, zero_point=-128))
    assert task.input_shape == (2, 1, 1)
    assert task.features("test").reshape(2, 2).tolist() == [[0, 64], [66.5, 127.5]]
    channels_first = load_task(save(tmp_path, x=x, y=np.array([0, 1]), layout="NCHW"))
    assert channels_first.input_shape == (1, 1, 2)


def test_float_inputs_are_channels_first(tmp_path):
    task = load_task(save(tmp_path, x=X, y=Y))
    assert (task.input_shape, task.classes) == ((1, 3, 4), ("0", "1", "2", "3"))
    assert not task.stored.quantized
    assert np.array_equal(task.features("test"), X)
    last = load_task(save(tmp_path, x=X.transpose(0, 2, 3, 1), y=Y, layout="NHWC"))
    assert np.array_equal(last.features("test"), X)
    assert load_task(save(tmp_path, x=X[:, 0, 0], y=Y)).input_shape == (4,)


def test_splits_devices_and_a_validation_cut_by_identifier(tmp_path):
    split = np.array(["train"] * 32 + ["test"] * 8)
    device = np.array(["a", "b"] * 16 + ["a", "s4"] * 4)
    people = np.array([f"person-{number // 4}" for number in range(40)])
    task = load_task(save(tmp_path, x=X, y=Y, split=split, device=device, identifiers=people))
    train, validation = task.split("train"), task.split("validation")
    assert (len(train), len(validation), len(task.split("test")), task.unseen_devices) == (28, 4, 8, ("s4",))
    assert not set(train.identifiers) & set(validation.identifiers)
    assert np.array_equal(task.features("validation")[:, 0, 0, 0] // 12 % 4, validation.labels)
    assert len(task.split("calibration")) == 28


def test_numbers_of_samples_go_with_them(tmp_path):
    split, number = np.array(["train"] * 32 + ["test"] * 8), np.arange(40) / 4
    number[2] = np.nan
    task = load_task(save(tmp_path, x=X, y=Y, split=split, attribute=number))
    assert np.array_equal(task.split("test").attributes, number[32:])
    assert task.fingerprint != load_task(save(tmp_path, x=X, y=Y, split=split)).fingerprint
    with pytest.raises(UsageError, match=r"attribute must be 40 numbers, not <U1 of shape \(40,\)"):
        load_task(save(tmp_path, x=X, y=Y, attribute=np.array(["a"] * 40)))


def test_own_validation_is_kept(tmp_path):
    split = np.array(["train"] * 20 + ["validation"] * 10 + ["test"] * 10)
    task = load_task(save(tmp_path, x=X, y=Y, split=split))
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [20, 10, 10]


def test_the_fingerprint_follows_the_content(tmp_path):
    first = load_task(save(tmp_path, x=X, y=Y)).fingerprint
    assert load_task(save(tmp_path, x=X, y=Y, names=np.array([f"n{i}" for i in range(40)]))).fingerprint == first
    assert load_task(save(tmp_path, x=X + 1, y=Y)).fingerprint != first


class Evil:
    """Would run code if it were unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


BAD = {
    "no y": ({"x": X}, "lacks the array 'y'"),
    "unknown": ({"x": X, "y": Y, "labls": Y}, "unknown array 'labls'"),
    "lengths": ({"x": X, "y": Y[:5]}, r"y must be 40 labels, not int64 of shape \(5,\)"),
    "labels of three dimensions": ({"x": X, "y": np.zeros((40, 2, 2))}, "says no kind of task"),
    "negative": ({"x": X, "y": Y - 1}, "start at 0"),
    "too few labels": ({"x": X, "y": Y, "labels": np.array(["p", "q"])}, "from 0 to 3, but there are 2 labels"),
    "one-dimensional": ({"x": Y * 1.0, "y": Y}, "x must be"),
    "type of x": ({"x": X.astype(np.int64), "y": Y}, "x must be floating, int8 or uint8"),
    "nan": ({"x": X * np.nan, "y": Y}, "not finite"),
    "split": ({"x": X, "y": Y, "split": np.array(["dev"] * 40)}, "split holds 'dev'"),
    "devices": ({"x": X, "y": Y, "device": np.array(["a"])}, "device must be 40 texts"),
    "layout": ({"x": X, "y": Y, "layout": "CHW"}, "allowed are NHWC and NCHW"),
    "scale": ({"x": X, "y": Y, "scale": -1.0}, "scale = -1.0 must be positive"),
    "objects": ({"x": X, "y": np.array([Evil()] * 40, object)}, "holds Python objects"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_files_are_refused(tmp_path, case):
    arrays, message = BAD[case]
    with pytest.raises(UsageError, match=message) as caught:
        load_task(save(tmp_path, **arrays))
    assert "own.npz" in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    whole = save(tmp_path, x=X, y=Y).read_bytes()
    for content in (b"", b"text", whole[:300], whole[:-10], whole[:200] + bytes(300) + whole[500:]):
        (tmp_path / "own.npz").write_bytes(content)
        with pytest.raises(UsageError, match=r"own\.npz"):
            load_task(tmp_path / "own.npz")
    with pytest.raises(UsageError, match=r"is a file of an unknown kind"):
        load_task(__file__)
    whole_again = save(tmp_path, x=X, y=Y)
    with pytest.raises(UsageError, match="no front end applies"):
        load_task(whole_again, front_end=LogMel())


def write_zip(path, header: dict, data: bytes, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", file.getvalue() + data)


def test_zip_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("an array was unpacked"))
    path = tmp_path / "bomb.npz"
    write_zip(path, {"descr": "|i1", "fortran_order": False, "shape": (2**27,)}, bytes(2**27))
    assert path.stat().st_size < 2**18
    with pytest.raises(UsageError, match="times its size"):
        load_task(path)
    with monkeypatch.context() as patch:
        patch.setattr(array_files, "LARGEST_BYTES", 2**26)
        with pytest.raises(UsageError, match=r"unpacks to 0\.1 GB"):
            load_task(path)
    for descr, shape in (("<f8", (2**40,)), ("<U0", (2**40,)), ("<f4", (2**20, 2**20, 2**20))):
        write_zip(path, {"descr": descr, "fortran_order": False, "shape": shape}, b"few")
        with pytest.raises(UsageError, match="more than the file holds"):
            load_task(path)
