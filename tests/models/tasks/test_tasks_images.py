"""Images in folders: what lies where, one size, exact numbers, splits that do not move."""

import json

import numpy as np
import pytest

from edgepress.models.errors import UsageError
from edgepress.models.tasks import load_task
from edgepress.models.tasks.front_ends.front_end import read_front_end
from edgepress.models.tasks.front_ends.images import Images, image_size
from edgepress.models.tasks.sources.load import found_from_anywhere, source_errors, split_source

Image = pytest.importorskip("PIL.Image")


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def folder(tmp_path, split=True, images=10, size=(8, 6), suffix=".png"):
    rng = np.random.default_rng(0)
    for part, count in (("train", images), ("test", 4)) if split else (("", images),):
        for name in ("cat", "dog"):
            for number in range(count):
                write(tmp_path / part / name / f"{number}{suffix}", rng.integers(0, 256, (*size, 3)))
    return tmp_path


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_folder_with_train_and_test(tmp_path):
    task = load_task(f"images:{folder(tmp_path)}")
    assert task.classes == ("cat", "dog")
    assert task.input_shape == (3, 8, 6)
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 8,
        "calibration": 18,
    }
    assert all(name.startswith("test/") for name in task.split("test").names)
    # Every label is the folder that the file lies in.
    for split in task.splits.values():
        assert [name.split("/")[1] for name in split.names] == [task.classes[label] for label in split.labels]
    first = task.split("test").names[3]
    pixels = np.asarray(Image.open(tmp_path / first)).transpose(2, 0, 1)
    assert np.allclose(task.features("test")[3], (pixels / 255 - 0.5) / 0.25, atol=1e-6)
    assert np.array_equal(task.features("calibration"), task.features("train"))


def test_a_folder_for_each_class_alone_is_cut_once_and_for_all(tmp_path):
    first = load_task(f"images:{folder(tmp_path, split=False, images=20)}")
    assert {name: len(split) for name, split in first.splits.items() if name != "calibration"} == {
        "train": 28,
        "validation": 4,
        "test": 8,
    }
    assert "cut from the folder" in first.notes[0]
    kept = [set(first.split(name).names) for name in ("train", "validation", "test")]
    assert sum(map(len, kept)) == len(set.union(*kept)) == 40
    again = load_task(f"images:{tmp_path}")
    assert again.fingerprint == first.fingerprint
    assert again.split("test").names == first.split("test").names
    write(tmp_path / "cat" / "0.png", np.zeros((8, 6, 3)))
    assert load_task(f"images:{tmp_path}").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("fit", "wanted"),
    [
        # An image of 2 x 4: columns 0, 100, 200, 40. Cut to the middle, made narrower, or with black above and below.
        ("crop", [[100, 200], [100, 200]]),
        ("stretch", None),
        ("pad", None),
    ],
)
def test_fits(tmp_path, fit, wanted):
    write(tmp_path / "a.png", np.tile(np.array([0, 100, 200, 40])[None, :, None], (2, 1, 3)))
    made = Images(height=2, width=2, channels=1, fit=fit, mean=0, std=1 / 255).read(tmp_path / "a.png")
    assert made.shape == (1, 2, 2)
    if wanted is not None:
        assert np.array_equal(np.rint(made[0]), wanted)
    elif fit == "stretch":
        assert np.ptp(made[0], axis=0).max() == 0
        assert made[0, 0, 0] < 100 < made[0, 0, 1]
    else:
        assert made.min() == 0
        assert made.max() > 0


def test_grey_is_luma_and_jpeg_is_read(tmp_path):
    write(tmp_path / "a.jpg", np.full((8, 8, 3), (255, 0, 0)))
    made = Images(height=8, width=8, channels=1, mean=0.0, std=1.0).read(tmp_path / "a.jpg")
    assert np.allclose(made, 0.299, atol=0.01)


def test_the_front_end_comes_back_from_json_and_resizes(tmp_path):
    front_end = Images(height=4, width=5, mean=(0.1, 0.2, 0.3), std=0.5)
    again = read_front_end(json.loads(json.dumps(front_end.to_json())))
    assert again == front_end
    task = load_task(f"images:{folder(tmp_path)}", front_end=front_end)
    assert task.features("test").shape == (8, 3, 4, 5)
    assert load_task(f"images:{tmp_path}").fingerprint == task.fingerprint


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"height": 0}, r"front_end\.height = 0 must be an integer"),
        ({"channels": 4}, r"front_end\.channels = 4: allowed are 3"),
        ({"fit": "tile"}, r"front_end\.fit = 'tile' is unknown: allowed are crop"),
        ({"std": 0}, r"front_end\.std = .* above 0"),
        ({"mean": (1, 2)}, r"front_end\.mean .* one for each of 3 channels"),
        ({"heigth": 4}, r"front_end\.heigth is unknown"),
    ],
)
def test_bad_front_ends_are_named(fields, words):
    with pytest.raises(UsageError, match=words):
        read_front_end({"kind": "images", **fields})


