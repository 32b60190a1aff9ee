"""A network with parallel branches in training: every checkpoint of a run holds what is deployed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from edgepress import build, cost_of
from edgepress.compress.pipeline.data import task_of_recipe
from edgepress.compress.pipeline.run import compress_stages, recipe_of
from edgepress.compress.training.evaluate import logits_of
from edgepress.compress.training.machine import Machine
from edgepress.models.checkpoints.checkpoint import load_checkpoint, read_spec
from edgepress.models.run_directory import RunDirectory
from tests.compress.train_cases import RECIPE, write_task

NETWORK = {"base_channels": 8, "n_blocks": [1, 1], "strides": {}}


@pytest.mark.slow
def test_from_branches_to_integers(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.format(task=write_task(tmp_path)))
    arguments = "{ base_channels = 8, n_blocks = [1, 1], branches = true, strides = {} }"
    network = f'network={{ name = "cp_mobile", arguments = {arguments} }}'
    recipe = recipe_of(str(tmp_path / "r.toml"), None, None, None, (), (network,), False)
    run, task = RunDirectory(tmp_path / "run"), task_of_recipe(recipe)
    made = compress_stages(run, recipe, task, Machine("cpu", progress=False))
    dense, pruned = (load_checkpoint(record["float"]["path"])[0] for record in made)
    names = [name for name, _ in dense.named_modules()]
    assert any(name.endswith("merged") for name in names)
    assert not any("branches" in name for name in names)
    plain = cost_of(build("cp_mobile", n_classes=3, **NETWORK).eval(), torch.randn(1, 1, 12, 8))
    found = json.loads((made[0]["float"]["path"] / "metrics.json").read_text())["metrics"]
    assert (found["cost"]["macs"], found["cost"]["params"]) == (plain.macs, plain.params)
    assert [record["float"]["pruned"] for record in made] == [False, True]
    assert [record["int8"]["pruned"] for record in made] == [False, True]
    assert read_spec(made[1]["int8"]["path"]).plan["reparameterized"] is True
    right = np.mean(logits_of(dense, task.features("test")).argmax(1) == task.split("test").labels)
    assert right == pytest.approx(found["test"]["accuracy"])
    assert cost_of(pruned, torch.randn(1, 1, 12, 8)).macs <= 0.6 * plain.macs
