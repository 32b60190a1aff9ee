"""Inputs from .npz and .npy files: what their numbers mean, and files that must not be read."""

from __future__ import annotations

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.deploy.verify.inputs import load_inputs, real_inputs
from edgepress.models.errors import UsageError

FLOAT = SimpleNamespace(inputs=(TensorDetails("x", (1, 1, 1, 2), "float32", None, None),), layouts={"inputs": ["NCHW"]})
#: An int8 input of its own scale, channels last, as TFLite files have it.
INT8 = SimpleNamespace(inputs=(TensorDetails("x", (1, 1, 1, 2), "int8", 2.0, 1),), layouts={"inputs": ["NHWC"]})
RAW = np.array([[[[-128, 0]]], [[[5, 127]]]], np.int8)  # [2, 1, 1, 2]


def save(folder, **arrays):
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


@pytest.mark.parametrize("scalar", [np.array("NHWC"), np.array(["NHWC"])])
def test_the_documented_form_with_splits_and_single_values(tmp_path, scalar):
    """0.5 * (-128 + 128), 0.5 * (0 + 128), ...: not the scale of the file, and only the test rows."""
    path = save(tmp_path, x=RAW, y=np.array([0, 1]), split=["train", "test"], layout=scalar, scale=0.5, zero_point=-128)
    for session in (FLOAT, INT8):
        inputs = load_inputs(path, session)
        assert inputs.arrays[0].tolist() == [[[[66.5]], [[127.5]]]]
        assert inputs.labels.tolist() == [1]


def test_integers_that_say_nothing_are_the_files_own(tmp_path):
    inputs = load_inputs(save(tmp_path, x=RAW), INT8)
    assert inputs.arrays[0].reshape(2, 2).tolist() == [[-258, -2], [8, 252]]  # 2 * (integer - 1)


def test_a_float_layout_is_heeded(tmp_path):
    inputs = load_inputs(save(tmp_path, x=np.arange(4.0).reshape(1, 1, 2, 2), layout="NHWC"), FLOAT)
    assert inputs.arrays[0].tolist() == [[[[0, 2]], [[1, 3]]]]


def test_bombs_and_claims_are_refused_before_they_unpack(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (25_000_000,)})
        for _ in range(100):
            file.write(bytes(1_000_000))
    with pytest.raises(UsageError, match="times its size"):
        load_inputs(tmp_path / "bomb.npz", FLOAT)
    with open(tmp_path / "claim.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(UsageError, match="more than the file holds"):
        load_inputs(tmp_path / "claim.npy", FLOAT)
    (tmp_path / "nested.npy").write_bytes(b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 0x2000)
    with pytest.raises(UsageError, match=r"no readable \.npy"):
        load_inputs(tmp_path / "nested.npy", FLOAT)


@pytest.mark.parametrize("form", ["images:{}", "{}/own.npz"])
def test_the_task_that_a_manifest_names_gives_its_own_inputs(tmp_path, monkeypatch, form):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (edgepress[images])")
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    for number in range(20):
        place = tmp_path / "set" / ("even", "odd")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((1, 2), 12 * number, np.uint8)).save(place)
    front_end = {"kind": "images", "height": 1, "width": 2, "channels": 1, "mean": [0.0], "std": [1.0]}
    np.savez(tmp_path / "set" / "own.npz", x=np.full((4, 1, 1, 2), 0.25, np.float32), y=[0, 1, 0, 1])
    notes: list[str] = []
    manifest = {"spec": {"task": form.format(tmp_path / "set"), "front_end": front_end}}
    found = real_inputs(None, FLOAT, manifest, 3, False, 0, notes)
    assert notes == []
    assert found.samples == 3
    assert found.source.startswith("set, test" if form.startswith("images") else str(tmp_path))
    steps = found.arrays[0] * 255 / 12 if form.startswith("images") else found.arrays[0] * 4
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)


def test_the_code_that_a_manifest_names_is_run_only_where_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "task_of_a_stranger.py").write_text(
        "import numpy as np\nfrom edgepress.models.tasks import Split, Task\n"
        "def load():\n"
        "    split = Split(('a', 'b'), np.array([0, 1]))\n"
        "    return Task('own', ('x', 'y'), (1, 1, 2), '0', {'test': split}, lambda name: np.ones((2, 1, 1, 2), 'f'))\n"
    )
    manifest, notes = {"spec": {"task": "task_of_a_stranger:load"}}, []
    assert real_inputs(None, FLOAT, manifest, 2, False, 0, notes) is None
    assert "give --data" in notes[0]
    assert real_inputs(None, FLOAT, manifest, 2, True, 0, notes).source == "own, test"
