"""`prune.progressive`: every target from the network of the one before."""

from __future__ import annotations

import pytest
import torch

from edgepress.compress.pipeline.budget import limits_for, targets_of
from edgepress.compress.pipeline.data import task_of_recipe
from edgepress.compress.pipeline.run import compress_stages, recipe_of
from edgepress.compress.pipeline.stages import prune_stage
from edgepress.compress.recipes.sections import PruneSettings
from edgepress.compress.training.machine import Machine
from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_spec
from edgepress.models.run_directory import RunDirectory
from tests.compress.train_cases import RECIPE, write_task

MACHINE = Machine("cpu", progress=False)


@pytest.mark.slow
def test_each_target_goes_on_from_the_one_before(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.format(task=write_task(tmp_path)))
    shorter = ('prune.targets=["80%", "60%"]', "prune.train.epochs=2", "quantize.train.epochs=0", "train.epochs=1")
    recipe = recipe_of(str(tmp_path / "r.toml"), None, None, None, (), (*shorter, "prune.progressive=true"), False)
    run, task = RunDirectory(tmp_path / "run"), task_of_recipe(recipe)
    dense, first, second = (record["float"] for record in compress_stages(run, recipe, task, MACHINE))
    assert [read_spec(entry["path"]).notes["parent"] for entry in (first, second)] == ["dense", first["name"]]
    assert second["macs"] <= 0.6 * dense["macs"] < first["macs"] <= 0.8 * dense["macs"]
    kept = [read_spec(entry["path"]).plan["tensors"] for entry in (first, second)]
    for name, axes in kept[0].items():
        assert all(set(kept[1][name][axis]) <= set(rows) for axis, rows in axes.items())

    # The same by hand: the 60 % are those of the dense network.
    settings = recipe.prune.model_copy(update={"targets": (), "progressive": False})
    by_hand = prune_stage(
        RunDirectory(tmp_path / "hand"),
        first["path"],
        limits_for(dense, targets_of("60%"), recipe.device),
        settings,
        task,
        machine=MACHINE,
        seed=recipe.seed,
        label="60%",
    )
    weights = [load_checkpoint(entry["path"])[0].state_dict() for entry in (second, by_hand)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_says_nothing_new_is_not_written():
    assert "progressive" not in PruneSettings().model_dump()
