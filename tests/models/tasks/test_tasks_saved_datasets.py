"""`hf:DIR` and tables in Parquet: what `datasets` saves to disk, read by pyarrow alone."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from edgepress.models.errors import UsageError
from edgepress.models.tasks import LogMel, load_task

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (edgepress[arrow])")
image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed (edgepress[images])")

IMAGE, AUDIO = {"_type": "Image"}, {"_type": "Audio", "sampling_rate": 16000}
EMBEDDED = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def png(pixels):
    buffer = io.BytesIO()
    image_module.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": "a.png"}


def wav(signal, rate=16000):
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (edgepress[audio])")
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, rate, subtype="PCM_16", format="WAV")
    return {"bytes": buffer.getvalue(), "path": None}


def save(folder, features, columns, shards=1):
    """One split as `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    embedded = [name for name, one in features.items() if one in (IMAGE, AUDIO)]
    arrays = {name: pyarrow.array(v, EMBEDDED if name in embedded else None) for name, v in columns.items()}
    table, files = pyarrow.table(arrays), []
    rows = -(-len(table) // shards)
    for number in range(shards):
        files.append(f"data-{number:05d}-of-{shards:05d}.arrow")
        with (
            pyarrow.OSFile(str(folder / files[-1]), "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table.slice(number * rows, rows))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def save_splits(folder, features, splits, **more):
    for name, columns in splits.items():
        save(folder / name, features, columns, **more)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def grey(count, value=None):
    rng = np.random.default_rng(count)
    return [
        png(rng.integers(0, 255, (6, 8), dtype=np.uint8) if value is None else np.full((6, 8), value, np.uint8))
        for _ in range(count)
    ]


def test_images_and_named_classes_in_splits_and_shards(tmp_path):
    features = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["bee", "ant"]}}
    pixels = np.arange(2 * 6 * 8 * 3, dtype=np.uint8).reshape(2, 6, 8, 3)
    folder = save_splits(
        tmp_path / "insects",
        features,
        {
            "train": {"image": [png(pixels[i % 2]) for i in range(10)], "label": [0, 1] * 5},
            "valid": {"image": grey(2), "label": [1, 0]},
            "test": {"image": [png(pixels[1]), png(pixels[0]), png(pixels[1])], "label": [1, 0, 1]},
        },
        shards=2,
    )
    task = load_task(f"hf:{folder}", cache=tmp_path / "cache")
    assert (task.name, task.kind, task.classes) == ("insects", "classification", ("bee", "ant"))
    assert task.input_shape == (3, 6, 8)
    assert [len(task.split(name)) for name in ("train", "validation", "test", "calibration")] == [10, 2, 3, 10]
    assert task.split("test").labels.tolist() == [1, 0, 1]
    expected = (np.moveaxis(pixels[[1, 0, 1]], -1, 1) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(task.features("test"), expected, atol=1e-6)
    assert load_task(f"hf:{folder}@image,label", cache=tmp_path / "cache").fingerprint == task.fingerprint


def test_without_splits_test_and_validation_are_cut_and_keep_speakers_together(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "audio": [wav(0.1 * rng.normal(size=16000)) for _ in range(40)],
        "label": ["yes", "no"] * 20,
        "speaker_id": [f"s{number // 4}" for number in range(40)],
        "attribute": [None, *np.arange(1.0, 40.0).tolist()],
    }
    features = {"audio": AUDIO, "label": {"_type": "Value", "dtype": "string"}, "speaker_id": {"_type": "Value"}}
    features["attribute"] = {"_type": "Value"}
    task = load_task(f"hf:{save(tmp_path / 'words', features, columns)}", cache=tmp_path / "cache")
    assert task.classes == ("no", "yes")
    sides = {name: set(task.split(name).identifiers) for name in ("train", "validation", "test")}
    assert sum(map(len, sides.values())) == 10
    assert set.union(*sides.values()) == {f"s{number}" for number in range(10)}
    assert 4 <= len(task.split("test")) <= 12
    assert "one row in five" in task.notes[0]
    row = int(task.split("test").names[0].partition("/")[2])
    assert task.split("test").labels[0] == [1, 0][row % 2]
    numbers = [float(name.partition("/")[2]) or np.nan for name in task.split("train").names]
    assert np.array_equal(task.split("train").attributes, numbers, equal_nan=True)
    assert task.features("test").shape == (len(task.split("test")), *task.input_shape)
    assert np.isfinite(task.features("test")).all()


@pytest.mark.parametrize(
    ("feature", "values", "kind", "classes", "first"),
    [
        ({"_type": "Value", "dtype": "float32"}, [0.5, -1.0, 2.0] * 8, "regression", (), 0.5),
        ({"_type": "Value", "dtype": "int64"}, [0, 2, 1] * 8, "classification", ("0", "1", "2"), 0),
        ({"_type": "Value", "dtype": "bool"}, [True, False, True] * 8, "classification", ("0", "1"), 1),
        (
            {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["x", "y", "z"]}},
            [[0, 2], [], [1]] * 8,
            "multi-label",
            ("x", "y", "z"),
            [1, 0, 1],
        ),
        ([{"_type": "Value", "dtype": "string"}], [["b", "a"], ["b"], ["a"]] * 8, "multi-label", ("a", "b"), [1, 1]),
    ],
)
def test_numbers_with_every_kind_of_label(tmp_path, feature, values, kind, classes, first):
    x = np.arange(24 * 6, dtype=np.float32).reshape(24, 2, 3)
    features = {"v": {"_type": "Array2D", "shape": [2, 3], "dtype": "float32"}, "label": feature}
    columns = {"v": x.tolist(), "label": values}
    folder = save_splits(tmp_path / "own", features, {"train": columns, "test": columns})
    if isinstance(feature, list):  # as older versions wrote a list
        features = {**features, "label": feature}
    task = load_task(f"hf:{folder}")
    assert (task.kind, task.classes, task.input_shape) == (kind, classes, (2, 3))
    np.testing.assert_array_equal(task.features("test"), x)
    assert np.squeeze(task.split("test").labels[0]).tolist() == first
    with pytest.raises(UsageError, match="leave the key front_end out"):
        load_task(f"hf:{folder}", front_end=LogMel())


def test_masks_are_images_of_class_numbers(tmp_path):
    features = {"image": IMAGE, "annotation": IMAGE}
    masks = [png(np.full((6, 8), number % 3, np.uint8)) for number in range(20)]
    folder = save(tmp_path / "masks", features, {"image": grey(20), "annotation": masks})
    task = load_task(f"hf:{folder}", cache=tmp_path / "cache")
    assert (task.kind, task.classes) == ("segmentation", ("0", "1", "2"))
    row = int(task.split("train").names[0].partition("/")[2])
    assert (task.split("train").labels[0] == row % 3).all()


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


WRONG = [
    (lambda folder: (folder / "state.json").unlink(), "save_to_disk"),
    (
        lambda folder: edit_json(folder / "state.json", _data_files=[{"filename": "../x"}]),
        "names no files of this folder",
    ),
    (lambda folder: edit_json(folder / "state.json", _indices_data_files=[{}]), "flatten_indices"),
    (lambda folder: edit_json(folder / "dataset_info.json", features=None), "says no features"),
    (lambda folder: next(folder.glob("*.arrow")).unlink(), "cannot read"),
    (lambda folder: next(folder.glob("*.arrow")).write_bytes(b"nothing"), "no Arrow stream"),
    (
        lambda folder: edit_json(folder / "dataset_info.json", features={"image": IMAGE, "kind": {"_type": "Value"}}),
        r"which column holds the labels\? Say hf:DIR@INPUT,LABEL",
    ),
    (
        lambda folder: edit_json(
            folder / "dataset_info.json", features={"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["one"]}}
        ),
        "label reaches from 0 to 1, for 1 classes",
    ),
    (
        lambda folder: edit_json(folder / "dataset_info.json", features={"picture": IMAGE, "label": {}}),
        "no column 'picture'",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_what_is_wrong_is_one_sentence(tmp_path, spoil, message):
    features = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    folder = save(tmp_path / "spoilt", features, {"image": grey(4), "label": [0, 1, 0, 1]})
    spoil(folder)
    with pytest.raises(UsageError, match=message):
        load_task(f"hf:{folder}", cache=tmp_path / "cache")


def test_a_damaged_stream_ends_in_a_sentence_wherever_it_is_damaged(tmp_path):
    features = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    folder = save(tmp_path / "spoilt", features, {"image": grey(6), "label": [0, 1] * 3})
    file = next(folder.glob("*.arrow"))
    whole, rng = file.read_bytes(), np.random.default_rng(1)
    refused = 0
    for place in rng.integers(0, len(whole), 60):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(spoilt)
        try:
            task = load_task(f"hf:{folder}", cache=tmp_path / f"cache{place}")
            task.features("train")
        except UsageError as error:
            refused += "\n" not in str(error)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError):
        load_task(f"hf:{folder}")
    assert refused > 10


def test_files_outside_of_a_dataset_are_not_read(tmp_path):
    features = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    outside = [{"bytes": None, "path": "/etc/hostname"}] * 4
    folder = save(tmp_path / "outside", features, {"image": outside, "label": [0, 1, 0, 1]})
    with pytest.raises(UsageError, match="files outside of a dataset are not read"):
        load_task(f"hf:{folder}")


@pytest.mark.filterwarnings("ignore")
def test_what_datasets_saves_is_read(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

    # Its dill fails on some versions of pyarrow; the names of its cache are not what is tested.
    monkeypatch.setattr(datasets.arrow_dataset, "generate_fingerprint", lambda dataset: "0123456789abcdef")
    monkeypatch.setattr(datasets.fingerprint.Hasher, "hash", lambda *_: "0123456789abcdef")
    features = Features({"image": Image(), "labels": ClassLabel(names=["a", "b"])})
    one = Dataset.from_dict({"image": grey(12), "labels": [0, 1] * 6}, features=features)
    DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "saved")
    task = load_task(f"hf:{tmp_path / 'saved'}", cache=tmp_path / "cache")
    assert task.split("test").labels.tolist() == [0, 1] * 6
    assert task.features("test").shape == (12, 3, 6, 8)


def test_a_table_in_parquet_is_the_same_as_in_csv(tmp_path):
    import pyarrow.parquet

    for number in range(20):
        image_module.fromarray(np.full((6, 8), number, np.uint8)).save(tmp_path / f"{number}.png")
    columns = {
        "file": [f"{number}.png" for number in range(20)],
        "target_x": [number / 4 for number in range(20)],
        "target_y": [number % 7 for number in range(20)],
        "split": ["train"] * 14 + ["test"] * 6,
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "own.parquet")
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    of_csv, of_parquet = (
        load_task(f"table:{tmp_path}/own.{form}", cache=tmp_path / "c") for form in ("csv", "parquet")
    )
    assert of_csv.fingerprint == of_parquet.fingerprint
    assert of_parquet.kind == "regression"
    np.testing.assert_array_equal(of_csv.features("test"), of_parquet.features("test"))
    (tmp_path / "own.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(UsageError, match="no Parquet file that can be read"):
        load_task(f"table:{tmp_path}/own.parquet")


def test_labels_in_lists_are_several(tmp_path):
    import pyarrow.parquet

    for number in range(4):
        image_module.fromarray(np.full((6, 8), number, np.uint8)).save(tmp_path / f"{number}.png")
    table = {"file": [f"{number}.png" for number in range(4)], "label": [["a", "b"], ["a"], [], ["b"]]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "own.parquet")
    task = load_task(f"table:{tmp_path}/own.parquet", cache=tmp_path / "cache")
    assert (task.kind, task.classes) == ("multi-label", ("a", "b"))
    assert task.split("test").labels.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]]