def test_bad_folders_and_files(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_task(f"images:{tmp_path}/nowhere")
    with pytest.raises(UsageError, match="fewer than two classes"):
        load_task(f"images:{tmp_path}")
    folder(tmp_path)
    write(tmp_path / "test" / "cow" / "1.png", np.zeros((8, 6, 3)))
    with pytest.raises(UsageError, match="class 'cow' of test has no folder in train"):
        load_task(f"images:{tmp_path}")
    (tmp_path / "test" / "cow" / "1.png").unlink()
    (tmp_path / "test" / "cow").rmdir()
    (tmp_path / "test" / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    task = load_task(f"images:{tmp_path}", front_end=Images(8, 6))
    with pytest.raises(UsageError, match=r"test/cat/1\.png is no PNG or JPEG image that can be read"):
        task.features("test")


def test_16_bits_transparency_and_palettes(tmp_path, recwarn):
    """The high byte of 16-bit greys, which Pillow alone would clip to white; what lies behind transparency as it is."""
    deep = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    front_end = Images(2, 3, channels=1)
    assert front_end.pixels(tmp_path / "deep.png")[..., 0].tolist() == [[0, 0, 1], [128, 255, 255]]
    clear = np.zeros((2, 3, 4), np.uint8)
    clear[..., 0] = 200
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert Images(2, 3).pixels(tmp_path / "clear.png").tolist() == [[[200, 0, 0]] * 3] * 2
    palette = Image.fromarray(clear[..., :3]).quantize(4)
    palette.save(tmp_path / "palette.png", transparency=bytes([0, 100]))
    assert Images(2, 3).pixels(tmp_path / "palette.png").tolist() == [[[200, 0, 0]] * 3] * 2
    masks = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    Image.fromarray(masks).save(tmp_path / "mask.png")
    assert np.array_equal(front_end.pixels(tmp_path / "mask.png", nearest=True)[..., 0], masks)
    assert not recwarn.list


def test_files_of_other_kinds_are_said_and_names_may_be_of_any_script(tmp_path):
    place = folder(tmp_path / "set", split=False)
    (place / "cat").rename(place / "猫 ä;,")
    write(place / "dog" / "x.bmp", np.zeros((8, 6, 3)))
    (place / "dog" / "notes.txt").write_text("not an image")
    task = load_task(f"images:{place}")
    assert task.classes == ("dog", "猫 ä;,")
    assert task.notes[0] == "1 file ending in .bmp is not read: convert to PNG or JPEG what belongs there"
    (place / "dog" / "0.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"dog/0\.png is no PNG or JPEG image, whatever its name says: take it out"):
        load_task(f"images:{place}")
    for file in (place / "dog").glob("*.png"):
        file.unlink()
    with pytest.raises(UsageError, match=r"the class 'dog' has no image; .*\.bmp is not read"):
        load_task(f"images:{place}")


def test_a_folder_that_says_nothing_of_its_kind_gets_the_prefixes_to_choose_from(tmp_path):
    place = folder(tmp_path, split=False)
    with pytest.raises(UsageError, match=r"without meta\.csv.*Write images:.*, keywords:.*, sounds:.* or hf:"):
        load_task(str(place))
    with pytest.raises(UsageError, match="names no file or folder: write images:DIR"):
        load_task("images:")


def test_a_front_end_of_sound_is_refused_with_the_key_to_change(tmp_path):
    with pytest.raises(UsageError, match=r"front_end\.kind = 'log_mel' .* set front_end = \{ kind = 'images' \}"):
        load_task(f"images:{folder(tmp_path)}", front_end=read_front_end({"n_mels": 64}))


def test_sources_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    assert split_source("images:pictures") == ("images", "pictures")
    assert split_source("mytask:build") == (None, "mytask:build")
    assert split_source("own.npz") == ("arrays", "own.npz")
    assert split_source("synthetic") == ("synthetic", "")
    assert split_source("pictures") == ("scenes", "pictures")
    assert found_from_anywhere("images:pictures") == f"images:{tmp_path}/pictures"
    assert found_from_anywhere("mytask:build") == "mytask:build"
    assert found_from_anywhere("pictures@split5") == f"{tmp_path}/pictures@split5"
    assert source_errors("images:pictures") == []
    assert "'images:photos' does not exist" in source_errors("images:photos")[0]
    assert "images:DIR" in source_errors("nowhere")[0]


@pytest.mark.parametrize(
    ("orientation", "corner"),  # where EXIF 2.3 puts the stored first row and column
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
def test_pictures_stand_as_the_camera_was_held(tmp_path, orientation, corner):
    stored = np.zeros((32, 64), np.uint8)
    stored[:16, :16] = 255  # the first corner that is stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = (64, 32) if orientation >= 5 else (32, 64)
    assert image_size(tmp_path / "a.jpg") == upright
    pixels = Images(*upright, channels=1).pixels(tmp_path / "a.jpg")[..., 0]
    assert pixels[corner] > 240
    assert sorted(int(pixels[y, x] > 128) for y in (0, -1) for x in (0, -1)) == [0, 0, 0, 1]


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of corrupt EXIF data
@pytest.mark.parametrize(("suffix", "turned"), [(".png", False), (".png", True), (".jpg", False), (".jpg", True)])
def test_a_damaged_picture_ends_in_a_sentence_wherever_it_is_damaged(tmp_path, suffix, turned):
    rng = np.random.default_rng(2)
    path, described = tmp_path / f"a{suffix}", Image.Exif()
    if turned:
        described[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (9, 7), dtype=np.uint8)).save(path, exif=described)
    whole, refused = path.read_bytes(), []
    for place in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        for read in (image_size, Images(9, 7, 1).read):
            try:
                read(path)
            except UsageError as error:
                refused.append(str(error))
    assert len(refused) > 10
    assert all(str(path) in said for said in refused)
