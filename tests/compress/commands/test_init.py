"""`compress init`: what it writes is a recipe, for the data that it was pointed at, and says what every key means."""

import tomllib

import numpy as np
import pytest
from typer.testing import CliRunner

from edgepress.compress.cli import app
from edgepress.compress.commands.init import _fitting
from edgepress.compress.recipes.recipe import Recipe, parse_recipe, read_recipe, shipped_recipes
from edgepress.compress.recipes.writing import recipe_text, toml
from edgepress.models.tasks import load_task

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("daisy", "tulip", "rose"):
            place = tmp_path / "flowers" / part / name
            place.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(place / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_recipe_for_a_folder_of_images(flowers):
    made = CliRunner().invoke(app, ["init", "images:flowers", "--device", "cortex-m4"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    recipe = read_recipe("flowers.toml")
    assert (recipe.task, recipe.device, recipe.network.name) == ("images:flowers", "cortex-m4", "resnet8")
    assert recipe.front_end["kind"] == "images"  # type: ignore[index]
    assert recipe.front_end["height"] == 32  # type: ignore[index]
    text = (flowers / "flowers.toml").read_text()
    assert "15 of train, 3 of validation, 18 of test; 3 classes" in text
    keys = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    lines = text.splitlines()
    for line in keys:  # behind it, or on the line before where it is long
        assert "  # " in line or lines[lines.index(line) - 1].startswith("# "), line
    again = CliRunner().invoke(app, ["init", "images:flowers"])
    assert again.exit_code == 2 or "exists already" in str(again.exception)
    assert (flowers / "flowers.toml").read_text() == text


@pytest.mark.parametrize(("shape", "y", "flips"), [((3, 16, 16), [0, 1], True), ((8,), [0, 1], False)])
def test_augmentation_of_images_is_for_images(tmp_path, monkeypatch, shape, y, flips):
    monkeypatch.chdir(tmp_path)
    x = np.zeros((20, *shape), np.float32)
    np.savez("own.npz", x=x, y=np.array(y * 10), split=["train"] * 12 + ["test"] * 8)
    recipe = _fitting(read_recipe("images"), load_task("own.npz"))
    assert bool(recipe.train.augment.flip_probability) is flips
    assert bool(recipe.prune.train.augment.crop_pixels) is flips


def test_a_network_that_does_not_take_the_data_is_refused_before_anything_is_written(flowers):
    made = CliRunner().invoke(app, ["init", "images:flowers", "--network", "autoencoder"])
    assert made.exit_code != 0
    assert not (flowers / "flowers.toml").exists()


def test_data_without_training_samples_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = np.zeros((8, 1, 16, 16), np.float32), np.arange(8) % 2
    np.savez("clips.npz", x=x, y=y, layout=np.array("NCHW"))
    made = CliRunner().invoke(app, ["init", "clips.npz"])
    assert made.exit_code != 0
    assert "has no training samples (its splits: test)" in (made.output + str(made.exception))
    assert [path.name for path in tmp_path.iterdir()] == ["clips.npz"]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_survive_being_written(name):
    recipe = read_recipe(name)
    written = tomllib.loads(recipe_text(recipe, "one line\nanother"))
    assert parse_recipe(written) == recipe


def test_values_as_toml():
    values = {"a b": [1, 2.5, True, 'quote " and \\ and ü'], "c": {}, "d": {"e": "x"}}
    assert tomllib.loads(f"v = {toml(values)}")["v"] == values


def test_every_key_says_what_it_means():
    def check(section):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(kind, type) and hasattr(kind, "model_fields"):
                    check(kind)

    check(Recipe)


def test_the_keys_of_a_recipe_are_listed_with_defaults_and_bounds():
    made = CliRunner().invoke(app, ["list", "keys"], catch_exceptions=False)
    assert made.exit_code == 0
    rows = [line.split(None, 1) for line in made.output.splitlines()[1:]]
    found = {row[0]: row[1].strip() for row in rows}
    assert found["train.epochs"].startswith("integer >= 0 = 20: passes over the training split")
    assert found["network.name"].startswith("text, needed")
    assert found["quantize.scheme"].startswith('"w8a8" or "a16w8" = "w8a8"')
    assert "epochs = 0" in found["quantize.train...."]


def test_single_keys_beside_a_recipe(flowers):
    checked = CliRunner().invoke(app, ["check", "images", "--set", "train.epochs=-1"])
    assert "train.epochs = -1" in str(checked.exception)
    command = ["init", "images:flowers", "--set", "train.epochs=3", "-o", "few.toml"]
    made = CliRunner().invoke(app, command, catch_exceptions=False)
    assert made.exit_code == 0, made.output
    assert read_recipe("few.toml").train.epochs == 3


def test_single_keys_of_the_front_end_change_what_the_data_need(flowers):
    command = ["init", "images:flowers", "--set", "front_end.height=20", "-o", "low.toml"]
    made = CliRunner().invoke(app, command, catch_exceptions=False)
    assert made.exit_code == 0, made.output
    plain = CliRunner().invoke(app, ["init", "images:flowers", "-o", "plain.toml"], catch_exceptions=False)
    assert plain.exit_code == 0, plain.output
    needed, changed = read_recipe("plain.toml").front_end, read_recipe("low.toml").front_end
    assert changed == {**needed, "height": 20} != needed
