"""The switch teacher.experiments: both halves of the report's Table 1 and the sweeps of its Figure 2."""

from __future__ import annotations

import json

import pytest

from edgepress.compress.pipeline.experiments import ALPHAS, LAMBDAS, experiment_stages
from edgepress.compress.pipeline.run import recipe_of
from edgepress.compress.pipeline.teaching import teach_stages
from edgepress.compress.training.machine import Machine
from edgepress.models.errors import UsageError
from edgepress.models.run_directory import RunDirectory
from tests.compress.train_cases import write_device_task

RECIPE = """
name = "tiny"
task = "{task}"
[network]
name = "tests.compress.train_cases:latent_net"
[teacher]
count = 2
experiments = true
[teacher.train]
epochs = 1
batch_size = 16
precision = "32-true"
{term}
"""
MACHINE = Machine("cpu", progress=False)


def read(tmp_path, term: str):
    (tmp_path / "r.toml").write_text(RECIPE.format(task=write_device_task(tmp_path), term=term))
    return recipe_of(str(tmp_path / "r.toml"), None, None, None, (), (), True)


@pytest.mark.slow
def test_all_of_them_and_then_the_recipes_own_teachers(tmp_path):
    recipe = read(tmp_path, "[teacher.train.contrastive]\nalpha = 0.2\nweight = 0.5")
    run = RunDirectory(tmp_path / "run")
    experiment_stages(run, recipe, machine=MACHINE, trust=True)
    found = json.loads((run.path / "experiments.json").read_text())
    assert set(found["table_1"]) == {"without contrastive", "contrastive"}
    assert set(found["table_1"]["contrastive"]["by_recording_device"]) == {"a", "b", "s4"}
    assert found["table_1"]["contrastive"]["log_loss"] != found["table_1"]["without contrastive"]["log_loss"]
    assert tuple(row["alpha"] for row in found["figure_2"]["alpha"]) == ALPHAS
    assert tuple(row["lambda"] for row in found["figure_2"]["lambda"]) == LAMBDAS
    # The recipe's own alpha and lambda are its first teacher, trained once.
    same = [row for row in found["figure_2"]["alpha"] if row["alpha"] == 0.2]
    assert same[0]["log_loss"] == next(row for row in found["figure_2"]["lambda"] if row["lambda"] == 0.5)["log_loss"]
    assert len({row["log_loss"] for row in found["figure_2"]["alpha"]}) == len(ALPHAS)
    names = {entry["name"] for entry in run.entries("teacher")}
    assert len(names) == 2 + 2 + len(ALPHAS) - 1 + len(LAMBDAS) - 1
    teacher = teach_stages(run, recipe, machine=MACHINE, trust=True)
    assert teacher is not None
    assert teacher.path.name == "ensemble", "the recipe's own, not that without the term"
    assert {entry["name"] for entry in run.entries("teacher")} == names, "nothing is trained twice"


def test_without_the_term_there_is_nothing_to_try(tmp_path):
    with pytest.raises(UsageError, match=r"needs \[teacher\.train\.contrastive\]"):
        experiment_stages(RunDirectory(tmp_path / "run"), read(tmp_path, ""), machine=MACHINE)
