"""Tables that name files: classes, sets of them, numbers and masks, of images and of sounds."""

import numpy as np
import pytest

from edgepress.models.errors import UsageError
from edgepress.models.tasks import load_task
from edgepress.models.tasks.front_ends.images import Images
from edgepress.models.tasks.front_ends.mfcc import Mfcc

Image = pytest.importorskip("PIL.Image")
SPLITS = ["train"] * 8 + ["test"] * 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).save(tmp_path / f"files/{number}.png")
        mask = rng.integers(0, 3, (6, 8)).astype(np.uint8)
        mask[0] = 255
        Image.fromarray(mask).save(tmp_path / f"files/{number}_mask.png")
    return tmp_path


def table(folder, header, cells, files=None):
    files = files or [f"files/{number}.png" for number in range(12)]
    rows = [",".join([file, *map(str, cell), split]) for file, cell, split in zip(files, cells, SPLITS, strict=True)]
    path = folder / "table.csv"
    path.write_text("\n".join([f"file,{header},split", *rows]) + "\n")
    return f"table:{path}"


def test_classes_and_sets_of_them(folder):
    task = load_task(table(folder, "label", [("cat",), ("dog",)] * 6))
    assert (task.kind, task.classes, task.input_shape) == ("classification", ("cat", "dog"), (3, 6, 8))
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 4,
        "calibration": 6,
    }
    assert task.split("test").labels.tolist() == [0, 1, 0, 1]
    pixels = np.asarray(Image.open(folder / "files/9.png")).transpose(2, 0, 1)
    assert np.allclose(task.features("test")[1], (pixels / 255 - 0.5) / 0.25, atol=1e-6)
    assert np.array_equal(task.features("calibration"), task.features("train"))
    several = load_task(table(folder, "label", [("cat;dog",), ("",), ("dog",)] * 4))
    assert several.kind == "multi-label"
    assert several.split("test").labels.tolist() == [[0, 1], [1, 1], [0, 0], [0, 1]]


def test_numbers_of_samples_go_with_them(folder):
    cells = [(("cat", "dog")[number % 2], number / 2 if number % 4 else "") for number in range(12)]
    first = load_task(table(folder, "label,attribute", cells))
    found = first.split("test").attributes
    assert np.isnan(found[0])
    assert found[1:].tolist() == [4.5, 5, 5.5]
    other = load_task(table(folder, "label,attribute", [*cells[:11], ("dog", 7)]))
    assert other.fingerprint != first.fingerprint
    with pytest.raises(UsageError, match="the column attribute holds numbers, or nothing where one is unknown"):
        load_task(table(folder, "label,attribute", [("cat", "near")] * 12))


def test_numbers_and_masks(folder):
    task = load_task(table(folder, "target_x,target_y", [(number, -number / 2) for number in range(12)]))
    assert (task.kind, task.classes) == ("regression", ("x", "y"))
    assert task.split("test").labels[0].tolist() == [8, -4]
    masks = load_task(table(folder, "mask", [(f"files/{number}_mask.png",) for number in range(12)]))
    assert (masks.kind, masks.classes, masks.output_shape) == ("segmentation", ("0", "1", "2"), (3, 6, 8))
    assert np.array_equal(masks.split("test").labels[0], np.asarray(Image.open(folder / "files/8_mask.png")))
    # Masks follow the size of the images, without new values.
    small = load_task(f"table:{folder}/table.csv", front_end=Images(3, 4, fit="stretch"))
    assert small.split("test").labels.shape == (4, 3, 4)
    assert set(np.unique(small.split("test").labels)) <= {0, 1, 2, 255}


def test_sounds(folder):
    soundfile = pytest.importorskip("soundfile")
    files = [f"files/{number}.wav" for number in range(12)]
    for number, file in enumerate(files):
        soundfile.write(folder / file, 0.1 * np.random.default_rng(number).normal(size=2000), 8000)
    source = table(folder, "target", [(number,) for number in range(12)], files)
    front_end = Mfcc(sample_rate_hz=8000, window=240, hop=160, n_fft=256)
    task = load_task(source, front_end=front_end)
    assert (task.kind, task.input_shape) == ("regression", (1, 12, 10))
    wave, _ = soundfile.read(folder / "files/8.wav", dtype="float32")
    assert np.allclose(task.features("test")[0], front_end.compute(wave[None])[0], atol=1e-5)
    with pytest.raises(UsageError, match=r"front_end\.kind = 'images' does not take the sounds"):
        load_task(source, front_end=Images())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\n", "no rows"),
        ("file,lable\nfiles/0.png,cat\n", "column 'lable' is unknown"),
        ("label\ncat\n", "no column file or path"),
        ("files/0.png,cat\nfiles/1.png,dog\n", "row 1 is no header: write above the rows"),
        ("file,label\nfiles/0.png,cat\nfiles/1.png,\nfiles/2.png,dog\n", "the label of row 3 is empty"),
        ("file,label\nfiles/0.png\n", "row 2 has another number of cells"),
        ("file\nfiles/0.png\n", "one of the columns label, mask and target"),
        ("file,target\nfiles/0.png,many\n", "a target is no number"),
        ("file,label\nfiles/nothing.png,cat\n", "files/nothing.png does not exist"),
        ("file,label\ntable.csv,cat\n", "all images or all sounds"),
    ],
)
def test_bad_tables_are_named(folder, text, words):
    (folder / "table.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        load_task(f"table:{folder}/table.csv")


@pytest.mark.parametrize(
    ("form", "encoding"),
    [
        (lambda text: text.replace(",", ";"), "utf-8"),
        (lambda text: text.replace(",", "\t"), "utf-8"),
        (lambda text: text.replace(",", ", ").replace("\n", "\r\n"), "utf-8"),
        (lambda text: text.replace("file,label,split", "File,Label,SPLIT"), "utf-8-sig"),
    ],
    ids=["semicolons", "tabs", "spaces", "capitals and a byte order mark"],
)
def test_tables_as_spreadsheets_write_them(folder, form, encoding):
    source = table(folder, "label", [("cat",), ("dog",)] * 6)
    wanted = load_task(source)
    path = folder / "table.csv"
    path.write_text(form(path.read_text()), encoding=encoding, newline="")
    found = load_task(source)
    assert (found.classes, found.fingerprint) == (wanted.classes, wanted.fingerprint)


def test_several_labels_between_quotes_in_a_table_with_semicolons(folder):
    rows = ["file;label;split", *(f'files/{i}.png;"cat;dog";{"train" if i < 8 else "test"}' for i in range(12))]
    (folder / "table.csv").write_text("\n".join(rows))
    task = load_task(f"table:{folder}/table.csv")
    assert (task.kind, task.classes) == ("multi-label", ("cat", "dog"))
