"""Recipes: checked as a whole, everything that is wrong said together."""

from __future__ import annotations

import pytest

from edgepress.compress.recipes.recipe import Recipe, parse_recipe, read_recipe, shipped_recipes
from edgepress.models.errors import ConfigError, UsageError

GOOD = {"name": "mine", "task": "synthetic", "network": {"name": "cp_resnet", "arguments": {"rho": 8}}}


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid_and_says_what_it_does(name):
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.summary


def test_defaults_fill_what_is_left_out():
    recipe = parse_recipe(GOOD)
    assert (recipe.device, recipe.train.epochs, recipe.prune.method) == ("dcase2023", 20, "gradual")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_everything_that_is_wrong_is_said_together():
    with pytest.raises(ConfigError) as caught:
        parse_recipe(
            {
                **GOOD,
                "task": "/no/such/folder",
                "device": "cortex-m99",
                "frontend": {},
                "train": {"epochs": -1, "epoch": 3, "augment": {"mixstyle_probability": 2}},
                "network": {"name": "cp_resnet", "arguments": {"rhos": 8}},
                "prune": {"targets": ["20 X"], "method": "magic"},
            }
        )
    text = str(caught.value)
    for part in (
        "train.epochs = -1",
        "train.epoch is unknown: did you mean 'epochs'",
        "mixstyle_probability = 2",
        "prune.method = 'magic'",
        "frontend is unknown: did you mean 'front_end'",
        "network.arguments.rhos",
        "'/no/such/folder' does not exist",
        "cortex-m99",
        "20 X",
    ):
        assert part in text
    assert len(caught.value.errors) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"name": "cp_resnt"}}, "did you mean 'cp_resnet'"),
        ({"network": {}}, "network.name is missing"),
        ({"task": "synthetic:x"}, "the seed 'x' is not a number"),
        ({"task": "os:getcwd"}, "allow it with --trust"),
        ({"network": {"name": "os:getcwd"}}, "allow it with --trust"),
        ({"front_end": "mel99"}, "known are mel22"),
        ({"prune": {"targets": ["0"]}}, "must be above 0"),
        ({"train": {"ramp_up": 0.9}}, "ramp_up <= decay_from <= decay_to"),
        ({"train": {"augment": {"mixup_alpha": 0.3, "mixstyle_probability": 0.4}}}, "exclude each other"),
        ({"train": {"augment": {"impulse_probability": 0.3}}}, "needs impulse_folder"),
        ({"prune": {"distill": {"weight": 50}}}, "at most 1"),
    ],
)
def test_one_problem_is_one_sentence(changes, message):
    with pytest.raises(ConfigError, match="has 1 problem") as caught:
        parse_recipe({**GOOD, **changes})
    assert message in str(caught.value)


def test_a_file_that_is_no_toml_is_named_with_the_place(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("name = \n")
    with pytest.raises(ConfigError, match=r"bad.toml has 1 problem:\n  - .* is not valid TOML: .*line 1"):
        read_recipe(path)


def test_an_unknown_recipe_lists_the_shipped_ones():
    with pytest.raises(UsageError, match=r"shipped are .*default"):
        read_recipe("defualt")


def test_the_command_line_changes_sections_and_keys(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[network]\nname = "cp_resnet"\n[train]\nepochs = 3\nbatch_size = 32\n')
    recipe = read_recipe(path, {"task": "synthetic:4"}, sections={"train": {"epochs": 5}})
    assert (recipe.task, recipe.train.epochs, recipe.train.batch_size) == ("synthetic:4", 5, 32)


def test_what_the_command_line_names_is_trusted_and_the_file_only_with_trust(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ntask = "synthetic"\n[network]\nname = "tests.compress.train_cases:small_net"\n')
    with pytest.raises(ConfigError, match="--trust"):
        read_recipe(path)
    assert read_recipe(path, trust=True).network.name.endswith("small_net")


def test_a_recipe_names_every_format_and_each_runtime_runs_what_the_table_of_runtimes_says():
    from typing import get_args

    from edgepress.compress.recipes.sections import RUNS, MeasureSettings
    from edgepress.deploy.artifact import FORMATS
    from edgepress.deploy.runtimes.registry import RUNTIMES

    allowed = {
        key: get_args(get_args(MeasureSettings.model_fields[key].annotation)[0]) for key in ("formats", "runtimes")
    }
    assert set(allowed["formats"]) == set(FORMATS)
    assert set(allowed["runtimes"]) == set(RUNS)
    for name, formats in RUNS.items():
        assert formats == tuple(kind for kind in (RUNTIMES[name].file_kind, RUNTIMES[name].own_kind) if kind)
